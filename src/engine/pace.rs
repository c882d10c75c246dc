//! How much of a prompt may be computed beside running answers.
//!
//! A prompt computed at once would stall every running answer for as long as it takes. So beside answers it goes in chunks
//! that lengthen a step by about as much as [`STRETCH`] steps last; where more prompts wait than answers run, by so many times more,
//! for then those that stand still are the many. What a chunk costs is measured for several sizes, since it need not grow with the
//! size: a GPU reads all the weights for 16 tokens as for 256. The chunks' sizes never show in a text, since a row's result does
//! not depend on its batch.

/// A chunk may add this many times the duration of a step without prefill: together less than three steps, with room for what a
/// measurement does not foretell.
const STRETCH: f64 = 1.6;
/// Where even the smallest chunk costs more than that, one may cost this many times the smallest.
const SLACK: f64 = 1.25;
/// A chunk is at most this many times the largest that was measured.
const GROWTH: f64 = 1.5;
/// Chunks are multiples of this.
const GRAIN: usize = 16;
/// Costs are kept for sizes from `GRAIN`, twice that, and so on; of steps for 1, 2, 4, .. rows.
const CLASSES: usize = 10;
/// The chunk while nothing is measured.
const FIRST: usize = 64;
/// Weight of a new measurement, and how many times the mean one may be at the most: what stalls once tells little of the next time. But
/// chunks become dearer as a prompt goes on, so that what is measured is soon old.
const NEW: f64 = 0.5;
const OUTLIER: f64 = 1.5;

#[derive(Default)]
pub struct Pace {
    /// Steps that only decode, by their rows.
    steps: [Cost; CLASSES],
    /// What chunks add, by their size.
    chunks: [Cost; CLASSES],
}

#[derive(Clone, Copy, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |m| m + NEW * (value.min(OUTLIER * m) - m)));
    }
}

/// The first of a class may have to warm the device up, so it does not count.
#[derive(Clone, Copy, Default)]
struct Cost {
    seen: bool,
    rows: Mean,
    seconds: Mean,
}

impl Cost {
    fn add(&mut self, rows: usize, seconds: f64) {
        if self.seen {
            self.rows.add(rows as f64);
            self.seconds.add(seconds);
        }
        self.seen = true;
    }
}

impl Pace {
    /// Tokens of prompts in a batch that also takes a step of `answers`, where `prompts` wait.
    pub fn chunk(&self, prompts: usize, answers: usize) -> usize {
        let points = self.points();
        let (Some(step), Some(&(first, least))) = (self.step(answers), points.first()) else { return FIRST };
        let share = (prompts as f64 / answers.max(1) as f64).max(1.0);
        let fixed = match points.get(1) {
            // What two sizes cost tells what none would.
            Some(&(second, more)) => (least - (more - least) / (second - first) * first).max(0.0),
            // A step, too, reads all the weights.
            None => step.min(least),
        };
        let allowed = (STRETCH * step * share).max(SLACK * fixed);
        let rows = rows_for(allowed, &[&[(0.0, fixed)], points.as_slice()].concat());
        (rows as usize / GRAIN).clamp(1, GRAIN << CLASSES) * GRAIN
    }

    /// A batch with `prefill` rows of prompts and `decode` rows took `seconds`.
    pub fn observe(&mut self, prefill: usize, decode: usize, seconds: f64) {
        if prefill == 0 {
            self.steps[class(decode.next_power_of_two())].add(decode, seconds);
        } else if prefill >= GRAIN {
            let rest = if decode > 0 { self.step(decode).unwrap_or(0.0) } else { 0.0 };
            self.chunks[class(prefill / GRAIN)].add(prefill, (seconds - rest).max(seconds * 0.05));
        }
    }

    /// Seconds of a step of `rows`, or of the number nearest to it that was measured.
    fn step(&self, rows: usize) -> Option<f64> {
        let wanted = class(rows.next_power_of_two());
        let known = self.steps.iter().enumerate().filter_map(|(i, cost)| Some((i.abs_diff(wanted), cost.seconds.0?)));
        known.min_by_key(|k| k.0).map(|k| k.1)
    }

    /// Sizes measured and their costs. A larger one costs no less.
    fn points(&self) -> Vec<(f64, f64)> {
        let known = self.chunks.iter().filter_map(|c| Some((c.rows.0?, c.seconds.0?)));
        let mut points: Vec<(f64, f64)> = known.collect();
        for i in (1..points.len()).rev() {
            points[i - 1].1 = points[i - 1].1.min(points[i].1);
        }
        points
    }
}

fn class(n: usize) -> usize {
    (n.max(1).ilog2() as usize).min(CLASSES - 1)
}

/// The most rows whose cost is at most `allowed`: on a straight line between points, and past the last on that of the last two, but
/// not far: what is there was never measured.
fn rows_for(allowed: f64, points: &[(f64, f64)]) -> f64 {
    let (mut below, mut slope) = ((0.0, 0.0), 0.0);
    for &(rows, seconds) in points {
        slope = (seconds - below.1) / (rows - below.0).max(1.0);
        if seconds > allowed {
            return below.0 + (allowed - below.1).max(0.0) / slope;
        }
        below = (rows, seconds);
    }
    let most = GROWTH * below.0;
    if slope > 0.0 { most.min(below.0 + (allowed - below.1) / slope) } else { most }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes for a while beside one prompt, on a device where a chunk of n tokens costs `cost(n)` seconds.
    fn settle(pace: &mut Pace, step: f64, cost: impl Fn(usize) -> f64) -> usize {
        for _ in 0..200 {
            pace.observe(0, 8, step);
            let chunk = pace.chunk(1, 8);
            pace.observe(chunk, 8, step + cost(chunk));
        }
        pace.chunk(1, 8)
    }

    #[test]
    fn a_chunk_whose_cost_grows_with_its_size_is_what_the_steps_allow() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(1, 8), FIRST);
        // 6.4 ms to spend at 0.05 ms a token.
        let settled = settle(&mut pace, 0.004, |n| 0.00005 * n as f64);
        assert!((112..=144).contains(&settled), "{settled}");
        // A token for a quarter of a step: the smallest, for it must go on.
        assert_eq!(settle(&mut Pace::default(), 0.004, |n| 0.001 * n as f64), GRAIN);
    }

    #[test]
    fn a_chunk_that_costs_the_same_whatever_its_size_is_large() {
        let cost = |n: usize| 0.008f64.max(0.00004 * n as f64);
        // The weights are read once for up to 200 tokens; a step lasts a third of that.
        let settled = settle(&mut Pace::default(), 0.0025, cost);
        assert!((176..=256).contains(&settled), "{settled}");
        let settled = settle(&mut Pace::default(), 0.006, cost);
        assert!((224..=256).contains(&settled), "{settled}");
    }

    #[test]
    fn a_large_prompt_alone_tells_of_small_chunks() {
        let mut pace = Pace::default();
        for _ in 0..8 {
            pace.observe(1024, 0, 0.008);
            pace.observe(0, 32, 0.002);
        }
        // 1.2 ms beyond what a step costs, of the 6 ms that 1024 tokens cost beyond it.
        let chunk = pace.chunk(1, 32);
        assert!((192..=208).contains(&chunk), "{chunk}");
        assert!(pace.chunk(31, 1) >= 1024, "one answer waits for 31 prompts");
    }

    #[test]
    fn the_first_chunk_of_a_size_does_not_count_and_a_stall_hardly() {
        let mut pace = Pace::default();
        pace.observe(0, 1, 2.0);
        pace.observe(0, 1, 0.004);
        pace.observe(64, 0, 3.0);
        assert_eq!(pace.chunk(1, 1), FIRST);
        pace.observe(64, 0, 0.004);
        let before = pace.chunk(1, 1);
        pace.observe(64, 0, 3.0);
        assert!(before >= FIRST && pace.chunk(1, 1) > before / 2);
    }
}
