//! The two ends of the plan: embeddings in, logits and drawn tokens out.

use super::buffers::Buffers;
use super::linear::{Context, room};
use super::pool::Chunks;
use crate::model::{Linear, Norm, WeightId};
use crate::plan::{self, Batch, Output, Segment, Tokens, Want};
use crate::quant;

/// The embedding step, as the plan gives it.
#[derive(Clone, Copy)]
pub struct Embed {
    pub table: WeightId,
    pub positions: Option<WeightId>,
    pub scale: f32,
}

impl Context<'_> {
    /// hidden = table[token] * scale (+ positions[position])
    pub fn embed(&self, step: Embed, b: &mut Buffers, batch: &Batch) {
        let width = self.plan.n_embd;
        let tokens = batch.segments.iter().flat_map(|s| match &s.tokens {
            Tokens::Known(ids) => ids.as_slice(),
            Tokens::Sampled => &[],
        });
        let room = &mut room(&b.rooms, 0).row[..width];
        for ((&token, row), hidden) in tokens.zip(&b.rows).zip(b.hidden.chunks_exact_mut(width)) {
            self.read_row(step.table, token as usize, hidden);
            hidden.iter_mut().for_each(|h| *h *= step.scale);
            if let Some(positions) = step.positions {
                self.read_row(positions, row.position, room);
                self.isa.add(hidden, room);
            }
        }
    }

    fn read_row(&self, table: WeightId, row: usize, out: &mut [f32]) {
        let rows = self.weights.rows(table, 0, row..row + 1);
        quant::dequantise(rows.ty, rows.bytes, out);
    }

    /// logits = linear(norm(hidden)), for the rows that want them, and what the segments want of these.
    pub fn head(&self, norm: &Norm, linear: &Linear, b: &mut Buffers, batch: &Batch) -> Vec<Output> {
        let (width, n_vocab) = (self.plan.n_embd, self.plan.n_vocab);
        let mut outputs: Vec<_> = batch.segments.iter().map(|s| empty(s, n_vocab)).collect();
        let normed = self.normed(norm);
        let integers = self.integers(&[linear.weight]);
        for heads in b.heads.chunks(b.logits.len() / n_vocab) {
            let len = heads.len() * width;
            let hidden = &b.hidden;
            self.pool.each(Chunks::new(&mut b.x[..len], width), |_, i, x| {
                normed.apply(&hidden[heads[i] * width..][..width], x);
            });
            self.quantise(&b.x[..len], width, integers, &mut b.planes);
            let input = b.planes.input(&b.x[..len], width, integers);
            self.linear(linear, input, &mut b.logits[..heads.len() * n_vocab], &b.rooms);
            let (rows, logits) = (&b.rows, &b.logits);
            self.pool.each(Chunks::new(&mut b.drawn[..heads.len()], 1), |_, i, drawn| {
                let row = rows[heads[i]];
                if let Want::Token(draw) = batch.segments[row.segment].want {
                    let logits = &logits[i * n_vocab..][..n_vocab];
                    drawn[0] = plan::draw(logits, &self.plan.never_drawn, draw, row.position + 1);
                }
            });
            for ((&row, drawn), logits) in heads.iter().zip(&b.drawn).zip(b.logits.chunks_exact(n_vocab)) {
                match (batch.segments[b.rows[row].segment].want, &mut outputs[b.rows[row].segment]) {
                    (Want::Token(_), output) => *output = drawn.map_or(Output::Poisoned, Output::Token),
                    (_, Output::Logits(all)) => all.extend_from_slice(logits),
                    _ => {}
                }
            }
        }
        outputs
    }
}

/// What a segment gets before its logits are there, with room for what it wants.
fn empty(segment: &Segment, n_vocab: usize) -> Output {
    match segment.want {
        Want::Logits => Output::Logits(Vec::with_capacity(n_vocab)),
        Want::AllLogits => Output::Logits(Vec::with_capacity(segment.tokens.len() * n_vocab)),
        Want::Nothing | Want::Token(_) => Output::Nothing,
    }
}
