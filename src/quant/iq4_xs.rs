//! IQ4_XS: 256 weights in 136 bytes. `d: f16`, high bits of scales: `u16`, 4 bytes of low nibbles
//! of scales, 128 bytes of nibbles.
//!
//! `w = d * (scale - 32) * IQ4_VALUES[q]`, a scale of 6 bits for 32 weights. The nibbles of each
//! group of 32 are 16 bytes, low nibbles first, as in IQ4_NL.

use super::bits::{f16_at, part};
use super::block::Block;
use super::iq4_nl::values;
use super::q8::{GROUP, Q8Group};

pub struct IQ4XS;

const GROUPS: usize = 8;

#[inline(always)]
fn codes(block: &[u8; 136], group: usize) -> [i8; GROUP] {
    values(&part(block, 8 + group * 16))
}

#[inline(always)]
fn scale(block: &[u8; 136], group: usize) -> i8 {
    let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * group) & 3;
    let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
    (low | (high as u8) << 4) as i8 - 32
}

impl Block<136, GROUPS> for IQ4XS {
    #[inline(always)]
    fn dequantise(block: &[u8; 136], out: &mut [[f32; GROUP]; GROUPS]) {
        let d = f16_at(block, 0);
        for (g, out) in out.iter_mut().enumerate() {
            let scale = d * f32::from(scale(block, g));
            *out = codes(block, g).map(|v| scale * f32::from(v));
        }
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 136], x: &[Q8Group<'_>; GROUPS]) -> f32 {
        let mut sum = 0.0;
        for (g, x) in x.iter().enumerate() {
            let steps = i32::from(scale(block, g)) * x.dot(&codes(block, g));
            sum += x.scale * steps as f32;
        }
        f16_at(block, 0) * sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn scales_have_four_low_and_two_high_bits() {
        let mut block = [0x88; 136]; // every code is worth 1
        block[..2].copy_from_slice(&[0x00, 0x3c]); // 1
        block[2..4].copy_from_slice(&0b11_00_00_00_00_00_10_00u16.to_le_bytes());
        block[4..8].copy_from_slice(&[0x30, 0, 0, 0xf0]);
        block[8 + 7 * 16] = 0x0f; // weights 224 and 240
        let w = dequantised(QuantType::IQ4XS, &block);
        assert_eq!((w[0], w[32], w[225]), (-32.0, 3.0, 31.0));
        assert_eq!((w[224], w[240]), (31.0 * 113.0, 31.0 * -127.0));
    }
}
