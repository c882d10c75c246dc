//! What a host asks for, checked.

use super::outbox::Finish;
use super::sequence::Order;
use crate::error::{Error, Result};
use crate::plan::Draw;

/// The most tokens that one call of the 14 functions may ask for.
pub const MAX_TOKENS: u32 = 2048;
const MAX_TEMPERATURE: f32 = 2.0;

/// A prompt and how to go on from it.
#[derive(Clone, Debug)]
pub struct Request {
    prompt: String,
    max_tokens: u32,
    draw: Draw,
}

impl Request {
    pub fn new(prompt: &str, max_tokens: u32, temperature: f32, seed: u64) -> Result<Self> {
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(Error::parameter(format!("max_tokens is {max_tokens}, not in 1..={MAX_TOKENS}")));
        }
        if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
            return Err(Error::parameter(format!("temperature is {temperature}, not in 0..={MAX_TEMPERATURE}")));
        }
        Ok(Self { prompt: prompt.to_owned(), max_tokens, draw: Draw { temperature, seed } })
    }

    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The work for a prompt of these ids in a context of `context` tokens.
    pub(super) fn order(&self, prompt: Vec<u32>, context: usize) -> Result<Order> {
        if prompt.is_empty() {
            return Err(Error::parameter("the prompt gives no token"));
        }
        let tokens = prompt.len();
        let room = context.saturating_sub(tokens);
        if room == 0 {
            return Err(Error::parameter(format!("the prompt's {tokens} tokens fill the context of {context}")));
        }
        let asked = self.max_tokens as usize;
        let limit = if asked <= room { (asked, Finish::MaxTokens) } else { (room, Finish::Context) };
        Ok(Order { prompt, draw: self.draw, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn the_context_bounds_the_answer() {
        let request = Request::new("a", 10, 0.0, 0).expect("in range");
        let order = |tokens, context| request.order(vec![0; tokens], context).map(|o| o.limit);
        assert_eq!(order(5, 15), Ok((10, Finish::MaxTokens)));
        assert_eq!(order(5, 14), Ok((9, Finish::Context)));
        assert_eq!(order(13, 14), Ok((1, Finish::Context)));
        assert!(order(14, 14).is_err());
        assert!(order(0, 14).is_err());
    }
}
