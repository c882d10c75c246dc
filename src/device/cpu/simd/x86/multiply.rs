//! From panels and tokens to sums: the products themselves.
//!
//! Each sum belongs to one row and one token, and is added to in the order of the columns, so nothing else shows in its bits.
//! The integer product of a group is exact; it then costs one rounding for its scale and one for the sum.

use super::lanes::{Lanes, MAX_LANES};
use super::panel::{FLOAT_COLS, Panel};

/// Panels that share the tokens they are multiplied with.
pub const PANELS: usize = 2;
/// Groups of 32 in a panel.
const GROUPS: usize = 8;

/// Rows of activations, from the first one that is wanted.
#[derive(Clone, Copy)]
pub struct Tokens {
    pub floats: *const f32,
    pub qs: *const i8,
    pub scales: *const f32,
    pub sums: *const i16,
    /// Elements of a row.
    pub cols: usize,
}

/// The sums of one token: of each panel, of each row.
pub type Sums = [[f32; MAX_LANES]; PANELS];

/// Which columns the panels hold, and what is to be taken off each code.
#[derive(Clone, Copy)]
pub struct Columns {
    pub first: usize,
    /// Groups of 32, or columns of floats.
    pub units: usize,
    pub offset: i32,
}

impl Tokens {
    /// # Safety
    /// There are more than `t` rows.
    #[inline(always)]
    unsafe fn from(self, t: usize) -> Self {
        // SAFETY: the caller says that there are so many rows, in whichever form is in use; the other is not looked at.
        Self {
            floats: self.floats.wrapping_add(t * self.cols),
            qs: self.qs.wrapping_add(t * self.cols),
            scales: self.scales.wrapping_add(t * self.cols / 32),
            sums: self.sums.wrapping_add(t * self.cols / 16),
            cols: self.cols,
        }
    }
}

/// Adds the product of the panels with each token to its sums. A type has codes of `BITS` bits, a scale for each 32 or, with
/// `HALVES`, for each 16, and a minimum beside each scale with `MIN`.
///
/// # Safety
/// As for [`Lanes`]; the panels and the tokens have these columns, and there are as many tokens as sums.
#[inline(always)]
pub unsafe fn integers<V: Lanes, const BITS: u32, const HALVES: bool, const MIN: bool>(
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
            let (tokens, sums) = (tokens.from(t), &mut sums[t..]);
            match count {
                4 => integer_tile::<V, BITS, HALVES, MIN, 4>(panels, columns, tokens, sums),
                3 => integer_tile::<V, BITS, HALVES, MIN, 3>(panels, columns, tokens, sums),
                2 => integer_tile::<V, BITS, HALVES, MIN, 2>(panels, columns, tokens, sums),
                _ => integer_tile::<V, BITS, HALVES, MIN, 1>(panels, columns, tokens, sums),
            }
        }
        t += count;
    }
}

/// What one token brings to a panel, beside its integers: with a minimum, the sums of its activations; without, where the
/// integer sums begin, which takes the offset of the codes off.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aside {
    mins: [f32; 2 * GROUPS],
    starts: [i32; 2 * GROUPS],
}

/// # Safety
/// The token has these columns.
#[inline(always)]
unsafe fn aside<const HALVES: bool, const MIN: bool>(
    aside: &mut Aside,
    columns: Columns,
    token: Tokens,
    groups: usize,
) {
    for g in 0..groups {
        // SAFETY: these groups are among the columns.
        let (scale, a, b) = unsafe {
            let sums = token.sums.add(2 * (columns.first + g));
            (*token.scales.add(columns.first + g), i32::from(*sums), i32::from(*sums.add(1)))
        };
        match (HALVES, MIN) {
            (true, true) => [aside.mins[2 * g], aside.mins[2 * g + 1]] = [scale * a as f32, scale * b as f32],
            (false, true) => aside.mins[g] = scale * (a + b) as f32,
            (true, false) => {
                [aside.starts[2 * g], aside.starts[2 * g + 1]] = [-columns.offset * a, -columns.offset * b]
            }
            (false, false) => aside.starts[g] = -columns.offset * (a + b),
        }
    }
}

#[inline(always)]
unsafe fn integer_tile<V: Lanes, const BITS: u32, const HALVES: bool, const MIN: bool, const T: usize>(
    panels: &[Panel; PANELS],
    columns: Columns,
    tokens: Tokens,
    sums: &mut [Sums],
) {
    // SAFETY: the caller vouches for T tokens, as many sums, and the columns.
    unsafe {
        let mut asides = [Aside { mins: [0.0; 2 * GROUPS], starts: [0; 2 * GROUPS] }; T];
        let mut rows = [tokens; T];
        for (t, asides) in asides.iter_mut().enumerate() {
            let row = tokens.from(t);
            rows[t] = row;
            match columns.units {
                GROUPS => aside::<HALVES, MIN>(asides, columns, row, GROUPS),
                fewer => aside::<HALVES, MIN>(asides, columns, row, fewer),
            }
        }
        let mut totals = [[V::splat_float(0.0); PANELS]; T];
        for t in 0..T {
            for p in 0..PANELS {
                totals[t][p] = V::load_float(sums[t][p].as_ptr());
            }
        }
        // The bound tells the compiler that the groups are inside what lies aside.
        for g in 0..columns.units.min(GROUPS) {
            let mut starts = [[V::splat(0); 2]; T];
            let mut scales = [V::splat_float(0.0); T];
            for t in 0..T {
                scales[t] = V::splat_float(*rows[t].scales.add(columns.first + g));
                if !MIN && HALVES {
                    starts[t] = [V::splat(asides[t].starts[2 * g]), V::splat(asides[t].starts[2 * g + 1])];
                } else if !MIN {
                    starts[t][0] = V::splat(asides[t].starts[g]);
                }
            }
            let mut steps = [[[V::splat(0); PANELS]; T]; 2];
            for half in 0..2 {
                let w = [panels[0].codes::<V>(8 * g + 4 * half), panels[1].codes::<V>(8 * g + 4 * half)];
                for t in 0..T {
                    let x = rows[t].qs.add((columns.first + g) * 32 + 16 * half);
                    let x = [V::spread(x), V::spread(x.add(4)), V::spread(x.add(8)), V::spread(x.add(12))];
                    for p in 0..PANELS {
                        let sum = match (HALVES, half) {
                            (false, 1) => steps[0][t][p],
                            _ => starts[t][half],
                        };
                        steps[if HALVES { half } else { 0 }][t][p] = V::dot::<BITS>(sum, &w[p], &x);
                    }
                }
            }
            for t in 0..T {
                for p in 0..PANELS {
                    let first = V::to_float(steps[0][t][p]);
                    totals[t][p] = if HALVES {
                        let first = V::mul(first, panels[p].scale::<V>(2 * g));
                        let second = V::to_float(steps[1][t][p]);
                        let both = V::mul_add(second, panels[p].scale::<V>(2 * g + 1), first);
                        V::mul_add(both, scales[t], totals[t][p])
                    } else {
                        V::mul_add(first, V::mul(panels[p].scale::<V>(g), scales[t]), totals[t][p])
                    };
                }
            }
            if MIN {
                for i in if HALVES { 2 * g..2 * g + 2 } else { g..g + 1 } {
                    for t in 0..T {
                        let x = V::splat_float(asides[t].mins[i]);
                        for p in 0..PANELS {
                            totals[t][p] = V::mul_add(panels[p].min::<V>(i), x, totals[t][p]);
                        }
                    }
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

/// The same for panels of floats.
///
/// # Safety
/// As for [`integers`].
#[inline(always)]
pub unsafe fn floats<V: Lanes>(panels: &[Panel; PANELS], columns: Columns, tokens: Tokens, sums: &mut [Sums]) {
    let mut t = 0;
    while t < sums.len() {
        let count = V::FLOAT_TOKENS.min(sums.len() - t);
        // SAFETY: the caller vouches for all; each call takes the sums that it is handed, at least as many as it counts.
        unsafe {
            let (tokens, sums) = (tokens.from(t), &mut sums[t..]);
            t += match count {
                12 => float_tile::<V, 12>(panels, columns, tokens, sums),
                6.. => float_tile::<V, 6>(panels, columns, tokens, sums),
                4.. => float_tile::<V, 4>(panels, columns, tokens, sums),
                2.. => float_tile::<V, 2>(panels, columns, tokens, sums),
                _ => float_tile::<V, 1>(panels, columns, tokens, sums),
            }
        }
    }
}

/// The columns of a panel are summed for themselves first: shorter sums have smaller errors. Returns T.
#[inline(always)]
unsafe fn float_tile<V: Lanes, const T: usize>(
    panels: &[Panel; PANELS],
    columns: Columns,
    tokens: Tokens,
    sums: &mut [Sums],
) -> usize {
    debug_assert!(columns.units <= FLOAT_COLS);
    // SAFETY: the caller vouches for T tokens, as many sums, and the columns.
    unsafe {
        let mut rows = [tokens.floats; T];
        for (t, row) in rows.iter_mut().enumerate() {
            *row = tokens.from(t).floats.add(columns.first);
        }
        let mut totals = [[V::splat_float(0.0); PANELS]; T];
        for k in 0..columns.units {
            let w = [panels[0].floats::<V>(k), panels[1].floats::<V>(k)];
            for t in 0..T {
                let x = V::splat_float(*rows[t].add(k));
                for p in 0..PANELS {
                    totals[t][p] = V::mul_add(w[p], x, totals[t][p]);
                }
            }
        }
        for t in 0..T {
            for p in 0..PANELS {
                let sum = V::load_float(sums[t][p].as_ptr());
                V::store_float(sums[t][p].as_mut_ptr(), V::add(sum, totals[t][p]));
            }
        }
    }
    T
}
