//! Q5_1: 32 weights in 24 bytes. `d: f16`, `m: f16`, fifth bits: `u32`, 16 bytes of nibbles.
//!
//! `w = d * q + m`. Bit `j` of the `u32` is bit 4 of weight `j`; the nibbles are as in Q4_0.

use super::bits::{f16_at, five_bits, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q5_1;

#[inline(always)]
fn codes(block: &[u8; 24]) -> [i8; GROUP] {
    five_bits(&part(block, 8), part(block, 4))
}

impl Block<24, 1> for Q5_1 {
    #[inline(always)]
    fn dequantise(block: &[u8; 24], [out]: &mut [[f32; GROUP]; 1]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        *out = codes(block).map(|q| d * f32::from(q) + m);
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 24], [x]: &[Q8Group<'_>; 1]) -> f32 {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        x.scale * (d * x.dot(&codes(block)) as f32 + m * x.sum() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn five_bits_are_steps_above_the_minimum() {
        let mut block = [0; 24];
        block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0x3c]); // 0.5, 1
        block[4..8].copy_from_slice(&0x0001_0001u32.to_le_bytes());
        block[8] = 0x2f;
        let w = dequantised(QuantType::Q5_1, &block);
        assert_eq!((w[0], w[16], w[1]), (16.5, 10.0, 1.0));
    }
}
