//! Norms over rows, and the int8 form of what comes out.

use super::buffers::PlaneBuffer;
use super::linear::Context;
use super::pool::Chunks;
use super::simd::{Isa, PlanesMut};
use crate::model::{Norm, NormKind};

/// Rows that a thread takes at once.
const ROWS: usize = 4;

/// A norm with its weights.
#[derive(Clone, Copy)]
pub struct Normed<'a> {
    kind: NormKind,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    isa: Isa,
}

impl Normed<'_> {
    /// out = norm(x), over all of x.
    pub fn apply(&self, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        self.apply_in_place(out);
    }

    pub fn apply_in_place(&self, x: &mut [f32]) {
        let n = x.len() as f32;
        if self.kind == NormKind::Layer {
            let mean = self.isa.sum(x) / n;
            x.iter_mut().for_each(|x| *x -= mean);
        }
        let scale = 1.0 / (self.isa.dot(x, x) / n + self.eps).sqrt();
        self.isa.scale(x, scale, self.weight);
        self.isa.add(x, self.bias);
    }
}

impl<'a> Context<'a> {
    pub fn normed(&self, norm: &Norm) -> Normed<'a> {
        let bias = norm.bias.map_or(&[][..], |id| self.weights.vector(id));
        Normed { kind: norm.kind, weight: self.weights.vector(norm.weight), bias, eps: norm.eps, isa: self.isa }
    }

    /// out [rows, width] = norm(x), and in int8 where a kernel reads that.
    pub fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32], integers: bool, planes: &mut PlaneBuffer) {
        let normed = self.normed(norm);
        let (len, width) = (out.len(), self.plan.n_embd);
        let parts = (Chunks::new(out, ROWS * width), integers.then(|| planes.chunks(len, ROWS * width)));
        self.pool.each(parts, |_, i, (out, planes)| {
            let x = &x[i * ROWS * width..][..out.len()];
            x.chunks_exact(width).zip(out.chunks_exact_mut(width)).for_each(|(x, out)| normed.apply(x, out));
            if let Some(planes) = planes {
                self.isa.quantise(out, mutable(planes));
            }
        });
    }

    /// Quantises `x`, rows of `width`.
    pub fn quantise(&self, x: &[f32], width: usize, integers: bool, planes: &mut PlaneBuffer) {
        if integers {
            self.pool.each(planes.chunks(x.len(), ROWS * width), |_, i, planes| {
                let start = i * ROWS * width;
                self.isa.quantise(&x[start..(start + ROWS * width).min(x.len())], mutable(planes));
            });
        }
    }
}

/// The parts of chunks of planes.
type Parts<'a> = (&'a mut [f32], &'a mut [i32], &'a mut [i8], &'a mut [i8], Option<&'a mut [i16]>);

fn mutable((scales, sums, coarse, fine, both): Parts<'_>) -> PlanesMut<'_> {
    PlanesMut { scales, sums, coarse, fine, both: both.unwrap_or_default() }
}
