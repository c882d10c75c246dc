//! The types that are not quantised: F32, F16 and BF16.
//!
//! A row may have any length. Sixteen partial sums take the weights in turn, and the last,
//! incomplete sixteen weights too: zeros fill them up, which changes no sum.

use super::bits::f16_to_f32;
use super::block::{LANES, fold, multiply_add};
use super::q8::{GROUP, Q8View};

/// How one weight is read.
pub trait Float<const BYTES: usize> {
    fn read(bytes: &[u8; BYTES]) -> f32;
}

pub struct F32;
pub struct F16;
pub struct BF16;

impl Float<4> for F32 {
    #[inline(always)]
    fn read(bytes: &[u8; 4]) -> f32 {
        f32::from_le_bytes(*bytes)
    }
}

impl Float<2> for F16 {
    #[inline(always)]
    fn read(bytes: &[u8; 2]) -> f32 {
        f16_to_f32(u16::from_le_bytes(*bytes))
    }
}

impl Float<2> for BF16 {
    #[inline(always)]
    fn read(bytes: &[u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)
    }
}

pub fn dequantise<const BYTES: usize, F: Float<BYTES>>(_: F, bytes: &[u8], out: &mut [f32]) {
    read::<BYTES, F>(bytes, out);
}

pub fn dot<const BYTES: usize, F: Float<BYTES>>(_: F, bytes: &[u8], x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut groups = bytes.chunks_exact(LANES * BYTES);
    let mut xs = x.chunks_exact(LANES);
    for (group, x) in groups.by_ref().zip(xs.by_ref()) {
        let mut weights = [0.0; LANES];
        read::<BYTES, F>(group, &mut weights);
        if let Some(x) = x.first_chunk() {
            lanes = multiply_add(lanes, &weights, x);
        }
    }
    let (mut weights, mut rest) = ([0.0; LANES], [0.0; LANES]);
    read::<BYTES, F>(groups.remainder(), &mut weights);
    rest[..xs.remainder().len()].copy_from_slice(xs.remainder());
    lanes = multiply_add(lanes, &weights, &rest);
    fold(&lanes)
}

/// The product with quantised activations, which are read back as floats: there is no integer
/// arithmetic to gain, but a caller need not ask which type a tensor has.
pub fn dot_q8<const BYTES: usize, F: Float<BYTES>>(_: F, bytes: &[u8], x: Q8View<'_>) -> f32 {
    let mut lanes = [0.0; LANES];
    for (group, [x]) in bytes.chunks_exact(GROUP * BYTES).zip(x.blocks::<1>()) {
        for (half, qs) in group.chunks_exact(LANES * BYTES).zip(x.qs.chunks_exact(LANES)) {
            let mut weights = [0.0; LANES];
            read::<BYTES, F>(half, &mut weights);
            if let Some(qs) = qs.first_chunk::<LANES>() {
                lanes = multiply_add(lanes, &weights, &qs.map(|q| x.scale * f32::from(q)));
            }
        }
    }
    fold(&lanes)
}

#[inline(always)]
fn read<const BYTES: usize, F: Float<BYTES>>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(BYTES).zip(out) {
        if let Some(bytes) = bytes.first_chunk() {
            *out = F::read(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{QuantType, dequantise, dot};

    #[test]
    fn the_three_types_read_little_endian() {
        let mut out = [0.0; 2];
        dequantise(QuantType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.5]);
        dequantise(QuantType::F16, &[0x00, 0x3c, 0x00, 0xc1], &mut out);
        assert_eq!(out, [1.0, -2.5]);
        dequantise(QuantType::BF16, &[0x80, 0x3f, 0x20, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.5]);
    }

    #[test]
    fn a_row_of_any_length_is_summed_whole() {
        for len in [0usize, 1, 15, 16, 17, 33] {
            let weights: Vec<u8> = (1..=len).flat_map(|i| (i as f32).to_le_bytes()).collect();
            let want = (len * (len + 1)) as f32;
            assert_eq!(dot(QuantType::F32, &weights, &vec![2.0; len]), want);
        }
    }
}
