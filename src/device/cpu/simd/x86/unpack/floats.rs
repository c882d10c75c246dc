//! Types that are not quantised.

use super::Unpack;
use crate::device::cpu::simd::x86::lanes::{Lanes, MAX_LANES, Rows};
use crate::device::cpu::simd::x86::panel::{FLOAT_COLS, Panel};

pub struct F32;
pub struct F16;
pub struct BF16;

/// The last bytes of the rows, fewer than 16, with zeros behind them.
///
/// # Safety
/// The rows have `bytes` bytes at `at`.
unsafe fn tails(rows: &Rows, at: usize, bytes: usize) -> [[u8; 16]; MAX_LANES] {
    let mut tails = [[0u8; 16]; MAX_LANES];
    for (tail, row) in tails.iter_mut().zip(rows) {
        // SAFETY: the caller vouches for the row, and the tail holds 16.
        unsafe { std::ptr::copy_nonoverlapping(row.add(at), tail.as_mut_ptr(), bytes.min(16)) };
    }
    tails
}

/// Implements [`Unpack`] for a type of `$size` bytes: what becomes of a vector that begins with column `$col`.
macro_rules! floats {
    ($ty:ident, $size:literal, |$lanes:ident, $col:ident, $panel:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = FLOAT_COLS * $size;

            #[inline(always)]
            unsafe fn unpack<V: Lanes>(rows: &Rows, at: usize, units: usize, $panel: &mut Panel) {
                let per_vector = 4 / $size;
                let bytes = units * $size;
                // SAFETY: the caller vouches for the rows; a panel has room for whole vectors.
                unsafe {
                    for done in (0..bytes / 16).map(|i| 16 * i) {
                        for (i, $lanes) in V::quads(rows, at + done).into_iter().enumerate() {
                            let $col = done / $size + per_vector * i;
                            $body;
                        }
                    }
                    let done = bytes / 16 * 16;
                    if done < bytes {
                        let tails = tails(rows, at + done, bytes - done);
                        let rows = tails.each_ref().map(|tail| tail.as_ptr());
                        for (i, $lanes) in V::quads(&rows, 0).into_iter().enumerate() {
                            let $col = done / $size + per_vector * i;
                            $body;
                        }
                    }
                }
            }
        }
    };
}

floats!(F32, 4, |lanes, col, panel| panel.set_floats::<V>(col, V::as_float(lanes)));

floats!(F16, 2, |lanes, col, panel| {
    panel.set_floats::<V>(col, V::half_to_float(lanes));
    panel.set_floats::<V>(col + 1, V::half_to_float(V::shr(lanes, 16)));
});

floats!(BF16, 2, |lanes, col, panel| {
    panel.set_floats::<V>(col, V::as_float(V::shl(lanes, 16)));
    panel.set_floats::<V>(col + 1, V::as_float(V::and(lanes, V::splat(0xffff_0000u32 as i32))));
});
