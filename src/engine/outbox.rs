//! The place between the scheduler and one inference: tokens drawn and not yet pulled, and how the answer ended.
//!
//! Each inference has its own lock, so pulling one delays no other. The outbox holds at most [`LOOK_AHEAD`] tokens: an
//! answer that nobody pulls stops there and costs nothing until somebody does. Whatever ends an inference, the scheduler
//! marks it released once its pages are given back, and only then is a cancellation over.

use super::sampler::Drawn;
use super::sync::{lock, wait};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Tokens that are computed ahead of the host's pulls.
pub const LOOK_AHEAD: usize = 64;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    EndToken,
    /// One of the host's stop strings is complete.
    StopString,
    MaxTokens,
    /// The context is full.
    Context,
    /// The host ended it.
    Cancelled,
}

/// What a pull gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Pull {
    Token(Drawn),
    End(Result<Finish>),
}

#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    cancelled: AtomicBool,
    /// Tokens of the prompt that another inference had computed.
    reused: AtomicUsize,
}

#[derive(Default)]
struct State {
    tokens: VecDeque<Drawn>,
    end: Option<Result<Finish>>,
    /// The scheduler passes over this inference until half of the tokens are pulled.
    paused: bool,
    released: bool,
    waiting: usize,
    /// When the first token came, and when the last thing did.
    times: Option<(Instant, Instant)>,
}

/// The scheduler's side.
impl Outbox {
    pub fn new() -> Self {
        let outbox = Self::default();
        lock(&outbox.state).tokens.reserve_exact(LOOK_AHEAD);
        outbox
    }

    /// Whether another token may be drawn while `in_flight` are not yet delivered; if not, the next pulls wake the scheduler.
    pub fn has_room(&self, in_flight: usize) -> bool {
        let mut state = lock(&self.state);
        state.paused |= state.tokens.len() + in_flight >= LOOK_AHEAD;
        !state.paused
    }

    pub fn is_paused(&self) -> bool {
        lock(&self.state).paused
    }

    pub fn deliver(&self, token: Drawn) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.times = Some((state.times.map_or(now, |t| t.0), now));
        state.tokens.push_back(token);
        self.notify(&state);
    }

    /// The answer is over. Only the first end counts; tokens delivered before are still there to be pulled.
    pub fn end(&self, end: Result<Finish>) {
        let mut state = lock(&self.state);
        state.end.get_or_insert(end);
        self.notify(&state);
    }

    /// Its pages are given back.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        state.released = true;
        self.notify(&state);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub fn count_reused(&self, tokens: usize) {
        self.reused.fetch_add(tokens, Ordering::Relaxed);
    }

    fn notify(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }
}

/// The host's side.
impl Outbox {
    /// Waits for a token or the end. `wake` is called where the scheduler has to hear that there is room again.
    pub fn pull(&self, wake: impl Fn()) -> Pull {
        let mut state = lock(&self.state);
        loop {
            if self.is_cancelled() {
                return Pull::End(Err(Error::parameter("the inference was freed during the call")));
            }
            if let Some(token) = state.tokens.pop_front() {
                let resume = state.paused && state.tokens.len() <= LOOK_AHEAD / 2;
                if resume {
                    state.paused = false;
                    drop(state);
                    wake();
                }
                return Pull::Token(token);
            }
            if let Some(end) = &state.end {
                return Pull::End(end.clone());
            }
            state.waiting += 1;
            state = wait(&self.changed, state);
            state.waiting -= 1;
        }
    }

    /// Ends the inference from outside and waits until the scheduler has let go of it.
    pub fn cancel(&self, wake: impl Fn()) {
        self.cancelled.store(true, Ordering::Release);
        let mut state = lock(&self.state);
        self.notify(&state);
        if state.released {
            return;
        }
        drop(state);
        wake();
        state = lock(&self.state);
        while !state.released {
            state.waiting += 1;
            state = wait(&self.changed, state);
            state.waiting -= 1;
        }
    }

    /// Tokens of the prompt that did not have to be computed, so far.
    pub fn reused(&self) -> usize {
        self.reused.load(Ordering::Relaxed)
    }

    /// When the first token was drawn, and when the last one so far.
    pub fn times(&self) -> Option<(Instant, Instant)> {
        lock(&self.state).times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn drawn(id: u32) -> Drawn {
        Drawn { id, logprob: None }
    }

    #[test]
    fn look_ahead_is_bounded_and_resumes_at_half() {
        let outbox = Outbox::new();
        let wakes = Cell::new(0);
        let wake = || wakes.set(wakes.get() + 1);
        for token in 0..LOOK_AHEAD as u32 {
            assert!(outbox.has_room(0));
            outbox.deliver(drawn(token));
        }
        assert!(!outbox.has_room(0));
        for token in 0..LOOK_AHEAD as u32 / 2 {
            assert!(!outbox.has_room(0));
            assert_eq!(outbox.pull(wake), Pull::Token(drawn(token)));
        }
        assert_eq!(wakes.get(), 1);
        assert!(outbox.has_room(LOOK_AHEAD / 2 - 1));
        assert!(!outbox.has_room(LOOK_AHEAD / 2));
    }

    #[test]
    fn tokens_come_before_the_end_and_the_first_end_stays() {
        let outbox = Outbox::new();
        assert_eq!(outbox.times(), None);
        outbox.deliver(drawn(7));
        assert!(outbox.times().is_some());
        outbox.end(Ok(Finish::EndToken));
        outbox.end(Err(Error::inference("late")));
        assert_eq!(outbox.pull(|| ()), Pull::Token(drawn(7)));
        for _ in 0..2 {
            assert_eq!(outbox.pull(|| ()), Pull::End(Ok(Finish::EndToken)));
        }
    }

    #[test]
    fn cancel_wakes_a_puller_and_waits_for_the_release() {
        let outbox = Outbox::new();
        std::thread::scope(|s| {
            let puller = s.spawn(|| outbox.pull(|| ()));
            let releaser = s.spawn(|| {
                while !outbox.is_cancelled() {
                    std::thread::yield_now();
                }
                outbox.release();
            });
            outbox.cancel(|| ());
            assert!(lock(&outbox.state).released);
            assert!(matches!(puller.join(), Ok(Pull::End(Err(_)))));
            releaser.join().expect("no panic");
        });
    }
}
