// The products of src/device/cuda/products.rs for types of plain numbers and blocks of 32.
#include "product_raw.cuh"

PRODUCTS(f32, F32)
PRODUCTS(f16, F16)
PRODUCTS(bf16, BF16)
PRODUCTS(q4_0, Q4_0)
PRODUCTS(q4_1, Q4_1)
PRODUCTS(q5_0, Q5_0)
PRODUCTS(q5_1, Q5_1)
PRODUCTS(q8_0, Q8_0)
PRODUCTS(iq4_nl, IQ4_NL)
PRODUCTS(mxfp4, MXFP4)
