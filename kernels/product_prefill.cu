// Products for a prompt's many rows: see product_prefill.cuh.
#include "product_prefill.cuh"

PRODUCT_PREFILL(product_prefill, 1, false, 128, 1)
PRODUCT_PREFILL(product_prefill_wide, 2, false, 128, 1)
PRODUCT_PREFILL(product_prefill_pair, 2, true, 128, 1)
