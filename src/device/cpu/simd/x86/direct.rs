//! The product with a single token: codes are multiplied while they are in registers, without a panel.
//!
//! Memory then is the limit, or nearly. The sums get the same terms in the same order as in `multiply`, so the same bits.

use super::lanes::{Lanes, MAX_LANES, Rows};
use super::multiply::{Aside, Columns, GROUPS, Tokens, weigh};
use super::panel::HALVES;
use super::unpack::{Sink, Unpack};
use crate::device::cpu::simd::quantise::FINE_BITS;
use std::mem::MaybeUninit;

/// A sink that multiplies with one token. What was not written is never read.
struct Direct<V: Lanes, const BITS: u32, const HALF: bool> {
    token: Tokens,
    aside: Aside,
    /// The integer sums of each group, or half: of the coarse plane, and of the fine one, which begins where `aside` says.
    steps: [MaybeUninit<[V::Int; 2]>; HALVES],
    scales: [MaybeUninit<V::Float>; HALVES],
    mins: [MaybeUninit<V::Float>; HALVES],
}

impl<V: Lanes, const BITS: u32, const HALF: bool> Sink<V> for Direct<V, BITS, HALF> {
    #[inline(always)]
    unsafe fn codes(&mut self, half: usize, codes: [V::Int; 4]) {
        let step = if HALF { half } else { half / 2 };
        // SAFETY: the token has these columns; the index is one of a panel, and the even half of a group came first.
        unsafe {
            let (coarse, fine) = (self.token.spread::<V, false>(half), self.token.spread::<V, true>(half));
            let sums = self.steps.get_unchecked_mut(step);
            let [a, b] = match HALF || half.is_multiple_of(2) {
                true => [V::splat(0), V::splat(*self.aside.starts.get_unchecked(step))],
                false => sums.assume_init(),
            };
            sums.write([V::dot::<BITS>(a, &codes, &coarse), V::dot::<BITS>(b, &codes, &fine)]);
        }
    }

    #[inline(always)]
    unsafe fn scale(&mut self, i: usize, scale: V::Float) {
        // SAFETY: the index is one of a panel.
        unsafe { self.scales.get_unchecked_mut(i).write(scale) };
    }

    #[inline(always)]
    unsafe fn min(&mut self, i: usize, min: V::Float) {
        // SAFETY: the index is one of a panel.
        unsafe { self.mins.get_unchecked_mut(i).write(min) };
    }
}

/// Adds the product of the columns, however many, with one token to the sums; at byte `at` of the rows are the columns.
///
/// # Safety
/// As for [`Unpack::unpack`]; the token has these columns.
#[inline(always)]
pub unsafe fn direct<V: Lanes, U: Unpack, const BITS: u32, const HALF: bool, const MIN: bool>(
    rows: Rows,
    at: usize,
    columns: Columns,
    token: Tokens,
    sums: &mut [f32; MAX_LANES],
) {
    let mut sink = Direct::<V, BITS, HALF> {
        token,
        aside: Aside::new(),
        steps: [MaybeUninit::uninit(); HALVES],
        scales: [MaybeUninit::uninit(); HALVES],
        mins: [MaybeUninit::uninit(); HALVES],
    };
    // SAFETY: the caller vouches for all.
    unsafe {
        let mut total = V::load_float(sums.as_ptr());
        for done in (0..columns.groups).step_by(GROUPS) {
            let groups = GROUPS.min(columns.groups - done);
            sink.token = token.skip(32 * (columns.first + done));
            sink.aside.fill::<HALF, MIN>(Columns { groups, ..columns }, sink.token);
            U::unpack(rows, at + done / GROUPS * U::BYTES, groups, &mut sink);
            for g in 0..groups {
                total = add_group::<V, BITS, HALF, MIN>(&sink, g, total);
            }
        }
        V::store_float(sums.as_mut_ptr(), total);
    }
}

/// # Safety
/// As for [`Lanes`]; the sink was given this group.
#[inline(always)]
unsafe fn add_group<V: Lanes, const BITS: u32, const HALF: bool, const MIN: bool>(
    sink: &Direct<V, BITS, HALF>,
    g: usize,
    total: V::Float,
) -> V::Float {
    let (i, j) = if HALF { (2 * g, 2 * g + 1) } else { (g, g) };
    // SAFETY: the caller vouches for all; what a type has no minima for is not read.
    unsafe {
        let mut steps = [V::splat(0); 2];
        for (step, i) in steps.iter_mut().zip([i, j]) {
            let [coarse, fine] = sink.steps.get_unchecked(i).assume_init();
            *step = V::add_int(V::shl(coarse, FINE_BITS), fine);
        }
        let scales = [sink.scales.get_unchecked(i).assume_init(), sink.scales.get_unchecked(j).assume_init()];
        let mins = match MIN {
            true => [sink.mins.get_unchecked(i).assume_init(), sink.mins.get_unchecked(j).assume_init()],
            false => scales,
        };
        let token = (V::splat_float(*sink.token.scales.add(g)), [sink.aside.mins[i], sink.aside.mins[j]]);
        weigh::<V, HALF, MIN>(total, steps, (scales, mins), token)
    }
}
