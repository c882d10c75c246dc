// One row of activations times matrices of the kinds that files are mostly made of: see product_row.cuh.
#include "product_row.cuh"

PRODUCT_ROW(_q4_0, false, TwoKinds<KIND_Q4_0, KIND_Q4_0, false>)
PRODUCT_ROW(_q4_0_ahead, true, TwoKinds<KIND_Q4_0, KIND_Q4_0, false>)
PRODUCT_ROW(_q8_0, false, TwoKinds<KIND_Q8_0, KIND_Q8_0, true>)
PRODUCT_ROW(_q8_0_ahead, true, TwoKinds<KIND_Q8_0, KIND_Q8_0, true>)
PRODUCT_ROW(_q5_0_q8_0, false, TwoKinds<KIND_Q5_0, KIND_Q8_0, false>)
PRODUCT_ROW(_q5_0_q8_0_ahead, true, TwoKinds<KIND_Q5_0, KIND_Q8_0, false>)
PRODUCT_ROW(_q4_k_q6_k, false, TwoKinds<KIND_Q4_K, KIND_Q6_K, true>)
PRODUCT_ROW(_q4_k_q6_k_ahead, true, TwoKinds<KIND_Q4_K, KIND_Q6_K, true>)
