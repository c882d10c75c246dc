// Products for a prompt's rows, 64 a block: see product_prefill.cuh.
#include "product_prefill.cuh"

PRODUCT_PREFILL(product_prefill_64, 1, false, 64, 2)
PRODUCT_PREFILL(product_prefill_64_pair, 2, true, 64, 1)
