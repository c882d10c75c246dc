// One row of activations times matrices of any kinds: see product_row.cuh.
#include "product_row.cuh"

PRODUCT_ROW(, false, AnyKind)
