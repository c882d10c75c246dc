//! Q5_0: 32 weights in 22 bytes. `d: f16`, fifth bits: `u32`, 16 bytes of nibbles.
//!
//! `w = d * (q - 16)`. Bit `j` of the `u32` is bit 4 of weight `j`; the nibbles are as in Q4_0.

use super::bits::{f16_at, five_bits, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q5_0;

#[inline(always)]
fn codes(block: &[u8; 22]) -> [i8; GROUP] {
    five_bits(&part(block, 6), part(block, 2)).map(|q| q - 16)
}

impl Block<22, 1> for Q5_0 {
    #[inline(always)]
    fn dequantise(block: &[u8; 22], [out]: &mut [[f32; GROUP]; 1]) {
        let d = f16_at(block, 0);
        *out = codes(block).map(|q| d * f32::from(q));
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 22], [x]: &[Q8Group<'_>; 1]) -> f32 {
        f16_at(block, 0) * x.scale * x.dot(&codes(block)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn the_fifth_bit_is_worth_sixteen() {
        let mut block = [0; 22];
        block[..2].copy_from_slice(&[0x00, 0x40]); // 2
        block[2..6].copy_from_slice(&0x8000_0002u32.to_le_bytes());
        block[7] = 0x43;
        block[21] = 0xf0;
        let w = dequantised(QuantType::Q5_0, &block);
        assert_eq!((w[0], w[1], w[17], w[31]), (-32.0, 6.0, -24.0, 30.0));
    }
}
