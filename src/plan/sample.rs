//! Drawing a token from logits: one pure function that every device computes with the same result.
//!
//! The draw is Gumbel-max: the id with the largest `logit / temperature + gumbel(seed, position, id)` is distributed as the
//! softmax says, and needs no sum over the vocabulary: no underflow, no order of additions, any split over threads gives the
//! same id. The noise of an id comes from Philox4x32-10 with key = seed and counter = (id / 4, 0, position), lane id % 4, so
//! it depends on nothing else that runs. All arithmetic is f32 with each operation rounded by itself (no fused
//! multiply-add, IEEE division), so that a GPU can repeat it bit by bit.

use super::Draw;

/// Below this temperature a draw is greedy. Two logits 0.002 apart are then e^20 apart in probability, and `logit /
/// temperature` stays finite for every sane logit.
pub const GREEDY_BELOW: f32 = 1e-4;

/// Draws the token at `position` (that of the token drawn: one above the row whose logits these are). `logits` is
/// `[n_vocab]`; the ids `never_drawn` (ascending) are passed over. Of equal scores, compared as numbers, the lowest id wins.
/// None where an id that may be drawn has NaN, or none has a logit above minus infinity: the sequence is poisoned.
pub fn draw(logits: &[f32], never_drawn: &[u32], draw: Draw, position: usize) -> Option<u32> {
    let mut race = Race::new(draw, position);
    let mut from = 0;
    // Between each two that are passed over, and after the last.
    for to in never_drawn.iter().map(|&id| (id as usize).min(logits.len())).chain([logits.len()]) {
        for (id, &logit) in (from as u32..).zip(logits.get(from..to).unwrap_or_default()) {
            race.enter(id, logit)?;
        }
        from = to + 1;
    }
    race.best.1
}

/// The same among some `ids` (ascending) alone.
pub fn draw_among(logits: &[f32], ids: &[u32], draw: Draw, position: usize) -> Option<u32> {
    let mut race = Race::new(draw, position);
    for &id in ids {
        race.enter(id, *logits.get(id as usize)?)?;
    }
    race.best.1
}

/// A draw, as far as ids have entered it.
struct Race {
    temperature: f32,
    /// None: the largest logit wins.
    noise: Option<Noise>,
    /// The words of four ids, by their number divided by four.
    words: (u32, [u32; 4]),
    best: (f32, Option<u32>),
}

impl Race {
    fn new(draw: Draw, position: usize) -> Self {
        let noise = (draw.temperature >= GREEDY_BELOW).then(|| Noise::new(draw.seed, position));
        Self { temperature: draw.temperature, noise, words: (u32::MAX, [0; 4]), best: (f32::NEG_INFINITY, None) }
    }

    /// None where the logit is no number.
    #[inline(always)]
    fn enter(&mut self, id: u32, logit: f32) -> Option<()> {
        if logit.is_nan() {
            return None;
        }
        let score = match &self.noise {
            Some(noise) => {
                // Sums are monotone, so an id whose bound does not win cannot win: no noise is needed, or no logarithm.
                let scaled = logit / self.temperature;
                if scaled + MOST_NOISE <= self.best.0 {
                    return Some(());
                }
                if self.words.0 != id / 4 {
                    self.words = (id / 4, noise.words(id / 4));
                }
                let word = self.words.1[id as usize % 4];
                if scaled + most_gumbel(word) <= self.best.0 {
                    return Some(());
                }
                scaled + gumbel(word)
            }
            None => logit,
        };
        if score > self.best.0 {
            self.best = (score, Some(id));
        }
        Some(())
    }
}

/// The random words of one drawn token.
struct Noise {
    seed: u64,
    position: u64,
}

impl Noise {
    fn new(seed: u64, position: usize) -> Self {
        Self { seed, position: position as u64 }
    }

    /// The words of ids 4 * `quad` .. 4 * `quad` + 4.
    fn words(&self, quad: u32) -> [u32; 4] {
        let counter = [quad, 0, self.position as u32, (self.position >> 32) as u32];
        philox4x32_10(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = M0 * u64::from(c0);
        let p1 = M1 * u64::from(c2);
        c0 = (p1 >> 32) as u32 ^ c1 ^ k0;
        c1 = p1 as u32;
        c2 = (p0 >> 32) as u32 ^ c3 ^ k1;
        c3 = p0 as u32;
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// Gumbel noise of a random word: -ln(-ln(1 - v)) with v = (word + 1/2) / 2^32. The inner logarithm is relatively accurate at
/// both ends of (0, 1), so both tails have their right weight: the result lies in [-3.2, 22.9].
pub fn gumbel(word: u32) -> f32 {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    // 0.29 < 1 - sqrt(1/2): below, 1 - v needs no exponent taken out, and is never rounded.
    let v = (word as f32 + 0.5) * SCALE;
    let exponential = if v < 0.29 { -ln_1p(-v) } else { -ln(((!word) as f32 + 0.5) * SCALE) };
    -ln(exponential)
}

/// Above what [`gumbel`] gives for any word.
const MOST_NOISE: f32 = 23.0;

/// Above what it gives for this word: -ln(1 - v) >= v, and v >= 2^-(z + 1) where the word has z leading zeros.
fn most_gumbel(word: u32) -> f32 {
    (word.leading_zeros() + 1) as f32 * std::f32::consts::LN_2 + 1e-3
}

/// ln x of a positive, normal x: x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
fn ln(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3F35_04F3;
    let bits = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let k = bits as i32 >> 23;
    let mantissa = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(SQRT_HALF_BITS));
    k as f32 * std::f32::consts::LN_2 + ln_1p(mantissa - 1.0)
}

/// ln(1 + f) for f in [-0.3, 0.42]: with s = f / (2 + f), 2 (s + s^3/3 + s^5/5 + ..), cut where the rest is below 2^-28 of it.
fn ln_1p(f: f32) -> f32 {
    let s = f / (2.0 + f);
    let z = s * s;
    let series = z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    2.0 * (s + s * series)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(temperature: f32, seed: u64) -> Draw {
        Draw { temperature, seed }
    }

    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox4x32_10([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn gumbel_agrees_with_f64_over_all_words() {
        let samples = (0..1 << 20).map(|i: u32| i.wrapping_mul(4099));
        for word in samples.chain([0, 1, 2, 3, u32::MAX, u32::MAX - 1, u32::MAX / 2, 1_245_540_515, 1_245_540_516]) {
            let v = (f64::from(word) + 0.5) / 4_294_967_296.0;
            let exact = -(-(-v).ln_1p()).ln();
            let got = f64::from(gumbel(word));
            assert!((got - exact).abs() < 2e-6 * exact.abs().max(1.0), "{word}: {got} {exact}");
            assert!(gumbel(word) < most_gumbel(word) && most_gumbel(word) < MOST_NOISE, "{word}");
        }
    }

    #[test]
    fn what_is_not_computed_would_not_have_won() {
        for (seed, scale) in (0..40).zip([0.0, 0.1, 1.0, 7.0, 60.0].into_iter().cycle()) {
            let logits: Vec<f32> = (0..997u32).map(|i| scale * ((i * 7919 % 997) as f32 / 997.0 - 0.5)).collect();
            let noise = Noise::new(seed, 5);
            let score = |id: u32| logits[id as usize] / 0.7 + gumbel(noise.words(id / 4)[id as usize % 4]);
            let best = (0..997).reduce(|a, b| if score(b) > score(a) { b } else { a });
            assert_eq!(draw(&logits, &[], at(0.7, seed), 5), best);
        }
    }

    #[test]
    fn a_draw_among_some_is_one_where_the_others_are_impossible() {
        for seed in 0..60 {
            let logits: Vec<f32> = (0..500u32).map(|i| ((i * 7919 + seed as u32) % 499) as f32 / 99.0).collect();
            let ids: Vec<u32> = (0..500).filter(|id| id * 31 % 7 < seed as u32 % 6).collect();
            let mut masked = vec![f32::NEG_INFINITY; 500];
            ids.iter().for_each(|&id| masked[id as usize] = logits[id as usize]);
            for temperature in [0.0, 0.9] {
                assert_eq!(
                    draw_among(&logits, &ids, at(temperature, seed), 3),
                    draw(&masked, &[], at(temperature, seed), 3)
                );
            }
        }
        assert_eq!(draw_among(&[1.0], &[1], at(0.0, 0), 3), None);
    }

    #[test]
    fn greedy_takes_the_largest_and_of_equals_the_lowest() {
        let logits = [1.0, 3.0, -2.0, 3.0, f32::NEG_INFINITY];
        assert_eq!(draw(&logits, &[], at(0.0, 1), 7), Some(1));
        assert_eq!(draw(&logits, &[1], at(0.0, 1), 7), Some(3));
        assert_eq!(draw(&[-0.0, 0.0], &[], at(0.0, 1), 7), Some(0));
    }

    #[test]
    fn poison_is_seen_unless_it_is_padding() {
        let logits = [1.0, f32::NAN, 0.0];
        for temperature in [0.0, 1.0] {
            assert_eq!(draw(&logits, &[], at(temperature, 1), 0), None);
            assert!(draw(&logits, &[1], at(temperature, 1), 0).is_some());
            assert_eq!(draw(&[f32::NEG_INFINITY; 5], &[], at(temperature, 1), 0), None);
            assert_eq!(draw(&[], &[], at(temperature, 1), 0), None);
            assert_eq!(draw(&[1.0, 2.0], &[0, 1], at(temperature, 1), 0), None);
            assert_eq!(draw(&[1.0, 2.0], &[0, 2, 7], at(temperature, 1), 0), Some(1));
            assert_eq!(draw(&[1.0, 2.0], &[1, 7], at(temperature, 1), 0), Some(0));
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits: [f32; 6] = [0.0, 1.0, 2.0, -1.0, 0.5, 9.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let weight = |l: f32| f64::from(l / temperature).exp();
            let sum: f64 = logits[..5].iter().map(|&l| weight(l)).sum();
            let mut counts = [0u32; 6];
            for position in 0..40_000 {
                let id = draw(&logits, &[5], at(temperature, 99), position).expect("a finite logit wins");
                counts[id as usize] += 1;
            }
            assert_eq!(counts[5], 0);
            for (&l, &n) in logits[..5].iter().zip(&counts) {
                let p = weight(l) / sum;
                let sd = (p * (1.0 - p) / 40_000.0).sqrt();
                let got = f64::from(n) / 40_000.0;
                assert!((got - p).abs() < 5.0 * sd, "{temperature}: {got} for {p}");
            }
        }
    }

    #[test]
    fn a_draw_is_fixed_by_seed_and_position() {
        let logits = vec![0.0; 1000];
        let ids = |seed, position| draw(&logits, &[], at(1.0, seed), position);
        assert_eq!(ids(1, 2), ids(1, 2));
        let differ = (0..100).filter(|&p| ids(1, p) != ids(2, p) && ids(1, p) != ids(1, p + 1)).count();
        assert!(differ > 95, "{differ}");
    }

    #[test]
    fn a_tiny_temperature_is_greedy_not_infinite() {
        let logits = [10.0, 20.0, 30.0];
        assert_eq!(draw(&logits, &[], at(f32::MIN_POSITIVE, 5), 3), Some(2));
        assert_eq!(draw(&logits, &[], at(GREEDY_BELOW, 5), 3), Some(2));
    }
}
