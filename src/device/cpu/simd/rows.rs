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

/// A function of vectors of gate and up. (Not a closure: those are compiled without the instruction set, and called.)
trait Join: Copy {
    /// # Safety
    /// The CPU has L.
    unsafe fn join<L: Lanes>(self, gate: L, up: L) -> L;
}

#[derive(Clone, Copy)]
struct Silu;
#[derive(Clone, Copy)]
struct Gelu;
#[derive(Clone, Copy)]
struct Clamped {
    alpha: f32,
    limit: f32,
}

impl Join for Silu {
    #[inline(always)]
    unsafe fn join<L: Lanes>(self, gate: L, up: L) -> L {
        // SAFETY: the caller's promise.
        unsafe { swish(gate, L::splat(1.0)).mul(up) }
    }
}

/// The tanh form, by tanh(u) = 2 sigmoid(2u) - 1.
impl Join for Gelu {
    #[inline(always)]
    unsafe fn join<L: Lanes>(self, gate: L, up: L) -> L {
        const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
        // SAFETY: the caller's promise.
        unsafe {
            let inner = gate.mul(gate).fma(L::splat(TWICE_SQRT_2_OVER_PI * 0.044715), L::splat(TWICE_SQRT_2_OVER_PI));
            swish(gate, inner).mul(up)
        }
    }
}

impl Join for Clamped {
    #[inline(always)]
    unsafe fn join<L: Lanes>(self, gate: L, up: L) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let (most, least) = (L::splat(self.limit), L::splat(-self.limit));
            let up = most.min(least.max(up)).add(L::splat(1.0));
            swish(most.min(gate), L::splat(self.alpha)).mul(up)
        }
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

/// up = join(gate, up); where there is no gate, up = join(up, 1).
///
/// # Safety
/// The CPU has L.
#[inline(always)]
unsafe fn apply<L: Lanes, J: Join>(join: J, gate: Option<&[f32]>, up: &mut [f32]) {
    let len = gate.map_or(up.len(), |gate| gate.len().min(up.len()));
    let mut at = 0;
    // SAFETY: all accesses are below `len`; what is left over goes through a vector of its own.
    unsafe {
        while at + L::N <= len {
            let to = up.as_mut_ptr().add(at);
            let joined = match gate {
                Some(gate) => join.join(L::load(gate.as_ptr().add(at)), L::load(to)),
                None => join.join(L::load(to), L::splat(1.0)),
            };
            joined.store(to);
            at += L::N;
        }
        if at < len {
            let mut rest = [[1.0f32; 16]; 2];
            rest[0][..len - at].copy_from_slice(&gate.unwrap_or(up)[at..len]);
            if gate.is_some() {
                rest[1][..len - at].copy_from_slice(&up[at..len]);
            }
            join.join(L::load(rest[0].as_ptr()), L::load(rest[1].as_ptr())).store(rest[1].as_mut_ptr());
            up[at..len].copy_from_slice(&rest[1][..len - at]);
        }
    }
}

/// up = activation(gate, up)
///
/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn activate<L: Lanes>(activation: Activation, gate: &[f32], up: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match activation {
            Activation::Silu => apply::<L, _>(Silu, Some(gate), up),
            Activation::Gelu => apply::<L, _>(Gelu, Some(gate), up),
            Activation::ClampedSwiglu { alpha, limit } => apply::<L, _>(Clamped { alpha, limit }, Some(gate), up),
        }
    }
}

/// up = activation(up), where there is no gate.
///
/// # Safety
/// The CPU has L.
#[inline(always)]
pub unsafe fn activate_up<L: Lanes>(activation: Activation, up: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match activation {
            Activation::Gelu => apply::<L, _>(Gelu, None, up),
            Activation::Silu | Activation::ClampedSwiglu { .. } => apply::<L, _>(Silu, None, up),
        }
    }
}
