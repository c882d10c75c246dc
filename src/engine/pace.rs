//! How much of a prompt may be computed beside running answers.
//!
//! A prompt computed at once would stall every running answer for as long as it takes. So beside answers it goes in chunks
//! that lengthen a step by about as much as [`STRETCH`] steps last. What a chunk costs is measured for each size, since it need
//! not grow with the size: a GPU reads all the weights for 16 tokens as for 256. The chunks' sizes never show in a text, since a
//! row's result does not depend on its batch.

/// A chunk may add this many times the duration of a step without prefill.
const STRETCH: f64 = 1.75;
/// Where even the smallest chunk costs more than that, one may cost this many times the smallest.
const SLACK: f64 = 1.25;
/// The smallest chunk; the sizes are this, twice this, and so on.
const GRAIN: usize = 16;
const SIZES: usize = 10;
/// The chunk while nothing is measured.
const FIRST: usize = 64;
/// Weight of a new measurement.
const ALPHA: f64 = 0.2;

#[derive(Default)]
pub struct Pace {
    /// Seconds of a step that only decodes.
    step: Option<f64>,
    /// Seconds that a chunk of each size adds.
    chunks: [Cost; SIZES],
}

/// The first chunk of a size may have to warm the device up, so it does not count.
#[derive(Clone, Copy, Default)]
struct Cost {
    seen: bool,
    seconds: Option<f64>,
}

impl Pace {
    /// Tokens of prompts in a batch that also decodes.
    pub fn chunk(&self) -> usize {
        let smallest = self.chunks.iter().position(|c| c.seconds.is_some());
        let (Some(step), Some(smallest)) = (self.step, smallest) else { return FIRST };
        let least = self.chunks[smallest].seconds.unwrap_or_default();
        if smallest > 0 && least > STRETCH * step {
            return GRAIN << (smallest - 1);
        }
        let allowed = (STRETCH * step).max(SLACK * least);
        let mut size = 0;
        // A size that was not tried yet is taken to cost what the one below does: trying it tells.
        while size + 1 < SIZES && self.chunks[size + 1].seconds.is_none_or(|s| s <= allowed) {
            size += 1;
            if self.chunks[size].seconds.is_none() {
                break;
            }
        }
        GRAIN << size
    }

    /// A batch with `prefill` rows of prompts and `decode` rows took `seconds`.
    pub fn observe(&mut self, prefill: usize, decode: usize, seconds: f64) {
        if prefill == 0 {
            blend(&mut self.step, seconds);
        } else if prefill >= GRAIN {
            let rest = if decode > 0 { self.step.unwrap_or(0.0) } else { 0.0 };
            let size = ((prefill / GRAIN).ilog2() as usize).min(SIZES - 1);
            let cost = &mut self.chunks[size];
            if cost.seen {
                blend(&mut cost.seconds, (seconds - rest).max(seconds * 0.05));
            }
            cost.seen = true;
        }
    }
}

fn blend(mean: &mut Option<f64>, value: f64) {
    *mean = Some(mean.map_or(value, |m| m + ALPHA * (value - m)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes for a while beside prompts, on a device where a chunk of n tokens costs `cost(n)` seconds.
    fn settle(pace: &mut Pace, step: f64, cost: impl Fn(usize) -> f64) -> usize {
        for _ in 0..200 {
            pace.observe(0, 8, step);
            let chunk = pace.chunk();
            pace.observe(chunk, 8, step + cost(chunk));
        }
        pace.chunk()
    }

    #[test]
    fn a_chunk_whose_cost_grows_with_its_size_is_what_the_steps_allow() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(), FIRST);
        // 7 ms to spend at 0.05 ms a token.
        assert_eq!(settle(&mut pace, 0.004, |n| 0.00005 * n as f64), 128);
        // A token for a quarter of a step: the smallest, for it must go on.
        assert_eq!(settle(&mut Pace::default(), 0.004, |n| 0.001 * n as f64), GRAIN);
    }

    #[test]
    fn a_chunk_that_costs_the_same_whatever_its_size_is_large() {
        let cost = |n: usize| 0.008f64.max(0.00004 * n as f64);
        // The weights are read once for up to 200 tokens; a step lasts a third of that.
        assert_eq!(settle(&mut Pace::default(), 0.0025, cost), 128);
        assert_eq!(settle(&mut Pace::default(), 0.006, cost), 256);
    }

    #[test]
    fn the_first_chunk_of_a_size_does_not_count() {
        let mut pace = Pace::default();
        pace.observe(0, 1, 0.004);
        pace.observe(64, 0, 3.0);
        assert_eq!(pace.chunk(), FIRST);
        pace.observe(64, 0, 0.001);
        assert!(pace.chunk() >= FIRST / 2);
    }
}
