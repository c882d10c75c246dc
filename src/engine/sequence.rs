//! One inference as the scheduler sees it: what of it is computed, what is in flight, what comes next.
//!
//! `position` counts the tokens handed to the device, `drawn` the draws asked of it, `delivered` those that came back. How many
//! draws there can be is known from the start, so the only surprise is an end token: the draw that is then already in flight
//! is thrown away, and the pages are kept until it has come back.

use super::outbox::{Finish, Outbox};
use super::pages::Lease;
use super::sampler::{Drawn, Sampler};
use crate::error::{Error, Result};
use crate::plan::{Draw, Output, PAGE_TOKENS, Phase, Segment, Tokens, Want};
use std::collections::VecDeque;
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
    /// Draws on the host, where the device cannot draw as it is asked.
    pub sampler: Option<Sampler>,
    /// Draws at most, at least one, and why the answer ends there.
    pub limit: (usize, Finish),
}

pub struct Sequence {
    pub lease: Lease,
    pub outbox: Arc<Outbox>,
    /// The device's slot, while it has one.
    pub slot: Option<u32>,
    order: Order,
    position: usize,
    drawn: usize,
    delivered: usize,
    last: Last,
    /// Where each batch that it is part of ends, oldest first.
    in_flight: VecDeque<usize>,
    /// Pages of the prompt that are known to be computed.
    published: usize,
    ended: bool,
    /// The number of the batch that it was last part of.
    pub served: u64,
}

impl Sequence {
    pub fn new(order: Order, lease: Lease, outbox: Arc<Outbox>) -> Self {
        Self {
            lease,
            outbox,
            slot: None,
            order,
            position: 0,
            drawn: 0,
            delivered: 0,
            last: Last::None,
            in_flight: VecDeque::with_capacity(4),
            published: 0,
            ended: false,
            served: 0,
        }
    }

    /// Whether tokens of the prompt are not yet handed to the device.
    pub fn in_prompt(&self) -> bool {
        !self.ended && self.position < self.order.prompt.len()
    }

    /// Whether the next token of the answer can be part of a batch that follows the one numbered `submitted`.
    pub fn can_decode(&self, submitted: u64) -> bool {
        let ready = match self.last {
            Last::None => false,
            // What the host draws is known only when its logits are there.
            Last::Flying(number) => number == submitted && self.order.sampler.is_none(),
            Last::Known(_) => true,
        };
        ready && !self.ended && self.drawn < self.order.limit.0 && self.outbox.has_room(self.drawn - self.delivered)
    }

    /// The next tokens of the prompt, up to `rows`, for the batch numbered `number`; without its last one unless it `may_draw`.
    /// None if all that can be computed now is computed: another sequence is at work on the rest of what they share.
    pub fn prefill(&mut self, rows: usize, may_draw: bool, number: u64) -> Option<Segment> {
        self.skip_ready();
        let prompt = self.order.prompt.len();
        let most = if may_draw { prompt } else { prompt - 1 };
        let end = self.claim_up_to(most.min(self.position.saturating_add(rows)));
        if end <= self.position {
            return None;
        }
        let tokens = Tokens::Known(self.order.prompt[self.position..end].to_vec());
        Some(self.segment(Phase::Prefill, tokens, end == prompt, number))
    }

    /// How many tokens of the prompt could be computed now, up to `most`.
    pub fn waiting_tokens(&self, most: usize) -> usize {
        let ready = self.lease.chain.iter().skip(self.position / PAGE_TOKENS).take_while(|block| block.is_ready());
        let found = if self.position.is_multiple_of(PAGE_TOKENS) { ready.count() } else { 0 };
        let start = self.position + found * PAGE_TOKENS;
        let end = self.order.prompt.len().min(start.saturating_add(most));
        let pages = start / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS);
        let closed = |page: &usize| self.lease.chain.get(*page).is_some_and(|b| !b.is_open_to(self.lease.id));
        let end = pages.into_iter().find(closed).map_or(end, |page| page * PAGE_TOKENS);
        if self.in_prompt() { end.saturating_sub(start) } else { 0 }
    }

    /// Passes over pages that hold what the prompt has there.
    fn skip_ready(&mut self) {
        while self.position.is_multiple_of(PAGE_TOKENS)
            && self.lease.chain.get(self.position / PAGE_TOKENS).is_some_and(|block| block.is_ready())
        {
            self.position += PAGE_TOKENS;
            self.outbox.count_reused(PAGE_TOKENS);
        }
    }

    /// How far, up to `end`, the sequence itself is to compute from where it is.
    fn claim_up_to(&self, end: usize) -> usize {
        let pages = self.position / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS);
        let others = |page: &usize| {
            let block = self.lease.chain.get(*page);
            block.is_some_and(|b| b.is_ready() || !b.claim(self.lease.id))
        };
        pages.into_iter().find(others).map_or(end, |page| page * PAGE_TOKENS)
    }

    /// The batch that computed the prompt up to `end` has come back: full pages of it are there for others too.
    fn publish(&mut self, end: usize) {
        for block in self.lease.chain.iter().take(end / PAGE_TOKENS).skip(self.published) {
            block.set_ready();
        }
        self.published = self.published.max(end / PAGE_TOKENS);
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
        self.in_flight.push_back(self.position);
        self.served = number;
        if draws {
            self.drawn += 1;
            self.last = Last::Flying(number);
        }
        let want = match (draws, &self.order.sampler) {
            (false, _) => Want::Nothing,
            (true, None) => Want::Token(self.order.draw),
            (true, Some(_)) => Want::Logits,
        };
        Segment { slot: self.slot.unwrap_or(0), phase, position, tokens, pages: self.lease.table.clone(), want }
    }

    /// Takes what the batch numbered `number` gave; `ends` says whether a token ends the answer.
    pub fn accept(&mut self, output: Output, number: u64, ends: &dyn Fn(u32) -> bool) {
        let end = self.in_flight.pop_front();
        // One that has ended may have lost an earlier batch, so what it computed since is not to be trusted.
        if self.ended {
            return;
        }
        let end = end.unwrap_or(0);
        self.publish(end);
        let drawn = match (output, &mut self.order.sampler) {
            (Output::Nothing, _) => return,
            (Output::Token(id), None) => Ok(Drawn { id, logprob: None }),
            (Output::Logits(mut logits), Some(sampler)) => sampler.draw(&mut logits, end).ok_or_else(poisoned),
            (Output::Poisoned, _) => Err(poisoned()),
            (Output::Logits(_), None) => Err(Error::inference("the device gave logits where a token was asked for")),
            (Output::Token(_), Some(_)) => Err(Error::inference("the device gave a token where logits were asked for")),
        };
        match drawn {
            Ok(drawn) if ends(drawn.id) => self.end(Ok(Finish::EndToken)),
            Ok(drawn) => self.deliver(drawn, number),
            Err(error) => self.end(Err(error)),
        }
    }

    fn deliver(&mut self, drawn: Drawn, number: u64) {
        if self.last == Last::Flying(number) {
            self.last = Last::Known(drawn.id);
        }
        self.delivered += 1;
        self.outbox.deliver(drawn);
        let (limit, finish) = self.order.limit;
        if self.delivered >= limit {
            self.end(Ok(finish));
        }
    }

    /// The batch that it was part of did not come back with outputs.
    pub fn fail(&mut self, error: Error) {
        self.in_flight.pop_front();
        self.end(Err(error));
    }

    pub fn end(&mut self, end: Result<Finish>) {
        if !self.ended {
            self.ended = true;
            self.outbox.end(end);
        }
    }

    /// Whether it can do without its slot: the answer stands still until it is pulled, and nothing of it is on the device.
    pub fn can_yield(&self) -> bool {
        self.in_flight.is_empty() && !self.in_prompt() && self.outbox.is_paused()
    }

    /// Whether nothing will be asked of the device for it any more, and nothing is under way.
    pub fn is_over(&self) -> bool {
        (self.ended || self.outbox.is_cancelled()) && self.in_flight.is_empty()
    }

    /// A cancelled one takes no further part.
    pub fn heed_cancel(&mut self) {
        self.ended |= self.outbox.is_cancelled();
    }
}

fn poisoned() -> Error {
    Error::inference("the model's logits are not numbers")
}
