//! IQ4_NL: 32 weights in 18 bytes. `d: f16`, 16 bytes of nibbles (low: 0-15, high: 16-31).
//!
//! `w = d * IQ4_VALUES[q]`: the layout of Q4_0, with steps that grow away from zero.

use super::bits::{f16_at, nibbles, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

/// What the sixteen codes of IQ4_NL and IQ4_XS are worth.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub struct IQ4NL;

/// The values of 32 nibbles.
#[inline(always)]
pub fn values(qs: &[u8; 16]) -> [i8; GROUP] {
    nibbles(qs).map(|q| IQ4_VALUES[(q & 15) as usize])
}

impl Block<18, 1> for IQ4NL {
    #[inline(always)]
    fn dequantise(block: &[u8; 18], [out]: &mut [[f32; GROUP]; 1]) {
        let d = f16_at(block, 0);
        *out = values(&part(block, 2)).map(|v| d * f32::from(v));
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 18], [x]: &[Q8Group<'_>; 1]) -> f32 {
        f16_at(block, 0) * x.scale * x.dot(&values(&part(block, 2))) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn codes_are_looked_up() {
        let mut block = [0x88; 18];
        block[..2].copy_from_slice(&[0x00, 0xc0]); // -2
        block[2] = 0xf0;
        let w = dequantised(QuantType::IQ4NL, &block);
        assert_eq!((w[0], w[16], w[1], w[31]), (254.0, -226.0, -2.0, -2.0));
    }
}
