//! The open sequences of a model, and the next batch made of them.
//!
//! Running answers come first, then prompts in the order of their arrival, in chunks. Where not all answers fit into a
//! batch, those that waited longest go. The device has so many slots; a sequence needs one to run and keeps it, but for an answer
//! that nobody pulls, which gives way. Who finds none waits for the first that is free.

use super::outbox::{Finish, Outbox};
use super::pages::Lease;
use super::sequence::Sequence;
use super::sync::share_out;
use crate::error::{Error, Result};
use crate::plan::{Batch, Limits, Output, Phase, Segment, Want};
use std::sync::Arc;
use std::thread::available_parallelism;

/// Where a sequence is in the roster. Another sequence has it only after nothing of this one is under way.
pub type Place = usize;

pub struct Roster {
    sequences: Vec<Option<Sequence>>,
    /// Places in the order of arrival.
    order: Vec<Place>,
    free_places: Vec<Place>,
    free_slots: Vec<u32>,
    /// That draw for those whose options the device does not know.
    threads: usize,
}

const MOST_THREADS: usize = 16;

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
    pub fn new(limits: &Limits) -> Self {
        let slots = u32::try_from(limits.sequences.max(1)).unwrap_or(u32::MAX);
        Self {
            sequences: Vec::new(),
            order: Vec::new(),
            free_places: Vec::new(),
            free_slots: (0..slots).rev().collect(),
            threads: available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS)),
        }
    }

    pub fn add(&mut self, sequence: Sequence) {
        let place = self.free_places.pop().unwrap_or(self.sequences.len());
        if place == self.sequences.len() {
            self.sequences.push(None);
        }
        self.order.push(place);
        self.sequences[place] = Some(sequence);
    }

    fn get(&mut self, place: Place) -> Option<&mut Sequence> {
        self.sequences.get_mut(place)?.as_mut()
    }

    fn peek(&self, place: Place) -> Option<&Sequence> {
        self.sequences.get(place)?.as_ref()
    }

    /// How many are in their prompt, and how many answer.
    pub fn crowd(&self) -> (usize, usize) {
        let prompts = self.sequences.iter().flatten().filter(|s| s.in_prompt()).count();
        let answers = self.sequences.iter().flatten().filter(|s| s.slot.is_some() && !s.in_prompt()).count();
        (prompts, answers)
    }

    /// Whether the batch after `submitted` would decode, or be full of prompts.
    pub fn fills(&self, rows: usize, submitted: u64) -> bool {
        let seated = self.sequences.iter().flatten().filter(|s| s.slot.is_some());
        let mut left = rows;
        for sequence in seated {
            left = left.saturating_sub(sequence.waiting_tokens(left));
            if left == 0 || sequence.can_decode(submitted) {
                return true;
            }
        }
        false
    }

    /// The batch numbered `number`, the one after `submitted`, and the places of its segments; empty if nothing can go on.
    pub fn compose(&mut self, budget: Budget, number: u64, submitted: u64) -> (Batch, Vec<Place>) {
        self.seat(submitted);
        let seated = |place: &&Place| self.peek(**place).is_some_and(|s| s.slot.is_some());
        let order: Vec<Place> = self.order.iter().filter(seated).copied().collect();
        let in_prompt = |place: &&Place| self.peek(**place).is_some_and(Sequence::in_prompt);
        let prompts: Vec<Place> = order.iter().filter(in_prompt).copied().collect();
        let mut places = self.choose_decodes(order, budget, submitted, !prompts.is_empty());
        let mut segments = Vec::with_capacity(places.len() + prompts.len());
        for &place in &places {
            segments.extend(self.get(place).map(|s| s.decode(number)));
        }
        let rows = budget.rows - segments.len();
        let rows = if segments.is_empty() { rows } else { rows.min(budget.chunk) };
        let draws = budget.draws - segments.len();
        for (place, segment) in self.prompt_segments(&prompts, (rows, draws), number) {
            places.push(place);
            segments.push(segment);
        }
        (Batch { segments }, places)
    }

    /// Gives slots to those that could run, first come, first served.
    fn seat(&mut self, submitted: u64) {
        for index in 0..self.order.len() {
            let place = self.order[index];
            let wants =
                self.peek(place).is_some_and(|s| s.slot.is_none() && (s.in_prompt() || s.can_decode(submitted)));
            if !wants {
                continue;
            }
            let slot = self.free_slots.pop().or_else(|| self.take_slot_of_idle());
            if slot.is_none() {
                return;
            }
            if let Some(sequence) = self.get(place) {
                sequence.slot = slot;
            }
        }
    }

    fn take_slot_of_idle(&mut self) -> Option<u32> {
        let idle = self.sequences.iter_mut().flatten().find(|s| s.slot.is_some() && s.can_yield());
        idle?.slot.take()
    }

    /// The answers of `order` that take a step, with some of the budget left over where prompts wait.
    fn choose_decodes(&self, mut order: Vec<Place>, budget: Budget, submitted: u64, prompts_wait: bool) -> Vec<Place> {
        order.retain(|&place| self.peek(place).is_some_and(|s| s.can_decode(submitted)));
        let (rows, draws) = match prompts_wait {
            true => (budget.rows - budget.chunk.min(budget.rows / 2), budget.draws.max(2) - 1),
            false => (budget.rows, budget.draws),
        };
        let most = rows.min(draws).max(1);
        if order.len() > most {
            order.sort_by_key(|&place| self.peek(place).map_or(0, |s| s.served));
            order.truncate(most);
        }
        order
    }

    /// Chunks of prompts, first come, first served, within (rows, draws).
    fn prompt_segments(&mut self, prompts: &[Place], room: (usize, usize), number: u64) -> Vec<(Place, Segment)> {
        let (mut rows, mut draws) = room;
        let mut segments = Vec::new();
        for &place in prompts {
            let Some(sequence) = self.get(place).filter(|_| rows > 0) else { continue };
            let Some(segment) = sequence.prefill(rows, draws > 0, number) else { continue };
            draws -= usize::from(segment.want != Want::Nothing);
            rows -= segment.tokens.len();
            segments.push((place, segment));
        }
        segments
    }

    /// Hands the outputs of the batch numbered `number` to the sequences at `places`.
    pub fn accept(&mut self, places: &[Place], outputs: Vec<Output>, number: u64, ends: &(dyn Fn(u32) -> bool + Sync)) {
        let (mut at, threads) = (vec![None; self.sequences.len()], self.threads);
        for (&place, output) in places.iter().zip(outputs) {
            if let Some(slot) = at.get_mut(place) {
                *slot = Some(output);
            }
        }
        let pairs = self.sequences.iter_mut().zip(at).filter_map(|(sequence, output)| sequence.as_mut().zip(output));
        // What is to be drawn here takes long enough to be worth threads.
        let (drawn, given): (Vec<_>, Vec<_>) = pairs.partition(|(_, output)| matches!(output, Output::Logits(_)));
        given.into_iter().for_each(|(sequence, output)| sequence.accept(output, number, ends));
        share_out(drawn, threads, |(sequence, output)| sequence.accept(output, number, ends));
    }

    /// The batch of these sequences failed.
    pub fn fail(&mut self, places: &[Place], error: &Error) {
        for &place in places {
            if let Some(sequence) = self.get(place) {
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
        let Self { sequences, order, free_places, free_slots, .. } = self;
        order.retain(|&place| {
            let Some(sequence) = sequences[place].take_if(|s| force || s.is_over()) else { return true };
            free_places.push(place);
            free_slots.extend(sequence.slot);
            release(sequence.lease, sequence.outbox);
            false
        });
    }
}

/// Rows of prompts and of answers in a batch.
pub fn count_rows(batch: &Batch) -> (usize, usize) {
    let of = |phase| batch.segments.iter().filter(move |s| s.phase == phase).map(|s| s.tokens.len()).sum();
    (of(Phase::Prefill), of(Phase::Decode))
}
