//! What a batch must be for the interpreter to run it: everything that is used as an index is checked here.

use super::memory::KvPool;
use crate::error::{Error, Result};
use crate::plan::{Batch, KvGroup, Limits, PAGE_TOKENS, PageTable, Plan, Segment, Tokens, Want};

/// Code 4 with the reason, unless every index of the batch is inside what was promised at load.
pub fn batch(batch: &Batch, plan: &Plan, limits: &Limits, pool: &KvPool) -> Result<()> {
    if batch.rows() > limits.batch_tokens {
        return refuse(format!("a batch of {} tokens; the most is {}", batch.rows(), limits.batch_tokens));
    }
    let mut wanted = 0usize;
    for (i, segment) in batch.segments.iter().enumerate() {
        if batch.segments[..i].iter().any(|other| other.slot == segment.slot) {
            return refuse(format!("two segments of slot {} in one batch", segment.slot));
        }
        check_segment(segment, plan, limits)?;
        check_pages(segment, &segment.pages, plan, pool)?;
        wanted += match segment.want {
            Want::Nothing => 0,
            Want::Token(_) | Want::Logits => 1,
            Want::AllLogits => segment.tokens.len(),
        };
    }
    if wanted > limits.logit_rows {
        return refuse(format!("logits of {wanted} rows are wanted; the most is {}", limits.logit_rows));
    }
    Ok(())
}

fn check_segment(segment: &Segment, plan: &Plan, limits: &Limits) -> Result<()> {
    if segment.slot as usize >= limits.sequences {
        return refuse(format!("slot {} of {}", segment.slot, limits.sequences));
    }
    let Tokens::Known(ids) = &segment.tokens else {
        return refuse(format!("slot {}: this device needs to be told the token", segment.slot));
    };
    if ids.is_empty() {
        return refuse(format!("slot {}: a segment without tokens", segment.slot));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= plan.n_vocab) {
        return refuse(format!("slot {}: token {id} of a vocabulary of {}", segment.slot, plan.n_vocab));
    }
    match segment.position.checked_add(ids.len()) {
        Some(end) if end <= plan.context => Ok(()),
        _ => refuse(format!(
            "slot {}: {} tokens at position {} leave the context of {}",
            segment.slot,
            ids.len(),
            segment.position,
            plan.context
        )),
    }
}

/// The table has pages for every position that the segment's rows read or write, and memory is behind them.
fn check_pages(segment: &Segment, table: &PageTable, plan: &Plan, pool: &KvPool) -> Result<()> {
    if table.groups.len() != plan.kv_groups.len() {
        let counts = (table.groups.len(), plan.kv_groups.len());
        return refuse(format!("slot {}: pages of {} KV groups of {}", segment.slot, counts.0, counts.1));
    }
    let tokens = segment.tokens.len();
    for (i, (pages, group)) in table.groups.iter().zip(&plan.kv_groups).enumerate() {
        let needed = needed(group, segment.position + tokens, tokens);
        if pages.len() < needed {
            return refuse(format!(
                "slot {}: {} pages of KV group {i}; {needed} are needed",
                segment.slot,
                pages.len()
            ));
        }
        let backed = pool.pages(i);
        if let Some(page) = pages.iter().find(|&&page| page >= backed) {
            return refuse(format!("slot {}: page {page} of KV group {i}, which has {backed}", segment.slot));
        }
    }
    Ok(())
}

/// Pages that hold every position that `tokens` rows up to `end` look at.
fn needed(group: &KvGroup, end: usize, tokens: usize) -> usize {
    let first = group.window.map_or(0, |w| (end - tokens + 1).saturating_sub(w)) / PAGE_TOKENS;
    (end - 1) / PAGE_TOKENS - first + 1
}

fn refuse<T>(reason: String) -> Result<T> {
    Err(Error::inference(reason))
}
