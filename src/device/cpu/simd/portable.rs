//! The kernels for any CPU, and the oracle of the others.

use super::{Input, WeightRows};
use crate::device::cpu::pool::Tile;
use crate::quant::{self, LANES, fold, multiply_add};

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

/// Product and sum are rounded separately, element i goes to partial sum i % LANES, and these are folded by halves: the same
/// bits on every CPU.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = a.iter().zip(b).fold([0.0; LANES], |lanes, (a, b)| multiply_add(lanes, a, b));
    if !a_rest.is_empty() {
        // Sums that are reached one by one would make the compiler compute all of them one by one.
        lanes = multiply_add(lanes, &padded(a_rest), &padded(b_rest));
    }
    fold(&lanes)
}

fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}
