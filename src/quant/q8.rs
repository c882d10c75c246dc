//! Activations as 8-bit integers: what integer kernels multiply weights with.
//!
//! A group is 32 activations with one scale. Three separate arrays (scales, sums, integers) so
//! that a vector or a GPU kernel loads each aligned and whole. Every step of the conversion is
//! defined to the bit, so that each implementation gives the same integers:
//!
//! - `amax` is the largest magnitude of the group, compared as bits;
//! - a group with an infinity or a NaN has scale NaN and zeros, so that the fault stays visible;
//! - a group with `amax < 2^-100` has scale 0 and zeros: its inverse could overflow;
//! - otherwise `scale = amax / 127`, `q = round(x * (127 / amax))`, nearest, ties to even, which is
//!   what one instruction does on x86, on Arm and on a GPU. |q| is never above 127.

/// Activations in a group.
pub const GROUP: usize = 32;
/// Activations in a sum: half a group, the span of the smallest weight scales.
pub const SUM_SPAN: usize = 16;

/// Below this, 2^-100, a group counts as zero.
const TINY: f32 = f32::from_bits((127 - 100) << 23);
/// Adding this, 1.5 * 2^23, to a small float leaves its nearest integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// Quantised activations that own their memory: one row, or several in succession.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Q8Row {
    scales: Vec<f32>,
    sums: Vec<i16>,
    qs: Vec<i8>,
}

/// Borrowed quantised activations. For `n` values: `n / 32` scales, `n / 16` sums, `n` integers.
#[derive(Clone, Copy, Debug)]
pub struct Q8View<'a> {
    /// What one step of the integers is worth, for each 32.
    pub scales: &'a [f32],
    /// The sum of the integers, for each 16: weights with a minimum need it.
    pub sums: &'a [i16],
    pub qs: &'a [i8],
}

/// Where [`quantise_q8`] writes; the same three arrays.
#[derive(Debug)]
pub struct Q8Mut<'a> {
    pub scales: &'a mut [f32],
    pub sums: &'a mut [i16],
    pub qs: &'a mut [i8],
}

/// One group of 32.
#[derive(Clone, Copy, Debug)]
pub struct Q8Group<'a> {
    pub scale: f32,
    pub sums: [i16; 2],
    pub qs: &'a [i8; GROUP],
}

impl Q8Row {
    /// Room for `len` values, all zero; `len` is a multiple of 32.
    pub fn try_new(len: usize) -> Result<Self, std::collections::TryReserveError> {
        let mut row = Self::default();
        row.scales.try_reserve_exact(len / GROUP)?;
        row.sums.try_reserve_exact(len / SUM_SPAN)?;
        row.qs.try_reserve_exact(len)?;
        row.resize(len);
        Ok(row)
    }

    /// Replaces the values; allocates only if there are more of them than ever before.
    pub fn quantise(&mut self, x: &[f32]) {
        self.resize(x.len());
        quantise_q8(x, self.as_mut());
    }

    pub fn view(&self) -> Q8View<'_> {
        Q8View { scales: &self.scales, sums: &self.sums, qs: &self.qs }
    }

    pub fn as_mut(&mut self) -> Q8Mut<'_> {
        Q8Mut { scales: &mut self.scales, sums: &mut self.sums, qs: &mut self.qs }
    }

    fn resize(&mut self, len: usize) {
        self.scales.resize(len / GROUP, 0.0);
        self.sums.resize(len / SUM_SPAN, 0);
        self.qs.resize(len, 0);
    }
}

impl<'a> Q8View<'a> {
    /// The `len` values from value `start`, both multiples of 32; `None` if they are not all there.
    pub fn part(self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        Some(Self {
            scales: self.scales.get(start / GROUP..end / GROUP)?,
            sums: self.sums.get(start / SUM_SPAN..end / SUM_SPAN)?,
            qs: self.qs.get(start..end)?,
        })
    }

    /// The groups, `SUBS` at a time.
    #[inline(always)]
    pub fn blocks<const SUBS: usize>(self) -> impl Iterator<Item = [Q8Group<'a>; SUBS]> {
        let sums = self.sums.chunks_exact(2 * SUBS);
        let qs = self.qs.chunks_exact(GROUP * SUBS);
        self.scales.chunks_exact(SUBS).zip(sums).zip(qs).map(|((scales, sums), qs)| {
            let mut block = [Q8Group { scale: 0.0, sums: [0; 2], qs: &[0; GROUP] }; SUBS];
            let parts = scales.iter().zip(sums.chunks_exact(2)).zip(qs.chunks_exact(GROUP));
            for (group, ((&scale, sums), qs)) in block.iter_mut().zip(parts) {
                if let (&[a, b], Some(qs)) = (sums, qs.first_chunk()) {
                    *group = Q8Group { scale, sums: [a, b], qs };
                }
            }
            block
        })
    }
}

impl Q8Group<'_> {
    /// The exact sum of the products with 32 codes.
    #[inline(always)]
    pub fn dot(&self, codes: &[i8; GROUP]) -> i32 {
        let [a, b] = self.dot_halves(codes);
        a + b
    }

    /// The same for the first and the last 16.
    #[inline(always)]
    pub fn dot_halves(&self, codes: &[i8; GROUP]) -> [i32; 2] {
        let mut sums = [0; 2];
        let halves = codes.chunks_exact(SUM_SPAN).zip(self.qs.chunks_exact(SUM_SPAN));
        for (sum, (codes, qs)) in sums.iter_mut().zip(halves) {
            for (&code, &q) in codes.iter().zip(qs) {
                *sum += i32::from(code) * i32::from(q);
            }
        }
        sums
    }

    /// The sum of the 32 integers.
    #[inline(always)]
    pub fn sum(&self) -> i32 {
        i32::from(self.sums[0]) + i32::from(self.sums[1])
    }
}

/// Quantises activations, a multiple of 32 of them, as the head of this file defines it.
pub fn quantise_q8(x: &[f32], out: Q8Mut<'_>) {
    debug_assert!(x.len().is_multiple_of(GROUP) && out.qs.len() == x.len());
    debug_assert!(out.scales.len() == x.len() / GROUP && out.sums.len() == x.len() / SUM_SPAN);
    let groups = x.chunks_exact(GROUP).zip(out.qs.chunks_exact_mut(GROUP));
    let outs = out.scales.iter_mut().zip(out.sums.chunks_exact_mut(2));
    for ((x, qs), (scale, sums)) in groups.zip(outs) {
        *scale = quantise_group(x, qs);
        for (sum, qs) in sums.iter_mut().zip(qs.chunks_exact(SUM_SPAN)) {
            *sum = qs.iter().map(|&q| i16::from(q)).sum();
        }
    }
}

/// Fills the integers of one group and returns its scale.
fn quantise_group(x: &[f32], qs: &mut [i8]) -> f32 {
    let amax_bits = x.iter().fold(0, |max, x| (x.to_bits() & 0x7fff_ffff).max(max));
    let amax = f32::from_bits(amax_bits);
    if !amax.is_finite() || amax < TINY {
        qs.fill(0);
        return if amax.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = 127.0 / amax;
    for (q, x) in qs.iter_mut().zip(x) {
        *q = ((x * inverse + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32) as i8;
    }
    amax / 127.0
}

#[cfg(test)]
mod tests {
    use super::super::testing::Rng;
    use super::*;

    fn quantised(x: &[f32]) -> Q8Row {
        let mut row = Q8Row::default();
        row.quantise(x);
        row
    }

    #[test]
    fn a_group_is_scaled_by_its_largest_and_ties_go_to_even() {
        let mut x = [0.0; 32];
        x[..6].copy_from_slice(&[-127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        x[16] = 126.4;
        let row = quantised(&x);
        assert_eq!(row.scales, [1.0]);
        assert_eq!(row.qs[..6], [-127, 0, 2, 2, 0, -2]);
        assert_eq!(row.qs[16], 126);
        assert_eq!(row.sums, [-125, 126]);
    }

    #[test]
    fn rounding_is_that_of_the_processor() {
        let mut rng = Rng::new(7);
        for _ in 0..2000 {
            let scale = 2f32.powi((rng.next_u32() % 200) as i32 - 98);
            let x: Vec<f32> = (0..32).map(|_| rng.float() * scale).collect();
            let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            let row = quantised(&x);
            assert_eq!(row.scales[0], amax / 127.0);
            for (q, x) in row.qs.iter().zip(&x) {
                assert_eq!(f32::from(*q), (x * (127.0 / amax)).round_ties_even());
            }
            let sum = |qs: &[i8]| qs.iter().map(|&q| i16::from(q)).sum::<i16>();
            assert_eq!(row.sums, [sum(&row.qs[..16]), sum(&row.qs[16..])]);
        }
    }

    #[test]
    fn faults_and_underflow_are_told_apart() {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let mut x = [1.0; 64];
            x[40] = fault;
            let row = quantised(&x);
            assert_eq!(row.scales[0], 1.0 / 127.0);
            assert!(row.scales[1].is_nan());
            assert_eq!(row.qs[32..], [0; 32]);
        }
        let row = quantised(&[f32::MIN_POSITIVE / 2.0; 32]);
        assert_eq!((row.scales[0], row.qs[0]), (0.0, 0));
        let row = quantised(&[f32::MAX; 32]);
        assert_eq!((row.scales[0], row.qs[0]), (f32::MAX / 127.0, 127));
    }

    #[test]
    fn a_part_is_a_view_of_whole_groups() {
        let x: Vec<f32> = (0..96).map(|i| i as f32).collect();
        let row = quantised(&x);
        let part = row.view().part(32, 64).expect("inside");
        assert_eq!((part.scales.len(), part.sums.len(), part.qs.len()), (2, 4, 64));
        assert_eq!(part.scales[0], 63.0 / 127.0);
        assert!(row.view().part(64, 64).is_none());
        assert!(row.view().part(usize::MAX, 32).is_none());
        assert_eq!(Q8Row::try_new(96).map(|r| r.qs.len()), Ok(96));
    }
}
