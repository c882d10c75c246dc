//! The operations on rows of any tensor type, by one match each.
//!
//! Sizes are the caller's promise (a tensor table is checked when a file is opened): with a wrong
//! one, debug builds stop, and release builds work on the shorter of the two sides.

use super::q8::Q8View;
use super::{QuantType, block, float};
use super::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// Calls the function of this name that fits the type: the only list of types in this module.
macro_rules! per_type {
    ($ty:expr, $op:ident($($arg:expr),*)) => {
        match $ty {
            QuantType::F32 => float::$op(float::F32, $($arg),*),
            QuantType::F16 => float::$op(float::F16, $($arg),*),
            QuantType::BF16 => float::$op(float::BF16, $($arg),*),
            QuantType::Q4_0 => block::$op(q4_0::Q4_0, $($arg),*),
            QuantType::Q4_1 => block::$op(q4_1::Q4_1, $($arg),*),
            QuantType::Q5_0 => block::$op(q5_0::Q5_0, $($arg),*),
            QuantType::Q5_1 => block::$op(q5_1::Q5_1, $($arg),*),
            QuantType::Q8_0 => block::$op(q8_0::Q8_0, $($arg),*),
            QuantType::Q2K => block::$op(q2_k::Q2K, $($arg),*),
            QuantType::Q3K => block::$op(q3_k::Q3K, $($arg),*),
            QuantType::Q4K => block::$op(q4_k::Q4K, $($arg),*),
            QuantType::Q5K => block::$op(q5_k::Q5K, $($arg),*),
            QuantType::Q6K => block::$op(q6_k::Q6K, $($arg),*),
            QuantType::IQ4NL => block::$op(iq4_nl::IQ4NL, $($arg),*),
            QuantType::IQ4XS => block::$op(iq4_xs::IQ4XS, $($arg),*),
            QuantType::MXFP4 => block::$op(mxfp4::MXFP4, $($arg),*),
        }
    };
}

/// The weights of a row, or of any whole number of its blocks, as floats.
pub fn dequantise(ty: QuantType, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()));
    per_type!(ty, dequantise(bytes, out))
}

/// The dot product of a row with float activations.
///
/// Weight `i` goes into partial sum `i % 16`, in order, without fused multiply-add, and the sums
/// are folded by halves: every CPU gives the same bits. Single precision is enough for an oracle,
/// since sixteen short sums have a far smaller error than one long one.
pub fn dot(ty: QuantType, bytes: &[u8], x: &[f32]) -> f32 {
    debug_assert_eq!(ty.row_bytes(x.len()), Some(bytes.len()));
    per_type!(ty, dot(bytes, x))
}

/// The dot product of a row with quantised activations: integer sums, which are exact, in each
/// group of 32; float scales; groups and blocks in order.
pub fn dot_q8(ty: QuantType, bytes: &[u8], x: Q8View<'_>) -> f32 {
    debug_assert_eq!(ty.row_bytes(x.qs.len()), Some(bytes.len()));
    per_type!(ty, dot_q8(bytes, x))
}
