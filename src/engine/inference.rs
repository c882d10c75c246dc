//! One answer: tokens from the scheduler in, pieces of text out.
//!
//! Tokens become text on the thread that pulls. A piece is kept until the host has room for it, so nothing is lost to a
//! buffer that is too small.

use super::outbox::{Finish, Outbox, Pull};
use super::pages::unloaded;
use super::process;
use super::relief::with_relief;
use super::sampler::Drawn;
use super::scheduler::Shared;
use super::sequence::{Order, Sequence};
use super::stops::Stops;
use super::sync::lock;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::token::Utf8Stream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Inference {
    shared: Arc<Shared>,
    vocabulary: Arc<dyn Vocabulary>,
    outbox: Arc<Outbox>,
    prompt_tokens: usize,
    started: Instant,
    /// The host has ended it, but keeps the handle.
    interrupted: AtomicBool,
    /// Apart from the reader, so that asking does not wait for a pull.
    record: Mutex<Record>,
    /// Its lock makes the second of two pulls at once wait for the first.
    reader: Mutex<Reader>,
}

/// What the host has pulled.
#[derive(Default)]
struct Record {
    tokens: Vec<Drawn>,
    end: Option<Result<Finish>>,
}

/// What an inference has come to so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    pub prompt_tokens: usize,
    /// Tokens of the prompt that did not have to be computed, since another inference's prompt begins alike.
    pub reused_tokens: usize,
    /// Tokens of the answer whose text was pulled or is held back.
    pub tokens: usize,
    /// From the start to the first token.
    pub until_first: Option<Duration>,
    /// From the start to the last token that the device gave, pulled or not.
    pub until_last: Option<Duration>,
}

#[derive(Default)]
struct Reader {
    text: Utf8Stream,
    stops: Stops,
    /// Decoded and not yet given.
    piece: Option<String>,
    /// Pieces given.
    index: u32,
    /// No token comes any more.
    end: Option<Result<Finish>>,
}

impl Inference {
    pub(super) fn start(
        shared: Arc<Shared>,
        vocabulary: Arc<dyn Vocabulary>,
        order: Order,
        stops: Stops,
    ) -> Result<Self> {
        let started = Instant::now();
        let prompt_tokens = order.prompt.len();
        let lease = with_relief(|| shared.pages.take(&order.prompt, prompt_tokens + order.limit.0))?;
        let outbox = Arc::new(Outbox::new());
        shared.enter(Sequence::new(order, lease, outbox.clone()))?;
        Ok(Self {
            shared,
            vocabulary,
            outbox,
            prompt_tokens,
            started,
            interrupted: AtomicBool::new(false),
            record: Mutex::default(),
            reader: Mutex::new(Reader { stops, ..Reader::default() }),
        })
    }

    /// The next piece of text and its number, waiting for it; None when the answer has ended.
    pub fn next_piece(&self) -> Result<Option<(String, u32)>> {
        self.next_piece_within(usize::MAX)
    }

    /// The same for a host with room for `room` bytes: a longer piece is refused and kept.
    pub fn next_piece_within(&self, room: usize) -> Result<Option<(String, u32)>> {
        process::check()?;
        let mut reader = lock(&self.reader);
        if self.interrupted.load(Ordering::Acquire) {
            reader.interrupt();
        }
        let over = reader.end.is_some() && reader.piece.is_none();
        if !over && self.shared.is_closed() {
            lock(&self.record).end = Some(Err(unloaded()));
            return Err(unloaded());
        }
        while reader.piece.is_none() && reader.end.is_none() {
            let pull = self.outbox.pull(|| self.shared.nudge());
            self.advance(&mut reader, pull);
        }
        lock(&self.record).end.clone_from(&reader.end);
        reader.give(room)
    }

    fn advance(&self, reader: &mut Reader, pull: Pull) {
        if self.interrupted.load(Ordering::Acquire) {
            return reader.interrupt();
        }
        if let Pull::Token(drawn) = pull {
            lock(&self.record).tokens.push(drawn);
        }
        reader.take(pull, &*self.vocabulary);
        if reader.end == Some(Ok(Finish::StopString)) {
            // What the scheduler has computed beyond the stop is of no use, and its memory of use to others.
            self.cancel();
        }
    }

    /// Ends the answer where it is, while its handle stays: the next pull says that it has ended. One that has ended already
    /// keeps its reason.
    pub fn interrupt(&self) {
        if process::check().is_ok() {
            self.interrupted.store(true, Ordering::Release);
            self.cancel();
        }
    }

    /// Ends the answer where it is, and returns when its memory is back, after the step in flight.
    pub fn cancel(&self) {
        if process::check().is_ok() {
            self.outbox.cancel(|| self.shared.nudge());
        }
    }

    /// Why the answer ended, once everything before its end is decoded.
    pub fn finish(&self) -> Option<Result<Finish>> {
        let end = lock(&self.record).end.clone();
        end.or_else(|| self.interrupted.load(Ordering::Acquire).then_some(Ok(Finish::Cancelled)))
    }

    pub fn statistics(&self) -> Statistics {
        let times = self.outbox.times();
        Statistics {
            prompt_tokens: self.prompt_tokens,
            reused_tokens: self.outbox.reused(),
            tokens: lock(&self.record).tokens.len(),
            until_first: times.map(|t| t.0.saturating_duration_since(self.started)),
            until_last: times.map(|t| t.1.saturating_duration_since(self.started)),
        }
    }

    /// Gives the tokens of the answer from the `first` one on, as far as their text was pulled, to `read`.
    pub fn tokens<T>(&self, first: usize, read: impl FnOnce(&[Drawn]) -> T) -> T {
        read(lock(&self.record).tokens.get(first..).unwrap_or_default())
    }

    /// Tokens of the prompt that did not have to be computed, since another inference's prompt begins alike.
    pub fn reused_tokens(&self) -> usize {
        self.outbox.reused()
    }

    /// Tokens of the prompt, special ones included.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }
}

impl Drop for Inference {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Reader {
    fn take(&mut self, pull: Pull, vocabulary: &dyn Vocabulary) {
        match pull {
            Pull::Token(drawn) => {
                self.text.push(vocabulary.bytes(drawn.id));
                if let Some(text) = self.text.take() {
                    self.pass_on(&text);
                }
            }
            Pull::End(end) => self.conclude(end),
        }
    }

    fn pass_on(&mut self, text: &str) {
        let (piece, stopped) = self.stops.push(text);
        self.piece = piece.map(printable);
        if stopped {
            self.end = Some(Ok(Finish::StopString));
        }
    }

    fn conclude(&mut self, end: Result<Finish>) {
        if end.is_ok() {
            if let Some(text) = self.text.finish() {
                self.pass_on(&text);
            }
            if self.end.is_none() {
                let held = self.stops.finish().map(printable);
                self.piece = join(self.piece.take(), held);
            }
        }
        self.end.get_or_insert(end);
    }

    /// What is not given yet is not given any more.
    fn interrupt(&mut self) {
        if self.end.is_none() {
            self.piece = None;
            self.end = Some(Ok(Finish::Cancelled));
        }
    }

    fn give(&mut self, room: usize) -> Result<Option<(String, u32)>> {
        if let Some(piece) = self.piece.take_if(|p| p.len() <= room) {
            let index = self.index;
            self.index += 1;
            return Ok(Some((piece, index)));
        }
        match (&self.piece, &self.end) {
            (Some(piece), _) => {
                let bytes = piece.len();
                Err(Error::parameter(format!("the next piece has {bytes} bytes, the buffer room for {room}")))
            }
            (None, Some(Err(error))) => Err(error.clone()),
            (None, _) => Ok(None),
        }
    }
}

fn join(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first + &second),
        (first, second) => first.or(second),
    }
}

/// A C host cannot see past a NUL, so the character is replaced like bytes that are no text.
fn printable(piece: String) -> String {
    if piece.contains('\0') { piece.replace('\0', "\u{FFFD}") } else { piece }
}
