//! Q6_K: 256 weights in 210 bytes. 128 bytes of low nibbles, 64 of high bits, 16 signed scales,
//! `d: f16`.
//!
//! `w = d * scale * (q - 32)`, a scale for 16 weights. Each half of the block has 64 bytes of
//! nibbles (low nibbles: weights 0-63, high: 64-127) and 32 of high bits (bits 0-1: weights 0-31,
//! bits 2-3: 32-63, and so on).

use super::bits::{f16_at, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q6K;

const GROUPS: usize = 8;

#[inline(always)]
fn codes(block: &[u8; 210], group: usize) -> [i8; GROUP] {
    let (half, quarter) = (group / 4, group % 4);
    let low: [u8; GROUP] = part(block, half * 64 + quarter % 2 * GROUP);
    let high: [u8; GROUP] = part(block, 128 + half * GROUP);
    let mut codes = [0; GROUP];
    for j in 0..GROUP {
        let q = low[j] >> (quarter / 2 * 4) & 15 | (high[j] >> (quarter * 2) & 3) << 4;
        codes[j] = q as i8 - 32;
    }
    codes
}

#[inline(always)]
fn scales(block: &[u8; 210]) -> [i8; 16] {
    part::<210, 16>(block, 192).map(|scale| scale as i8)
}

impl Block<210, GROUPS> for Q6K {
    #[inline(always)]
    fn dequantise(block: &[u8; 210], out: &mut [[f32; GROUP]; GROUPS]) {
        let (d, scales) = (f16_at(block, 208), scales(block));
        for (g, out) in out.iter_mut().enumerate() {
            let codes = codes(block, g);
            for half in 0..2 {
                let scale = d * f32::from(scales[2 * g + half]);
                for j in half * 16..half * 16 + 16 {
                    out[j] = scale * f32::from(codes[j]);
                }
            }
        }
    }

    #[inline(always)]
    fn dot_q8(block: &[u8; 210], x: &[Q8Group<'_>; GROUPS]) -> f32 {
        let scales = scales(block);
        let mut sum = 0.0;
        for (g, x) in x.iter().enumerate() {
            let [a, b] = x.dot_halves(&codes(block, g));
            let steps = i32::from(scales[2 * g]) * a + i32::from(scales[2 * g + 1]) * b;
            sum += x.scale * steps as f32;
        }
        f16_at(block, 208) * sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn halves_and_quarters_are_interleaved() {
        let mut block = [0; 210];
        block[208..].copy_from_slice(&[0x00, 0x38]); // 0.5
        block[192] = 2; // weights 0-15
        block[192 + 15] = 0xfe; // -2: weights 240-255
        block[0] = 0x05; // weight 0
        block[128] = 0b11; // weight 0
        block[127] = 0x70; // weight 255
        block[128 + 63] = 0b1000_0000; // weight 255
        let w = dequantised(QuantType::Q6K, &block);
        assert_eq!((w[0], w[1], w[16]), (21.0, -32.0, 0.0));
        assert_eq!((w[255], w[254], w[239]), (-7.0, 32.0, 0.0));
    }
}
