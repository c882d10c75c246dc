//! The matrix kernels for x86-64: rows of weights are unpacked once, a panel at a time, and multiplied with every token.
//!
//! A lane is a row of weights. That costs a transposition when a block is read, but then one and the same code serves a
//! single token, where memory is the limit, and a long prompt, where multiplications are, with the same bits; and nothing is
//! repacked when a model is loaded. The weights come from the file's mapping at any alignment; while panels are unpacked, the
//! next are fetched.

mod avx2;
mod avx512;
mod lanes;
mod multiply;
mod panel;
mod unpack;

#[cfg(test)]
mod tests;

use super::{Input, Isa, WeightRows};
use crate::device::cpu::pool::Tile;
use crate::quant::{Q8View, QuantType};
use avx2::Avx2;
use avx512::Avx512;
use lanes::{Lanes, MAX_LANES, Rows};
use multiply::{Columns, PANELS, Sums, Tokens};
use panel::{COLS, FLOAT_COLS, Panel};
use std::ops::Range;
use unpack::Unpack;

/// Tokens that share an unpacked panel; their sums fill a third of the first-level cache.
const TOKENS: usize = 128;
/// As many need much less room, which has to be cleared.
const FEW_TOKENS: usize = 8;

/// The most bytes that fill a panel's row, and zeros for the last vector.
const MAX_BYTES: usize = COLS / 32 * 34 + 16;

/// The code for one type and instruction set.
struct Kernel {
    lanes: usize,
    /// Bytes of the columns that fill a panel.
    bytes: usize,
    offset: i32,
    unpack: unsafe fn(Rows, usize, usize, &mut Panel),
    multiply: unsafe fn(&[Panel; PANELS], Columns, Tokens, &mut [Sums]),
}

/// A function that finds the kernel of each type for one instruction set.
macro_rules! kernels {
    ($name:ident, $isa:ident, $features:literal) => {
        fn $name(ty: QuantType) -> Kernel {
            /// # Safety
            /// As for [`Unpack::unpack`].
            #[target_feature(enable = $features)]
            unsafe fn unpack<U: Unpack>(rows: Rows, at: usize, units: usize, panel: &mut Panel) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { U::unpack::<$isa>(rows, at, units, panel) }
            }

            /// # Safety
            /// As for [`multiply::integers`].
            #[target_feature(enable = $features)]
            unsafe fn integers<const BITS: u32, const HALVES: bool, const MIN: bool>(
                panels: &[Panel; PANELS],
                columns: Columns,
                tokens: Tokens,
                sums: &mut [Sums],
            ) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { multiply::integers::<$isa, BITS, HALVES, MIN>(panels, columns, tokens, sums) }
            }

            /// # Safety
            /// As for [`multiply::integers`].
            #[target_feature(enable = $features)]
            unsafe fn floats(panels: &[Panel; PANELS], columns: Columns, tokens: Tokens, sums: &mut [Sums]) {
                // SAFETY: the caller vouches for all, the instruction set among it.
                unsafe { multiply::floats::<$isa>(panels, columns, tokens, sums) }
            }

            /// Without a minimum there may be an offset.
            macro_rules! kernel {
                ($unpack:ident, $multiply:expr, $offset:expr) => {
                    Kernel {
                        lanes: $isa::LANES,
                        bytes: unpack::$unpack::BYTES,
                        offset: $offset,
                        unpack: unpack::<unpack::$unpack>,
                        multiply: $multiply,
                    }
                };
            }
            match ty {
                QuantType::F32 => kernel!(F32, floats, 0),
                QuantType::F16 => kernel!(F16, floats, 0),
                QuantType::BF16 => kernel!(BF16, floats, 0),
                QuantType::Q4_0 => kernel!(Q4_0, integers::<4, false, false>, 8),
                QuantType::Q4_1 => kernel!(Q4_1, integers::<4, false, true>, 0),
                QuantType::Q5_0 => kernel!(Q5_0, integers::<5, false, false>, 16),
                QuantType::Q5_1 => kernel!(Q5_1, integers::<5, false, true>, 0),
                QuantType::Q8_0 => kernel!(Q8_0, integers::<8, false, false>, $isa::SIGNED_OFFSET),
                QuantType::Q2K => kernel!(Q2K, integers::<4, true, true>, 0),
                QuantType::Q3K => kernel!(Q3K, integers::<4, true, false>, 4),
                QuantType::Q4K => kernel!(Q4K, integers::<4, false, true>, 0),
                QuantType::Q5K => kernel!(Q5K, integers::<5, false, true>, 0),
                QuantType::Q6K => kernel!(Q6K, integers::<6, true, false>, 32),
                QuantType::IQ4NL => kernel!(IQ4NL, integers::<8, false, false>, $isa::SIGNED_OFFSET),
                QuantType::IQ4XS => kernel!(IQ4XS, integers::<8, false, false>, $isa::SIGNED_OFFSET),
                QuantType::MXFP4 => kernel!(MXFP4, integers::<5, false, false>, 12),
            }
        }
    };
}

kernels!(avx512_kernel, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
kernels!(avx2_kernel, Avx2, "avx2,fma,f16c");

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
    let given = if weights.ty.is_quantised() { input.q8.qs.len() } else { input.float.len() };
    assert!(given >= elements, "{tokens} rows of input");
    for q8 in input.fine.iter().chain([&input.q8]) {
        let len = q8.qs.len();
        assert!(len == input.q8.qs.len() && q8.scales.len() >= len / 32 && q8.sums.len() >= len / 16);
    }
    match tokens {
        _ if rows == 0 => {}
        ..=FEW_TOKENS => kernel.run::<FEW_TOKENS>(weights, input, out),
        _ => kernel.run::<TOKENS>(weights, input, out),
    }
}

impl Input<'_> {
    /// The rows from `first` on, with `q8` as their integers.
    fn tokens(&self, q8: Q8View<'_>, first: usize) -> Tokens {
        Tokens {
            floats: self.float.as_ptr().wrapping_add(first * self.cols),
            qs: q8.qs.as_ptr().wrapping_add(first * self.cols),
            scales: q8.scales.as_ptr().wrapping_add(first * self.cols / 32),
            sums: q8.sums.as_ptr().wrapping_add(first * self.cols / 16),
            cols: self.cols,
        }
    }
}

impl Kernel {
    /// Fills the tile, `N` tokens and a pair of panels at a time. All lengths have been checked, and the instruction set.
    fn run<const N: usize>(&self, weights: WeightRows<'_>, input: Input<'_>, out: &mut Tile<'_>) {
        let (rows, tokens) = (out.cols().len(), out.rows().len());
        let mut panels = [const { Panel::new() }; PANELS];
        let mut sums = [[[0.0; MAX_LANES]; PANELS]; N];
        for first in (0..tokens).step_by(N) {
            let sums = &mut sums[..N.min(tokens - first)];
            let planes = (input.tokens(input.q8, first), input.fine.map(|fine| input.tokens(fine, first)));
            for row in (0..rows).step_by(PANELS * self.lanes) {
                // SAFETY: all lengths were checked, and whoever chose the instruction set saw that the CPU has it.
                unsafe { self.pair(weights, row, rows, planes, (&mut panels, sums)) };
                for (t, sums) in sums.iter().enumerate() {
                    let row_out = &mut out.row(first + t)[row..];
                    for (out, sums) in row_out.chunks_mut(self.lanes).zip(sums) {
                        match out.len() {
                            MAX_LANES => out.copy_from_slice(sums),
                            len => out.copy_from_slice(&sums[..len]),
                        }
                    }
                }
            }
        }
    }

    /// The sums of two panels: the rows from `row` on, of `rows`.
    ///
    /// # Safety
    /// The CPU has the instruction set; there are so many rows, and as many tokens as sums.
    #[inline]
    unsafe fn pair(
        &self,
        weights: WeightRows<'_>,
        row: usize,
        rows: usize,
        (tokens, fine): (Tokens, Option<Tokens>),
        (panels, sums): (&mut [Panel; PANELS], &mut [Sums]),
    ) {
        let quantised = weights.ty.is_quantised();
        let (width, unit) = if quantised { (COLS, 32) } else { (FLOAT_COLS, 1) };
        let first = weights.bytes[row * weights.row_bytes..].as_ptr();
        // What follows the tile is most likely another thread's.
        let both = PANELS * self.lanes;
        let next = if row + both < rows { both * weights.row_bytes } else { 0 };
        sums.fill([[0.0; MAX_LANES]; PANELS]);
        for (i, col) in (0..weights.cols).step_by(width).enumerate() {
            let (at, units) = (i * self.bytes, width.min(weights.cols - col) / unit);
            for (p, panel) in panels.iter_mut().enumerate() {
                let row = row + p * self.lanes;
                let ragged = !quantised && !(units * weights.row_bytes / weights.cols).is_multiple_of(16);
                // SAFETY: the caller vouches for the rows and the instruction set.
                unsafe {
                    if row + self.lanes > rows || ragged {
                        self.unpack_copy(weights, row..rows, at, units, panel);
                    } else {
                        let first = first.add(p * self.lanes * weights.row_bytes);
                        let next = first.wrapping_add(next);
                        (self.unpack)(Rows { first, stride: weights.row_bytes, next }, at, units, panel);
                    }
                }
            }
            let columns = Columns { first: col / unit, units, offset: self.offset };
            // SAFETY: the panels were filled, and the caller vouches for the tokens.
            unsafe {
                (self.multiply)(panels, columns, tokens, sums);
                if let Some(fine) = fine.filter(|_| quantised) {
                    (self.multiply)(panels, columns, fine, sums);
                }
            }
        }
    }

    /// Unpacks rows that are fewer than a panel has, or whose last columns are no whole vector. Rows that are not there are
    /// zeros.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[cold]
    #[inline(never)]
    unsafe fn unpack_copy(
        &self,
        weights: WeightRows<'_>,
        rows: Range<usize>,
        at: usize,
        units: usize,
        panel: &mut Panel,
    ) {
        let mut copies = [[0u8; MAX_BYTES]; MAX_LANES];
        let len = self.bytes.min(weights.row_bytes - at);
        for (copy, row) in copies.iter_mut().zip(rows).take(self.lanes) {
            copy[..len].copy_from_slice(&weights.row(row)[at..at + len]);
        }
        // SAFETY: the copies have all columns, and zeros behind them.
        unsafe {
            let first = copies.as_ptr().cast();
            (self.unpack)(Rows { first, stride: MAX_BYTES, next: first }, 0, units, panel);
        }
    }
}
