//! Weights that are not quantised: rows are multiplied as they lie, 16 columns at a time.
//!
//! A sum has 16 parts, column c in part c % 16, which are added up after each `SPAN` columns: few tokens and rows then
//! fit into the first-level cache, and errors stay small. Nothing else decides about the bits. With more parts the registers
//! would hold the sums of fewer rows and tokens, and loads would keep the multiplications waiting.

use super::{Input, WeightRows};
use crate::device::cpu::pool::Tile;
use crate::device::cpu::simd::lanes::{Element, Lanes};
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::ops::Range;

/// Parts of a sum.
const PARTS: usize = 16;
/// Columns whose products are added up together.
const SPAN: usize = 1024;
/// How far ahead of the weights that are multiplied with one token the cache is asked for more.
const AHEAD: usize = 7 << 10;

/// Rows of weights and of activations whose products are wanted.
#[derive(Clone, Copy)]
struct Block<E> {
    rows: *const E,
    /// Bytes from one row to the next.
    stride: usize,
    x: *const f32,
    /// Elements from one token to the next.
    cols: usize,
}

/// Fills the tile. `ALL` vectors hold the parts of a sum; the registers hold `K` for each of `R` rows by `T` tokens. One token is
/// multiplied with row after row: a single stream of addresses is what the processor fetches best.
///
/// # Safety
/// The CPU has L; the weights and the input are as large as the tile asks for.
#[inline(always)]
pub unsafe fn matmul<L: Lanes, E: Element, const K: usize, const R: usize, const T: usize, const ALL: usize>(
    weights: WeightRows<'_>,
    input: Input<'_>,
    out: &mut Tile<'_>,
) {
    let (rows, tokens) = (out.cols().len(), out.rows().len());
    // Few tokens take the weights in the order of the memory, many take spans that stay in the cache.
    let most = match tokens {
        1 => 1,
        _ if tokens <= T => R,
        _ => rows,
    };
    for first in (0..rows).step_by(most.max(1)) {
        let rows = first..(first + most).min(rows);
        for col in (0..weights.cols).step_by(SPAN) {
            let mut t = 0;
            while t < tokens {
                let count = if tokens - t < T { 1 } else { T };
                // SAFETY: the caller's promise.
                unsafe {
                    match count {
                        1 => rows_by::<L, E, ALL, 1, 1>(weights, input, (rows.clone(), col, t), out),
                        _ => rows_by::<L, E, K, R, T>(weights, input, (rows.clone(), col, t), out),
                    }
                }
                t += count;
            }
        }
    }
}

/// The products of some rows, from a column on, with `T` tokens from token t on.
#[inline(always)]
unsafe fn rows_by<L: Lanes, E: Element, const K: usize, const R: usize, const T: usize>(
    weights: WeightRows<'_>,
    input: Input<'_>,
    (rows, col, t): (Range<usize>, usize, usize),
    out: &mut Tile<'_>,
) {
    let span = SPAN.min(weights.cols - col);
    let x = input.float[t * input.cols + col..].as_ptr();
    let mut r = rows.start;
    while r < rows.end {
        let count = if rows.end - r < R { 1 } else { R };
        let first = weights.row(r).as_ptr().cast::<E>().wrapping_add(col);
        let block = Block { rows: first, stride: weights.row_bytes, x, cols: input.cols };
        // SAFETY: the caller vouches for the rows, the tokens and the instruction set.
        unsafe {
            match count {
                1 => put(sums::<L, E, K, 1, T>(block, span), col, (r, t), out),
                _ => put(sums::<L, E, K, R, T>(block, span), col, (r, t), out),
            }
        }
        r += count;
    }
}

/// Sets the sums of the first columns, adds those of the others.
#[inline(always)]
fn put<const R: usize, const T: usize>(sums: [[f32; R]; T], col: usize, (r, t): (usize, usize), out: &mut Tile<'_>) {
    for (i, sums) in sums.iter().enumerate() {
        let out = &mut out.row(t + i)[r..r + R];
        match col {
            0 => out.copy_from_slice(sums),
            _ => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
        }
    }
}

/// # Safety
/// The CPU has L; the block has R rows and T tokens of so many columns.
#[inline(always)]
unsafe fn sums<L: Lanes, E: Element, const K: usize, const R: usize, const T: usize>(
    block: Block<E>,
    span: usize,
) -> [[f32; R]; T] {
    // SAFETY: the caller vouches for all.
    unsafe {
        // In one pass or in two: the vectors are folded as they would be in one.
        let mut all = pass::<L, E, K, R, T>(block, span, 0);
        if PARTS > K * L::N {
            const { assert!(PARTS <= 2 * K * L::N) };
            all = added(all, pass::<L, E, K, R, T>(block, span, 1));
        }
        let mut sums = [[0.0; R]; T];
        for r in 0..R {
            if T == 4 {
                let four = L::sums([all[0][r], all[1 % T][r], all[2 % T][r], all[3 % T][r]]);
                for (sums, sum) in sums.iter_mut().zip(four) {
                    sums[r] = sum;
                }
            } else {
                for t in 0..T {
                    sums[t][r] = all[t][r].sum();
                }
            }
        }
        sums
    }
}

/// # Safety
/// The CPU has L.
#[inline(always)]
unsafe fn added<L: Lanes, const R: usize, const T: usize>(mut a: [[L; R]; T], b: [[L; R]; T]) -> [[L; R]; T] {
    for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
        // SAFETY: the caller's promise.
        *a = unsafe { a.add(*b) };
    }
    a
}

/// The parts that `K` vectors hold, folded: of the vectors `pass`, `pass + passes`, ...
///
/// # Safety
/// As for [`sums`].
#[inline(always)]
unsafe fn pass<L: Lanes, E: Element, const K: usize, const R: usize, const T: usize>(
    block: Block<E>,
    span: usize,
    pass: usize,
) -> [[L; R]; T] {
    let row = |r: usize| block.rows.wrapping_byte_add(r * block.stride);
    let token = |t: usize| block.x.wrapping_add(t * block.cols);
    // SAFETY: the caller vouches for all; whole runs of parts are inside, the rest is copied.
    unsafe {
        let mut parts = [[[L::splat(0.0); K]; R]; T];
        let whole = span / PARTS * PARTS;
        for at in (0..whole).step_by(PARTS) {
            if T == 1 {
                let ahead = row(0).wrapping_add(at).wrapping_byte_add(AHEAD);
                for line in (0..PARTS * size_of::<E>()).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_byte_add(line).cast());
                }
            }
            let at = at + pass * L::N;
            let rows = std::array::from_fn(|r| row(r).wrapping_add(at));
            add::<L, E, K, R, T>(&mut parts, rows, std::array::from_fn(|t| token(t).wrapping_add(at)));
        }
        if whole < span {
            let (rows, tokens) = rest::<E, R, T>(block, whole..span);
            let rows = rows.each_ref().map(|r| r.as_ptr().cast::<E>().wrapping_add(pass * L::N));
            let tokens = tokens.each_ref().map(|t| t.as_ptr().wrapping_add(pass * L::N));
            add::<L, E, K, R, T>(&mut parts, rows, tokens);
        }
        let mut all = [[L::splat(0.0); R]; T];
        for t in 0..T {
            for r in 0..R {
                all[t][r] = fold::<L, K>(parts[t][r]);
            }
        }
        all
    }
}

/// Copies of the last columns, with zeros behind them: of the rows, bit for bit, and of the tokens.
///
/// # Safety
/// As for [`sums`].
#[inline(always)]
unsafe fn rest<E: Element, const R: usize, const T: usize>(
    block: Block<E>,
    columns: Range<usize>,
) -> ([[u32; PARTS]; R], [[f32; PARTS]; T]) {
    let (mut rows, mut tokens) = ([[0; PARTS]; R], [[0.0; PARTS]; T]);
    for (r, copy) in rows.iter_mut().enumerate() {
        let from = block.rows.wrapping_byte_add(r * block.stride).wrapping_add(columns.start);
        // SAFETY: fewer than `PARTS` elements of at most four bytes.
        unsafe {
            from.cast::<u8>().copy_to_nonoverlapping(copy.as_mut_ptr().cast(), columns.len() * size_of::<E>());
        }
    }
    for (t, copy) in tokens.iter_mut().enumerate() {
        let from = block.x.wrapping_add(t * block.cols + columns.start);
        // SAFETY: fewer than `PARTS` elements.
        unsafe { from.copy_to_nonoverlapping(copy.as_mut_ptr(), columns.len()) };
    }
    (rows, tokens)
}

/// Adds the vectors up, halves upon each other.
///
/// # Safety
/// The CPU has L.
#[inline(always)]
unsafe fn fold<L: Lanes, const K: usize>(mut parts: [L; K]) -> L {
    let mut count = K / 2;
    while count > 0 {
        let (first, second) = parts.split_at_mut(count);
        for (a, b) in first.iter_mut().zip(second) {
            // SAFETY: the caller's promise.
            *a = unsafe { a.add(*b) };
        }
        count /= 2;
    }
    parts[0]
}

/// Adds the products of a column for each part.
///
/// # Safety
/// As for [`sums`]; the pointers lead to so many elements.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "iterators over these arrays make slower code")]
unsafe fn add<L: Lanes, E: Element, const K: usize, const R: usize, const T: usize>(
    parts: &mut [[[L; K]; R]; T],
    rows: [*const E; R],
    tokens: [*const f32; T],
) {
    for k in 0..K {
        // SAFETY: the caller vouches for all.
        unsafe {
            let mut w = [L::splat(0.0); R];
            for r in 0..R {
                w[r] = E::load::<L>(rows[r].add(k * PARTS / K));
            }
            for t in 0..T {
                let x = L::load(tokens[t].add(k * PARTS / K));
                for r in 0..R {
                    parts[t][r][k] = w[r].fma(x, parts[t][r][k]);
                }
            }
        }
    }
}
