//! Many tokens and weights that are not quantised, by outer products: a lane is a row of weights, and an activation is spread.
//!
//! Weights are turned once for all tokens of a tile, so that nothing but whole vectors of them and single activations
//! is read where the multiplications are; row after row, the loads would keep these waiting. The bits are those
//! of `floats`: column c is added to part c % 32 of its span, one part after the other is in the registers, and parts
//! are added up in the same tree.

use super::floats::{PARTS, SPAN};
use super::lanes::MAX_LANES;
use super::{Input, WeightRows};
use crate::device::cpu::pool::Tile;
use crate::device::cpu::simd::lanes::{Element, Lanes};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows whose sums are stored together.
pub const ROWS: usize = 64;
/// As many times more rows are turned for all tokens: half of the second-level cache.
const PANELS: usize = 2;
/// Tokens that share what is read of the weights.
pub const TOKENS: usize = 6;
/// From so many tokens on it pays to turn the weights.
pub const MANY: usize = 24;
/// Elements from one token's activations to the next one's: neighbours in different lines of the cache.
const STRIDE: usize = SPAN + 16;
/// Elements between turned parts, which would fall upon each other in the cache.
const GAP: usize = 16;
/// The most elements of a turned row: 16 of them share the gaps.
const TURNED: usize = SPAN + PARTS * GAP / 16;
/// The elements that [`matmul`] wants for itself.
pub const ROOM: usize = PANELS * ROWS * TURNED + TOKENS * STRIDE;
/// Levels of the tree in which parts are added up.
const LEVELS: usize = PARTS.trailing_zeros() as usize;

/// Vectors that can turn a square of elements. What is a closure here would be compiled for any CPU.
pub trait Square: Lanes {
    /// Columns 0, 1, 2 and 3 of each four for four rows side by side.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn four(rows: [Self; 4]) -> [Self; 4];

    /// Column i of `N` rows' first `N` elements becomes the vector at to + places[i].
    ///
    /// # Safety
    /// As for [`Lanes`], for each row and each place.
    unsafe fn turn<E: Element>(row: *const E, stride: usize, to: *mut f32, places: &[usize]);
}

/// Four rows' elements.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn load_four<L: Lanes, E: Element>(row: *const E, stride: usize) -> [L; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            E::load(row),
            E::load(row.wrapping_byte_add(stride)),
            E::load(row.wrapping_byte_add(2 * stride)),
            E::load(row.wrapping_byte_add(3 * stride)),
        ]
    }
}

impl Square for __m512 {
    #[inline(always)]
    unsafe fn four([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            [
                _mm512_shuffle_ps::<0x44>(ab, cd),
                _mm512_shuffle_ps::<0xee>(ab, cd),
                _mm512_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm512_shuffle_ps::<0xee>(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    unsafe fn turn<E: Element>(row: *const E, stride: usize, to: *mut f32, places: &[usize]) {
        // SAFETY: the caller's promise.
        unsafe {
            let a = Self::four(load_four(row, stride));
            let b = Self::four(load_four(row.wrapping_byte_add(4 * stride), stride));
            let c = Self::four(load_four(row.wrapping_byte_add(8 * stride), stride));
            let d = Self::four(load_four(row.wrapping_byte_add(12 * stride), stride));
            for j in 0..4 {
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x44>(a[j], b[j]), _mm512_shuffle_f32x4::<0x44>(c[j], d[j]));
                let (ab_high, cd_high) =
                    (_mm512_shuffle_f32x4::<0xee>(a[j], b[j]), _mm512_shuffle_f32x4::<0xee>(c[j], d[j]));
                _mm512_shuffle_f32x4::<0x88>(ab, cd).store(to.wrapping_add(places[j]));
                _mm512_shuffle_f32x4::<0xdd>(ab, cd).store(to.wrapping_add(places[j + 4]));
                _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high).store(to.wrapping_add(places[j + 8]));
                _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high).store(to.wrapping_add(places[j + 12]));
            }
        }
    }
}

impl Square for __m256 {
    #[inline(always)]
    unsafe fn four([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xee>(ab, cd),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    unsafe fn turn<E: Element>(row: *const E, stride: usize, to: *mut f32, places: &[usize]) {
        // SAFETY: the caller's promise.
        unsafe {
            let a = Self::four(load_four(row, stride));
            let b = Self::four(load_four(row.wrapping_byte_add(4 * stride), stride));
            for j in 0..4 {
                _mm256_permute2f128_ps::<0x20>(a[j], b[j]).store(to.wrapping_add(places[j]));
                _mm256_permute2f128_ps::<0x31>(a[j], b[j]).store(to.wrapping_add(places[j + 4]));
            }
        }
    }
}

/// Fills the columns `rows` of the tile, which are a multiple of [`ROWS`]. The registers hold the sums of `R` vectors of rows by
/// [`TOKENS`] tokens. `room` has [`ROOM`] elements.
///
/// # Safety
/// The CPU has L; the weights and the input are as large as the tile asks for.
#[inline(always)]
pub unsafe fn matmul<L: Square, E: Element, const R: usize>(
    (weights, input): (WeightRows<'_>, Input<'_>),
    rows: Range<usize>,
    out: &mut Tile<'_>,
    room: &mut [f32],
) {
    // SAFETY: the caller's promise.
    let zero = unsafe { L::splat(0.0) };
    let mut sums = Sums::<L, R> { tree: [[[zero; R]; TOKENS]; LEVELS], all: [[0.0; ROWS]; TOKENS] };
    for first in rows.clone().step_by(PANELS * ROWS) {
        let rows = first..rows.end.min(first + PANELS * ROWS);
        for col in (0..weights.cols).step_by(SPAN) {
            let span = Span { rows: rows.clone(), columns: col..weights.cols.min(col + SPAN) };
            // SAFETY: the caller's promise.
            unsafe { sums.span::<E>((weights, input), span, out, room) };
        }
    }
}

/// Some rows' weights of some columns.
struct Span {
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Which part is the i-th, and the other way round: those that are added up first stand side by side.
const PLACE: [usize; PARTS] = {
    let mut places = [0; PARTS];
    let mut i = 0;
    while i < PARTS {
        places[i] = i.reverse_bits() >> (usize::BITS as usize - LEVELS);
        i += 1;
    }
    places
};

/// `R` vectors of rows from `first` on as vectors of columns, part after part, with zeros behind the last.
///
/// # Safety
/// The CPU has L, and there are so many rows.
#[inline(always)]
unsafe fn turn_rows<L: Square, E: Element, const R: usize>(
    weights: WeightRows<'_>,
    first: usize,
    columns: Range<usize>,
    to: &mut [f32],
) {
    let steps = columns.len().div_ceil(PARTS);
    let whole = columns.len() / PARTS;
    let run = steps * R * L::N + GAP;
    let to = to[..run * PARTS].as_mut_ptr();
    let places = PLACE.map(|i| i * run);
    for v in 0..R {
        let row = weights.row(first + v * L::N).as_ptr().cast::<E>().wrapping_add(columns.start);
        let stride = weights.row_bytes;
        for step in 0..whole {
            let at = row.wrapping_add(step * PARTS);
            for r in L::N..2 * L::N {
                // SAFETY: this reads nothing, wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.wrapping_byte_add(r * stride).cast()) };
            }
            // SAFETY: the caller vouches for the rows, and the slice has all places.
            unsafe { turn_parts::<L, E>(at, stride, to.wrapping_add((step * R + v) * L::N), &places) };
        }
        if whole < steps {
            let mut copies = [[0u32; PARTS]; MAX_LANES];
            for (r, copy) in copies.iter_mut().enumerate().take(L::N) {
                let from = row.wrapping_add(whole * PARTS).wrapping_byte_add(r * stride).cast::<u8>();
                let bytes = (columns.len() - whole * PARTS) * size_of::<E>();
                // SAFETY: fewer than `PARTS` elements of at most four bytes.
                unsafe { from.copy_to_nonoverlapping(copy.as_mut_ptr().cast(), bytes) };
            }
            let (at, to) = (copies.as_ptr().cast(), to.wrapping_add((whole * R + v) * L::N));
            // SAFETY: as above, of the copies.
            unsafe { turn_parts::<L, E>(at, size_of_val(&copies[0]), to, &places) };
        }
    }
}

/// One column for each part.
///
/// # Safety
/// As for [`Lanes`], for each row and each place.
#[inline(always)]
unsafe fn turn_parts<L: Square, E: Element>(row: *const E, stride: usize, to: *mut f32, places: &[usize; PARTS]) {
    for c in (0..PARTS).step_by(L::N) {
        // SAFETY: the caller's promise.
        unsafe { L::turn::<E>(row.wrapping_add(c), stride, to, &places[c..c + L::N]) };
    }
}

/// Sums of [`TOKENS`] tokens.
struct Sums<L, const R: usize> {
    /// Of parts that wait for their neighbours, on each level of the tree.
    tree: [[[L; R]; TOKENS]; LEVELS],
    all: [[f32; ROWS]; TOKENS],
}

impl<L: Square, const R: usize> Sums<L, R> {
    /// Sets the tile's elements if these are the first columns, otherwise adds to them.
    ///
    /// # Safety
    /// As for [`matmul`].
    #[inline(always)]
    unsafe fn span<E: Element>(
        &mut self,
        (weights, input): (WeightRows<'_>, Input<'_>),
        Span { rows, columns }: Span,
        out: &mut Tile<'_>,
        room: &mut [f32],
    ) {
        let (turned, x) = room[..ROOM].split_at_mut(PANELS * ROWS * TURNED);
        let steps = columns.len().div_ceil(PARTS);
        for r in (0..rows.len()).step_by(R * L::N) {
            // SAFETY: the rows are there, and the caller vouches for the instruction set.
            unsafe { turn_rows::<L, E, R>(weights, rows.start + r, columns.clone(), &mut turned[r * TURNED..]) };
        }
        let tokens = out.rows().len();
        for t in (0..tokens).step_by(TOKENS) {
            let count = TOKENS.min(tokens - t);
            for (i, x) in x.chunks_exact_mut(STRIDE).enumerate().take(count) {
                let (x, rest) = x.split_at_mut(columns.len());
                x.copy_from_slice(&input.float_row(t + i)[columns.clone()]);
                rest[..steps * PARTS - columns.len()].fill(0.0);
            }
            for panel in (0..rows.len()).step_by(ROWS) {
                for r in (0..ROWS).step_by(R * L::N) {
                    let turned = turned[(panel + r) * TURNED..].as_ptr();
                    // SAFETY: as above; of the rows that were turned, and of the tokens, there is all of a span.
                    unsafe { self.add_up(turned, x.as_ptr(), (steps, r)) };
                }
                let place = rows.start + panel..rows.start + panel + ROWS;
                for (i, sums) in self.all.iter().enumerate().take(count) {
                    let out = &mut out.row(t + i)[place.clone()];
                    match columns.start {
                        0 => out.copy_from_slice(sums),
                        _ => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
                    }
                }
            }
        }
    }

    /// The products of the turned rows with the tokens, for the rows from r on.
    ///
    /// # Safety
    /// The CPU has L; there are so many steps of `PARTS` columns.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "iterators over these arrays make slower code")]
    unsafe fn add_up(&mut self, turned: *const f32, x: *const f32, (steps, r): (usize, usize)) {
        for i in 0..PARTS {
            // SAFETY: the caller's promise; a sum ends inside `all`.
            unsafe {
                let turned = turned.add(i * (steps * R * L::N + GAP));
                let mut sums = products::<L, R>(turned, x.add(PLACE[i]), steps);
                let level = i.trailing_ones() as usize;
                for waiting in &self.tree[..level.min(LEVELS)] {
                    for t in 0..TOKENS {
                        for v in 0..R {
                            sums[t][v] = waiting[t][v].add(sums[t][v]);
                        }
                    }
                }
                if level < LEVELS {
                    self.tree[level] = sums;
                    continue;
                }
                for t in 0..TOKENS {
                    for v in 0..R {
                        sums[t][v].store(self.all[t].as_mut_ptr().add(r + v * L::N));
                    }
                }
            }
        }
    }
}

/// One part of the sums.
///
/// # Safety
/// As for [`Sums::add_up`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "iterators over these arrays make slower code")]
unsafe fn products<L: Lanes, const R: usize>(turned: *const f32, x: *const f32, steps: usize) -> [[L; R]; TOKENS] {
    // SAFETY: the caller vouches for all.
    unsafe {
        let mut sums = [[L::splat(0.0); R]; TOKENS];
        for step in 0..steps {
            let mut w = [L::splat(0.0); R];
            for v in 0..R {
                w[v] = L::load(turned.add((step * R + v) * L::N));
            }
            for t in 0..TOKENS {
                let x = L::splat(*x.add(t * STRIDE + step * PARTS));
                for v in 0..R {
                    sums[t][v] = w[v].fma(x, sums[t][v]);
                }
            }
        }
        sums
    }
}
