//! The vectors of AVX2 and of AVX-512, and the exponential on them.

use super::lanes::Lanes;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Functions that are one expression of intrinsics each.
macro_rules! functions {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {
        $(#[inline(always)]
        unsafe fn $name($($arg: $ty),*) -> $out {
            // SAFETY: the caller promises the instruction set, and N elements behind a pointer.
            unsafe { $body }
        })*
    };
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first of few bits, so that n * LN2_HIGH is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Where e^x leaves the normal floats.
const LOWEST: f32 = -87.336_54;
const HIGHEST: f32 = 88.722_83;

/// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, highest power first.
const POWERS: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// e^r for |r| <= ln 2 / 2.
#[inline(always)]
unsafe fn exp_fraction<L: Lanes>(r: L) -> L {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let mut p = L::splat(POWERS[0]);
        for power in &POWERS[1..] {
            p = p.fma(r, L::splat(*power));
        }
        p.fma(r.mul(r), r).add(L::splat(1.0))
    }
}

impl Lanes for __m512 {
    const N: usize = 16;

    functions! {
        splat(x: f32) -> Self = _mm512_set1_ps(x);
        load(from: *const f32) -> Self = _mm512_loadu_ps(from);
        load_f16(from: *const f16) -> Self = _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
        load_bf16(from: *const bf16) -> Self = {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        };
        store(self: Self, to: *mut f32) -> () = _mm512_storeu_ps(to, self);
        add(self: Self, other: Self) -> Self = _mm512_add_ps(self, other);
        sub(self: Self, other: Self) -> Self = _mm512_sub_ps(self, other);
        mul(self: Self, other: Self) -> Self = _mm512_mul_ps(self, other);
        div(self: Self, other: Self) -> Self = _mm512_div_ps(self, other);
        fma(self: Self, b: Self, c: Self) -> Self = _mm512_fmadd_ps(self, b, c);
        max(self: Self, other: Self) -> Self = _mm512_max_ps(self, other);
        min(self: Self, other: Self) -> Self = _mm512_min_ps(self, other);
        sum(self: Self) -> f32 = {
            let halves = _mm256_add_ps(_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
            halves.sum()
        };
        sums(v: [Self; 4]) -> [f32; 4] = {
            let [a, b, c, d] = v;
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
            let all = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            let pairs = _mm512_add_ps(all, _mm512_shuffle_ps::<0b11_10_11_10>(all, all));
            let ones = _mm512_add_ps(pairs, _mm512_shuffle_ps::<1>(pairs, pairs));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, ones)));
            out
        };
        largest(self: Self) -> f32 = {
            let halves = _mm256_max_ps(_mm512_castps512_ps256(self), _mm512_extractf32x8_ps::<1>(self));
            halves.largest()
        };
        exp(self: Self) -> Self = {
            let x = Self::splat(HIGHEST).min(Self::splat(LOWEST).max(self));
            let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x.mul(Self::splat(LOG2_E)));
            let r = n.fma(Self::splat(-LN2_LOW), n.fma(Self::splat(-LN2_HIGH), x));
            let y = _mm512_scalef_ps(exp_fraction(r), n);
            let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self, Self::splat(LOWEST));
            _mm512_maskz_mov_ps(normal, y)
        };
    }
}

impl Lanes for __m256 {
    const N: usize = 8;

    functions! {
        splat(x: f32) -> Self = _mm256_set1_ps(x);
        load(from: *const f32) -> Self = _mm256_loadu_ps(from);
        load_f16(from: *const f16) -> Self = _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
        load_bf16(from: *const bf16) -> Self = {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        };
        store(self: Self, to: *mut f32) -> () = _mm256_storeu_ps(to, self);
        add(self: Self, other: Self) -> Self = _mm256_add_ps(self, other);
        sub(self: Self, other: Self) -> Self = _mm256_sub_ps(self, other);
        mul(self: Self, other: Self) -> Self = _mm256_mul_ps(self, other);
        div(self: Self, other: Self) -> Self = _mm256_div_ps(self, other);
        fma(self: Self, b: Self, c: Self) -> Self = _mm256_fmadd_ps(self, b, c);
        max(self: Self, other: Self) -> Self = _mm256_max_ps(self, other);
        min(self: Self, other: Self) -> Self = _mm256_min_ps(self, other);
        sum(self: Self) -> f32 = {
            let quarter = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        };
        largest(self: Self) -> f32 = {
            let quarter = _mm_max_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        };
        exp(self: Self) -> Self = {
            let x = Self::splat(HIGHEST).min(Self::splat(LOWEST).max(self));
            let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x.mul(Self::splat(LOG2_E)));
            let r = n.fma(Self::splat(-LN2_LOW), n.fma(Self::splat(-LN2_HIGH), x));
            // In two steps, since 2^128 is no float where n is 128.
            let half = _mm256_srai_epi32::<1>(_mm256_cvtps_epi32(n));
            let rest = _mm256_sub_epi32(_mm256_cvtps_epi32(n), half);
            let bias = _mm256_set1_epi32(127);
            let half = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
            let rest = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias)));
            let y = exp_fraction(r).mul(half).mul(rest);
            let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(self, Self::splat(LOWEST));
            _mm256_and_ps(normal, y)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    unsafe fn exps<L: Lanes>(x: &[f32], out: &mut [f32]) {
        for (x, out) in x.chunks_exact(L::N).zip(out.chunks_exact_mut(L::N)) {
            // SAFETY: N elements, and the caller's promise.
            unsafe { L::load(x.as_ptr()).exp().store(out.as_mut_ptr()) };
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn exps_avx2(x: &[f32], out: &mut [f32]) {
        // SAFETY: the attribute's promise.
        unsafe { exps::<__m256>(x, out) };
    }

    #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
    unsafe fn exps_avx512(x: &[f32], out: &mut [f32]) {
        // SAFETY: the attribute's promise.
        unsafe { exps::<__m512>(x, out) };
    }

    #[test]
    fn the_exponential_is_exact_to_two_units() {
        let mut x: Vec<f32> = (0..16_000).map(|i| (i as f32 - 8000.0) * 0.01).collect();
        x.extend([f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, -1e30, 89.0, 88.7, -87.3, 1e-30]);
        x.resize(x.len().next_multiple_of(16), 0.0);
        let mut runs = Vec::new();
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let mut out = vec![0.0; x.len()];
            // SAFETY: just detected.
            unsafe { exps_avx2(&x, &mut out) };
            runs.push(out);
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            let mut out = vec![0.0; x.len()];
            // SAFETY: just detected.
            unsafe { exps_avx512(&x, &mut out) };
            runs.push(out);
        }
        for out in runs {
            for (&x, &y) in x.iter().zip(&out) {
                let want = f64::from(x).exp();
                let close = (f64::from(y) - want).abs() <= 2.4e-7 * want;
                let small = x < LOWEST && y == 0.0;
                let large = x >= 88.7 && (close || y > 3e38);
                assert!(close || small || large || (x.is_nan() && y.is_nan()), "e^{x} = {y}, not {want}");
            }
        }
    }
}
