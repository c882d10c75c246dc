//! Q4_K: 256 weights in 144 bytes. `d: f16`, `dmin: f16`, 12 bytes of scales, 128 of nibbles.
//!
//! `w = d * scale * q - dmin * min`, scale and minimum of 6 bits for 32 weights. 32 bytes of
//! nibbles serve 64 weights: the low nibbles are the first 32, the high nibbles the next.

use super::bits::{f16_at, part, scales_and_mins};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q4K;

const GROUPS: usize = 8;

#[inline(always)]
fn codes(block: &[u8; 144], group: usize) -> [i8; GROUP] {
    let qs: [u8; GROUP] = part(block, 16 + group / 2 * GROUP);
    qs.map(|q| (q >> (group % 2 * 4) & 15) as i8)
}

impl Block<144, GROUPS> for Q4K {
    #[inline(always)]
    fn dequantise(block: &[u8; 144], out: &mut [[f32; GROUP]; GROUPS]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let (scales, mins) = scales_and_mins(&part(block, 4));
        for (g, out) in out.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            *out = codes(block, g).map(|q| scale * f32::from(q) - min);
        }
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 144], x: &[Q8Group<'_>; GROUPS]) -> f32 {
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
    fn low_and_high_nibbles_have_their_own_scale() {
        let mut block = [0; 144];
        block[..4].copy_from_slice(&[0x00, 0x3c, 0x00, 0x38]); // 1, 0.5
        block[4 + 2] = 3; // scale of weights 64-95
        block[4 + 3] = 5; // scale of weights 96-127
        block[4 + 7] = 4; // minimum of weights 96-127
        block[16 + 32 + 1] = 0x72;
        let w = dequantised(QuantType::Q4K, &block);
        assert_eq!((w[65], w[64], w[97], w[96]), (6.0, 0.0, 33.0, -2.0));
    }
}
