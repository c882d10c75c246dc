//! Tensor types: their block layouts, and the scalar code that reads them.
//!
//! A row of a tensor is a whole number of blocks of [`QuantType::block_len`] weights in
//! [`QuantType::block_bytes`] bytes, little-endian, as GGUF stores them.
//!
//! Each type has one file, which says where the bits of a block are, how they become `f32`
//! ([`dequantise`]), and what their integer product with quantised activations is ([`dot_q8`]).
//! This scalar code is the oracle of every faster kernel, and the only code on a CPU without one.

#![forbid(unsafe_code)]

mod bits;
mod block;
mod float;
mod foreign;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod ops;
pub mod q8;

mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;

#[cfg(test)]
mod all_types;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use block::{LANES, fold, multiply_add};

pub use bits::{e8m0_half_to_f32, f16_to_f32};
pub use foreign::foreign_name;
pub use iq4_nl::IQ4_VALUES;
pub use mxfp4::MXFP4_VALUES;
pub use ops::{dequantise, dot, dot_q8};
pub use q8::{Q8Mut, Q8Row, Q8View, quantise_q8};

/// The tensor types that the engine computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuantType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
    MXFP4,
}

/// One row of the table: type, number in GGUF, name, weights in a block, bytes of a block.
type Row = (QuantType, u32, &'static str, usize, usize);

const TABLE: [Row; 16] = [
    (QuantType::F32, 0, "F32", 1, 4),
    (QuantType::F16, 1, "F16", 1, 2),
    (QuantType::BF16, 30, "BF16", 1, 2),
    (QuantType::Q4_0, 2, "Q4_0", 32, 18),
    (QuantType::Q4_1, 3, "Q4_1", 32, 20),
    (QuantType::Q5_0, 6, "Q5_0", 32, 22),
    (QuantType::Q5_1, 7, "Q5_1", 32, 24),
    (QuantType::Q8_0, 8, "Q8_0", 32, 34),
    (QuantType::Q2K, 10, "Q2_K", 256, 84),
    (QuantType::Q3K, 11, "Q3_K", 256, 110),
    (QuantType::Q4K, 12, "Q4_K", 256, 144),
    (QuantType::Q5K, 13, "Q5_K", 256, 176),
    (QuantType::Q6K, 14, "Q6_K", 256, 210),
    (QuantType::IQ4NL, 20, "IQ4_NL", 32, 18),
    (QuantType::IQ4XS, 23, "IQ4_XS", 256, 136),
    (QuantType::MXFP4, 39, "MXFP4", 32, 17),
];

impl QuantType {
    /// Every type, in the table's order.
    pub const ALL: [QuantType; 16] = {
        let mut all = [QuantType::F32; 16];
        let mut i = 0;
        while i < 16 {
            all[i] = TABLE[i].0;
            i += 1;
        }
        all
    };

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The type with this number in a GGUF tensor table.
    pub fn from_ggml(number: u32) -> Option<Self> {
        TABLE.iter().find(|r| r.1 == number).map(|r| r.0)
    }

    /// The number in a GGUF tensor table.
    pub fn ggml(self) -> u32 {
        self.row().1
    }

    /// The name, as the field writes it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Weights in a block.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Whether weights come in quantised blocks, so that integer kernels have something to gain.
    pub fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `cols` weights; `None` if that is no whole number of blocks, or too many.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, t) in QuantType::ALL.into_iter().enumerate() {
            assert_eq!(t as usize, i);
            assert_eq!(QuantType::from_ggml(t.ggml()), Some(t));
        }
    }
}
