//! Q3_K: 256 weights in 110 bytes. 32 bytes of high bits, 64 of low bits, 12 of scales, `d: f16`.
//!
//! `w = d * (scale - 32) * (q - 4)`, a scale of 6 bits for 16 weights. The low two bits lie as in
//! Q2_K; bit `g` of high-bit byte `j` is the third bit of weight `32 * g + j`.

use super::bits::{f16_at, part};
use super::block::Block;
use super::q8::{GROUP, Q8Group};

pub struct Q3K;

const GROUPS: usize = 8;

#[inline(always)]
fn codes(block: &[u8; 110], group: usize) -> [i8; GROUP] {
    let high: [u8; GROUP] = part(block, 0);
    let low: [u8; GROUP] = part(block, GROUP + group / 4 * GROUP);
    let mut codes = [0; GROUP];
    for j in 0..GROUP {
        let q = low[j] >> (group % 4 * 2) & 3 | (high[j] >> group & 1) << 2;
        codes[j] = q as i8 - 4;
    }
    codes
}

/// The 16 scales: low nibbles of bytes 0-7, then their high nibbles; bits 4-5 of scale `i` are in
/// byte `8 + i % 4`, two bits for each `i / 4`.
#[inline(always)]
fn scales(block: &[u8; 110]) -> [i8; 16] {
    let packed: [u8; 12] = part(block, 96);
    let mut scales = [0; 16];
    for (i, scale) in scales.iter_mut().enumerate() {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = (low | high << 4) as i8 - 32;
    }
    scales
}

impl Block<110, GROUPS> for Q3K {
    #[inline(always)]
    fn dequantise(block: &[u8; 110], out: &mut [[f32; GROUP]; GROUPS]) {
        let (d, scales) = (f16_at(block, 108), scales(block));
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
    fn dot_q8(block: &[u8; 110], x: &[Q8Group<'_>; GROUPS]) -> f32 {
        let scales = scales(block);
        let mut sum = 0.0;
        for (g, x) in x.iter().enumerate() {
            let [a, b] = x.dot_halves(&codes(block, g));
            let steps = i32::from(scales[2 * g]) * a + i32::from(scales[2 * g + 1]) * b;
            sum += x.scale * steps as f32;
        }
        f16_at(block, 108) * sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::QuantType;
    use super::super::testing::dequantised;

    #[test]
    fn scales_and_codes_come_from_three_places() {
        let mut block = [0; 110];
        block[108..].copy_from_slice(&[0x00, 0x3c]); // 1
        block[96] = 0x91; // low bits: 1 of scale 0, 9 of scale 8
        block[104] = 0b0011_0010; // high bits: 2 of scale 0, 3 of scale 8
        block[0] = 0b0001_0001; // third bit of weights 0 and 128
        block[32] = 0b10; // weight 0
        block[64] = 0b01; // weight 128
        let w = dequantised(QuantType::Q3K, &block);
        assert_eq!((w[0], w[1], w[128], w[129]), (2.0, -4.0, 25.0, -100.0));
        assert_eq!(w[16], 128.0); // scale 0 - 32, code 0 - 4
    }
}
