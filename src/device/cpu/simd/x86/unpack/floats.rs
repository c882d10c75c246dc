//! Types that are not quantised.

use super::Unpack;
use crate::device::cpu::simd::x86::lanes::{Lanes, Rows};
use crate::device::cpu::simd::x86::panel::{FLOAT_COLS, Panel};

pub struct F32;
pub struct F16;
pub struct BF16;

/// Implements [`Unpack`] for a type of `$size` bytes: what becomes of a vector that begins with column `$col`.
macro_rules! floats {
    ($ty:ident, $size:literal, |$lanes:ident, $col:ident, $panel:ident| $body:expr) => {
        impl Unpack for $ty {
            const BYTES: usize = FLOAT_COLS * $size;

            #[inline(always)]
            unsafe fn unpack<V: Lanes>(rows: Rows, at: usize, units: usize, $panel: &mut Panel) {
                for done in 0..(units * $size).div_ceil(16) {
                    // SAFETY: the caller vouches for the rows; a panel has room for whole vectors.
                    unsafe {
                        for (i, $lanes) in V::quads(rows, at + 16 * done).into_iter().enumerate() {
                            let $col = (16 * done + 4 * i) / $size;
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
