//! Norms over rows, and the int8 form of what comes out.

use super::buffers::Q8Buffer;
use super::linear::Context;
use super::pool::Chunks;
use super::simd::Isa;
use crate::model::{Norm, NormKind};
use crate::quant::Q8Mut;
use crate::quant::q8::GROUP;

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
    pub fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32], integers: bool, q8: &mut Q8Buffer) {
        let normed = self.normed(norm);
        let (len, width) = (out.len(), self.plan.n_embd);
        let parts = (Chunks::new(out, ROWS * width), integers.then(|| q8.chunks(len, ROWS * width)));
        self.pool.each(parts, |_, i, (out, planes)| {
            let x = &x[i * ROWS * width..][..out.len()];
            x.chunks_exact(width).zip(out.chunks_exact_mut(width)).for_each(|(x, out)| normed.apply(x, out));
            if let Some(planes) = planes {
                self.isa.quantise_planes(out, planes);
            }
        });
    }

    /// Quantises `x`, rows of `width`.
    pub fn quantise(&self, x: &[f32], width: usize, integers: bool, q8: &mut Q8Buffer) {
        if integers {
            self.pool.each(q8.chunks(x.len(), ROWS * width), |_, i, planes| {
                let start = i * ROWS * width;
                self.isa.quantise_planes(&x[start..(start + ROWS * width).min(x.len())], planes);
            });
        }
    }
}

type Plane<'a> = (&'a mut [f32], &'a mut [i16], &'a mut [i8]);

impl Isa {
    /// The int8 form of rows of activations, and that of what it leaves over.
    fn quantise_planes(self, x: &[f32], (coarse, fine): (Plane<'_>, Plane<'_>)) {
        let (scales, sums, qs) = coarse;
        self.quantise(x, Q8Mut { scales, sums, qs });
        let (fine_scales, fine_sums, fine_qs) = fine;
        for (i, x) in x.chunks_exact(GROUP).enumerate() {
            let qs = &qs[i * GROUP..][..GROUP];
            let rest: [f32; GROUP] = std::array::from_fn(|j| x[j] - scales[i] * f32::from(qs[j]));
            let out = Q8Mut {
                scales: &mut fine_scales[i..=i],
                sums: &mut fine_sums[2 * i..2 * i + 2],
                qs: &mut fine_qs[i * GROUP..][..GROUP],
            };
            self.quantise(&rest, out);
        }
    }
}
