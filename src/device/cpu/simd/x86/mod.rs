//! The matrix kernels for x86-64: rows of quantised weights are unpacked a panel at a time, and multiplied with every token.
//!
//! A lane is a row of weights. That costs a transposition when a block is read, but then one and the same code serves a
//! single token, where memory is the limit, and a long prompt, where multiplications are, with the same bits; and nothing is
//! repacked when a model is loaded. The weights come from the file's mapping at any alignment; while rows are unpacked, the
//! next are fetched. Weights that are not quantised need no transposition, see `floats`.

mod avx2;
mod avx512;
mod direct;
mod floats;
mod lanes;
mod multiply;
mod panel;
mod unpack;

#[cfg(test)]
mod tests;

use super::lanes::Element;
use super::quantise::FINE_BITS;
use super::{Input, Isa, WeightRows};
use crate::device::cpu::pool::Tile;
use crate::quant::QuantType;
use avx2::Avx2;
use avx512::Avx512;
use half::{bf16, f16};
use lanes::{Lanes, MAX_LANES, Rows};
use multiply::{Columns, PANELS, Sums, Tokens};
use panel::{COLS, Fill, Panel};
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;
use unpack::Unpack;

/// Tokens that share an unpacked panel; their sums fill a third of the first-level cache.
const TOKENS: usize = 128;
/// As many need much less room, which has to be cleared.
const FEW_TOKENS: usize = 8;

/// The most bytes that fill a panel's row, and zeros for the last vector.
const MAX_BYTES: usize = COLS / 32 * 34 + 16;

/// The code for one type and instruction set.
enum Kernel {
    Integers(Integers),
    Floats(unsafe fn(WeightRows<'_>, Input<'_>, &mut Tile<'_>)),
}

/// The code for a quantised type.
struct Integers {
    lanes: usize,
    /// Bytes of the columns that fill a panel.
    bytes: usize,
    offset: i32,
    unpack: unsafe fn(Rows, usize, usize, &mut Panel),
    multiply: unsafe fn(&[Panel; PANELS], Columns, Tokens, &mut [Sums]),
    direct: unsafe fn(Rows, usize, Columns, Tokens, &mut [f32; MAX_LANES]),
}

/// A function that finds the kernel of each type for one instruction set.
macro_rules! kernels {
    ($name:ident, $isa:ident, $features:literal, $floats:ident by $all:literal: [$parts:literal, $rows:literal, $tokens:literal]) => {
        fn $name(ty: QuantType) -> Kernel {
            /// # Safety
            /// As for [`Unpack::unpack`].
            #[target_feature(enable = $features)]
            unsafe fn unpack<U: Unpack, const BITS: u32>(rows: Rows, at: usize, groups: usize, panel: &mut Panel) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { U::unpack::<$isa, Fill<BITS>>(rows, at, groups, &mut Fill(panel)) }
            }

            /// # Safety
            /// As for [`multiply::integers`].
            #[target_feature(enable = $features)]
            unsafe fn integers<const HALF: bool, const MIN: bool>(
                panels: &[Panel; PANELS],
                columns: Columns,
                tokens: Tokens,
                sums: &mut [Sums],
            ) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { multiply::integers::<$isa, HALF, MIN>(panels, columns, tokens, sums) }
            }

            /// # Safety
            /// As for [`direct::direct`].
            #[target_feature(enable = $features)]
            unsafe fn direct<U: Unpack, const BITS: u32, const HALF: bool, const MIN: bool>(
                rows: Rows,
                at: usize,
                columns: Columns,
                token: Tokens,
                sums: &mut [f32; MAX_LANES],
            ) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { direct::direct::<$isa, U, BITS, HALF, MIN>(rows, at, columns, token, sums) }
            }

            /// # Safety
            /// As for [`floats::matmul`].
            #[target_feature(enable = $features)]
            unsafe fn floats<E: Element>(weights: WeightRows<'_>, input: Input<'_>, out: &mut Tile<'_>) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { floats::matmul::<$floats, E, $parts, $rows, $tokens, $all>(weights, input, out) }
            }

            /// A scale for each half of a group, minima, or something that was added to the codes.
            macro_rules! kernel {
                ($unpack:ident, $bits:literal, $half:literal, $min:literal, $offset:expr) => {
                    Kernel::Integers(Integers {
                        lanes: $isa::LANES,
                        bytes: unpack::$unpack::BYTES,
                        offset: $offset,
                        unpack: unpack::<unpack::$unpack, $bits>,
                        multiply: integers::<$half, $min>,
                        direct: direct::<unpack::$unpack, $bits, $half, $min>,
                    })
                };
            }
            match ty {
                QuantType::F32 => Kernel::Floats(floats::<f32>),
                QuantType::F16 => Kernel::Floats(floats::<f16>),
                QuantType::BF16 => Kernel::Floats(floats::<bf16>),
                QuantType::Q4_0 => kernel!(Q4_0, 4, false, false, 8),
                QuantType::Q4_1 => kernel!(Q4_1, 4, false, true, 0),
                QuantType::Q5_0 => kernel!(Q5_0, 5, false, false, 16),
                QuantType::Q5_1 => kernel!(Q5_1, 5, false, true, 0),
                QuantType::Q8_0 => kernel!(Q8_0, 8, false, false, $isa::SIGNED_OFFSET),
                QuantType::Q2K => kernel!(Q2K, 4, true, true, 0),
                QuantType::Q3K => kernel!(Q3K, 4, true, false, 4),
                QuantType::Q4K => kernel!(Q4K, 4, false, true, 0),
                QuantType::Q5K => kernel!(Q5K, 5, false, true, 0),
                QuantType::Q6K => kernel!(Q6K, 6, true, false, 32),
                QuantType::IQ4NL => kernel!(IQ4NL, 8, false, false, $isa::SIGNED_OFFSET),
                QuantType::IQ4XS => kernel!(IQ4XS, 8, false, false, $isa::SIGNED_OFFSET),
                QuantType::MXFP4 => kernel!(MXFP4, 5, false, false, 12),
            }
        }
    };
}

kernels!(avx512_kernel, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", __m512 by 1: [1, 6, 4]);
kernels!(avx2_kernel, Avx2, "avx2,fma,f16c", __m256 by 2: [1, 3, 4]);

/// Fills the tile with the kernel of the instruction set, which the CPU must have.
///
/// # Panics
/// If the weights or the input are smaller than the tile.
pub fn matmul(isa: Isa, weights: WeightRows<'_>, input: Input<'_>, out: &mut Tile<'_>) {
    let kernel = if isa == Isa::Avx512 { avx512_kernel(weights.ty) } else { avx2_kernel(weights.ty) };
    let (rows, tokens) = (out.cols().len(), out.rows().len());
    let (elements, cols) = (tokens * input.cols, weights.cols);
    assert!(cols == input.cols && weights.ty.row_bytes(cols) == Some(weights.row_bytes), "rows of {cols} columns");
    assert!(weights.bytes.len() >= rows * weights.row_bytes, "{rows} rows of weights");
    let given = if weights.ty.is_quantised() { input.planes.len() } else { input.float.len() };
    assert!(given >= elements, "{tokens} rows of input");
    let both = weights.ty.is_quantised() && isa.reads_both() && tokens > 1;
    assert!(!both || input.planes.both.len() >= elements, "{tokens} rows of input in int16");
    match (kernel, tokens) {
        _ if rows == 0 => {}
        // SAFETY: all lengths were checked, and whoever chose the instruction set saw that the CPU has it.
        (Kernel::Floats(run), _) => unsafe { run(weights, input, out) },
        (Kernel::Integers(kernel), 1) => kernel.run_one(weights, input, out.row(0)),
        (Kernel::Integers(kernel), ..=FEW_TOKENS) => kernel.run::<FEW_TOKENS>(weights, input, out),
        (Kernel::Integers(kernel), _) => kernel.run::<TOKENS>(weights, input, out),
    }
}

impl Input<'_> {
    /// The rows from `first` on.
    fn tokens(&self, first: usize) -> Tokens {
        let first = first * self.cols;
        Tokens {
            scales: self.planes.scales.as_ptr().wrapping_add(first / 32),
            sums: self.planes.sums.as_ptr().wrapping_add(first / 16),
            coarse: self.planes.coarse.as_ptr().wrapping_add(first),
            fine: self.planes.fine.as_ptr().wrapping_add(first),
            both: self.planes.both.as_ptr().wrapping_add(first),
            cols: self.cols,
        }
    }
}

/// What makes sums as large as they should be. Only the exponent changes.
const SUM_UNIT: f32 = 1.0 / (1 << FINE_BITS) as f32;

impl Integers {
    /// Fills the tile, `N` tokens and a pair of panels at a time. All lengths have been checked, and the instruction set.
    fn run<const N: usize>(&self, weights: WeightRows<'_>, input: Input<'_>, out: &mut Tile<'_>) {
        let (rows, tokens) = (out.cols().len(), out.rows().len());
        let mut panels = [const { Panel::new() }; PANELS];
        let mut sums = [[[0.0; MAX_LANES]; PANELS]; N];
        for first in (0..tokens).step_by(N) {
            let sums = &mut sums[..N.min(tokens - first)];
            for row in (0..rows).step_by(PANELS * self.lanes) {
                // SAFETY: all lengths were checked, and whoever chose the instruction set saw that the CPU has it.
                unsafe { self.pair(weights, row..rows, input.tokens(first), (&mut panels, sums)) };
                for (t, sums) in sums.iter().enumerate() {
                    let row_out = &mut out.row(first + t)[row..];
                    for (out, sums) in row_out.chunks_mut(self.lanes).zip(sums) {
                        set(out, sums);
                    }
                }
            }
        }
    }

    /// The sums of two panels: the first of `rows`.
    ///
    /// # Safety
    /// The CPU has the instruction set; there are such rows, and as many tokens as sums.
    #[inline]
    unsafe fn pair(
        &self,
        weights: WeightRows<'_>,
        rows: Range<usize>,
        tokens: Tokens,
        (panels, sums): (&mut [Panel; PANELS], &mut [Sums]),
    ) {
        sums.fill([[0.0; MAX_LANES]; PANELS]);
        for (i, col) in (0..weights.cols).step_by(COLS).enumerate() {
            let columns = self.columns(col..weights.cols.min(col + COLS));
            for (p, panel) in panels.iter_mut().enumerate() {
                let rows = (rows.start + p * self.lanes).min(rows.end)..rows.end;
                self.read(weights, rows, i * self.bytes, PANELS, |rows, at| {
                    // SAFETY: the rows are there, and the caller vouches for the instruction set.
                    unsafe { (self.unpack)(rows, at, columns.groups, panel) };
                });
            }
            // SAFETY: the panels were filled, and the caller vouches for the tokens.
            unsafe { (self.multiply)(panels, columns, tokens, sums) };
        }
    }

    /// The products with the one token of the input.
    fn run_one(&self, weights: WeightRows<'_>, input: Input<'_>, out: &mut [f32]) {
        let token = input.tokens(0);
        for row in (0..out.len()).step_by(self.lanes) {
            let mut sums = [0.0; MAX_LANES];
            // Rows that are copied are copied a panel at a time.
            let step = if out.len() - row < self.lanes { COLS } else { weights.cols };
            for col in (0..weights.cols).step_by(step) {
                self.read(weights, row..out.len(), col / COLS * self.bytes, 1, |rows, at| {
                    // SAFETY: all lengths were checked, and whoever chose the instruction set saw that the CPU has it.
                    unsafe {
                        (self.direct)(rows, at, self.columns(col..weights.cols.min(col + step)), token, &mut sums)
                    };
                });
            }
            let end = (row + self.lanes).min(out.len());
            set(&mut out[row..end], &sums);
        }
    }

    fn columns(&self, columns: Range<usize>) -> Columns {
        Columns { first: columns.start / 32, groups: columns.len() / 32, offset: self.offset }
    }

    /// Calls `with` with the first of `rows`, and where in them byte `at` is. `ahead` blocks of so many rows further is what
    /// will be read next, unless another thread reads that.
    #[inline(always)]
    fn read(
        &self,
        weights: WeightRows<'_>,
        rows: Range<usize>,
        at: usize,
        ahead: usize,
        with: impl FnOnce(Rows, usize),
    ) {
        if rows.len() < self.lanes {
            return self.read_copy(weights, rows, at, with);
        }
        let first = weights.bytes[rows.start * weights.row_bytes..].as_ptr();
        let next = if rows.len() > ahead * self.lanes { ahead * self.lanes * weights.row_bytes } else { 0 };
        with(Rows { first, stride: weights.row_bytes, next: first.wrapping_add(next) }, at);
    }

    /// The same for fewer rows than there are lanes; rows that are not there are zeros.
    #[cold]
    #[inline(never)]
    fn read_copy(&self, weights: WeightRows<'_>, rows: Range<usize>, at: usize, with: impl FnOnce(Rows, usize)) {
        let mut copies = [[0u8; MAX_BYTES]; MAX_LANES];
        let len = self.bytes.min(weights.row_bytes - at);
        for (copy, row) in copies.iter_mut().zip(rows) {
            copy[..len].copy_from_slice(&weights.row(row)[at..at + len]);
        }
        let first = copies.as_ptr().cast();
        with(Rows { first, stride: MAX_BYTES, next: first }, 0);
    }
}

/// Rows' sums; there may be fewer than a vector has.
fn set(out: &mut [f32], sums: &[f32; MAX_LANES]) {
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * SUM_UNIT);
}
