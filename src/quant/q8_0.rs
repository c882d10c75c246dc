//! Q8_0: 32 weights in 34 bytes. `d: f16`, 32 signed bytes in order.
//!
//! `w = d * q`. The byte -128 is not written by quantisers but is as good as any other here.

use super::bits::{f16_at, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q8_0;

#[inline(always)]
fn codes(block: &[u8; 34]) -> [i8; GROUP] {
    part::<34, GROUP>(block, 2).map(|q| q as i8)
}

impl Block<34, 1> for Q8_0 {
    #[inline(always)]
    fn dequantise(block: &[u8; 34], [out]: &mut [[f32; GROUP]; 1]) {
        let d = f16_at(block, 0);
        *out = codes(block).map(|q| d * f32::from(q));
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 34], [x]: &[Q8Group<'_>; 1]) -> f32 {
        f16_at(block, 0) * x.scale * x.dot(&codes(block)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn bytes_are_signed_and_in_order() {
        let mut block = [0; 34];
        block[..2].copy_from_slice(&[0x00, 0x34]); // 0.25
        block[2] = 127;
        block[3] = 0x80;
        block[33] = 0xff;
        let w = dequantised(QuantType::Q8_0, &block);
        assert_eq!((w[0], w[1], w[2], w[31]), (31.75, -32.0, 0.0, -0.25));
    }
}
