// Products for a prompt's rows, 16 a block: see product_prefill.cuh.
#include "product_prefill.cuh"

PRODUCT_PREFILL(product_prefill_16, 1, false, 16, 2)
PRODUCT_PREFILL(product_prefill_16_pair, 2, true, 16, 1)
