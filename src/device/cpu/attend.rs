//! Attention: q, k and v of the rows, and the softmax over the cache.
//!
//! The pages are walked in order, each as one block of an online softmax, and blocks are aligned to
//! absolute positions. So the sum of a row has the same order in any chunk and any batch.

use super::buffers::{Buffers, Planes, Room, Row};
use super::linear::{Context, room};
use super::memory::{KvCache, Rows};
use super::pool::{Chunks, Grid};
use super::rope::rotate;
use crate::model::{Heads, Norm, WeightId};
use crate::plan::{Batch, KvLayer, PAGE_TOKENS, PageTable, Qkv};
use half::f16;

/// Rows whose q and k a thread norms and rotates at once.
const ROWS: usize = 4;

/// The attention step, as the plan gives it.
#[derive(Clone, Copy)]
pub struct Attend {
    pub heads: Heads,
    pub kv: KvLayer,
    pub scale: f32,
    pub window: Option<usize>,
    pub sinks: Option<WeightId>,
}

impl Context<'_> {
    /// x = norm(hidden); q, k and v of it, rotated; k and v into the cache.
    pub fn qkv(&self, step: &Qkv, b: &mut Buffers, cache: &mut KvCache, batch: &Batch) {
        let (n, n_embd) = (b.rows.len(), self.plan.n_embd);
        let planes = self.planes(&[&step.q, &step.k, &step.v].map(|l| l.weight)).map(|_| Planes::Fine);
        let len = n * n_embd;
        self.norm(&step.norm, &b.hidden[..len], &mut b.x[..len], planes, &mut b.q8);
        let input = b.q8.input(&b.x[..len], n_embd, planes);
        let linears = [&step.q, &step.k, &step.v];
        let widths = linears.map(|l| l.rows.len());
        let outs = [&mut b.q[..n * widths[0]], &mut b.k[..n * widths[1]], &mut b.v[..n * widths[2]]];
        let mut i = 0;
        let grids = outs.map(|out| {
            let (width, at) = (widths[i], i);
            i += 1;
            Grid::new(out, width, width, self.block(n, widths[at].max(widths[0]), n_embd))
        });
        self.pool.each(grids, |thread, _, (which, mut tile)| {
            self.tile(linears[which], 0, input, &mut tile, room(&b.rooms, thread).split().1);
        });
        self.position(step, b);
        let dims = [1, 2].map(|i| widths[i]);
        for (i, row) in b.rows.iter().enumerate() {
            let kv = [&b.k[i * dims[0]..][..dims[0]], &b.v[i * dims[1]..][..dims[1]]];
            cache.store(step.kv, &batch.segments[row.segment].pages, row.position, kv);
        }
    }

    /// Norms and rotates each head of q and of k.
    fn position(&self, step: &Qkv, b: &mut Buffers) {
        if step.rope.is_none() && step.q_norm.is_none() && step.k_norm.is_none() {
            return;
        }
        let (n, dim) = (b.rows.len(), step.heads.dim);
        let widths = [step.heads.q * dim, step.heads.kv * dim];
        let rope = step.rope.map(|id| (self.plan.ropes[id.0 as usize].style, &b.ropes[id.0 as usize]));
        let parts = (
            Chunks::new(&mut b.q[..n * widths[0]], ROWS * widths[0]),
            Chunks::new(&mut b.k[..n * widths[1]], ROWS * widths[1]),
        );
        self.pool.each(parts, |_, part, (q, k)| {
            for (x, width, norm) in [(q, widths[0], &step.q_norm), (k, widths[1], &step.k_norm)] {
                for (i, x) in x.chunks_exact_mut(width).enumerate() {
                    let rope = rope.map(|(style, table)| (style, table.row(part * ROWS + i)));
                    for head in x.chunks_exact_mut(dim) {
                        self.norm_head(norm, head);
                        if let Some((style, row)) = rope {
                            rotate(head, style, row);
                        }
                    }
                }
            }
        });
    }

    fn norm_head(&self, norm: &Option<Norm>, head: &mut [f32]) {
        if let Some(norm) = norm {
            self.normed(norm).apply_in_place(head);
        }
    }

    /// mixed = softmax(q K^T * scale [, sink]) V, in the place of q.
    pub fn attend(&self, step: Attend, b: &mut Buffers, cache: &KvCache, batch: &Batch) {
        let (n, dim) = (b.rows.len(), step.heads.dim);
        let width = step.heads.q * dim;
        let (rows, rooms) = (&b.rows, &b.rooms);
        let sinks = step.sinks.map(|id| self.weights.vector(id));
        self.pool.each(Grid::new(&mut b.q[..n * width], width, width, [1, dim]), |thread, _, mut tile| {
            let head = tile.cols().start / dim;
            let Row { segment, position } = rows[tile.rows().start];
            let span = Span {
                pages: &batch.segments[segment].pages,
                position,
                head: head / (step.heads.q / step.heads.kv),
                sink: sinks.map(|s| s[head]),
            };
            let Room { row: q, .. } = &mut *room(rooms, thread);
            let q = &mut q[..dim];
            q.copy_from_slice(tile.row(0));
            self.attend_row(step, span, cache, q, tile.row(0));
        });
    }

    /// One row and head: `out` = attention of `q`.
    fn attend_row(&self, step: Attend, span: Span<'_>, cache: &KvCache, q: &[f32], out: &mut [f32]) {
        let mut sum = Softmax::new(span.sink, out);
        let first = step.window.map_or(0, |w| (span.position + 1).saturating_sub(w));
        let mut start = first / PAGE_TOKENS * PAGE_TOKENS;
        while start <= span.position {
            let tokens = first.saturating_sub(start)..(span.position - start + 1).min(PAGE_TOKENS);
            let mut scores = [0.0; PAGE_TOKENS];
            let scores = &mut scores[..tokens.len()];
            let [k, v] = cache.rows(step.kv, span.pages, start, span.head);
            let keys = tokens.start * q.len()..tokens.end * q.len();
            match (k, v) {
                (Rows::F32(k), Rows::F32(v)) => {
                    let keys_of = k[keys.clone()].chunks_exact(q.len());
                    scores.iter_mut().zip(keys_of).for_each(|(s, k)| *s = self.isa.dot(q, k) * step.scale);
                    sum.add(scores, v[keys].chunks_exact(q.len()), |v| v);
                }
                (Rows::F16(k), Rows::F16(v)) => {
                    let keys_of = k[keys.clone()].chunks_exact(q.len());
                    scores.iter_mut().zip(keys_of).for_each(|(s, k)| *s = dot_f16(q, k) * step.scale);
                    sum.add(scores, v[keys].chunks_exact(q.len()), f16::to_f32);
                }
                _ => unreachable!("keys and values are of one type"),
            }
            start += PAGE_TOKENS;
        }
        sum.finish();
    }
}

/// What a row of q attends to.
struct Span<'a> {
    pages: &'a PageTable,
    position: usize,
    head: usize,
    sink: Option<f32>,
}

/// A softmax that takes its terms block by block.
struct Softmax<'a> {
    max: f32,
    sum: f32,
    mixed: &'a mut [f32],
}

impl<'a> Softmax<'a> {
    fn new(sink: Option<f32>, mixed: &'a mut [f32]) -> Self {
        mixed.fill(0.0);
        Self { max: sink.unwrap_or(f32::NEG_INFINITY), sum: if sink.is_some() { 1.0 } else { 0.0 }, mixed }
    }

    fn add<'v, T: Copy + 'v>(
        &mut self,
        scores: &[f32],
        values: impl Iterator<Item = &'v [T]>,
        float: impl Fn(T) -> f32,
    ) {
        let max = scores.iter().fold(self.max, |max, &s| max.max(s));
        if max > self.max {
            let shrink = (self.max - max).exp();
            self.sum *= shrink;
            self.mixed.iter_mut().for_each(|m| *m *= shrink);
            self.max = max;
        }
        for (score, value) in scores.iter().zip(values) {
            let weight = (score - self.max).exp();
            self.sum += weight;
            self.mixed.iter_mut().zip(value).for_each(|(m, &v)| *m += weight * float(v));
        }
    }

    fn finish(self) {
        let scale = 1.0 / self.sum;
        self.mixed.iter_mut().for_each(|m| *m *= scale);
    }
}

fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b.to_f32()).sum()
}
