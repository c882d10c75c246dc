//! Attention of a few queries over one page of keys and values.
//!
//! Keys lie transposed in their page, [head dim][tokens], so that a score is a sum down the head's dimension in the
//! lanes of the tokens, and values as [tokens][head dim], so that the output is a sum over the tokens in the lanes of
//! the dimension. Both sums have the same order for a query alone and for one among others.

use super::Isa;
use super::lanes::{Element, Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;

/// Tokens in a page.
const TOKENS: usize = crate::plan::PAGE_TOKENS;
/// Queries that share the reading of keys and values.
pub const QUERIES: usize = 4;

/// What a query has seen so far, and what it looks at now.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The largest score.
    pub max: f32,
    /// The sum of the weights, relative to it.
    pub sum: f32,
    /// The tokens of the page that it attends to: from, to.
    pub tokens: [usize; 2],
}

/// Queries of one head of keys and values.
pub struct Queries<'a> {
    /// [queries, head dim]
    pub q: &'a [f32],
    /// [queries]
    pub states: &'a mut [State],
    /// The weighted sums of the values [queries, head dim].
    pub mixed: &'a mut [f32],
}

/// A page of one head: keys [head dim][TOKENS], values [TOKENS][head dim].
#[derive(Clone, Copy)]
pub struct Page<'a, E> {
    pub keys: &'a [E],
    pub values: &'a [E],
}

impl Isa {
    /// Lets at most QUERIES queries attend to a page; `scale` is the factor on q·k.
    pub fn attend<E: Element>(self, page: Page<'_, E>, scale: f32, queries: Queries<'_>) {
        let dim = page.keys.len() / TOKENS;
        let len = queries.states.len() * dim;
        let whole = page.values.len() == page.keys.len() && dim * TOKENS == page.keys.len();
        assert!(whole && queries.states.len() <= QUERIES && queries.q.len() == len && queries.mixed.len() == len);
        assert!(queries.states.iter().all(|s| s.tokens[0] <= s.tokens[1] && s.tokens[1] <= TOKENS));
        match self {
            // SAFETY: plain code; the lengths were just checked.
            Isa::Portable => unsafe { attend::<Plain, E>(page, scale, queries) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an Isa is only made where the CPU has it; the lengths were just checked.
            Isa::Avx2 => unsafe { attend_avx2(page, scale, queries) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { attend_avx512(page, scale, queries) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => Isa::Portable.attend(page, scale, queries),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn attend_avx2<E: Element>(page: Page<'_, E>, scale: f32, queries: Queries<'_>) {
    // SAFETY: the attribute has the instruction set, the caller the lengths.
    unsafe { attend::<__m256, E>(page, scale, queries) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn attend_avx512<E: Element>(page: Page<'_, E>, scale: f32, queries: Queries<'_>) {
    // SAFETY: the attribute has the instruction set, the caller the lengths.
    unsafe { attend::<__m512, E>(page, scale, queries) }
}

/// # Safety
/// The CPU has L, and the lengths are as `Isa::attend` checks them.
#[inline(always)]
unsafe fn attend<L: Lanes, E: Element>(page: Page<'_, E>, scale: f32, queries: Queries<'_>) {
    // SAFETY: the caller's promise; the number of queries is that of the constant.
    unsafe {
        match queries.states.len() {
            4 => attend_some::<L, E, 4>(page, scale, queries),
            3 => attend_some::<L, E, 3>(page, scale, queries),
            2 => attend_some::<L, E, 2>(page, scale, queries),
            1 => attend_some::<L, E, 1>(page, scale, queries),
            _ => {}
        }
    }
}

/// # Safety
/// As for `attend`; there are Q queries.
#[inline(always)]
unsafe fn attend_some<L: Lanes, E: Element, const Q: usize>(page: Page<'_, E>, scale: f32, queries: Queries<'_>) {
    let mut weights = [[0.0f32; TOKENS]; Q];
    let mut shrink = [1.0; Q];
    let (mut from, mut to) = (TOKENS, 0);
    // SAFETY: the caller's promise.
    unsafe { scores::<L, E, Q>(page.keys, queries.q, &mut weights) };
    for ((state, weights), shrink) in queries.states.iter_mut().zip(&mut weights).zip(&mut shrink) {
        if state.tokens[0] < state.tokens[1] {
            (from, to) = (from.min(state.tokens[0]), to.max(state.tokens[1]));
            // SAFETY: the caller's promise.
            *shrink = unsafe { softmax::<L>(state, scale, weights) };
        } else {
            weights.fill(0.0);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { mix::<L, E, Q>(page.values, from..to, (&weights, shrink), queries.mixed) };
}

/// The products of Q queries with all keys of the page.
///
/// # Safety
/// As for `attend`; there are Q queries.
#[inline(always)]
unsafe fn scores<L: Lanes, E: Element, const Q: usize>(keys: &[E], q: &[f32], out: &mut [[f32; TOKENS]; Q]) {
    let dim = keys.len() / TOKENS;
    // Two vectors of each query at a time: few enough accumulators for any instruction set.
    for start in (0..TOKENS).step_by(2 * L::N) {
        // SAFETY: rows of keys are TOKENS long and those of q `dim`, and start + 2 N is not above TOKENS.
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; Q];
            for d in 0..dim {
                let key = keys.as_ptr().add(d * TOKENS + start);
                let keys = [E::load::<L>(key), E::load::<L>(key.add(L::N))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let q = L::splat(*q.get_unchecked(i * dim + d));
                    sums[0] = q.fma(keys[0], sums[0]);
                    sums[1] = q.fma(keys[1], sums[1]);
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                sums[0].store(out.as_mut_ptr().add(start));
                sums[1].store(out.as_mut_ptr().add(start + L::N));
            }
        }
    }
}

/// Products become weights relative to the largest score; gives the factor on what was summed before.
///
/// # Safety
/// As for `attend`.
#[inline(always)]
unsafe fn softmax<L: Lanes>(state: &mut State, scale: f32, weights: &mut [f32; TOKENS]) -> f32 {
    let [from, to] = state.tokens;
    weights[from..to].iter_mut().for_each(|w| *w *= scale);
    weights[..from].fill(f32::NEG_INFINITY);
    weights[to..].fill(f32::NEG_INFINITY);
    // SAFETY: TOKENS is a multiple of N, and the instruction set the caller's promise.
    unsafe {
        let mut max = L::splat(state.max);
        for i in (0..TOKENS).step_by(L::N) {
            max = L::load(weights.as_ptr().add(i)).max(max);
        }
        let max = max.largest();
        let (mut sum, top) = (L::splat(0.0), L::splat(max));
        for i in (0..TOKENS).step_by(L::N) {
            let at = weights.as_mut_ptr().add(i);
            let weight = L::load(at).sub(top).exp();
            weight.store(at);
            sum = sum.add(weight);
        }
        let mut shrink = [0.0; 16];
        L::splat(state.max - max).exp().store(shrink.as_mut_ptr());
        state.max = max;
        state.sum = state.sum * shrink[0] + sum.sum();
        shrink[0]
    }
}

/// mixed = mixed * shrink + weights · values, over the tokens that any of the Q queries attends to.
///
/// # Safety
/// As for `attend`; there are Q queries.
#[inline(always)]
unsafe fn mix<L: Lanes, E: Element, const Q: usize>(
    values: &[E],
    seen: Range<usize>,
    (weights, shrink): (&[[f32; TOKENS]; Q], [f32; Q]),
    mixed: &mut [f32],
) {
    let dim = values.len() / TOKENS;
    let mut at = 0;
    while at + 2 * L::N <= dim {
        // SAFETY: columns at..at + 2 N are inside rows of `dim`.
        unsafe {
            let mut sums = [[L::splat(0.0); 2]; Q];
            for (i, sums) in sums.iter_mut().enumerate() {
                let mixed = mixed.as_ptr().add(i * dim + at);
                sums[0] = L::load(mixed).mul(L::splat(shrink[i]));
                sums[1] = L::load(mixed.add(L::N)).mul(L::splat(shrink[i]));
            }
            for token in seen.clone() {
                let value = values.as_ptr().add(token * dim + at);
                let values = [E::load::<L>(value), E::load::<L>(value.add(L::N))];
                for (sums, weights) in sums.iter_mut().zip(weights) {
                    let weight = L::splat(*weights.get_unchecked(token));
                    sums[0] = weight.fma(values[0], sums[0]);
                    sums[1] = weight.fma(values[1], sums[1]);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                let mixed = mixed.as_mut_ptr().add(i * dim + at);
                sums[0].store(mixed);
                sums[1].store(mixed.add(L::N));
            }
        }
        at += 2 * L::N;
    }
    for ((mixed, weights), shrink) in mixed.chunks_exact_mut(dim).zip(weights).zip(shrink) {
        for (d, mixed) in mixed.iter_mut().enumerate().skip(at) {
            *mixed = seen.clone().fold(*mixed * shrink, |sum, t| sum + weights[t] * values[t * dim + d].float());
        }
    }
}
