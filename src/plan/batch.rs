//! What a device runs the plan over: a ragged batch of tokens of any number of sequences.
//!
//! A sequence's text must not depend on what else is in the batch. So every row's result must be the same bits whatever
//! the other rows are; a device may use other kernels for prefill than for decode, but the choice hangs on the segment's
//! [`Phase`] alone, never on how many rows there are, and where a prompt is cut into chunks must not show either.

use std::sync::Arc;

/// Tokens in a KV page.
pub const PAGE_TOKENS: usize = 32;

/// The pages of one sequence, for each group of layers. Position p of group g is in page
/// `groups[g][(p / PAGE_TOKENS) % groups[g].len()]`, row `p % PAGE_TOKENS`: a group whose layers look back over a window
/// only has fewer pages, used in turn. The table is complete when the sequence starts and never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageTable {
    pub groups: Vec<Vec<u32>>,
}

impl PageTable {
    /// The page that holds `position` in `group`.
    pub fn page(&self, group: usize, position: usize) -> u32 {
        let pages = &self.groups[group];
        pages[(position / PAGE_TOKENS) % pages.len()]
    }
}

/// Whether a segment is part of a prompt, or the continuation of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Prefill,
    Decode,
}

/// The tokens of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    Known(Vec<u32>),
    /// One token: the one that the last submitted batch sampled for this slot. Lets a batch be submitted before the host
    /// has seen the result of the one before.
    Sampled,
}

impl Tokens {
    pub fn len(&self) -> usize {
        match self {
            Tokens::Known(ids) => ids.len(),
            Tokens::Sampled => 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How to draw a token: at temperature 0 the largest logit, the lowest id where several are equal; else by the counter-based
/// random number of (seed, position of the drawn token).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub temperature: f32,
    pub seed: u64,
}

/// What is wanted of a segment's last row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    Nothing,
    /// A token drawn on the device.
    Token(Draw),
    /// The logits `[n_vocab]` of the last row, padding rows included.
    Logits,
    /// The logits of every row of the segment: [rows, n_vocab].
    AllLogits,
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Below [`super::Limits::sequences`]. Another sequence, with another page table, may have it in a later batch, but only
    /// once every batch with this one is collected.
    pub slot: u32,
    pub phase: Phase,
    /// The position of the first token.
    pub position: usize,
    pub tokens: Tokens,
    pub pages: Arc<PageTable>,
    pub want: Want,
}

/// At most [`super::Limits::batch_tokens`] tokens; one segment per slot at the most.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Rows in all.
    pub fn rows(&self) -> usize {
        self.segments.iter().map(|s| s.tokens.len()).sum()
    }
}

/// What came of one segment.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Nothing,
    Token(u32),
    Logits(Vec<f32>),
    /// The logits held a NaN, or no number that could win: the sequence cannot go on. [`Tokens::Sampled`] of a batch that was
    /// submitted before this was seen is then any id below n_vocab.
    Poisoned,
}
