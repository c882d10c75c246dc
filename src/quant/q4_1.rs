//! Q4_1: 32 weights in 20 bytes. `d: f16`, `m: f16`, 16 bytes of nibbles (low: 0-15, high: 16-31).
//!
//! `w = d * q + m`. In the integer product the minimum meets the sum of the activations.

use super::bits::{f16_at, nibbles, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q4_1;

#[inline(always)]
fn codes(block: &[u8; 20]) -> [i8; GROUP] {
    nibbles(&part(block, 4))
}

impl Block<20, 1> for Q4_1 {
    #[inline(always)]
    fn dequantise(block: &[u8; 20], [out]: &mut [[f32; GROUP]; 1]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        *out = codes(block).map(|q| d * f32::from(q) + m);
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 20], [x]: &[Q8Group<'_>; 1]) -> f32 {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        x.scale * (d * x.dot(&codes(block)) as f32 + m * x.sum() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn nibbles_are_steps_above_the_minimum() {
        let mut block = [0; 20];
        block[..4].copy_from_slice(&[0x00, 0x38, 0x00, 0xc0]); // 0.5, -2
        block[4] = 0xf1;
        let w = dequantised(QuantType::Q4_1, &block);
        assert_eq!((w[0], w[16], w[1]), (-1.5, 5.5, -2.0));
    }
}
