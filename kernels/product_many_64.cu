// Products of up to 64 rows of activations a block: see product_many.cuh.
#include "product_many.cuh"

PRODUCT_MANY(product_many_64, 1, false, 64, 2)
PRODUCT_MANY(product_many_64_wide, 2, false, 64, 1)
PRODUCT_MANY(product_many_64_pair, 2, true, 64, 1)
