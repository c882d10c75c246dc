//! A vector of floats of whatever width the CPU has, for the code that is no matrix kernel.
//!
//! That code is written once, generic over [`Lanes`], and compiled for each instruction set by the wrappers
//! of `elementwise` and `attention`. [`Plain`] is the width for any CPU: products and sums rounded separately, the standard
//! library's exponential, so that the portable path stays an oracle.

use half::{bf16, f16};

/// # Safety
/// Of all its functions: the CPU has the instruction set, and pointers lead to `N` elements.
pub trait Lanes: Copy {
    const N: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// self * b + c
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The larger of the two; `other` where one is no number.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of the two; `other` where one is no number.
    unsafe fn min(self, other: Self) -> Self;
    /// e^self; 0 where it would not be a normal float, and NaN for NaN.
    unsafe fn exp(self) -> Self;
    /// The sum of the lanes, halves upon each other.
    unsafe fn sum(self) -> f32;
    /// The sums of four.
    #[inline(always)]
    unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { [a.sum(), b.sum(), c.sum(), d.sum()] }
    }
    unsafe fn largest(self) -> f32;
}

/// An element of the KV cache, or of a matrix that is not quantised.
pub trait Element: Copy {
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
    fn float(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(from) }
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f16) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(from) }
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const bf16) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(from) }
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

/// Eight floats, in plain code.
#[derive(Clone, Copy)]
pub struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f16; 8]>().read() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[bf16; 8]>().read() }.map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write(self.0) };
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        self.with(b, |a, b| a * b).with(c, |ab, c| ab + c)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.with(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn exp(self) -> Self {
        Self(self.0.map(f32::exp))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
