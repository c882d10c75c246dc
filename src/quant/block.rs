//! What a block type implements, and the loops over the blocks of a row.
//!
//! A block is `SUBS` groups of 32 weights in `BYTES` bytes. Both are constants of the type, so
//! that every index in a block's code is checked by the compiler and none at run time. A row that
//! is not a whole number of blocks is a bug of the caller; what is left over is not read.

use super::q8::{GROUP, Q8Group, Q8View};

/// Parallel sums of a float dot product: enough to keep the adders of any CPU busy.
pub const LANES: usize = 16;

/// The layout of one tensor type.
pub trait Block<const BYTES: usize, const SUBS: usize> {
    /// The weights of a block, in order.
    fn dequantise(block: &[u8; BYTES], out: &mut [[f32; GROUP]; SUBS]);

    /// The product of a block with as many quantised activations: exact integer sums in each
    /// group, scaled and added as floats in the order of the groups.
    fn dot_q8(block: &[u8; BYTES], x: &[Q8Group<'_>; SUBS]) -> f32;
}

pub fn dequantise<const BYTES: usize, const SUBS: usize, B: Block<BYTES, SUBS>>(_: B, bytes: &[u8], out: &mut [f32]) {
    for (block, out) in blocks(bytes).zip(out.chunks_exact_mut(SUBS * GROUP)) {
        let mut weights = [[0.0; GROUP]; SUBS];
        B::dequantise(block, &mut weights);
        out.copy_from_slice(weights.as_flattened());
    }
}

pub fn dot<const BYTES: usize, const SUBS: usize, B: Block<BYTES, SUBS>>(_: B, bytes: &[u8], x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for (block, x) in blocks(bytes).zip(x.chunks_exact(SUBS * GROUP)) {
        let mut weights = [[0.0; GROUP]; SUBS];
        B::dequantise(block, &mut weights);
        for (w, x) in weights.as_flattened().chunks_exact(LANES).zip(x.chunks_exact(LANES)) {
            if let (Some(w), Some(x)) = (w.first_chunk(), x.first_chunk()) {
                lanes = multiply_add(lanes, w, x);
            }
        }
    }
    fold(&lanes)
}

pub fn dot_q8<const BYTES: usize, const SUBS: usize, B: Block<BYTES, SUBS>>(_: B, bytes: &[u8], x: Q8View<'_>) -> f32 {
    blocks(bytes).zip(x.blocks::<SUBS>()).fold(0.0, |sum, (block, x)| sum + B::dot_q8(block, &x))
}

fn blocks<const BYTES: usize>(bytes: &[u8]) -> impl Iterator<Item = &[u8; BYTES]> {
    bytes.chunks_exact(BYTES).filter_map(|block| block.first_chunk())
}

/// `lanes[i] += w[i] * x[i]`, product and sum rounded separately so that every CPU agrees.
///
/// Arrays by value: the compiler then keeps them in vector registers.
#[inline(always)]
pub fn multiply_add(lanes: [f32; LANES], w: &[f32; LANES], x: &[f32; LANES]) -> [f32; LANES] {
    std::array::from_fn(|i| lanes[i] + w[i] * x[i])
}

/// The sum of the lanes, halves upon each other, in an order that never changes.
///
/// Not inlined: next to the loops above, its narrow additions would make the compiler split their
/// wide ones.
#[inline(never)]
pub fn fold(lanes: &[f32; LANES]) -> f32 {
    let mut sums = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}
