//! Activations to int8, to the bit as `quant::q8` defines it.

use super::Isa;
use crate::quant::q8::{GROUP, SUM_SPAN};
use crate::quant::{Q8Mut, quantise_q8};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Below this a group counts as zero.
#[cfg(target_arch = "x86_64")]
const TINY: f32 = f32::from_bits((127 - 100) << 23);

impl Isa {
    /// Quantises a whole number of groups.
    pub fn quantise(self, x: &[f32], out: Q8Mut<'_>) {
        let groups = x.len() / GROUP;
        let fits = out.scales.len() == groups && out.sums.len() == x.len() / SUM_SPAN && out.qs.len() == x.len();
        assert!(fits && x.len() == groups * GROUP, "{} activations in int8", x.len());
        #[cfg(target_arch = "x86_64")]
        if self != Isa::Portable {
            // SAFETY: an Isa is only made where the CPU has it, and AVX-512 comes with AVX2; the lengths were just checked.
            return unsafe { quantise_avx2(x, out) };
        }
        quantise_q8(x, out);
    }
}

/// # Safety
/// The CPU has AVX2; the output is as long as the input's groups ask for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantise_avx2(x: &[f32], out: Q8Mut<'_>) {
    for (i, x) in x.chunks_exact(GROUP).enumerate() {
        // SAFETY: a group of 32 floats, 32 integers, two sums; the instruction set is the attribute's.
        unsafe {
            let x = [0, 8, 16, 24].map(|at| _mm256_loadu_ps(x.as_ptr().add(at)));
            let amax = largest_magnitude(x);
            let fine = amax.is_finite() && amax >= TINY;
            let inverse = _mm256_set1_ps(if fine { 127.0 / amax } else { 0.0 });
            let usual = if amax.is_finite() { 0.0 } else { f32::NAN };
            *out.scales.get_unchecked_mut(i) = if fine { amax / 127.0 } else { usual };
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(if fine { -1 } else { 0 }));
            let q = x.map(|x| _mm256_cvtps_epi32(_mm256_and_ps(mask, _mm256_mul_ps(x, inverse))));
            let pairs = [_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])];
            let mixed = _mm256_packs_epi16(pairs[0], pairs[1]);
            let bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(out.qs.as_mut_ptr().add(i * GROUP).cast(), bytes);
            let sums = out.sums.as_mut_ptr().add(2 * i);
            *sums = sum_of_pairs(pairs[0]);
            *sums.add(1) = sum_of_pairs(pairs[1]);
        }
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
unsafe fn sum_of_pairs(q: __m256i) -> i16 {
    let eight = _mm256_madd_epi16(q, _mm256_set1_epi16(1));
    let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    _mm_cvtsi128_si32(one) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::Rng;

    #[test]
    fn every_set_gives_the_same_bits() {
        let mut rng = Rng::new(3);
        let mut x = rng.floats(64 * GROUP);
        for (i, group) in x.chunks_exact_mut(GROUP).enumerate() {
            let scale = 2f32.powi(4 * i as i32 - 128);
            group.iter_mut().for_each(|x| *x *= scale);
        }
        x[40] = f32::NAN;
        x[77] = f32::NEG_INFINITY;
        x[130] = f32::MIN_POSITIVE / 8.0;
        x[160..192].fill(0.5);
        let quantise = |isa: Isa| {
            let (mut scales, mut sums, mut qs) = (vec![9.0; 64], vec![9; 128], vec![9; 64 * GROUP]);
            isa.quantise(&x, Q8Mut { scales: &mut scales, sums: &mut sums, qs: &mut qs });
            (scales.iter().map(|s| if s.is_nan() { 1 } else { s.to_bits() }).collect::<Vec<_>>(), sums, qs)
        };
        let want = quantise(Isa::Portable);
        for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.present().is_ok()) {
            assert!(quantise(isa) == want, "{isa}");
        }
    }
}
