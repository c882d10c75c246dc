//! Activations in two planes of int8: the second has what the first leaves over.
//!
//! One plane is wrong by half a percent, which attention's exponential makes more of and which makes a router choose other
//! experts. Both share a scale, so that a kernel joins them while they are integers:
//!
//! ```text
//! x = scale * (coarse + fine / 2^FINE_BITS)
//! ```
//!
//! The coarse plane and the scales are those of `quant::q8`; `fine = round((x - scale * coarse) * (2^FINE_BITS / scale))`,
//! held within 127, and 0 where the scale is no positive number.

use super::Isa;
use crate::quant::q8::{GROUP, SUM_SPAN};
use crate::quant::{Q8Mut, quantise_q8};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// How much finer a step of the fine plane is.
pub const FINE_BITS: usize = 8;
const FINE: f32 = (1 << FINE_BITS) as f32;
/// Below this a group counts as zero.
#[cfg(target_arch = "x86_64")]
const TINY: f32 = f32::from_bits((127 - 100) << 23);

/// Quantised activations. For `n` values: `n / 32` scales, `n / 16` sums, twice `n` integers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planes<'a> {
    /// What a step of the coarse plane is worth, for each 32.
    pub scales: &'a [f32],
    /// The sum of `(coarse << FINE_BITS) + fine`, for each 16.
    pub sums: &'a [i32],
    pub coarse: &'a [i8],
    pub fine: &'a [i8],
    /// `(coarse << FINE_BITS) + fine`; empty where no kernel reads it, see [`Isa::reads_both`].
    pub both: &'a [i16],
}

/// Where they are written.
#[derive(Debug)]
pub struct PlanesMut<'a> {
    pub scales: &'a mut [f32],
    pub sums: &'a mut [i32],
    pub coarse: &'a mut [i8],
    pub fine: &'a mut [i8],
    /// Empty if it is not wanted.
    pub both: &'a mut [i16],
}

impl<'a> Planes<'a> {
    /// The `len` values from value `start`, both multiples of 32; `None` if they are not all there.
    pub fn part(self, start: usize, len: usize) -> Option<Self> {
        let end = start.checked_add(len)?;
        Some(Self {
            scales: self.scales.get(start / GROUP..end / GROUP)?,
            sums: self.sums.get(start / SUM_SPAN..end / SUM_SPAN)?,
            coarse: self.coarse.get(start..end)?,
            fine: self.fine.get(start..end)?,
            both: if self.both.is_empty() { &[] } else { self.both.get(start..end)? },
        })
    }

    /// What the integers stand for.
    #[cfg(test)]
    pub fn values(self) -> impl Iterator<Item = f64> {
        let both = self.coarse.iter().zip(self.fine).enumerate();
        both.map(move |(i, (coarse, fine))| {
            f64::from(self.scales[i / GROUP]) * (f64::from(*coarse) + f64::from(*fine) / f64::from(FINE))
        })
    }

    /// How many values there are in all arrays but `both`.
    pub fn len(&self) -> usize {
        let integers = self.coarse.len().min(self.fine.len());
        integers.min(self.scales.len() * GROUP).min(self.sums.len() * SUM_SPAN)
    }
}

impl Isa {
    /// Whether kernels for several tokens read `both`, not the planes: AVX2 multiplies words as fast as bytes, for which it would
    /// have to go over the weights twice.
    pub fn reads_both(self) -> bool {
        self == Isa::Avx2
    }

    /// Quantises a whole number of groups.
    pub fn quantise(self, x: &[f32], out: PlanesMut<'_>) {
        let all = Planes { scales: out.scales, sums: out.sums, coarse: out.coarse, fine: out.fine, both: out.both };
        assert!(all.len() == x.len() && x.len().is_multiple_of(GROUP), "{} activations in int8", x.len());
        assert!([0, x.len()].contains(&out.both.len()), "{} activations in int16", out.both.len());
        #[cfg(target_arch = "x86_64")]
        if self != Isa::Portable {
            // SAFETY: an Isa is only made where the CPU has it, and AVX-512 comes with AVX2; the lengths were just checked.
            return unsafe { quantise_avx2(x, out) };
        }
        quantise_any(x, out);
    }
}

/// The definition.
fn quantise_any(x: &[f32], out: PlanesMut<'_>) {
    for (i, x) in x.chunks_exact(GROUP).enumerate() {
        let coarse = &mut out.coarse[i * GROUP..][..GROUP];
        let fine = &mut out.fine[i * GROUP..][..GROUP];
        quantise_q8(x, Q8Mut { scales: &mut out.scales[i..=i], sums: &mut [0; 2], qs: coarse });
        let scale = out.scales[i];
        for ((fine, x), coarse) in fine.iter_mut().zip(x).zip(&*coarse) {
            let rest = (x - scale * f32::from(*coarse)) * (FINE / scale);
            *fine = if scale > 0.0 { rest.round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 };
        }
        for (half, sum) in out.sums[2 * i..][..2].iter_mut().enumerate() {
            let both = coarse.iter().zip(&*fine).skip(half * SUM_SPAN).take(SUM_SPAN);
            *sum = both.map(|(coarse, fine)| (i32::from(*coarse) << FINE_BITS) + i32::from(*fine)).sum();
        }
        if let Some(both) = out.both.get_mut(i * GROUP..) {
            let planes = coarse.iter().zip(&*fine);
            both.iter_mut().zip(planes).for_each(|(both, (coarse, fine))| {
                *both = (i16::from(*coarse) << FINE_BITS) + i16::from(*fine);
            });
        }
    }
}

/// # Safety
/// The CPU has AVX2; the output is as long as the input's groups ask for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantise_avx2(x: &[f32], out: PlanesMut<'_>) {
    let (least, most) = (_mm256_set1_epi32(-127), _mm256_set1_epi32(127));
    for (i, x) in x.chunks_exact(GROUP).enumerate() {
        // SAFETY: a group of 32 floats, 32 integers of each plane, two sums; the instruction set is the attribute's.
        unsafe {
            let x = [0, 8, 16, 24].map(|at| _mm256_loadu_ps(x.as_ptr().add(at)));
            let amax = largest_magnitude(x);
            let good = amax.is_finite() && amax >= TINY;
            let usual = if amax.is_finite() { 0.0 } else { f32::NAN };
            let scale = if good { amax / 127.0 } else { usual };
            *out.scales.get_unchecked_mut(i) = scale;
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(if good { -1 } else { 0 }));
            let inverse = _mm256_set1_ps(if good { 127.0 / amax } else { 0.0 });
            let finer = _mm256_set1_ps(if good { FINE / scale } else { 0.0 });
            let scale = _mm256_set1_ps(scale);
            let mut coarse = [_mm256_setzero_si256(); 4];
            let mut fine = coarse;
            for j in 0..4 {
                coarse[j] = _mm256_cvtps_epi32(_mm256_and_ps(mask, _mm256_mul_ps(x[j], inverse)));
                let rest = _mm256_sub_ps(x[j], _mm256_mul_ps(scale, _mm256_cvtepi32_ps(coarse[j])));
                let rest = _mm256_cvtps_epi32(_mm256_and_ps(mask, _mm256_mul_ps(rest, finer)));
                fine[j] = _mm256_max_epi32(least, _mm256_min_epi32(most, rest));
            }
            let first = store(coarse, out.coarse.as_mut_ptr().add(i * GROUP));
            let second = store(fine, out.fine.as_mut_ptr().add(i * GROUP));
            for half in 0..2 {
                *out.sums.get_unchecked_mut(2 * i + half) = (first[half] << FINE_BITS) + second[half];
            }
            if !out.both.is_empty() {
                store_both(coarse, fine, out.both.as_mut_ptr().add(i * GROUP));
            }
        }
    }
}

/// Stores 32 integers as bytes; returns the sums of the halves.
///
/// # Safety
/// The CPU has AVX2; there is room for 32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn store(q: [__m256i; 4], to: *mut i8) -> [i32; 2] {
    let pairs = [_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])];
    let mixed = _mm256_packs_epi16(pairs[0], pairs[1]);
    let bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: the caller's promise.
    unsafe {
        _mm256_storeu_si256(to.cast(), bytes);
        [sum_of_pairs(pairs[0]), sum_of_pairs(pairs[1])]
    }
}

/// Stores both planes of 32 values as one.
///
/// # Safety
/// The CPU has AVX2; there is room for 32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn store_both(coarse: [__m256i; 4], fine: [__m256i; 4], to: *mut i16) {
    for i in 0..2 {
        let coarse = _mm256_packs_epi32(coarse[2 * i], coarse[2 * i + 1]);
        let fine = _mm256_packs_epi32(fine[2 * i], fine[2 * i + 1]);
        let both = _mm256_add_epi16(_mm256_slli_epi16::<{ FINE_BITS as i32 }>(coarse), fine);
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_si256(to.add(16 * i).cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(both)) };
    }
}

/// The largest magnitude, compared as bits, so that a NaN counts as the largest.
///
/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn largest_magnitude(x: [__m256; 4]) -> f32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let [a, b, c, d] = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), magnitude));
    let eight = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
    let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    f32::from_bits(_mm_cvtsi128_si32(one) as u32)
}

/// The sum of 16 integers.
///
/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn sum_of_pairs(q: __m256i) -> i32 {
    let eight = _mm256_madd_epi16(q, _mm256_set1_epi16(1));
    let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    _mm_cvtsi128_si32(one)
}

/// Planes that own their memory.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub struct OwnedPlanes {
    scales: Vec<f32>,
    sums: Vec<i32>,
    coarse: Vec<i8>,
    fine: Vec<i8>,
    both: Vec<i16>,
}

#[cfg(test)]
impl OwnedPlanes {
    pub fn of(isa: Isa, x: &[f32]) -> Self {
        let (groups, len) = (x.len() / GROUP, x.len());
        let (scales, sums, both) = (vec![9.0; groups], vec![9; 2 * groups], vec![9; len]);
        let mut out = Self { scales, sums, coarse: vec![9; len], fine: vec![9; len], both };
        let Self { scales, sums, coarse, fine, both } = &mut out;
        isa.quantise(x, PlanesMut { scales, sums, coarse, fine, both });
        out
    }

    pub fn view(&self) -> Planes<'_> {
        let Self { scales, sums, coarse, fine, both } = self;
        Planes { scales, sums, coarse, fine, both }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::Rng;

    fn activations() -> Vec<f32> {
        let mut x = Rng::new(3).floats(64 * GROUP);
        for (i, group) in x.chunks_exact_mut(GROUP).enumerate() {
            let scale = 2f32.powi(4 * i as i32 - 128);
            group.iter_mut().for_each(|x| *x *= scale);
        }
        x[40] = f32::NAN;
        x[77] = f32::NEG_INFINITY;
        x[130] = f32::MIN_POSITIVE / 8.0;
        x[160..192].fill(0.5);
        x
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        let x = activations();
        let of = |isa: Isa| {
            let planes = OwnedPlanes::of(isa, &x);
            let scales: Vec<_> = planes.scales.iter().map(|s| if s.is_nan() { 1 } else { s.to_bits() }).collect();
            (scales, planes.sums, planes.coarse, planes.fine, planes.both)
        };
        let want = of(Isa::Portable);
        for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.present().is_ok()) {
            assert!(of(isa) == want, "{isa}");
        }
    }

    #[test]
    fn both_planes_together_are_close() {
        let x = Rng::new(4).floats(64 * GROUP);
        let planes = OwnedPlanes::of(Isa::detect(), &x);
        for (i, (x, got)) in x.iter().zip(planes.view().values()).enumerate() {
            let step = f64::from(planes.scales[i / GROUP] / FINE);
            assert!((got - f64::from(*x)).abs() <= 1.01 * step, "{got}, not {x}");
        }
    }
}
