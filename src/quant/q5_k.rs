//! Q5_K: 256 weights in 176 bytes. `d: f16`, `dmin: f16`, 12 bytes of scales, 32 of fifth bits,
//! 128 of nibbles.
//!
//! `w = d * scale * q - dmin * min`. Scales and nibbles lie as in Q4_K; bit `g` of fifth-bit byte
//! `j` is bit 4 of weight `32 * g + j`.

use super::bits::{f16_at, part, scales_and_mins};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q5K;

const GROUPS: usize = 8;

#[inline(always)]
fn codes(block: &[u8; 176], group: usize) -> [i8; GROUP] {
    let high: [u8; GROUP] = part(block, 16);
    let low: [u8; GROUP] = part(block, 48 + group / 2 * GROUP);
    let mut codes = [0; GROUP];
    for j in 0..GROUP {
        codes[j] = (low[j] >> (group % 2 * 4) & 15 | (high[j] >> group & 1) << 4) as i8;
    }
    codes
}

impl Block<176, GROUPS> for Q5K {
    #[inline(always)]
    fn dequantise(block: &[u8; 176], out: &mut [[f32; GROUP]; GROUPS]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (scales, mins) = scales_and_mins(&part(block, 4));
        for (g, out) in out.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            *out = codes(block, g).map(|q| scale * f32::from(q) - min);
        }
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 176], x: &[Q8Group<'_>; GROUPS]) -> f32 {
        let (scales, minima) = scales_and_mins(&part(block, 4));
        let (mut steps, mut mins) = (0.0, 0.0);
        for (g, x) in x.iter().enumerate() {
            let step = i32::from(scales[g]) * x.dot(&codes(block, g));
            steps += x.scale * step as f32;
            mins += x.scale * (i32::from(minima[g]) * x.sum()) as f32;
        }
        f16_at(block, 0) * steps - f16_at(block, 2) * mins
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn the_fifth_bits_are_numbered_by_group() {
        let mut block = [0; 176];
        block[..4].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // 1, 0.5
        block[4 + 2] = 3; // scale of weights 64-95
        block[4 + 3] = 5; // scale of weights 96-127
        block[4 + 7] = 4; // minimum of weights 96-127
        block[16 + 1] = 0b0000_1000; // weight 97
        block[48 + 32 + 1] = 0x72;
        let w = dequantised(QuantType::Q5K, &block);
        assert_eq!((w[65], w[64], w[97], w[96]), (6.0, 0.0, 113.0, -2.0));
    }
}
