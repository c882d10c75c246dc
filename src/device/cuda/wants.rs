//! What the segments of a batch want, as the executor notes it: which rows go into a pass, what is drawn from them, which logits
//! are fetched.

use super::inputs::{Filling, Row};
use crate::plan::{Batch, Phase, Segment, Tokens, Want};

/// What a segment of a queued batch waits for.
pub(super) enum Pending {
    Nothing,
    Token,
    /// The first of its rows in the staging area, and how many are queued.
    Logits {
        first: usize,
        rows: usize,
    },
}

/// Where a pass's logits go: (segment, row of logits, rows).
pub(super) type LogitsWanted = Vec<(usize, usize, usize)>;

/// What each segment waits for, and how many rows of logits they want.
pub(super) fn pending_of(batch: &Batch) -> (Vec<Pending>, usize) {
    let mut rows = 0;
    let mut pending = Vec::with_capacity(batch.segments.len());
    for s in &batch.segments {
        let n = match s.want {
            Want::Logits => 1,
            Want::AllLogits => s.tokens.len(),
            Want::Nothing | Want::Token(_) => 0,
        };
        pending.push(match s.want {
            Want::Nothing => Pending::Nothing,
            Want::Token(_) => Pending::Token,
            Want::Logits | Want::AllLogits => Pending::Logits { first: rows, rows: 0 },
        });
        rows += n;
    }
    (pending, rows)
}

pub(super) fn segments_of(batch: &Batch, phase: Phase) -> impl Iterator<Item = (usize, &Segment)> {
    batch.segments.iter().enumerate().filter(move |(_, s)| s.phase == phase)
}

pub(super) fn fill_row(filling: &mut Filling, s: &Segment, row: usize) {
    let token = match &s.tokens {
        Tokens::Known(ids) => ids.get(row).copied(),
        Tokens::Sampled => None,
    };
    filling.row(Row { token, slot: s.slot, position: s.position + row });
}

/// Notes what segment `i` wants of its row `row`, whose logits are in row `head`.
pub(super) fn want(
    filling: &mut Filling,
    logits: &mut LogitsWanted,
    (i, s): (usize, &Segment),
    (row, head): (usize, usize),
) {
    let last = row + 1 == s.tokens.len();
    match s.want {
        Want::Token(draw) if last => filling.draw(head, draw, s.slot, s.position + row + 1, i),
        Want::Logits if last => logits.push((i, head, 1)),
        Want::AllLogits => match logits.last_mut() {
            Some((segment, first, rows)) if *segment == i && *first + *rows == head => *rows += 1,
            _ => logits.push((i, head, 1)),
        },
        Want::Nothing | Want::Token(_) | Want::Logits => {}
    }
}
