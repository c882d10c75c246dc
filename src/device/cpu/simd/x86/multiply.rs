//! From panels and tokens to sums: the products themselves.
//!
//! Each sum belongs to one row and one token, and is added to in the order of the columns, so nothing else shows in its bits.
//! The integer product of a group is exact, with both planes of the activations in it, one after the other or as one; it then
//! costs one rounding for its scale and one for the sum.

use super::lanes::{Lanes, MAX_LANES};
use super::panel::{HALVES, Panel};
use crate::device::cpu::simd::quantise::FINE_BITS;
use std::arch::asm;
use std::ops::Range;

/// Panels that share the tokens they are multiplied with.
pub const PANELS: usize = 2;
/// Groups of 32 in a panel.
pub const GROUPS: usize = 8;

/// Rows of activations, from the first one that is wanted: `Planes` as pointers.
#[derive(Clone, Copy)]
pub struct Tokens {
    pub scales: *const f32,
    pub sums: *const i32,
    pub coarse: *const i8,
    pub fine: *const i8,
    /// Followed where the instruction set is [`Lanes::WIDE`].
    pub both: *const i16,
    /// Elements of a row.
    pub cols: usize,
}

/// The sums of one token: of each panel, of each row. They are `1 << FINE_BITS` times too large.
pub type Sums = [[f32; MAX_LANES]; PANELS];

/// Which columns the panels hold, in groups of 32, and what is to be taken off each code.
#[derive(Clone, Copy)]
pub struct Columns {
    pub first: usize,
    pub groups: usize,
    pub offset: i32,
}

impl Tokens {
    /// # Safety
    /// There are more than `t` rows.
    #[inline(always)]
    unsafe fn from(self, t: usize) -> Self {
        // SAFETY: the caller says that there are so many rows.
        unsafe { self.skip(t * self.cols) }
    }

    /// # Safety
    /// There are so many elements, a multiple of 32.
    #[inline(always)]
    pub unsafe fn skip(self, elements: usize) -> Self {
        // SAFETY: the caller says that there are so many elements.
        unsafe {
            Self {
                scales: self.scales.add(elements / 32),
                sums: self.sums.add(elements / 16),
                coarse: self.coarse.add(elements),
                fine: self.fine.add(elements),
                both: self.both.wrapping_add(elements),
                cols: self.cols,
            }
        }
    }

    /// 16 activations of the first row in all lanes, four to a vector: of the fine plane or of the coarse one.
    ///
    /// # Safety
    /// As for [`Lanes`]; there are so many.
    #[inline(always)]
    unsafe fn spread<V: Lanes, const FINE: bool>(self, half: usize) -> [V::Int; 4] {
        // SAFETY: the caller vouches for all.
        unsafe {
            let x = if FINE { self.fine } else { self.coarse }.add(16 * half);
            [V::spread(x), V::spread(x.add(4)), V::spread(x.add(8)), V::spread(x.add(12))]
        }
    }
}

/// What one token brings to a panel, beside its integers: with a minimum, the sums of its activations; without, where the
/// integer sums begin, which takes the offset of the codes off.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Aside {
    pub mins: [f32; HALVES],
    pub starts: [i32; HALVES],
}

impl Aside {
    pub const fn new() -> Self {
        Self { mins: [0.0; HALVES], starts: [0; HALVES] }
    }

    /// # Safety
    /// The token has these columns, from its first on.
    #[inline(always)]
    pub unsafe fn fill<const HALF: bool, const MIN: bool>(&mut self, columns: Columns, token: Tokens) {
        match columns.groups {
            // SAFETY: the caller's promise; the number is told so that the compiler unrolls.
            GROUPS => unsafe { self.fill_groups::<HALF, MIN>(columns, token, GROUPS) },
            // SAFETY: the caller's promise.
            fewer => unsafe { self.fill_groups::<HALF, MIN>(columns, token, fewer) },
        }
    }

    #[inline(always)]
    unsafe fn fill_groups<const HALF: bool, const MIN: bool>(
        &mut self,
        columns: Columns,
        token: Tokens,
        groups: usize,
    ) {
        for g in 0..groups.min(GROUPS) {
            // SAFETY: these groups are among the columns.
            let (scale, a, b) = unsafe { (*token.scales.add(g), *token.sums.add(2 * g), *token.sums.add(2 * g + 1)) };
            match (HALF, MIN) {
                (true, true) => [self.mins[2 * g], self.mins[2 * g + 1]] = [scale * a as f32, scale * b as f32],
                (false, true) => self.mins[g] = scale * (a + b) as f32,
                (true, false) => {
                    [self.starts[2 * g], self.starts[2 * g + 1]] = [-columns.offset * a, -columns.offset * b];
                }
                (false, false) => self.starts[g] = -columns.offset * (a + b),
            }
        }
    }
}

/// Adds a group's integer sums, weighed, to a total. `weights` gives scale and minimum `i` of the rows.
///
/// # Safety
/// As for [`Lanes`]; there are these scales.
#[inline(always)]
pub unsafe fn weigh<V: Lanes, const HALF: bool, const MIN: bool>(
    total: V::Float,
    steps: [V::Int; 2],
    (scales, mins): ([V::Float; 2], [V::Float; 2]),
    (scale, min): (V::Float, [f32; 2]),
) -> V::Float {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let first = V::to_float(steps[0]);
        let mut total = if HALF {
            let both = V::mul_add(V::to_float(steps[1]), scales[1], V::mul(first, scales[0]));
            V::mul_add(both, scale, total)
        } else {
            V::mul_add(first, V::mul(scales[0], scale), total)
        };
        if MIN {
            total = V::mul_add(mins[0], V::splat_float(min[0]), total);
        }
        if MIN && HALF {
            total = V::mul_add(mins[1], V::splat_float(min[1]), total);
        }
        total
    }
}

/// Adds the product of the panels with each token to its sums. A type has a scale for each 32 or, with `HALF`, for each 16, and a
/// minimum beside each scale with `MIN`.
///
/// # Safety
/// As for [`Lanes`]; the panels and the tokens have these columns, and there are as many tokens as sums.
#[inline(always)]
pub unsafe fn integers<V: Lanes, const HALF: bool, const MIN: bool>(
    panels: &[Panel; PANELS],
    columns: Columns,
    tokens: Tokens,
    sums: &mut [Sums],
) {
    let mut t = 0;
    while t < sums.len() {
        let count = V::TOKENS.min(sums.len() - t);
        // SAFETY: the caller vouches for all; each call takes the sums that it is handed, at least `count`.
        unsafe {
            let (tokens, sums) = (tokens.from(t).skip(32 * columns.first), &mut sums[t..]);
            match count {
                4 => integer_tile::<V, HALF, MIN, 4>(panels, columns, tokens, sums),
                3 => integer_tile::<V, HALF, MIN, 3>(panels, columns, tokens, sums),
                2 => integer_tile::<V, HALF, MIN, 2>(panels, columns, tokens, sums),
                _ => integer_tile::<V, HALF, MIN, 1>(panels, columns, tokens, sums),
            }
        }
        t += count;
    }
}

#[inline(always)]
unsafe fn integer_tile<V: Lanes, const HALF: bool, const MIN: bool, const T: usize>(
    panels: &[Panel; PANELS],
    columns: Columns,
    tokens: Tokens,
    sums: &mut [Sums],
) {
    // SAFETY: the caller vouches for T tokens, as many sums, and the columns.
    unsafe {
        let mut asides = [Aside::new(); T];
        let mut rows = [tokens; T];
        for (t, aside) in asides.iter_mut().enumerate() {
            rows[t] = tokens.from(t);
            aside.fill::<HALF, MIN>(columns, rows[t]);
        }
        let mut totals = [[V::splat_float(0.0); PANELS]; T];
        for t in 0..T {
            for p in 0..PANELS {
                totals[t][p] = V::load_float(sums[t][p].as_ptr());
            }
        }
        // The bound tells the compiler that the groups are inside what lies aside.
        for g in 0..columns.groups.min(GROUPS) {
            let steps = group::<V, HALF, MIN, T>(panels, g, &rows, &asides);
            let (i, j) = if HALF { (2 * g, 2 * g + 1) } else { (g, g) };
            for t in 0..T {
                let token = (V::splat_float(*rows[t].scales.add(g)), [asides[t].mins[i], asides[t].mins[j]]);
                for p in 0..PANELS {
                    let panel = &panels[p];
                    let mins = if MIN { [panel.min::<V>(i), panel.min::<V>(j)] } else { [V::splat_float(0.0); 2] };
                    let weights = ([panel.scale::<V>(i), panel.scale::<V>(j)], mins);
                    totals[t][p] = weigh::<V, HALF, MIN>(totals[t][p], steps[t][p], weights, token);
                }
            }
        }
        for t in 0..T {
            for p in 0..PANELS {
                V::store_float(sums[t][p].as_mut_ptr(), totals[t][p]);
            }
        }
    }
}

/// The integer sums of a group, or of its halves: 2^FINE_BITS times those of the coarse plane, and those of the fine one.
#[inline(always)]
unsafe fn group<V: Lanes, const HALF: bool, const MIN: bool, const T: usize>(
    panels: &[Panel; PANELS],
    g: usize,
    rows: &[Tokens; T],
    asides: &[Aside; T],
) -> [[[V::Int; 2]; PANELS]; T] {
    // SAFETY: the caller vouches for T tokens, and the columns.
    unsafe {
        let mut steps = [[[V::splat(0); 2]; PANELS]; T];
        if !V::WIDE {
            add_half::<V, T, false>(panels, 2 * g, rows, 0, &mut steps);
            add_half::<V, T, false>(panels, 2 * g + 1, rows, usize::from(HALF), &mut steps);
        }
        for (steps, aside) in steps.iter_mut().zip(asides) {
            let starts = if HALF { [aside.starts[2 * g], aside.starts[2 * g + 1]] } else { [aside.starts[g]; 2] };
            for step in steps {
                for (step, start) in step.iter_mut().zip(starts) {
                    let coarse = if V::WIDE { *step } else { V::shl(*step, FINE_BITS) };
                    *step = if MIN { coarse } else { V::add_int(coarse, V::splat(start)) };
                }
            }
        }
        match (V::WIDE, HALF) {
            (true, true) => {
                add_words::<V, T>(panels, 16 * g..16 * g + 8, rows, 0, &mut steps);
                add_words::<V, T>(panels, 16 * g + 8..16 * g + 16, rows, 1, &mut steps);
            }
            (true, false) => add_words::<V, T>(panels, 16 * g..16 * g + 16, rows, 0, &mut steps),
            (false, _) => {
                add_half::<V, T, true>(panels, 2 * g, rows, 0, &mut steps);
                add_half::<V, T, true>(panels, 2 * g + 1, rows, usize::from(HALF), &mut steps);
            }
        }
        steps
    }
}

/// Adds the products of half a group with a plane of each token to step `i`.
#[inline(always)]
unsafe fn add_half<V: Lanes, const T: usize, const FINE: bool>(
    panels: &[Panel; PANELS],
    half: usize,
    rows: &[Tokens; T],
    i: usize,
    steps: &mut [[[V::Int; 2]; PANELS]; T],
) {
    // SAFETY: the caller vouches for T tokens, and the columns.
    unsafe {
        let mut w = [[V::splat(0); 4]; PANELS];
        for (w, panel) in w.iter_mut().zip(panels) {
            for (v, w) in w.iter_mut().enumerate() {
                *w = panel.codes::<V>(4 * half + v);
            }
        }
        for t in 0..T {
            let x = rows[t].spread::<V, FINE>(half);
            for p in 0..PANELS {
                for (w, x) in w[p].into_iter().zip(x) {
                    steps[t][p][i] = V::dot(steps[t][p][i], w, x);
                }
            }
        }
    }
}

/// Adds the products of the columns in the vectors `vectors` of the panels with both planes of each token to step `i`.
///
/// The compiler must not see how many they are: it would unroll the loop, do all for one token after the other, and keep in memory
/// what of the panels it has no registers for.
#[inline(always)]
unsafe fn add_words<V: Lanes, const T: usize>(
    panels: &[Panel; PANELS],
    vectors: Range<usize>,
    rows: &[Tokens; T],
    i: usize,
    steps: &mut [[[V::Int; 2]; PANELS]; T],
) {
    let mut end = vectors.end;
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) end, options(pure, nomem, nostack, preserves_flags)) };
    for v in vectors.start..end {
        // SAFETY: the caller vouches for T tokens, and the columns.
        unsafe {
            let w = [panels[0].codes::<V>(v), panels[1].codes::<V>(v)];
            for t in 0..T {
                let x = V::spread(rows[t].both.add(2 * v).cast());
                for p in 0..PANELS {
                    steps[t][p][i] = V::dot(steps[t][p][i], w[p], x);
                }
            }
        }
    }
}
