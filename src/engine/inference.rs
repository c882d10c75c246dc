//! One answer: tokens from the scheduler in, pieces of text out.
//!
//! Tokens become text on the thread that pulls. A piece is kept until the host has room for it, so nothing is lost to a
//! buffer that is too small.

use super::outbox::{Finish, Outbox, Pull};
use super::pages::unloaded;
use super::process;
use super::relief::with_relief;
use super::scheduler::Shared;
use super::sequence::{Order, Sequence};
use super::sync::lock;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::token::Utf8Stream;
use std::sync::{Arc, Mutex};

pub struct Inference {
    shared: Arc<Shared>,
    vocabulary: Arc<dyn Vocabulary>,
    outbox: Arc<Outbox>,
    prompt_tokens: usize,
    /// Its lock makes the second of two pulls at once wait for the first.
    reader: Mutex<Reader>,
}

#[derive(Default)]
struct Reader {
    text: Utf8Stream,
    /// Decoded and not yet given.
    piece: Option<String>,
    /// Pieces given.
    index: u32,
    /// No token comes any more.
    end: Option<Result<Finish>>,
}

impl Inference {
    pub(super) fn start(shared: Arc<Shared>, vocabulary: Arc<dyn Vocabulary>, order: Order) -> Result<Self> {
        let prompt_tokens = order.prompt.len();
        let lease = with_relief(|| shared.pages.take(&order.prompt, prompt_tokens + order.limit.0))?;
        let outbox = Arc::new(Outbox::new());
        shared.enter(Sequence::new(order, lease, outbox.clone()))?;
        Ok(Self { shared, vocabulary, outbox, prompt_tokens, reader: Mutex::default() })
    }

    /// The next piece of text and its number, waiting for it; None when the answer has ended.
    pub fn next_piece(&self) -> Result<Option<(String, u32)>> {
        self.next_piece_within(usize::MAX)
    }

    /// The same for a host with room for `room` bytes: a longer piece is refused and kept.
    pub fn next_piece_within(&self, room: usize) -> Result<Option<(String, u32)>> {
        process::check()?;
        let mut reader = lock(&self.reader);
        let over = reader.end.is_some() && reader.piece.is_none();
        if !over && self.shared.is_closed() {
            return Err(unloaded());
        }
        while reader.piece.is_none() && reader.end.is_none() {
            let pull = self.outbox.pull(|| self.shared.nudge());
            reader.take(pull, &*self.vocabulary);
        }
        reader.give(room)
    }

    /// Ends the answer where it is, and returns when its memory is back, after the step in flight.
    pub fn cancel(&self) {
        if process::check().is_ok() {
            self.outbox.cancel(|| self.shared.nudge());
        }
    }

    /// Why the answer ended, once the scheduler is done with it.
    pub fn finish(&self) -> Option<Result<Finish>> {
        self.outbox.finish()
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
            Pull::Token(id) => {
                self.text.push(vocabulary.bytes(id));
                self.piece = self.text.take().map(printable);
            }
            Pull::End(end) => {
                self.piece = if end.is_ok() { self.text.finish().map(printable) } else { None };
                self.end = Some(end);
            }
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

/// A C host cannot see past a NUL, so the character is replaced like bytes that are no text.
fn printable(piece: String) -> String {
    if piece.contains('\0') { piece.replace('\0', "\u{FFFD}") } else { piece }
}
