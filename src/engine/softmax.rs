//! Sums of e^logit over a vocabulary, in passes that a compiler makes vector code of.
//!
//! The exponential is of single precision, within 2e-7 of itself; its sums are of double precision, every eighth of them. So the
//! logarithm of a sum is within 1e-6, and the same on every machine: no operation depends on the order of threads.

/// Elements that are looked at side by side.
const LANES: usize = 16;

/// The largest number, minus infinity if there is none; None if one of them is NaN.
pub fn largest(logits: &[f32]) -> Option<f32> {
    // Without its sign, NaN has the larger bits than infinity.
    let bits = |l: f32| (l.to_bits() & 0x7FFF_FFFF).cast_signed();
    let widest = side_by_side(logits, 0, |most: i32, l| most.max(bits(l))).into_iter().max();
    let nan = widest > Some(bits(f32::INFINITY));
    (!nan).then(|| largest_below(logits, f32::NAN))
}

/// The largest number but `bound`.
fn largest_below(logits: &[f32], bound: f32) -> f32 {
    let larger = |most: f32, l: f32| if l > most && l != bound { l } else { most };
    side_by_side(logits, f32::NEG_INFINITY, larger).into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// ln of the sum of e^logit over all that are finite.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = largest_below(logits, f32::INFINITY);
    let blocks = logits.chunks(8 * LANES);
    let sums = blocks.map(|block| side_by_side(block, 0.0, |sum, l| sum + weight(l, most)));
    f64::from(most) + sums.flatten().map(f64::from).sum::<f64>().ln()
}

/// Folds each sixteenth element by itself.
#[inline(always)]
fn side_by_side<T: Copy>(logits: &[f32], start: T, fold: impl Fn(T, f32) -> T) -> [T; LANES] {
    let mut lanes = [start; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, logit);
        }
    }
    for (lane, &logit) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, logit);
    }
    lanes
}

/// e^(logit - most), next to nothing where that is no number or above 1.
#[inline(always)]
pub fn weight(logit: f32, most: f32) -> f32 {
    let below = logit - most;
    exp(if below <= 0.0 { below } else { LEAST })
}

/// e^-87 is the least that is no subnormal number.
const LEAST: f32 = -87.0;

/// e^x for x <= 0: x = k ln 2 + r with |r| <= ln 2 / 2, and six terms for e^r.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a small number it leaves that, rounded, in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, of which the first times k is exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = if x < LEAST { LEAST } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (x - k * LN2.0) - k * LN2.1;
    let tail = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0)));
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3F80_0000));
    power * (1.0 + r * (1.0 + r * (0.5 + r * tail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_everywhere() {
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let (got, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / exact - 1.0).abs() < 3e-7, "{x}: {got} {exact}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(0.0) == 1.0);
    }

    #[test]
    fn sums_pass_over_what_is_no_number() {
        for n in [1, 15, 16, 17, 128, 1000] {
            let mut logits: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 / 5.0 - 9.0).collect();
            let exact = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            assert_eq!(largest(&logits), logits.iter().copied().reduce(f32::max));
            logits.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            assert!((log_sum_exp(&logits) - exact).abs() < 1e-6, "{n}");
            assert_eq!(largest(&logits), None);
        }
        assert_eq!(largest(&[]), Some(f32::NEG_INFINITY));
        let mut late = [0.0; 64];
        late[17] = f32::NAN;
        assert_eq!(largest(&late), None);
    }
}
