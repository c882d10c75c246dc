//! How much of a prompt may be computed beside running answers.
//!
//! A prompt computed at once would stall every running answer for as long as it takes. So beside answers it goes in chunks
//! that lengthen a step by about as much as [`STRETCH`] steps last; where more prompts wait than answers run, by so many times more,
//! for then those that stand still are the many. What a chunk costs is measured for each size, since it need not grow with the
//! size: a GPU reads all the weights for 16 tokens as for 64, and takes as long for 192 as for 256. A size that was never tried is tried
//! only when it cannot cost too much. The chunks' sizes never show in a text, since a row's result does not depend on its batch.

/// A chunk may add this many times the duration of a step without prefill: together less than three steps, with room for what a
/// measurement does not foretell.
const STRETCH: f64 = 1.87;
/// Where even the smallest chunk costs more than that, one may cost this many times the smallest.
const SLACK: f64 = 1.25;
/// A size that was never tried may cost this many times what its rows cost in the largest chunk, on top of a smaller one.
const DOUBT: f64 = 1.3;
/// Chunks are 1, 2 or 3 times the first of these, or multiples of the second.
const SMALL: usize = 16;
const LARGE: usize = 64;
const SIZES: usize = 3 + 32;
/// Costs of steps are kept for 1, 2, 4, .. rows.
const CLASSES: usize = 10;
/// The chunk while nothing is measured.
const FIRST: usize = 64;
/// Weights of a new measurement that is above the mean, and of one below: of chunks, and of steps, for a step is better taken for too short
/// than for too long. And how many times the mean one may be at the most: what stalls once tells little of the next time.
const CHUNK_WEIGHTS: [f64; 2] = [0.5, 0.5];
const STEP_WEIGHTS: [f64; 2] = [0.1, 0.5];
const OUTLIER: f64 = 1.5;
/// Rows from which on a batch without answers says what a chunk costs. A smaller one waits for the host, as those beside answers do not.
const TELLING: usize = 512;

pub struct Pace {
    /// Steps that only decode, by their rows.
    steps: [Cost; CLASSES],
    /// What chunks add, by their size.
    chunks: [Cost; SIZES],
}

impl Default for Pace {
    fn default() -> Self {
        Self { steps: [Cost::default(); CLASSES], chunks: [Cost::default(); SIZES] }
    }
}

/// Mean seconds. The first of its kind may have to warm the device up, so it does not count.
#[derive(Clone, Copy, Default)]
struct Cost {
    seen: bool,
    seconds: Option<f64>,
}

impl Cost {
    /// Returns by how much the mean has changed.
    fn add(&mut self, seconds: f64, [rise, fall]: [f64; 2]) -> f64 {
        let mean = self.seconds.unwrap_or(seconds);
        let change = if seconds > mean { rise } else { fall } * (seconds.min(OUTLIER * mean) - mean);
        if self.seen {
            self.seconds = Some(mean + change);
        }
        self.seen = true;
        change
    }
}

/// A size and what it costs.
type Point = (f64, f64);

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
        let points = [&[(0.0, fixed)], points.as_slice()].concat();
        let fits = |index: &usize| foretell(size(*index), &points).is_some_and(|seconds| seconds <= allowed);
        (0..SIZES).rev().find(fits).map_or(SMALL, size)
    }

    /// A batch with `prefill` rows of prompts and `decode` rows took `seconds`.
    pub fn observe(&mut self, prefill: usize, decode: usize, seconds: f64) {
        if prefill == 0 {
            self.steps[class(decode)].add(seconds, STEP_WEIGHTS);
            return;
        }
        let index = index(prefill);
        // What ends a prompt is no measure of a whole chunk.
        if prefill * 8 < size(index) * 7 || (decode == 0 && prefill < TELLING) {
            return;
        }
        let rest = if decode > 0 { self.step(decode).unwrap_or(0.0) } else { 0.0 };
        let cost = (seconds - rest).max(seconds * 0.05);
        let change = self.chunks[index].add(cost, CHUNK_WEIGHTS);
        if decode > 0 {
            self.shift(index, change);
        }
    }

    /// The chunk of this size has become dearer by `change`, or cheaper: further on in a prompt all do, and at the next one's beginning. No
    /// larger one is thought to cost more than it would if it had never been tried.
    fn shift(&mut self, index: usize, change: f64) {
        let a_row = match (self.points().last(), self.chunks[index].seconds) {
            (Some(&(most, dearest)), Some(mean)) => (mean.max(dearest) / most.max(size(index) as f64), mean),
            _ => return,
        };
        for (other, cost) in self.chunks.iter_mut().enumerate().filter(|(other, _)| *other != index) {
            let most = match size(other).checked_sub(size(index)) {
                Some(more) => a_row.1 + DOUBT * a_row.0 * more as f64,
                None => f64::INFINITY,
            };
            cost.seconds = cost.seconds.map(|s| (s + change).clamp(0.0, most));
        }
    }

    /// Seconds of a step of `rows`, or of the number nearest to it that was measured.
    fn step(&self, rows: usize) -> Option<f64> {
        let wanted = class(rows);
        let known = self.steps.iter().enumerate().filter_map(|(i, cost)| Some((i.abs_diff(wanted), cost.seconds?)));
        known.min_by_key(|k| k.0).map(|k| k.1)
    }

    /// Sizes measured and their costs. A larger one costs no less.
    fn points(&self) -> Vec<Point> {
        let known = self.chunks.iter().enumerate().filter_map(|(i, c)| Some((size(i) as f64, c.seconds?)));
        let mut points: Vec<Point> = known.collect();
        for i in (1..points.len()).rev() {
            points[i - 1].1 = points[i - 1].1.min(points[i].1);
        }
        points
    }
}

fn class(rows: usize) -> usize {
    (rows.max(1).next_power_of_two().ilog2() as usize).min(CLASSES - 1)
}

/// The n-th size of a chunk.
fn size(index: usize) -> usize {
    if index < 3 { SMALL * (index + 1) } else { LARGE * (index - 2) }
}

/// The smallest size that holds so many rows; the largest, where none does.
fn index(rows: usize) -> usize {
    (0..SIZES).find(|&index| size(index) >= rows).unwrap_or(SIZES - 1)
}

/// What a chunk costs at the most; the points begin with that of no rows. None far beyond what was ever measured.
fn foretell(rows: usize, points: &[Point]) -> Option<f64> {
    let rows = rows as f64;
    let above = points.iter().find(|p| p.0 >= rows);
    if let Some(measured) = above.filter(|p| p.0 == rows) {
        return Some(measured.1);
    }
    let (below, &(most, dearest)) = (points.iter().rfind(|p| p.0 < rows)?, points.last()?);
    let fixed = points.first().map_or(0.0, |p| p.1);
    let seconds = below.1 + DOUBT * (rows - below.0) * (dearest - fixed) / most.max(1.0);
    match above {
        Some(above) => Some(seconds.min(above.1)),
        None => (rows <= below.0 + LARGE as f64).then_some(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes for a while beside one prompt, on a device where a chunk of n tokens costs `cost(n)` seconds. Returns the chunk in the end,
    /// and the longest step in steps.
    fn settle(pace: &mut Pace, step: f64, cost: impl Fn(usize) -> f64) -> (usize, f64) {
        let mut longest = 0.0f64;
        for _ in 0..200 {
            pace.observe(0, 8, step);
            let chunk = pace.chunk(1, 8);
            longest = longest.max(1.0 + cost(chunk) / step);
            pace.observe(chunk, 8, step + cost(chunk));
        }
        (pace.chunk(1, 8), longest)
    }

    #[test]
    fn a_chunk_whose_cost_grows_with_its_size_is_what_the_steps_allow() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk(1, 8), FIRST);
        // 7.5 ms to spend at 0.05 ms a token.
        let (settled, longest) = settle(&mut pace, 0.004, |n| 0.00005 * n as f64);
        assert!(settled == 128 && longest < 2.9, "{settled} {longest}");
        // A token for a quarter of a step: the smallest, for it must go on.
        assert_eq!(settle(&mut Pace::default(), 0.004, |n| 0.001 * n as f64).0, SMALL);
    }

    #[test]
    fn a_chunk_that_costs_the_same_whatever_its_size_is_large() {
        let cost = |n: usize| 0.008f64.max(0.00004 * n as f64);
        // The weights are read once for up to 200 tokens; a step lasts a third of that.
        let (settled, _) = settle(&mut Pace::default(), 0.0025, cost);
        assert!((192..=256).contains(&settled), "{settled}");
        let (settled, _) = settle(&mut Pace::default(), 0.006, cost);
        assert!((256..=320).contains(&settled), "{settled}");
    }

    #[test]
    fn a_size_with_which_costs_leap_is_not_tried_before_it_is_due() {
        let cost = |n: usize| 0.0055 + 0.0000172 * n as f64 + if n > 128 { 0.002 } else { 0.0 };
        for large in [1, 8] {
            let mut pace = Pace::default();
            (0..large).for_each(|_| pace.observe(1024, 0, cost(1024)));
            let (settled, longest) = settle(&mut pace, 0.00485, cost);
            assert!(settled == 128 && longest < 2.95, "{settled} {longest}");
        }
        // Where there is time for them, larger ones are found.
        let (settled, longest) = settle(&mut Pace::default(), 0.008, cost);
        assert!(settled >= 320 && longest < 2.95, "{settled} {longest}");
    }

    #[test]
    fn what_becomes_dearer_within_a_prompt_does_so_for_all_sizes() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.observe(0, 32, 0.0014);
            pace.observe(128, 32, 0.0034);
            pace.observe(192, 32, 0.0038);
        }
        let mut longest = 0.0f64;
        for n in 0..40 {
            let chunk = pace.chunk(1, 32);
            let seconds = 0.0014 + 0.0013 + 0.0000055 * chunk as f64 + 0.00001 * f64::from(n);
            longest = longest.max(seconds / 0.0014);
            pace.observe(chunk, 32, seconds);
        }
        assert!(longest < 2.95, "{longest}");
        assert_eq!(pace.chunk(1, 32), 128);
    }

    #[test]
    fn one_prompt_after_the_other_is_computed_as_fast() {
        // As on a card, where the last chunk of a prompt costs a third more than its first.
        let cost = |rows: usize, at: usize| {
            let leap = if rows > 256 { 0.001 } else { 0.0 };
            0.00145 + 0.0000055 * rows as f64 + 0.0000002 * at as f64 + leap
        };
        let mut pace = Pace::default();
        for prompt in 0..9 {
            let (mut at, mut steps, mut longest) = (0, 0, 0.0f64);
            (0..3).for_each(|_| pace.observe(0, 32, 0.0014));
            (0..4).for_each(|_| pace.observe(1024, 0, 0.0074));
            while at < 4097 {
                let rows = pace.chunk(1, 32).min(4097 - at);
                longest = longest.max(1.0 + cost(rows, at) / 0.0014);
                pace.observe(rows, 32, 0.0014 + cost(rows, at));
                (at, steps) = (at + rows, steps + 1);
            }
            assert!(longest < 2.95, "{prompt}: {longest}");
            assert!(steps <= 48, "{prompt}: {steps}");
        }
    }

    #[test]
    fn a_large_prompt_alone_tells_of_small_chunks() {
        let mut pace = Pace::default();
        for _ in 0..8 {
            pace.observe(1024, 0, 0.008);
            pace.observe(0, 32, 0.002);
        }
        // 1.7 ms beyond what a step costs, at a third more than the 6 us that a token costs in 1024.
        assert_eq!(pace.chunk(1, 32), 192);
        assert!(pace.chunk(31, 1) >= 1024, "one answer waits for 31 prompts");
    }

    #[test]
    fn the_first_chunk_of_a_size_does_not_count_and_a_stall_hardly() {
        let mut pace = Pace::default();
        pace.observe(0, 1, 2.0);
        pace.observe(0, 1, 0.004);
        pace.observe(64, 1, 3.0);
        assert_eq!(pace.chunk(1, 1), FIRST);
        pace.observe(64, 1, 0.008);
        let before = pace.chunk(1, 1);
        pace.observe(64, 1, 3.0);
        assert!(before >= FIRST && pace.chunk(1, 1) >= before / 2);
        // The end of a prompt says nothing of a whole chunk.
        (0..9).for_each(|_| pace.observe(65, 1, 3.0));
        assert!(pace.chunk(1, 1) >= before / 2);
    }
}
