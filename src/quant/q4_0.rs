//! Q4_0: 32 weights in 18 bytes. `d: f16`, 16 bytes of nibbles (low: 0-15, high: 16-31).
//!
//! `w = d * (q - 8)`. The 8 is taken off the codes before the integer product, which is exact
//! either way.

use super::bits::{f16_at, nibbles, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q4_0;

#[inline(always)]
fn codes(block: &[u8; 18]) -> [i8; GROUP] {
    nibbles(&part(block, 2)).map(|q| q - 8)
}

impl Block<18, 1> for Q4_0 {
    #[inline(always)]
    fn dequantise(block: &[u8; 18], [out]: &mut [[f32; GROUP]; 1]) {
        let d = f16_at(block, 0);
        *out = codes(block).map(|q| d * f32::from(q));
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 18], [x]: &[Q8Group<'_>; 1]) -> f32 {
        f16_at(block, 0) * x.scale * x.dot(&codes(block)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn nibbles_are_offset_by_eight() {
        let mut block = [0x88; 18];
        block[..2].copy_from_slice(&[0x00, 0x38]); // 0.5
        block[2] = 0xf0;
        block[17] = 0x9a;
        let w = dequantised(QuantType::Q4_0, &block);
        assert_eq!((w[0], w[16], w[15], w[31]), (-4.0, 3.5, 1.0, 0.5));
        assert!(w[1..15].iter().all(|&w| w == 0.0));
    }
}
