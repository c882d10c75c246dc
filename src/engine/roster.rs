//! The open sequences of a model, and the next batch made of them.
//!
//! Running answers come first, then prompts in the order of their arrival, in chunks. Where not all answers fit into a
//! batch, those that waited longest go.

use super::pages::Lease;
use super::sequence::Sequence;
use crate::error::{Error, Result};
use crate::plan::{Batch, Limits, Output, Phase, Segment, Want};
use std::sync::Arc;

use super::outbox::{Finish, Outbox};

#[derive(Default)]
pub struct Roster {
    /// By slot.
    sequences: Vec<Option<Sequence>>,
    /// Slots in the order of arrival.
    order: Vec<u32>,
}

/// What a batch may hold.
#[derive(Clone, Copy)]
pub struct Budget {
    pub rows: usize,
    pub draws: usize,
    /// Rows of prompts, where the batch also decodes.
    pub chunk: usize,
}

impl Budget {
    pub fn new(limits: &Limits, chunk: usize) -> Self {
        Self { rows: limits.batch_tokens.max(1), draws: limits.logit_rows.max(1), chunk }
    }
}

impl Roster {
    pub fn add(&mut self, sequence: Sequence) {
        let slot = sequence.lease.slot as usize;
        if self.sequences.len() <= slot {
            self.sequences.resize_with(slot + 1, || None);
        }
        self.order.push(slot as u32);
        self.sequences[slot] = Some(sequence);
    }

    fn get(&mut self, slot: u32) -> Option<&mut Sequence> {
        self.sequences.get_mut(slot as usize)?.as_mut()
    }

    fn peek(&self, slot: u32) -> Option<&Sequence> {
        self.sequences.get(slot as usize)?.as_ref()
    }

    /// The batch numbered `number`, the one after `submitted`; empty if nothing can go on.
    pub fn compose(&mut self, budget: Budget, number: u64, submitted: u64) -> Batch {
        let order = self.order.clone();
        let left = |slot: &u32| self.peek(*slot).is_some_and(|s| s.in_prompt());
        let prompts: Vec<u32> = order.iter().copied().filter(left).collect();
        let decodes = self.choose_decodes(budget, submitted, !prompts.is_empty());
        let mut segments = Vec::with_capacity(decodes.len() + prompts.len());
        for slot in decodes {
            segments.extend(self.get(slot).map(|s| s.decode(number)));
        }
        let rows = budget.rows - segments.len();
        let rows = if segments.is_empty() { rows } else { rows.min(budget.chunk) };
        let draws = budget.draws - segments.len();
        self.add_prompts(&prompts, (rows, draws), number, &mut segments);
        Batch { segments }
    }

    /// The answers that take a step, with some of the budget left over where prompts wait.
    fn choose_decodes(&self, budget: Budget, submitted: u64, prompts_wait: bool) -> Vec<u32> {
        let ready = |slot: &u32| self.peek(*slot).is_some_and(|s| s.can_decode(submitted));
        let mut decodes: Vec<u32> = self.order.iter().copied().filter(ready).collect();
        let (rows, draws) = match prompts_wait {
            true => (budget.rows - budget.chunk.min(budget.rows / 2), budget.draws.max(2) - 1),
            false => (budget.rows, budget.draws),
        };
        let most = rows.min(draws).max(1);
        if decodes.len() > most {
            decodes.sort_by_key(|&slot| self.peek(slot).map_or(0, |s| s.served));
            decodes.truncate(most);
        }
        decodes
    }

    /// Chunks of prompts, first come, first served, within (rows, draws).
    fn add_prompts(&mut self, prompts: &[u32], room: (usize, usize), number: u64, segments: &mut Vec<Segment>) {
        let (mut rows, mut draws) = room;
        for &slot in prompts {
            let Some(sequence) = self.get(slot) else { continue };
            let Some(segment) = sequence.prefill(rows, draws > 0, number) else { continue };
            draws -= usize::from(segment.want != Want::Nothing);
            rows -= segment.tokens.len();
            segments.push(segment);
        }
    }

    /// Hands the outputs of the batch numbered `number` to the sequences in `slots`.
    pub fn accept(&mut self, slots: &[u32], outputs: Vec<Output>, number: u64, ends: &dyn Fn(u32) -> bool) {
        for (&slot, output) in slots.iter().zip(outputs) {
            if let Some(sequence) = self.get(slot) {
                sequence.accept(output, number, ends);
            }
        }
    }

    /// The batch of these sequences failed.
    pub fn fail(&mut self, slots: &[u32], error: &Error) {
        for &slot in slots {
            if let Some(sequence) = self.get(slot) {
                sequence.fail(error.clone());
            }
        }
    }

    /// Ends all that have not ended.
    pub fn end_all(&mut self, end: Result<Finish>) {
        for sequence in self.sequences.iter_mut().flatten() {
            sequence.end(end.clone());
        }
    }

    /// Takes out those that are over and have nothing in flight; all of them if `force`.
    pub fn reap(&mut self, force: bool, mut release: impl FnMut(Lease, Arc<Outbox>)) {
        for sequence in self.sequences.iter_mut().flatten() {
            sequence.heed_cancel();
        }
        let sequences = &mut self.sequences;
        self.order.retain(|&slot| {
            let place = &mut sequences[slot as usize];
            let over = place.take_if(|s| force || s.is_over());
            let stays = place.is_some();
            if let Some(sequence) = over {
                release(sequence.lease, sequence.outbox);
            }
            stays
        });
    }
}

/// Rows of prompts and of answers in a batch.
pub fn count_rows(batch: &Batch) -> (usize, usize) {
    let of = |phase| batch.segments.iter().filter(move |s| s.phase == phase).map(|s| s.tokens.len()).sum();
    (of(Phase::Prefill), of(Phase::Decode))
}
