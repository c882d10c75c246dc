//! Drawing on the host, for what the device's own draw does not know: penalties, truncation, log-probabilities.
//!
//! In this order: the penalties change logits; top-k, top-p and min-p keep some of the tokens, by the probabilities at temperature
//! 1; the temperature and the seed draw among those. The draw is the device's own function, so with every option off the tokens
//! are the same as without a sampler. Of equal logits the lower id counts as the larger, so nothing hangs on an order of sorting.

use crate::error::{Error, Result};
use crate::plan::{Draw, Plan, draw};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// What is done to the logits before the draw. The default does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Only the k likeliest tokens; 0: all.
    pub top_k: u32,
    /// Only the likeliest tokens that together have this probability; 1: all.
    pub top_p: f32,
    /// Only tokens with this share of the likeliest one's probability; 0: all.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of all tokens in prompt and answer; 1: nothing.
    pub repetition: f32,
    /// Taken from a token's logit for each time that the answer has it.
    pub frequency: f32,
    /// Taken from a token's logit if the answer has it.
    pub presence: f32,
}

const OFF: Sampling = Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, repetition: 1.0, frequency: 0.0, presence: 0.0 };

impl Default for Sampling {
    fn default() -> Self {
        OFF
    }
}

impl Sampling {
    /// Whether every option is in its range; NaN is in none.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f32, least: f32, most: f32| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::parameter(format!("{name} is {value}, not in {least}..={most}"))),
        };
        within("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition, 0.01, 100.0)?;
        within("frequency_penalty", self.frequency, -10.0, 10.0)?;
        within("presence_penalty", self.presence, -10.0, 10.0)
    }

    pub fn is_off(&self) -> bool {
        *self == OFF
    }

    fn penalises(&self) -> bool {
        (self.repetition, self.frequency, self.presence) != (1.0, 0.0, 0.0)
    }

    fn truncates(&self) -> bool {
        (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0)
    }
}

/// A token of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    pub id: u32,
    /// The logarithm of the probability that the model gave it at temperature 1, where it was asked for.
    pub logprob: Option<f32>,
}

/// One sequence's sampler.
pub struct Sampler {
    plan: Arc<Plan>,
    sampling: Sampling,
    draw: Draw,
    logprobs: bool,
    /// By the tokens of prompt and answer: how often the answer has it.
    seen: HashMap<u32, u32>,
    /// Ids that are kept; here for its memory.
    kept: Vec<u32>,
}

impl Sampler {
    pub fn new(plan: Arc<Plan>, sampling: Sampling, draw: Draw, logprobs: bool, prompt: &[u32]) -> Self {
        let seen = if sampling.penalises() { prompt.iter().map(|&id| (id, 0)).collect() } else { HashMap::new() };
        Self { plan, sampling, draw, logprobs, seen, kept: Vec::new() }
    }

    /// Draws the token at `position`. None where a token that can be drawn has NaN, or none has a logit above minus infinity.
    pub fn draw(&mut self, logits: &mut [f32], position: usize) -> Option<Drawn> {
        let plan = self.plan.clone();
        let (kept, never) = (&mut self.kept, &plan.never_drawn);
        drawable(logits, never, kept);
        if kept.iter().any(|&id| logits[id as usize].is_nan()) {
            return None;
        }
        // Over all rows, as the model's softmax is; what is no number in a padding row counts for nothing.
        let all = (0u32..).zip(logits.iter()).filter(|(_, l)| l.is_finite()).map(|(id, _)| id);
        let total = if self.logprobs { log_sum_exp(logits, all) } else { 0.0 };
        // Of the logits as the model gave them.
        let raw = if self.logprobs && self.sampling.penalises() { Some(logits.to_vec()) } else { None };
        self.penalise(logits);
        if self.sampling.truncates() {
            truncate(logits, &self.sampling, &mut self.kept);
            mask(logits, &mut self.kept);
        }
        let id = draw(logits, never, self.draw, position)?;
        if self.sampling.penalises() {
            *self.seen.entry(id).or_insert(0) += 1;
        }
        let logit = raw.as_deref().unwrap_or(logits)[id as usize];
        Some(Drawn { id, logprob: self.logprobs.then(|| (f64::from(logit) - total).min(0.0) as f32) })
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition, frequency, presence, .. } = self.sampling;
        for (&id, &count) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if count > 0 {
                *logit -= frequency * count as f32 + presence;
            }
        }
    }
}

/// The ids with a chance: not in `never` (ascending), and above minus infinity. NaN has one, to be seen.
fn drawable(logits: &[f32], never: &[u32], ids: &mut Vec<u32>) {
    let mut skipped = never.iter().copied().peekable();
    ids.clear();
    let all = (0u32..).zip(logits);
    ids.extend(all.filter(|&(id, &l)| skipped.next_if_eq(&id).is_none() && l != f32::NEG_INFINITY).map(|(id, _)| id));
}

/// ln of the sum of e^logit over `ids`.
fn log_sum_exp(logits: &[f32], ids: impl Iterator<Item = u32> + Clone) -> f64 {
    let of = |id: u32| f64::from(logits[id as usize]);
    let most = ids.clone().map(of).fold(f64::NEG_INFINITY, f64::max);
    most + ids.map(|id| (of(id) - most).exp()).sum::<f64>().ln()
}

/// The larger logit first, of equals the lower id.
fn order(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + Copy {
    |&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

/// Keeps of `ids` what top-k, then top-p, then min-p leave: always at least one.
fn truncate(logits: &[f32], sampling: &Sampling, ids: &mut Vec<u32>) {
    let order = order(logits);
    let k = sampling.top_k as usize;
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, order);
        ids.truncate(k);
    }
    if sampling.top_p < 1.0 {
        keep_top_p(logits, sampling.top_p, ids);
    }
    if sampling.min_p > 0.0 {
        let most = ids.iter().map(|&id| logits[id as usize]).fold(f32::NEG_INFINITY, f32::max);
        let least = f64::from(sampling.min_p).ln();
        ids.retain(|&id| f64::from(logits[id as usize]) - f64::from(most) >= least);
    }
}

/// The likeliest ids, up to the one with which their probabilities reach `p`. Sorts as many of them as that takes.
fn keep_top_p(logits: &[f32], p: f32, ids: &mut Vec<u32>) {
    const FIRST: usize = 256;
    let (order, total) = (order(logits), log_sum_exp(logits, ids.iter().copied()));
    let mut sorted = FIRST.min(ids.len());
    while sorted > 0 {
        if sorted < ids.len() {
            ids.select_nth_unstable_by(sorted, order);
        }
        ids[..sorted].sort_unstable_by(order);
        let mut sum = 0.0;
        let reached = ids[..sorted].iter().position(|&id| {
            sum += (f64::from(logits[id as usize]) - total).exp();
            sum >= f64::from(p)
        });
        if let Some(last) = reached {
            ids.truncate(last + 1);
        }
        if reached.is_some() || sorted == ids.len() {
            return;
        }
        sorted = (sorted * 8).min(ids.len());
    }
}

/// Minus infinity for all but `kept`.
fn mask(logits: &mut [f32], kept: &mut [u32]) {
    kept.sort_unstable();
    let mut kept = kept.iter().copied().peekable();
    for (id, logit) in (0u32..).zip(logits) {
        if kept.next_if_eq(&id).is_none() {
            *logit = f32::NEG_INFINITY;
        }
    }
}
