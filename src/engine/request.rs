//! What a host asks for, checked.

use super::outbox::Finish;
use super::sampler::{Sampler, Sampling};
use super::sequence::Order;
use super::stops::Stops;
use crate::error::{Error, Result};
use crate::plan::{Draw, Plan};
use std::sync::Arc;

/// The most tokens that one call of the 14 functions may ask for.
pub const MAX_TOKENS: u32 = 2048;
const MAX_TEMPERATURE: f32 = 2.0;

/// What an answer goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    Text(String),
    /// Tokens as they are: nothing is added.
    Ids(Vec<u32>),
}

/// How to go on from a prompt, in full.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// 0: as many as the context holds.
    pub max_tokens: u32,
    pub temperature: f32,
    pub seed: u64,
    pub sampling: Sampling,
    /// Whether each token comes with its log-probability.
    pub logprobs: bool,
    /// Strings that end the answer, and are no part of it.
    pub stops: Vec<String>,
}

/// A prompt and how to go on from it.
#[derive(Clone, Debug)]
pub struct Request {
    prompt: Prompt,
    max_tokens: u32,
    draw: Draw,
    sampling: Sampling,
    logprobs: bool,
    stops: Stops,
}

impl Request {
    pub fn new(prompt: &str, max_tokens: u32, temperature: f32, seed: u64) -> Result<Self> {
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(Error::parameter(format!("max_tokens is {max_tokens}, not in 1..={MAX_TOKENS}")));
        }
        let options = Options { max_tokens, temperature, seed, ..Options::default() };
        Self::with(Prompt::Text(prompt.to_owned()), options)
    }

    /// The same with every option; `max_tokens` may be any number.
    pub fn with(prompt: Prompt, options: Options) -> Result<Self> {
        let Options { max_tokens, temperature, seed, sampling, logprobs, stops } = options;
        if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
            return Err(Error::parameter(format!("temperature is {temperature}, not in 0..={MAX_TEMPERATURE}")));
        }
        sampling.check()?;
        let max_tokens = if max_tokens == 0 { u32::MAX } else { max_tokens };
        let draw = Draw { temperature, seed };
        Ok(Self { prompt, max_tokens, draw, sampling, logprobs, stops: Stops::new(stops)? })
    }

    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    pub(super) fn stops(&self) -> Stops {
        self.stops.clone()
    }

    /// The work for a prompt of these ids.
    pub(super) fn order(&self, prompt: Vec<u32>, plan: &Arc<Plan>) -> Result<Order> {
        if prompt.is_empty() {
            return Err(Error::parameter("the prompt gives no token"));
        }
        let (tokens, context) = (prompt.len(), plan.context);
        let room = context.saturating_sub(tokens);
        if room == 0 {
            return Err(Error::parameter(format!("the prompt's {tokens} tokens fill the context of {context}")));
        }
        let asked = self.max_tokens as usize;
        let limit = if asked <= room { (asked, Finish::MaxTokens) } else { (room, Finish::Context) };
        // The device draws where it can: it then need not wait for the host.
        let on_host = self.logprobs || !self.sampling.is_off();
        let sampler = on_host.then(|| Sampler::new(plan.clone(), self.sampling, self.draw, self.logprobs, &prompt));
        Ok(Order { prompt, draw: self.draw, sampler, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;
    use crate::error::ErrorCode;

    #[test]
    fn arguments_are_checked() {
        for (max_tokens, temperature) in [(1, 0.0), (2048, 2.0), (5, -0.0), (5, 0.7)] {
            assert!(Request::new("a", max_tokens, temperature, 0).is_ok(), "{max_tokens} {temperature}");
        }
        for (max_tokens, temperature) in
            [(0, 0.0), (2049, 0.0), (u32::MAX, 0.0), (5, -0.1), (5, 2.1), (5, f32::NAN), (5, f32::INFINITY)]
        {
            let error = Request::new("a", max_tokens, temperature, 0).expect_err("out of range");
            assert_eq!(error.code(), ErrorCode::InvalidParameter, "{max_tokens} {temperature}");
        }
    }

    #[test]
    fn the_host_draws_only_where_it_must() {
        let plan = Arc::new(fake::plan(vec![], 100));
        let on_host = |options| {
            let request = Request::with(Prompt::Ids(vec![1]), options).expect("in range");
            request.order(vec![1], &plan).expect("room").sampler.is_some()
        };
        assert!(!on_host(Options { temperature: 1.0, seed: 3, stops: vec!["a".into()], ..Options::default() }));
        assert!(on_host(Options { logprobs: true, ..Options::default() }));
        assert!(on_host(Options { sampling: Sampling { top_k: 1, ..Sampling::default() }, ..Options::default() }));
    }

    #[test]
    fn the_context_bounds_the_answer() {
        let request = Request::new("a", 10, 0.0, 0).expect("in range");
        let plan = |context| Arc::new(fake::plan(vec![], context));
        let order = |tokens, context| request.order(vec![0; tokens], &plan(context)).map(|o| o.limit);
        assert_eq!(order(5, 15), Ok((10, Finish::MaxTokens)));
        assert_eq!(order(5, 14), Ok((9, Finish::Context)));
        assert_eq!(order(13, 14), Ok((1, Finish::Context)));
        assert!(order(14, 14).is_err());
        assert!(order(0, 14).is_err());
    }
}
