//! Norms over rows, and the int8 form of what comes out.

use super::buffers::Q8Buffer;
use super::linear::Context;
use super::pool::Chunks;
use super::simd::{Form, Isa};
use crate::model::{Norm, NormKind};
use crate::quant::{Q8Mut, quantise_q8};

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
        x.iter_mut().zip(self.weight).for_each(|(x, w)| *x = *x * scale * w);
        x.iter_mut().zip(self.bias).for_each(|(x, b)| *x += b);
    }
}

impl<'a> Context<'a> {
    pub fn normed(&self, norm: &Norm) -> Normed<'a> {
        let bias = norm.bias.map_or(&[][..], |id| self.weights.vector(id));
        Normed { kind: norm.kind, weight: self.weights.vector(norm.weight), bias, eps: norm.eps, isa: self.isa }
    }

    /// out [rows, width] = norm(x), and in int8 where a kernel reads that.
    pub fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32], q8: Option<&mut Q8Buffer>) {
        let normed = self.normed(norm);
        let width = self.plan.n_embd;
        let Some(q8) = q8 else {
            return self.pool.each(Chunks::new(out, ROWS * width), |_, i, out| {
                let x = &x[i * ROWS * width..][..out.len()];
                x.chunks_exact(width).zip(out.chunks_exact_mut(width)).for_each(|(x, out)| normed.apply(x, out));
            });
        };
        let q8 = q8.first(out.len());
        let parts = (
            Chunks::new(out, ROWS * width),
            Chunks::new(q8.scales, ROWS * width / 32),
            Chunks::new(q8.sums, ROWS * width / 16),
            Chunks::new(q8.qs, ROWS * width),
        );
        self.pool.each(parts, |_, i, (out, scales, sums, qs)| {
            let x = &x[i * ROWS * width..][..out.len()];
            x.chunks_exact(width).zip(out.chunks_exact_mut(width)).for_each(|(x, out)| normed.apply(x, out));
            self.isa.quantise(out, Q8Mut { scales, sums, qs });
        });
    }

    /// Quantises `x`, rows of `width`, where `form` asks for it.
    pub fn quantise(&self, x: &[f32], width: usize, form: Form, q8: &mut Q8Buffer) {
        if form != Form::Q8 {
            return;
        }
        let q8 = q8.first(x.len());
        let parts = (
            Chunks::new(q8.scales, ROWS * width / 32),
            Chunks::new(q8.sums, ROWS * width / 16),
            Chunks::new(q8.qs, ROWS * width),
        );
        self.pool.each(parts, |_, i, (scales, sums, qs)| {
            let x = &x[i * ROWS * width..][..qs.len()];
            self.isa.quantise(x, Q8Mut { scales, sums, qs });
        });
    }
}

impl Isa {
    /// The int8 form of rows of activations.
    pub fn quantise(self, x: &[f32], out: Q8Mut<'_>) {
        quantise_q8(x, out);
    }
}
