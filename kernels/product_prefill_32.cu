// Products for a prompt's rows, 32 a block: see product_prefill.cuh.
#include "product_prefill.cuh"

PRODUCT_PREFILL(product_prefill_32, 1, false, 32, 2)
PRODUCT_PREFILL(product_prefill_32_pair, 2, true, 32, 1)
