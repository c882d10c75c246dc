//! The kernels for any CPU, and the oracle of the others.

use super::{Input, WeightRows};
use crate::device::cpu::pool::Tile;
use crate::quant;

/// Partial sums: element i of a row goes to sum i % LANES, in order.
const LANES: usize = 16;

/// Each row of weights is read once as floats, into `room`, for all rows of the input.
pub fn matmul(weights: WeightRows<'_>, input: Input<'_>, out: &mut Tile<'_>, room: &mut [f32]) {
    let row = &mut room[..weights.cols];
    for r in 0..out.cols().len() {
        quant::dequantise(weights.ty, weights.row(r), row);
        for t in 0..out.rows().len() {
            out.row(t)[r] = dot(row, input.float_row(t));
        }
    }
}

/// Product and sum are rounded separately and the partial sums folded by halves: the same bits on every CPU.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (mut a, mut b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a.remainder().iter().zip(b.remainder())) {
        *lane += a * b;
    }
    fold(lanes)
}

fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
