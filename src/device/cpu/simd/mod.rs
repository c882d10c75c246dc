//! Which instructions the kernels use, and the one door to the matrix kernels: [`Isa::matmul`].
//!
//! A matrix kernel fills `out[t][r] = weights.row(r) · input.row(t)` for the rows of a [`Tile`]. What it
//! must keep: the value of (t, r) is the same bits whatever the size of the tile, so that neither
//! threads nor batches show; it may not read outside the rows that it is given.
//!
//! `portable` has the oracle, `x86` the kernels of the other instruction sets, each of which has one for
//! every type; [`Isa::form`] says in which form they read activations.

mod attention;
mod elementwise;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_x86;
mod portable;
mod quantise;
mod rows;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use attention::{Page, QUERIES, Queries, State};
pub use quantise::{Planes, PlanesMut};

use super::pool::Tile;
use crate::error::{Error, Result};
use crate::quant::QuantType;
use std::fmt;
use std::ops::Range;

/// The instruction sets that there is code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Any CPU: float activations and exact sums, the oracle of the others.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
}

/// The forms in which a kernel may read activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// f32
    Float,
    /// Two planes of int8, as [`Planes`] defines them.
    Planes,
}

/// Rows of a matrix that follow each other in the file.
#[derive(Clone, Copy, Debug)]
pub struct WeightRows<'a> {
    pub ty: QuantType,
    pub cols: usize,
    pub row_bytes: usize,
    pub bytes: &'a [u8],
}

/// Activations [rows, cols], in the forms that the step's kernels read; the others are empty.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub cols: usize,
    pub float: &'a [f32],
    pub planes: Planes<'a>,
}

impl<'a> WeightRows<'a> {
    pub fn row(&self, r: usize) -> &'a [u8] {
        &self.bytes[r * self.row_bytes..][..self.row_bytes]
    }
}

impl<'a> Input<'a> {
    /// The rows `rows` alone.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let (start, len) = (rows.start * self.cols, rows.len() * self.cols);
        Self {
            cols: self.cols,
            float: self.float.get(start..start + len).unwrap_or_default(),
            planes: self.planes.part(start, len).unwrap_or_default(),
        }
    }

    pub fn float_row(&self, t: usize) -> &'a [f32] {
        &self.float[t * self.cols..][..self.cols]
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "AVX2",
            Isa::Avx512 => "AVX-512",
        })
    }
}

impl Isa {
    /// The best that this CPU has.
    pub fn detect() -> Self {
        [Isa::Avx512, Isa::Avx2].into_iter().find(|isa| isa.missing().is_none()).unwrap_or(Isa::Portable)
    }

    /// The one named by `WORKER_ORCD_CPU`: `portable`, `avx2` or `avx512`; the best one where it is unset or empty.
    pub fn from_env() -> Result<Self> {
        match std::env::var_os("WORKER_ORCD_CPU") {
            Some(name) if !name.is_empty() => Self::named(&name.to_string_lossy()),
            _ => Ok(Self::detect()),
        }
    }

    fn named(name: &str) -> Result<Self> {
        match name {
            "portable" => Ok(Isa::Portable),
            "avx2" => Isa::Avx2.present(),
            "avx512" => Isa::Avx512.present(),
            _ => Err(Error::device(format!("WORKER_ORCD_CPU={name}: it must be portable, avx2 or avx512"))),
        }
    }

    /// Itself, if the CPU has it.
    pub fn present(self) -> Result<Self> {
        match self.missing() {
            None => Ok(self),
            Some(feature) => {
                Err(Error::device(format!("WORKER_ORCD_CPU asks for {self}, but this CPU has no {feature}")))
            }
        }
    }

    /// The first instruction set that the CPU lacks.
    #[cfg(target_arch = "x86_64")]
    fn missing(self) -> Option<&'static str> {
        let avx2 = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
        ];
        let avx512 = [
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ];
        let lacks = |needs: &[(&'static str, bool)]| needs.iter().find(|(_, has)| !has).map(|(name, _)| *name);
        match self {
            Isa::Portable => None,
            Isa::Avx2 => lacks(&avx2),
            Isa::Avx512 => lacks(&avx2).or_else(|| lacks(&avx512)),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn missing(self) -> Option<&'static str> {
        (self != Isa::Portable).then_some("x86-64")
    }

    /// The form of the activations that the kernel for `ty` reads.
    pub fn form(self, ty: QuantType) -> Form {
        if self != Isa::Portable && ty.block_len() > 1 { Form::Planes } else { Form::Float }
    }

    /// out[t][r] = weights.row(r) · input.row(t), for the tile's rows t and columns r, both counted from 0. `room` holds at
    /// least `weights.cols` elements and its contents mean nothing.
    pub fn matmul(self, weights: WeightRows<'_>, input: Input<'_>, out: &mut Tile<'_>, room: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self != Isa::Portable {
            return x86::matmul(self, weights, input, out);
        }
        portable::matmul(weights, input, out, room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Isa::named("portable"), Ok(Isa::Portable));
        let bad = Isa::named("sse9").expect_err("no such set");
        assert!(bad.reason().contains("sse9") && bad.reason().contains("avx512"));
        assert!(Isa::detect().present().is_ok());
    }
}
