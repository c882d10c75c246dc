//! Drawing on the host, for what the device's own draw does not know: penalties, truncation, log-probabilities.
//!
//! In this order: the penalties change logits; top-k, top-p and min-p keep some of the tokens, by the probabilities at temperature
//! 1; the temperature and the seed draw among those. The draw is the device's own function, so with every option off the tokens
//! are the same as without a sampler. Of equal logits the lower id counts as the larger, so nothing hangs on an order of sorting.

use super::softmax::{largest, log_sum_exp};
use super::truncate::Truncation;
use crate::error::{Error, Result};
use crate::plan::{Draw, Plan, draw, draw_among};
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

/// What a sampler knows of a token that prompt or answer has.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// How often the answer has it.
    times: u32,
    /// Its logit as the model gave it, in the draw under way.
    raw: f32,
}

/// One sequence's sampler.
pub struct Sampler {
    plan: Arc<Plan>,
    sampling: Sampling,
    draw: Draw,
    logprobs: bool,
    seen: HashMap<u32, Seen>,
    truncation: Truncation,
}

impl Sampler {
    pub fn new(plan: Arc<Plan>, sampling: Sampling, draw: Draw, logprobs: bool, prompt: &[u32]) -> Self {
        let penalised = if sampling.penalises() { prompt } else { &[] };
        let seen = penalised.iter().map(|&id| (id, Seen::default())).collect();
        Self { plan, sampling, draw, logprobs, seen, truncation: Truncation::default() }
    }

    /// Draws the token at `position`. None where a token that can be drawn has NaN or infinity, or none has a logit above minus
    /// infinity.
    pub fn draw(&mut self, logits: &mut [f32], position: usize) -> Option<Drawn> {
        // Over all rows, as the model's softmax is; what is no number in a padding row counts for nothing.
        let total = self.logprobs.then(|| log_sum_exp(logits));
        for &id in &self.plan.never_drawn {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let mut most = largest(logits)?;
        if self.sampling.penalises() {
            self.penalise(logits);
            most = largest(logits)?;
        }
        if !most.is_finite() {
            return None;
        }
        let id = match self.sampling.truncates() {
            true => draw_among(logits, self.truncation.keep(logits, most, &self.sampling), self.draw, position)?,
            false => draw(logits, &[], self.draw, position)?,
        };
        let raw = self.seen.get(&id).map_or(logits[id as usize], |seen| seen.raw);
        if self.sampling.penalises() {
            self.seen.entry(id).or_default().times += 1;
        }
        Some(Drawn { id, logprob: total.map(|total| (f64::from(raw) - total).min(0.0) as f32) })
    }

    fn penalise(&mut self, logits: &mut [f32]) {
        let Sampling { repetition, frequency, presence, .. } = self.sampling;
        for (&id, seen) in &mut self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            seen.raw = *logit;
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if seen.times > 0 {
                *logit -= frequency * seen.times as f32 + presence;
            }
        }
    }
}
