//! Where unpacked weights wait for the tokens: 256 columns of as many rows as a vector has lanes.
//!
//! In the first-level cache, and never read where it was not written. Vector i of the codes holds columns 4i to 4i + 3 of
//! each row, as the integer product wants them; of floats, vector i is column i.

use super::lanes::{Lanes, MAX_LANES};
use std::mem::MaybeUninit;

/// Columns of a panel of integers.
pub const COLS: usize = 256;
/// Columns of a panel of floats.
pub const FLOAT_COLS: usize = COLS / size_of::<f32>();
/// Scales of a row: one for each half of a group of 32.
const SCALES: usize = COLS / 16;

/// The weights of some rows, uninitialised at first.
#[repr(C, align(64))]
pub struct Panel {
    codes: [MaybeUninit<u8>; COLS * MAX_LANES],
    scales: [MaybeUninit<f32>; SCALES * MAX_LANES],
    mins: [MaybeUninit<f32>; SCALES * MAX_LANES],
}

impl Panel {
    pub const fn new() -> Self {
        Self {
            codes: [MaybeUninit::uninit(); COLS * MAX_LANES],
            scales: [MaybeUninit::uninit(); SCALES * MAX_LANES],
            mins: [MaybeUninit::uninit(); SCALES * MAX_LANES],
        }
    }

    /// # Safety
    /// As for all functions of [`Lanes`]; and `i` is below `COLS` / 4.
    #[inline(always)]
    pub unsafe fn set_codes<V: Lanes>(&mut self, i: usize, codes: V::Int) {
        debug_assert!(i < COLS / 4);
        // SAFETY: vector i of 4 * LANES bytes is inside.
        unsafe { V::store(self.codes.as_mut_ptr().cast::<u8>().add(i * 4 * V::LANES), codes) }
    }

    /// # Safety
    /// As for [`Lanes`]; `i` is below 16.
    #[inline(always)]
    pub unsafe fn set_scale<V: Lanes>(&mut self, i: usize, scale: V::Float) {
        debug_assert!(i < SCALES);
        // SAFETY: vector i of LANES floats is inside.
        unsafe { V::store_float(self.scales.as_mut_ptr().cast::<f32>().add(i * V::LANES), scale) }
    }

    /// # Safety
    /// As for [`Lanes`]; `i` is below 16.
    #[inline(always)]
    pub unsafe fn set_min<V: Lanes>(&mut self, i: usize, min: V::Float) {
        debug_assert!(i < SCALES);
        // SAFETY: vector i of LANES floats is inside.
        unsafe { V::store_float(self.mins.as_mut_ptr().cast::<f32>().add(i * V::LANES), min) }
    }

    /// # Safety
    /// As for [`Lanes`]; `i` is below `FLOAT_COLS`.
    #[inline(always)]
    pub unsafe fn set_floats<V: Lanes>(&mut self, i: usize, weights: V::Float) {
        debug_assert!(i < FLOAT_COLS);
        // SAFETY: vector i of LANES floats is inside, and aligned.
        unsafe { V::store_float(self.codes.as_mut_ptr().cast::<f32>().add(i * V::LANES), weights) }
    }

    /// # Safety
    /// As for [`Lanes`]; vectors i to i + 3 were set.
    #[inline(always)]
    pub unsafe fn codes<V: Lanes>(&self, i: usize) -> [V::Int; 4] {
        // SAFETY: the caller set these vectors, so they are inside.
        unsafe {
            let first = self.codes.as_ptr().cast::<u8>().add(i * 4 * V::LANES);
            let step = 4 * V::LANES;
            [V::load(first), V::load(first.add(step)), V::load(first.add(2 * step)), V::load(first.add(3 * step))]
        }
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

    /// # Safety
    /// As for [`Lanes`]; the vector was set.
    #[inline(always)]
    pub unsafe fn floats<V: Lanes>(&self, i: usize) -> V::Float {
        // SAFETY: the caller set this vector, so it is inside.
        unsafe { V::load_float(self.codes.as_ptr().cast::<f32>().add(i * V::LANES)) }
    }
}
