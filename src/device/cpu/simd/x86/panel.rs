//! Where unpacked weights wait for the tokens: 256 columns of as many rows as a vector has lanes.
//!
//! In the first-level cache, and never read where it was not written. Vector i of the codes holds columns 4i to 4i + 3 of
//! each row, as the integer product wants them; 2i and 2i + 1 where a code has 16 bits.

use super::lanes::{Lanes, MAX_LANES, Places, Rows};
use super::unpack::Sink;
use std::mem::MaybeUninit;

/// Columns of a panel.
pub const COLS: usize = 256;
/// Halves of groups of 32; there may be a scale for each.
pub const HALVES: usize = COLS / 16;

/// The weights of some rows, uninitialised at first.
#[repr(C, align(64))]
pub struct Panel {
    codes: [MaybeUninit<u8>; COLS * MAX_LANES],
    scales: [MaybeUninit<f32>; HALVES * MAX_LANES],
    mins: [MaybeUninit<f32>; HALVES * MAX_LANES],
}

impl Panel {
    pub const fn new() -> Self {
        Self {
            codes: [MaybeUninit::uninit(); COLS * MAX_LANES],
            scales: [MaybeUninit::uninit(); HALVES * MAX_LANES],
            mins: [MaybeUninit::uninit(); HALVES * MAX_LANES],
        }
    }

    /// # Safety
    /// As for [`Lanes`]; the vector was set.
    #[inline(always)]
    pub unsafe fn codes<V: Lanes>(&self, i: usize) -> V::Int {
        // SAFETY: the caller set this vector, so it is inside.
        unsafe { V::load(self.codes.as_ptr().cast::<u8>().add(i * 4 * V::LANES)) }
    }

    /// # Safety
    /// As for [`Lanes`]; the vector was set.
    #[inline(always)]
    pub unsafe fn scale<V: Lanes>(&self, i: usize) -> V::Float {
        // SAFETY: the caller set this vector, so it is inside.
        unsafe { V::load_float(self.scales.as_ptr().cast::<f32>().add(i * V::LANES)) }
    }

    /// # Safety
    /// As for [`Lanes`]; the vector was set.
    #[inline(always)]
    pub unsafe fn min<V: Lanes>(&self, i: usize) -> V::Float {
        // SAFETY: the caller set this vector, so it is inside.
        unsafe { V::load_float(self.mins.as_ptr().cast::<f32>().add(i * V::LANES)) }
    }
}

/// A sink that fills a panel with codes of `BITS` bits.
pub struct Fill<'a, const BITS: u32>(pub &'a mut Panel);

impl<V: Lanes, const BITS: u32> Sink<V> for Fill<'_, BITS> {
    const BITS: [[Places; 4]; 2] = [
        [Places::new(0, 4), Places::new(4, 4), Places::new(8, 4), Places::new(12, 4)],
        [Places::new(16, 4), Places::new(20, 4), Places::new(24, 4), Places::new(28, 4)],
    ];

    #[inline(always)]
    unsafe fn bytes(rows: Rows, at: usize) -> [V::Int; 4] {
        // SAFETY: the caller vouches for all.
        unsafe { V::quads(rows, at) }
    }

    #[inline(always)]
    unsafe fn group(&mut self, group: usize, [first, second]: [[V::Int; 4]; 2]) {
        // SAFETY: the caller vouches for all.
        unsafe {
            Sink::<V>::codes(self, 2 * group, first);
            Sink::<V>::codes(self, 2 * group + 1, second);
        }
    }

    #[inline(always)]
    unsafe fn codes(&mut self, half: usize, codes: [V::Int; 4]) {
        debug_assert!(half < HALVES);
        // SAFETY: half a group's codes of LANES rows are inside.
        unsafe { V::store_codes::<BITS>(self.0.codes.as_mut_ptr().cast::<u8>().add(16 * half * MAX_LANES), codes) };
    }

    #[inline(always)]
    unsafe fn scale(&mut self, i: usize, scale: V::Float) {
        debug_assert!(i < HALVES);
        // SAFETY: vector i of LANES floats is inside.
        unsafe { V::store_float(self.0.scales.as_mut_ptr().cast::<f32>().add(i * V::LANES), scale) }
    }

    #[inline(always)]
    unsafe fn min(&mut self, i: usize, min: V::Float) {
        debug_assert!(i < HALVES);
        // SAFETY: vector i of LANES floats is inside.
        unsafe { V::store_float(self.0.mins.as_mut_ptr().cast::<f32>().add(i * V::LANES), min) }
    }
}
