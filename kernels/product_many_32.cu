// Products of up to 32 rows of activations a block: see product_many.cuh.
#include "product_many.cuh"

PRODUCT_MANY(product_many_32, 1, false, 32, 2)
PRODUCT_MANY(product_many_32_wide, 2, false, 32, 1)
PRODUCT_MANY(product_many_32_pair, 2, true, 32, 1)
