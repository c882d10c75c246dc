// Products of up to 16 rows of activations a block: see product_many.cuh.
#include "product_many.cuh"

PRODUCT_MANY(product_many_16, 1, false, 16, 2)
PRODUCT_MANY(product_many_16_wide, 2, false, 16, 2)
PRODUCT_MANY(product_many_16_pair, 2, true, 16, 2)
