//! From the blocks of a file to panels, one type at a time.
//!
//! Codes become bytes without a sign (the multiplier takes what was added off again), scales and minima floats: the sign of a
//! minimum is such that it is added.

mod blocks;
mod floats;
mod supers;

pub use blocks::{IQ4NL, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use floats::{BF16, F16, F32};
pub use supers::{IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K};

use super::lanes::{Lanes, Rows};
use super::panel::Panel;

/// How a tensor type is read.
pub trait Unpack {
    /// Bytes of the columns that fill a panel.
    const BYTES: usize;

    /// Fills `panel` with columns of `rows` from byte `at` on: `units` groups of 32, or as many columns of floats.
    ///
    /// # Safety
    /// As for [`Lanes`]; the rows have these columns, floats up to a multiple of 16 bytes, and a panel has room for them.
    unsafe fn unpack<V: Lanes>(rows: Rows, at: usize, units: usize, panel: &mut Panel);
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
