//! AVX2 with FMA and F16C: eight lanes.
//!
//! For one token, bytes are multiplied in pairs that are added as 16 bits, which must not overflow: activations are at most 127 in
//! size, so codes of 4 bits may be added eight pairs deep, of 5 bits four pairs, of 6 bits two. Codes of 8 bits keep their
//! sign, which goes to the activations first: 2 * 128 * 127 is just small enough. For several tokens it pays to widen the codes
//! once and multiply words, 16 bits of each activation at a time: half as many multiplications, and nothing to be done about signs.

use super::lanes::{Lanes, Places, Rows};
use crate::device::cpu::simd::quantise::FINE_BITS;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx2;

/// One function of the trait for each line; all are as unsafe as the trait says.
macro_rules! ops {
    ($($name:ident $([$($param:tt)*])? ($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name $(<$($param)*>)? ($($arg: $ty),*) -> $ret {
            // SAFETY: the caller vouches for the instruction set, and for the memory where there is some.
            unsafe { $body }
        }
    )*};
}

impl Lanes for Avx2 {
    type Int = __m256i;
    type Float = __m256;

    const LANES: usize = 8;
    const TOKENS: usize = 4;
    const SIGNED_OFFSET: i32 = 0;
    const MANY_HALVES: bool = false;
    const WIDE: bool = true;

    unsafe fn halves<const BYTES: usize>(_: Rows, _: usize) -> [__m256; 8] {
        unreachable!("MANY_HALVES is false")
    }

    #[inline(always)]
    unsafe fn signed(a: __m256i) -> __m256i {
        a
    }

    ops! {
        pieces(rows: Rows, at: usize) -> [__m256i; 4] = {
            rows.fetch(8, 2, at);
            let rows = rows.eight(at);
            [two(rows[0], rows[4]), two(rows[1], rows[5]), two(rows[2], rows[6]), two(rows[3], rows[7])]
        };
        turn(pieces: [__m256i; 4]) -> [__m256i; 4] = {
            let [a, b, c, d] = pieces;
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        };
        fold(sums: [__m256i; 4]) -> __m256i = {
            let [a, b, c, d] = sums;
            let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
        };
        add_fifths(codes: __m256i, bits: __m256i, places: &Places) -> __m256i = {
            let bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(places.bytes.as_ptr().cast()));
            let masks = _mm256_broadcastsi128_si256(_mm_loadu_si128(places.masks.as_ptr().cast()));
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, bytes), masks), masks);
            _mm256_or_si256(codes, _mm256_and_si256(set, _mm256_set1_epi8(16)))
        };
        dwords(rows: Rows, at: usize) -> __m256i = {
            rows.fetch(8, 1, at);
            let mut lanes = [0i32; 8];
            for (lane, row) in lanes.iter_mut().zip(rows.eight(at)) {
                *lane = row.cast::<i32>().read_unaligned();
            }
            _mm256_set_epi32(lanes[7], lanes[6], lanes[5], lanes[4], lanes[3], lanes[2], lanes[1], lanes[0])
        };
        splat(value: i32) -> __m256i = _mm256_set1_epi32(value);
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        shl(a: __m256i, bits: usize) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits as i32));
        shr(a: __m256i, bits: usize) -> __m256i = _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits as i32));
        shr_signed(a: __m256i, bits: usize) -> __m256i = _mm256_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
        add_int(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        lookup(table: &[i8; 16], index: __m256i) -> __m256i =
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), index);
        to_float(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        as_float(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        half_to_float(a: __m256i) -> __m256 = {
            let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        };
        spread(at: *const i8) -> __m256i = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        spread_piece(at: *const i8) -> __m256i = _mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast()));
        dot_both[const BITS: u32, const N: usize](w: [__m256i; N], coarse: [__m256i; N], fine: [__m256i; N]) -> __m256i = {
            let (up, one) = (_mm256_set1_epi16(1 << FINE_BITS), _mm256_set1_epi16(1));
            let mut sum = _mm256_setzero_si256();
            if BITS == 8 {
                for i in 0..N {
                    let size = _mm256_abs_epi8(w[i]);
                    let coarse = _mm256_maddubs_epi16(size, _mm256_sign_epi8(coarse[i], w[i]));
                    let fine = _mm256_maddubs_epi16(size, _mm256_sign_epi8(fine[i], w[i]));
                    let both = _mm256_add_epi32(_mm256_madd_epi16(coarse, up), _mm256_madd_epi16(fine, one));
                    sum = _mm256_add_epi32(sum, both);
                }
            } else {
                let mut pairs = [sum; 2];
                for i in 0..N {
                    pairs[0] = _mm256_add_epi16(pairs[0], _mm256_maddubs_epi16(w[i], coarse[i]));
                    pairs[1] = _mm256_add_epi16(pairs[1], _mm256_maddubs_epi16(w[i], fine[i]));
                }
                sum = _mm256_add_epi32(_mm256_madd_epi16(pairs[0], up), _mm256_madd_epi16(pairs[1], one));
            }
            sum
        };
        store_codes[const BITS: u32](to: *mut u8, codes: [__m256i; 4]) -> () = {
            let to = to.cast::<__m256i>();
            for (i, codes) in codes.into_iter().enumerate() {
                let [first, second] = if BITS == 8 { words_signed(codes) } else { words(codes) };
                _mm256_storeu_si256(to.add(2 * i), first);
                _mm256_storeu_si256(to.add(2 * i + 1), second);
            }
        };
        dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i = _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
        splat_float(value: f32) -> __m256 = _mm256_set1_ps(value);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        load(at: *const u8) -> __m256i = _mm256_loadu_si256(at.cast());
        load_float(at: *const f32) -> __m256 = _mm256_loadu_ps(at);
        store_float(at: *mut f32, value: __m256) -> () = _mm256_storeu_ps(at, value);
    }
}

/// 16 bytes of each of two rows.
///
/// # Safety
/// As for [`Lanes::pieces`].
#[inline(always)]
unsafe fn two(a: *const u8, b: *const u8) -> __m256i {
    // SAFETY: the caller vouches for the instruction set and for the rows.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(a.cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(b.cast()))
    }
}

/// The bytes of each lane as words: the first two, and the others.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn words(a: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let first = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
        let second = _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
        let (first, second) = (_mm256_broadcastsi128_si256(first), _mm256_broadcastsi128_si256(second));
        [_mm256_shuffle_epi8(a, first), _mm256_shuffle_epi8(a, second)]
    }
}

/// The same of bytes with a sign.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn words_signed(a: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let [first, second] = words(a);
        let first = _mm256_slli_epi16::<8>(first);
        let second = _mm256_slli_epi16::<8>(second);
        [_mm256_srai_epi16::<8>(first), _mm256_srai_epi16::<8>(second)]
    }
}
