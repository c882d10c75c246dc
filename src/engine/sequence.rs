//! One inference as the scheduler sees it: what of it is computed, what is in flight, what comes next.
//!
//! `position` counts the tokens handed to the device, `drawn` the draws asked of it, `delivered` those that came back. How many
//! draws there can be is known from the start, so the only surprise is an end token: the draw that is then already in flight
//! is thrown away, and pages and slot are kept until it has come back.

use super::outbox::{Finish, Outbox};
use super::pages::Lease;
use crate::error::{Error, Result};
use crate::plan::{Draw, Output, Phase, Segment, Tokens, Want};
use std::sync::Arc;

/// The token that the next decode step starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// The prompt's end is not reached.
    None,
    /// Drawn by the batch of this number, which is not collected.
    Flying(u64),
    Known(u32),
}

/// What an inference is started with.
pub struct Order {
    /// At least one token.
    pub prompt: Vec<u32>,
    pub draw: Draw,
    /// Draws at most, at least one, and why the answer ends there.
    pub limit: (usize, Finish),
}

pub struct Sequence {
    pub lease: Lease,
    pub outbox: Arc<Outbox>,
    order: Order,
    position: usize,
    drawn: usize,
    delivered: usize,
    last: Last,
    batches_in_flight: usize,
    ended: bool,
    /// The number of the batch that it was last part of.
    pub served: u64,
}

impl Sequence {
    pub fn new(order: Order, lease: Lease, outbox: Arc<Outbox>) -> Self {
        Self {
            lease,
            outbox,
            order,
            position: 0,
            drawn: 0,
            delivered: 0,
            last: Last::None,
            batches_in_flight: 0,
            ended: false,
            served: 0,
        }
    }

    /// Prompt tokens that are not yet handed to the device.
    pub fn prompt_left(&self) -> usize {
        if self.ended { 0 } else { self.order.prompt.len().saturating_sub(self.position) }
    }

    /// Whether the next token of the answer can be part of a batch that follows the one numbered `submitted`.
    pub fn can_decode(&self, submitted: u64) -> bool {
        let ready = match self.last {
            Last::None => false,
            Last::Flying(number) => number == submitted,
            Last::Known(_) => true,
        };
        ready && !self.ended && self.drawn < self.order.limit.0 && self.outbox.has_room(self.drawn - self.delivered)
    }

    /// The next `rows` tokens of the prompt, for the batch numbered `number`.
    pub fn prefill(&mut self, rows: usize, number: u64) -> Segment {
        let end = self.order.prompt.len().min(self.position + rows);
        let tokens = Tokens::Known(self.order.prompt[self.position..end].to_vec());
        let draws = end == self.order.prompt.len();
        self.segment(Phase::Prefill, tokens, draws, number)
    }

    /// The next step of the answer.
    pub fn decode(&mut self, number: u64) -> Segment {
        let tokens = match self.last {
            Last::Known(id) => Tokens::Known(vec![id]),
            Last::Flying(_) | Last::None => Tokens::Sampled,
        };
        self.segment(Phase::Decode, tokens, true, number)
    }

    fn segment(&mut self, phase: Phase, tokens: Tokens, draws: bool, number: u64) -> Segment {
        let position = self.position;
        self.position += tokens.len();
        self.batches_in_flight += 1;
        self.served = number;
        if draws {
            self.drawn += 1;
            self.last = Last::Flying(number);
        }
        let want = if draws { Want::Token(self.order.draw) } else { Want::Nothing };
        Segment { slot: self.lease.slot, phase, position, tokens, pages: self.lease.table.clone(), want }
    }

    /// Takes what the batch numbered `number` gave; `ends` says whether a token ends the answer.
    pub fn accept(&mut self, output: Output, number: u64, ends: impl Fn(u32) -> bool) {
        self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
        if self.ended {
            return;
        }
        match output {
            Output::Nothing => {}
            Output::Token(id) if ends(id) => self.end(Ok(Finish::EndToken)),
            Output::Token(id) => self.deliver(id, number),
            Output::Poisoned => self.end(Err(Error::inference("the model's logits are not numbers"))),
            Output::Logits(_) => self.end(Err(Error::inference("the device gave logits where a token was asked for"))),
        }
    }

    fn deliver(&mut self, id: u32, number: u64) {
        if self.last == Last::Flying(number) {
            self.last = Last::Known(id);
        }
        self.delivered += 1;
        self.outbox.deliver(id);
        let (limit, finish) = self.order.limit;
        if self.delivered >= limit {
            self.end(Ok(finish));
        }
    }

    /// The batch that it was part of did not come back with outputs.
    pub fn fail(&mut self, error: Error) {
        self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
        self.end(Err(error));
    }

    pub fn end(&mut self, end: Result<Finish>) {
        if !self.ended {
            self.ended = true;
            self.outbox.end(end);
        }
    }

    /// Whether nothing will be asked of the device for it any more, and nothing is under way.
    pub fn is_over(&self) -> bool {
        (self.ended || self.outbox.is_cancelled()) && self.batches_in_flight == 0
    }

    /// A cancelled one takes no further part.
    pub fn heed_cancel(&mut self) {
        self.ended |= self.outbox.is_cancelled();
    }
}
