//! The product with a single token: codes are multiplied while they are in registers, without a panel.
//!
//! Memory then is the limit, or nearly. The sums get the same terms in the same order as in `multiply`, so the same bits.

use super::lanes::{Lanes, MAX_LANES, Places, Rows};
use super::multiply::{Aside, Columns, GROUPS, Tokens, weigh};
use super::panel::HALVES;
use super::unpack::{Sink, Unpack};
use std::mem::MaybeUninit;

/// A sink that multiplies with one token. What was not written is never read.
///
/// It takes pieces of 16 bytes as they lie, each row's four lanes side by side: the activations of a piece are then read once for all
/// rows, and what is turned is a sum, not all that it is made of.
struct Direct<V: Lanes, const BITS: u32, const MIN: bool> {
    token: Tokens,
    aside: Aside,
    /// The integer sums of each group, or half.
    steps: [MaybeUninit<V::Int>; HALVES],
    scales: [MaybeUninit<V::Float>; HALVES],
    mins: [MaybeUninit<V::Float>; HALVES],
}

impl<V: Lanes, const BITS: u32, const MIN: bool> Direct<V, BITS, MIN> {
    /// Takes `N` halves from half `first` on, as step `i`.
    ///
    /// # Safety
    /// As for [`Sink::codes`].
    #[inline(always)]
    unsafe fn take<const N: usize>(&mut self, i: usize, first: usize, codes: [[V::Int; 4]; N]) {
        // SAFETY: the token has these columns; the index is one of a panel.
        unsafe {
            let (mut coarse, mut fine) = ([V::splat(0); N], [V::splat(0); N]);
            for half in 0..N {
                coarse[half] = V::spread_piece(self.token.coarse.add(16 * (first + half)));
                fine[half] = V::spread_piece(self.token.fine.add(16 * (first + half)));
            }
            let mut sums = [V::splat(0); 4];
            for (v, sum) in sums.iter_mut().enumerate() {
                let mut w = [V::splat(0); N];
                for half in 0..N {
                    w[half] = codes[half][v];
                }
                *sum = V::dot_both::<BITS, N>(w, coarse, fine);
            }
            let step = V::fold(sums);
            let start = *self.aside.starts.get_unchecked(i);
            let step = if MIN { step } else { V::add_int(step, V::splat(start)) };
            self.steps.get_unchecked_mut(i).write(step);
        }
    }
}

impl<V: Lanes, const BITS: u32, const MIN: bool> Sink<V> for Direct<V, BITS, MIN> {
    const BITS: [[Places; 4]; 2] = [
        [Places::new(0, 16), Places::new(32, 16), Places::new(64, 16), Places::new(96, 16)],
        [Places::new(16, 16), Places::new(48, 16), Places::new(80, 16), Places::new(112, 16)],
    ];

    #[inline(always)]
    unsafe fn bytes(rows: Rows, at: usize) -> [V::Int; 4] {
        // SAFETY: the caller vouches for all.
        unsafe { V::pieces(rows, at) }
    }

    #[inline(always)]
    unsafe fn codes(&mut self, half: usize, codes: [V::Int; 4]) {
        // SAFETY: the caller vouches for all.
        unsafe { self.take(half, half, [codes]) }
    }

    #[inline(always)]
    unsafe fn group(&mut self, group: usize, codes: [[V::Int; 4]; 2]) {
        // SAFETY: the caller vouches for all.
        unsafe { self.take(group, 2 * group, codes) }
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
    let mut sink = Direct::<V, BITS, MIN> {
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
    sink: &Direct<V, BITS, MIN>,
    g: usize,
    total: V::Float,
) -> V::Float {
    let (i, j) = if HALF { (2 * g, 2 * g + 1) } else { (g, g) };
    // SAFETY: the caller vouches for all; what a type has no minima for is not read.
    unsafe {
        let steps = [sink.steps.get_unchecked(i).assume_init(), sink.steps.get_unchecked(j).assume_init()];
        let scales = [sink.scales.get_unchecked(i).assume_init(), sink.scales.get_unchecked(j).assume_init()];
        let mins = match MIN {
            true => [sink.mins.get_unchecked(i).assume_init(), sink.mins.get_unchecked(j).assume_init()],
            false => scales,
        };
        let token = (V::splat_float(*sink.token.scales.add(g)), [sink.aside.mins[i], sink.aside.mins[j]]);
        weigh::<V, HALF, MIN>(total, steps, (scales, mins), token)
    }
}
