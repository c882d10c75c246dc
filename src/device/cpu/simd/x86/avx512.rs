//! AVX-512 with VNNI: sixteen lanes.

use super::lanes::{Lanes, Places, Rows};
use crate::device::cpu::simd::quantise::FINE_BITS;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx512;

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

impl Lanes for Avx512 {
    type Int = __m512i;
    type Float = __m512;

    const LANES: usize = 16;
    const TOKENS: usize = 4;
    const SIGNED_OFFSET: i32 = 128;
    const MANY_HALVES: bool = true;
    const WIDE: bool = false;

    ops! {
        pieces(rows: Rows, at: usize) -> [__m512i; 4] = {
            rows.fetch(16, 4, at);
            let (low, high) = (rows.eight(at), rows.eight(at + 8 * rows.stride));
            [
                four(low[0], low[4], high[0], high[4]),
                four(low[1], low[5], high[1], high[5]),
                four(low[2], low[6], high[2], high[6]),
                four(low[3], low[7], high[3], high[7]),
            ]
        };
        turn(pieces: [__m512i; 4]) -> [__m512i; 4] = {
            let [a, b, c, d] = pieces;
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        };
        fold(sums: [__m512i; 4]) -> __m512i = {
            let [a, b, c, d] = sums;
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
        };
        add_fifths(codes: __m512i, bits: __m512i, places: &Places) -> __m512i = {
            let bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(places.bytes.as_ptr().cast()));
            let masks = _mm512_broadcast_i32x4(_mm_loadu_si128(places.masks.as_ptr().cast()));
            let set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, bytes), masks);
            _mm512_mask_add_epi8(codes, set, codes, _mm512_set1_epi8(16))
        };
        halves[const BYTES: usize](rows: Rows, at: usize) -> [__m512; 8] = {
            for i in 0..8 {
                rows.fetch(16, 1, at + i * BYTES);
            }
            let (low, high) = (rows.eight(at), rows.eight(at + 8 * rows.stride));
            let a = words::<BYTES>([low[0], low[4], high[0], high[4]]);
            let b = words::<BYTES>([low[1], low[5], high[1], high[5]]);
            let c = words::<BYTES>([low[2], low[6], high[2], high[6]]);
            let d = words::<BYTES>([low[3], low[7], high[3], high[7]]);
            let (ab, cd) = (_mm512_unpacklo_epi16(a, b), _mm512_unpacklo_epi16(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi16(a, b), _mm512_unpackhi_epi16(c, d));
            let [a, b] = two_halves(_mm512_unpacklo_epi32(ab, cd));
            let [c, d] = two_halves(_mm512_unpackhi_epi32(ab, cd));
            let [e, f] = two_halves(_mm512_unpacklo_epi32(ab_high, cd_high));
            let [g, h] = two_halves(_mm512_unpackhi_epi32(ab_high, cd_high));
            [a, b, c, d, e, f, g, h]
        };
        dwords(rows: Rows, at: usize) -> __m512i = {
            rows.fetch(16, 1, at);
            let (low, high) = (rows.eight(at), rows.eight(at + 8 * rows.stride));
            let mut lanes = [0i32; 16];
            for i in 0..8 {
                lanes[i] = low[i].cast::<i32>().read_unaligned();
                lanes[8 + i] = high[i].cast::<i32>().read_unaligned();
            }
            _mm512_set_epi32(
                lanes[15], lanes[14], lanes[13], lanes[12], lanes[11], lanes[10], lanes[9], lanes[8],
                lanes[7], lanes[6], lanes[5], lanes[4], lanes[3], lanes[2], lanes[1], lanes[0],
            )
        };
        splat(value: i32) -> __m512i = _mm512_set1_epi32(value);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        shl(a: __m512i, bits: usize) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits as i32));
        shr(a: __m512i, bits: usize) -> __m512i = _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits as i32));
        shr_signed(a: __m512i, bits: usize) -> __m512i = _mm512_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
        add_int(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        lookup(table: &[i8; 16], index: __m512i) -> __m512i =
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index);
        signed(a: __m512i) -> __m512i = _mm512_xor_si512(a, _mm512_set1_epi8(-128));
        to_float(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        as_float(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        half_to_float(a: __m512i) -> __m512 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
        spread(at: *const i8) -> __m512i = _mm512_set1_epi32(at.cast::<i32>().read_unaligned());
        spread_piece(at: *const i8) -> __m512i = _mm512_broadcast_i32x4(_mm_loadu_si128(at.cast()));
        dot_both[const BITS: u32, const N: usize](w: [__m512i; N], coarse: [__m512i; N], fine: [__m512i; N]) -> __m512i = {
            let mut sum = _mm512_setzero_si512();
            for i in 0..N {
                sum = _mm512_dpbusd_epi32(sum, w[i], coarse[i]);
            }
            sum = _mm512_slli_epi32::<{ FINE_BITS as u32 }>(sum);
            for i in 0..N {
                sum = _mm512_dpbusd_epi32(sum, w[i], fine[i]);
            }
            sum
        };
        store_codes[const BITS: u32](to: *mut u8, codes: [__m512i; 4]) -> () = {
            for (i, codes) in codes.into_iter().enumerate() {
                _mm512_storeu_si512(to.add(64 * i).cast(), codes);
            }
        };
        dot(sum: __m512i, w: __m512i, x: __m512i) -> __m512i = _mm512_dpbusd_epi32(sum, w, x);
        splat_float(value: f32) -> __m512 = _mm512_set1_ps(value);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        load(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
        load_float(at: *const f32) -> __m512 = _mm512_loadu_ps(at);
        store_float(at: *mut f32, value: __m512) -> () = _mm512_storeu_ps(at, value);
    }
}

/// 16 bytes of each of four rows.
///
/// # Safety
/// As for [`Lanes::pieces`].
#[inline(always)]
unsafe fn four(a: *const u8, b: *const u8, c: *const u8, d: *const u8) -> __m512i {
    // SAFETY: the caller vouches for the instruction set and for the rows.
    unsafe {
        let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(_mm_loadu_si128(a.cast())), _mm_loadu_si128(b.cast()));
        let abc = _mm512_inserti32x4::<2>(ab, _mm_loadu_si128(c.cast()));
        _mm512_inserti32x4::<3>(abc, _mm_loadu_si128(d.cast()))
    }
}

/// The first two bytes of each of eight blocks of `BYTES` in four rows.
///
/// A shuffle takes 128 bytes of one row; what it leaves alone of its indices are those of the other rows.
///
/// # Safety
/// As for [`Lanes::halves`].
#[inline(always)]
unsafe fn words<const BYTES: usize>(rows: [*const u8; 4]) -> __m512i {
    const { assert!(8 * BYTES >= 128 && 7 * BYTES + 2 <= 128) };
    // SAFETY: the caller vouches for the instruction set and for the rows.
    unsafe {
        let step = (BYTES / 2) as i16;
        let index = _mm_setr_epi16(0, step, 2 * step, 3 * step, 4 * step, 5 * step, 6 * step, 7 * step);
        let mut words = _mm512_broadcast_i32x4(index);
        for (i, row) in rows.into_iter().enumerate() {
            let (first, second) = (_mm512_loadu_si512(row.cast()), _mm512_loadu_si512(row.add(64).cast()));
            words = _mm512_mask2_permutex2var_epi16(first, words, 0xff << (8 * i), second);
        }
        words
    }
}

/// The even and the odd groups of four words as floats.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn two_halves(words: __m512i) -> [__m512; 2] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let sorted = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), words);
        let (even, odd) = (_mm512_castsi512_si256(sorted), _mm512_extracti64x4_epi64::<1>(sorted));
        [_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd)]
    }
}
