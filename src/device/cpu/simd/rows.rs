//! What is done over one row, written once for all widths: products, sums, norms, activations.

use super::lanes::Lanes;
use crate::model::Activation;

/// Independent sums of a dot product.
const SUMS: usize = 4;

/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn dot<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let mut at = 0;
    // SAFETY: all reads are below `len`, and the instruction set is the caller's promise.
    let mut sum = unsafe {
        let mut sums = [L::splat(0.0); SUMS];
        while at + SUMS * L::N <= len {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = at + i * L::N;
                *sum = L::load(a.as_ptr().add(at)).fma(L::load(b.as_ptr().add(at)), *sum);
            }
            at += SUMS * L::N;
        }
        while at + L::N <= len {
            sums[0] = L::load(a.as_ptr().add(at)).fma(L::load(b.as_ptr().add(at)), sums[0]);
            at += L::N;
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    };
    a[at..].iter().zip(&b[at..]).for_each(|(a, b)| sum += a * b);
    sum
}

/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn sum<L: Lanes>(x: &[f32]) -> f32 {
    let whole = x.chunks_exact(L::N);
    let rest: f32 = whole.remainder().iter().sum();
    // SAFETY: chunks of N, and the caller's promise.
    unsafe {
        let mut sum = L::splat(0.0);
        for x in whole {
            sum = sum.add(L::load(x.as_ptr()));
        }
        sum.sum() + rest
    }
}

/// x = x * scale * weight
///
/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn scale<L: Lanes>(x: &mut [f32], scale: f32, weight: &[f32]) {
    x.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * scale * w);
}

/// to += from
///
/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn add<L: Lanes>(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Applies `f` to vectors of gate and up, and leaves the result in `up`.
///
/// # Safety
/// The CPU has L; `f` needs nothing else.
#[inline(always)]
unsafe fn join<L: Lanes>(gate: &[f32], up: &mut [f32], f: impl Fn(L, L) -> L) {
    let len = up.len().min(gate.len());
    let mut at = 0;
    // SAFETY: all accesses are below `len`; what is left over goes through a vector of its own.
    unsafe {
        while at + L::N <= len {
            let to = up.as_mut_ptr().add(at);
            f(L::load(gate.as_ptr().add(at)), L::load(to)).store(to);
            at += L::N;
        }
        let mut rest = [[0.0f32; 16]; 2];
        rest[0][..len - at].copy_from_slice(&gate[at..len]);
        rest[1][..len - at].copy_from_slice(&up[at..len]);
        f(L::load(rest[0].as_ptr()), L::load(rest[1].as_ptr())).store(rest[1].as_mut_ptr());
        up[at..len].copy_from_slice(&rest[1][..len - at]);
    }
}

/// x * sigmoid(alpha * x)
///
/// # Safety
/// The CPU has L.
#[inline(always)]
unsafe fn swish<L: Lanes>(x: L, alpha: L) -> L {
    // SAFETY: the caller's promise.
    unsafe { x.div(L::splat(1.0).add(L::splat(0.0).sub(x.mul(alpha)).exp())) }
}

/// The tanh form, by tanh(u) = 2 sigmoid(2u) - 1.
///
/// # Safety
/// The CPU has L.
#[inline(always)]
unsafe fn gelu<L: Lanes>(x: L) -> L {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    // SAFETY: the caller's promise.
    unsafe {
        let inner = x.mul(x).fma(L::splat(TWICE_SQRT_2_OVER_PI * 0.044715), L::splat(TWICE_SQRT_2_OVER_PI));
        swish(x, inner)
    }
}

/// up = activation(gate, up)
///
/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn activate<L: Lanes>(activation: Activation, gate: &[f32], up: &mut [f32]) {
    // SAFETY: the caller's promise, in every closure too.
    unsafe {
        match activation {
            Activation::Silu => join::<L>(gate, up, |gate, up| swish(gate, L::splat(1.0)).mul(up)),
            Activation::Gelu => join::<L>(gate, up, |gate, up| gelu(gate).mul(up)),
            Activation::ClampedSwiglu { alpha, limit } => join::<L>(gate, up, |gate, up| {
                let (most, least) = (L::splat(limit), L::splat(-limit));
                let up = most.min(least.max(up)).add(L::splat(1.0));
                swish(most.min(gate), L::splat(alpha)).mul(up)
            }),
        }
    }
}

/// up = activation(up), where there is no gate.
///
/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn activate_up<L: Lanes>(activation: Activation, up: &mut [f32]) {
    // SAFETY: the caller's promise, in every closure too.
    unsafe {
        match activation {
            Activation::Gelu => apply::<L>(up, |x| gelu(x)),
            Activation::Silu | Activation::ClampedSwiglu { .. } => apply::<L>(up, |x| swish(x, L::splat(1.0))),
        }
    }
}

/// # Safety
/// The CPU has L; `f` needs nothing else.
#[inline(always)]
unsafe fn apply<L: Lanes>(x: &mut [f32], f: impl Fn(L) -> L) {
    let mut chunks = x.chunks_exact_mut(L::N);
    // SAFETY: chunks of N; what is left over goes through a vector of its own.
    unsafe {
        for x in chunks.by_ref() {
            f(L::load(x.as_ptr())).store(x.as_mut_ptr());
        }
        let left = chunks.into_remainder();
        let mut rest = [0.0f32; 16];
        rest[..left.len()].copy_from_slice(left);
        f(L::load(rest.as_ptr())).store(rest.as_mut_ptr());
        left.copy_from_slice(&rest[..left.len()]);
    }
}
