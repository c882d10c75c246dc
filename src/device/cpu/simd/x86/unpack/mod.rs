//! From the blocks of a file to lanes, one type at a time.
//!
//! Codes become bytes without a sign (the multiplier takes what was added off again), scales and minima floats: the sign of a
//! minimum is such that it is added. What becomes of them is the business of a [`Sink`]: a panel keeps them for many tokens,
//! one token multiplies with them while they are in registers.

mod blocks;
mod supers;

pub use blocks::{IQ4NL, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use supers::{IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K};

use super::lanes::{Lanes, Places, Rows};

/// How a tensor type is read.
pub trait Unpack {
    /// Bytes of the columns that fill a panel.
    const BYTES: usize;

    /// Hands the columns of `rows` from byte `at` on to the sink: `units` groups of 32, at most 8.
    ///
    /// # Safety
    /// As for [`Lanes`]; the rows have these columns.
    unsafe fn unpack<V: Lanes, S: Sink<V>>(rows: Rows, at: usize, units: usize, sink: &mut S);
}

/// What takes unpacked weights: of at most 256 columns, each once.
pub trait Sink<V: Lanes> {
    /// 16 bytes of each row, in the order in which the sink takes codes.
    ///
    /// # Safety
    /// As for [`Lanes::pieces`].
    unsafe fn bytes(rows: Rows, at: usize) -> [V::Int; 4];

    /// Where vector `i` of half a group in that order finds the bits of its codes, if each row's lane has them in the order of
    /// the columns: `BITS[half][i]`.
    const BITS: [[Places; 4]; 2];

    /// The codes of columns 16 * `half` and following, of a type with a scale for each half.
    ///
    /// # Safety
    /// As for [`Lanes`]; `half` is below 16.
    unsafe fn codes(&mut self, half: usize, codes: [V::Int; 4]);

    /// The codes of a group of 32, of a type with a scale for each.
    ///
    /// # Safety
    /// As for [`Lanes`]; `group` is below 8.
    unsafe fn group(&mut self, group: usize, codes: [[V::Int; 4]; 2]);

    /// Scale `i`: of a group of 32, or of a half in a type that has a scale for each.
    ///
    /// # Safety
    /// As for [`Lanes`]; `i` is below 16.
    unsafe fn scale(&mut self, i: usize, scale: V::Float);

    /// The minimum beside scale `i`.
    ///
    /// # Safety
    /// As for [`Lanes`]; `i` is below 16.
    unsafe fn min(&mut self, i: usize, min: V::Float);
}

/// The low 4 bits of each byte.
///
/// # Safety
/// As for [`Lanes`], and so below.
#[inline(always)]
unsafe fn low<V: Lanes>(a: V::Int) -> V::Int {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { V::and(a, V::splat(0x0f0f_0f0f)) }
}

/// The high 4 bits of each byte.
#[inline(always)]
unsafe fn high<V: Lanes>(a: V::Int) -> V::Int {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { low::<V>(V::shr(a, 4)) }
}

/// Bits `at` and following of each lane, as many as `mask` has.
#[inline(always)]
unsafe fn bits<V: Lanes>(a: V::Int, at: usize, mask: i32) -> V::Int {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { V::and(V::shr(a, at), V::splat(mask)) }
}

/// The low 4 bits of each byte of four vectors, and the high ones.
#[inline(always)]
unsafe fn nibbles<V: Lanes>([a, b, c, d]: [V::Int; 4]) -> [[V::Int; 4]; 2] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        [[low::<V>(a), low::<V>(b), low::<V>(c), low::<V>(d)], [high::<V>(a), high::<V>(b), high::<V>(c), high::<V>(d)]]
    }
}

/// [`bits`] of four vectors.
#[inline(always)]
unsafe fn bits_of<V: Lanes>([a, b, c, d]: [V::Int; 4], at: usize, mask: i32) -> [V::Int; 4] {
    // SAFETY: the caller vouches for the instruction set.
    unsafe { [bits::<V>(a, at, mask), bits::<V>(b, at, mask), bits::<V>(c, at, mask), bits::<V>(d, at, mask)] }
}

/// `a` with bits from `b`, which are moved up by `by`.
#[inline(always)]
unsafe fn with<V: Lanes>(a: [V::Int; 4], b: [V::Int; 4], by: usize) -> [V::Int; 4] {
    let mut out = a;
    for i in 0..4 {
        // SAFETY: the caller vouches for the instruction set.
        out[i] = unsafe { V::or(a[i], V::shl(b[i], by)) };
    }
    out
}
