//! How much of a prompt may be computed beside running answers.
//!
//! A prompt computed at once would stall every running answer for as long as it takes. So beside answers it goes in chunks
//! that lengthen a step by about as much as [`STRETCH`] steps last; how many tokens that is, is measured. The chunks' sizes
//! never show in a text, since a row's result does not depend on its batch.

/// A chunk may add this many times the duration of a step without prefill.
const STRETCH: f64 = 1.5;
/// Chunks are multiples of this, and not smaller.
const GRAIN: usize = 16;
/// The chunk while nothing is measured.
const FIRST: usize = 64;
/// Weight of a new measurement.
const ALPHA: f64 = 0.2;

#[derive(Default)]
pub struct Pace {
    /// Seconds of a step that only decodes.
    step: Option<f64>,
    /// Seconds that a token of a prompt adds.
    token: Option<f64>,
}

impl Pace {
    /// Tokens of prompts in a batch that also decodes.
    pub fn chunk(&self) -> usize {
        match (self.step, self.token) {
            (Some(step), Some(token)) if token > 0.0 => {
                let tokens = (STRETCH * step / token).min(1e6) as usize;
                (tokens / GRAIN * GRAIN).max(GRAIN)
            }
            _ => FIRST,
        }
    }

    /// A batch with `prefill` rows of prompts and `decode` rows took `seconds`.
    pub fn observe(&mut self, prefill: usize, decode: usize, seconds: f64) {
        if prefill == 0 {
            blend(&mut self.step, seconds);
        } else if prefill >= GRAIN {
            let rest = if decode > 0 { self.step.unwrap_or(0.0) } else { 0.0 };
            blend(&mut self.token, (seconds - rest).max(seconds * 0.05) / prefill as f64);
        }
    }
}

fn blend(mean: &mut Option<f64>, value: f64) {
    *mean = Some(mean.map_or(value, |m| m + ALPHA * (value - m)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_follows_the_measurements() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(), FIRST);
        for _ in 0..50 {
            pace.observe(0, 8, 0.004);
            pace.observe(512, 0, 0.0256);
        }
        // 0.05 ms a token, 6 ms to spend: 120 tokens, cut to a multiple of 16.
        assert_eq!(pace.chunk(), 112);
        for _ in 0..50 {
            pace.observe(64, 8, 0.064 + 0.004);
        }
        assert_eq!(pace.chunk(), GRAIN);
    }
}
