// The products of src/device/cuda/products.rs for types of blocks of 256.
#include "product_raw.cuh"

PRODUCTS(q2_k, Q2_K)
PRODUCTS(q3_k, Q3_K)
PRODUCTS(q4_k, Q4_K)
PRODUCTS(q5_k, Q5_K)
PRODUCTS(q6_k, Q6_K)
PRODUCTS(iq4_xs, IQ4_XS)
