//! Q2_K: 256 weights in 84 bytes. 16 bytes of scales, 64 bytes of codes, `d: f16`, `dmin: f16`.
//!
//! Each scale byte serves 16 weights: low nibble the scale, high nibble the minimum, so
//! `w = d * scale * q - dmin * min`. Of the codes, 32 bytes serve 128 weights: bits 0-1 of the 32
//! bytes are the first 32 weights, bits 2-3 the next 32, and so on.

use super::bits::{f16_at, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q2K;

const GROUPS: usize = 8;

#[inline(always)]
fn codes(block: &[u8; 84], group: usize) -> [i8; GROUP] {
    let qs: [u8; GROUP] = part(block, 16 + group / 4 * GROUP);
    qs.map(|q| (q >> (group % 4 * 2) & 3) as i8)
}

impl Block<84, GROUPS> for Q2K {
    #[inline(always)]
    fn dequantise(block: &[u8; 84], out: &mut [[f32; GROUP]; GROUPS]) {
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        for (g, out) in out.iter_mut().enumerate() {
            let codes = codes(block, g);
            for half in 0..2 {
                let packed = block[2 * g + half];
                let (scale, min) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
                for j in half * 16..half * 16 + 16 {
                    out[j] = scale * f32::from(codes[j]) - min;
                }
            }
        }
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 84], x: &[Q8Group<'_>; GROUPS]) -> f32 {
        let (mut steps, mut mins) = (0.0, 0.0);
        for (g, x) in x.iter().enumerate() {
            let sums = x.dot_halves(&codes(block, g));
            let (mut step, mut min) = (0, 0);
            for half in 0..2 {
                let packed = i32::from(block[2 * g + half]);
                step += (packed & 15) * sums[half];
                min += (packed >> 4) * i32::from(x.sums[half]);
            }
            steps += x.scale * step as f32;
            mins += x.scale * min as f32;
        }
        f16_at(block, 80) * steps - f16_at(block, 82) * mins
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn scale_and_minimum_share_a_byte() {
        let mut block = [0; 84];
        block[80..].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // 1, 0.5
        block[0] = 0x25; // weights 0-15: scale 5, minimum 2
        block[11] = 0x02; // weights 176-191: scale 2
        block[16] = 0b11; // weight 0
        block[16 + 32 + 31] = 0b0000_1100; // weight 128 + 32 + 31
        let w = dequantised(QuantType::Q2K, &block);
        assert_eq!((w[0], w[1], w[16], w[191], w[190]), (14.0, -1.0, 0.0, 6.0, 0.0));
    }
}
