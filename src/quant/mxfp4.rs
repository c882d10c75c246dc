//! MXFP4: 32 weights in 17 bytes. A power of two as one byte, 16 bytes of nibbles (low: 0-15,
//! high: 16-31), each nibble a float of four bits (sign, two of exponent, one of mantissa).
//!
//! `w = 2^(e - 128) * MXFP4_VALUES[q]`: the values are stored doubled, so that they are integers.

use super::bits::{e8m0_half_to_f32, nibbles, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

/// Twice what the sixteen codes are worth.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub struct MXFP4;

#[inline(always)]
fn codes(block: &[u8; 17]) -> [i8; GROUP] {
    nibbles(&part(block, 1)).map(|q| MXFP4_VALUES[(q & 15) as usize])
}

impl Block<17, 1> for MXFP4 {
    #[inline(always)]
    fn dequantise(block: &[u8; 17], [out]: &mut [[f32; GROUP]; 1]) {
        let d = e8m0_half_to_f32(block[0]);
        *out = codes(block).map(|v| d * f32::from(v));
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 17], [x]: &[Q8Group<'_>; 1]) -> f32 {
        e8m0_half_to_f32(block[0]) * x.scale * x.dot(&codes(block)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn a_byte_of_127_means_one() {
        let mut block = [0; 17];
        block[0] = 127;
        block[1] = 0xf7; // 6 and -6
        block[16] = 0x91; // 0.5 and -0.5
        let w = dequantised(QuantType::MXFP4, &block);
        assert_eq!((w[0], w[16], w[15], w[31], w[1]), (6.0, -6.0, 0.5, -0.5, 0.0));
    }
}
