//! Products of 2 to 8 rows of activations: how product_rows.cu is launched in the steps of few sequences.
//!
//! The sums are those of the other ways. A block has its multiprocessor alone; it keeps all rows where they have to be kept or serve
//! many units, and else takes them from its rings, beside the weights.

use super::kernels::Launch;
use super::packed::{Packed, records};
use super::params::{PackedProduct, RowsProduct};
use super::pass::Run;
use super::ways::{Kernel, SMALL_ROWS, Way};
use crate::error::Result;

/// Parts of the columns, each a warp of a team's, and warps of a block that multiply.
pub(super) const PARTS: usize = 8;
const WARPS: usize = 16;
/// Warps beside those: one asks for weights, four store sums.
pub(super) const HELPERS: usize = 5;
pub(super) const MAX_STAGES: usize = 16;
/// Shared memory of a block, as measured (tests/bench/gpu-many.md), and what the kernels declare.
const BLOCK_BYTES: usize = 190 << 10;
const PAIR_BYTES: usize = 140 << 10;
const DECLARED_BYTES: usize = 26 << 10;
/// Bytes of rows that a block keeps though it need not.
const KEPT_BYTES: usize = 128 << 10;
/// Records of a row up to which another kernel is faster for gate and up.
const SHORT_RECORDS: usize = 3;
/// Units of a block from which on it keeps its rows.
const MANY_UNITS: usize = 2;
const RECORD_ROW_BYTES: usize = 512;

/// A launch over so many columns and rows.
#[derive(Clone, Copy, Debug)]
struct Work {
    cols: usize,
    rows: usize,
    units: usize,
    pair: bool,
    f16: bool,
    piece_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    warps: usize,
    resident: bool,
    stages: usize,
    slot_bytes: usize,
    shared_bytes: usize,
    blocks: usize,
}

impl Work {
    /// None where another kernel is faster, or the rows that have to be kept leave no room for rings.
    fn shape(self, multiprocessors: usize, shared_bytes: usize) -> Option<Shape> {
        if self.pair && records(self.cols) <= SHORT_RECORDS {
            return None;
        }
        let blocks = self.units.min(multiprocessors).max(1);
        let parts = records(self.cols).clamp(1, PARTS);
        let x = records(self.cols) * RECORD_ROW_BYTES * self.rows;
        let resident = self.pair || self.f16 || (self.units > MANY_UNITS * blocks && x <= KEPT_BYTES);
        let (kept, slot_bytes) = match resident {
            true => (x, self.piece_bytes),
            false => (0, self.piece_bytes + RECORD_ROW_BYTES * self.rows),
        };
        let wanted = if self.pair { PAIR_BYTES } else { BLOCK_BYTES };
        let room = wanted.min(shared_bytes.saturating_sub(DECLARED_BYTES)).checked_sub(kept)?;
        let pieces = records(self.cols).div_ceil(parts) * if self.f16 { 4 } else { 1 };
        let with = |teams: usize, least: usize| {
            let warps = parts * teams;
            // No more than a block has to do.
            let most = self.units.div_ceil(blocks * teams) * (1 + usize::from(self.pair)) * pieces;
            let stages = (room / (warps * slot_bytes)).min(MAX_STAGES).min(most);
            let shared_bytes = kept + stages * warps * slot_bytes;
            let shape = Shape { warps, resident, stages, slot_bytes, shared_bytes, blocks };
            (stages >= least.min(most)).then_some(shape)
        };
        // Fewer teams rather than rings of one stage. F16 needs no unpacking, and so no second team.
        let teams = if self.f16 { 1 } else { self.units.div_ceil(blocks).min(WARPS / parts) };
        (1..=teams).rev().find_map(|teams| with(teams, 2)).or_else(|| with(1, 1))
    }
}

impl Run<'_> {
    /// Whether `n` rows go through product_rows.cu where it has room for them.
    pub(super) fn few_rows(&self, way: Way, n: usize) -> bool {
        let here = || self.weights.gpu.kernels().is_ok_and(|k| k.abilities.few_rows);
        way == Way::Small && (2..=SMALL_ROWS).contains(&n) && here()
    }

    /// Launches a product of few rows; false where another kernel has to.
    pub(super) fn launch_rows(&self, mut args: PackedProduct, sizes: &[Packed], pair: bool) -> Result<bool> {
        let card = &self.weights.gpu.card;
        let work = Work {
            cols: args.cols as usize,
            rows: args.tokens as usize,
            units: Kernel { way: Way::Small, pair, wide: false }.number_units(&mut args),
            pair,
            f16: sizes.iter().any(|p| p.kind == 0),
            piece_bytes: sizes.iter().map(|p| p.piece_bytes).max().unwrap_or(1),
        };
        let Some(shape) = work.shape(card.multiprocessors, card.shared_bytes) else { return Ok(false) };
        (args.stages, args.slot_bytes) = (shape.stages as u32, shape.slot_bytes as u32);
        let launch = Launch {
            file: "product_rows",
            name: if pair { "product_rows_pair" } else { "product_rows" },
            grid: [shape.blocks, 1, 1],
            threads: 32 * (shape.warps + HELPERS) as u32,
            shared_bytes: shape.shared_bytes as u32,
            ..Launch::default()
        };
        self.send(&launch, &RowsProduct { product: args, resident: shape.resident.into(), pad: 0 })?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    fn shape(ty: QuantType, (cols, rows, units): (usize, usize, usize), pair: bool, shared: usize) -> Option<Shape> {
        let packed = Packed::new(ty, cols).expect("a kind");
        let (f16, piece_bytes) = (packed.kind == 0, packed.piece_bytes);
        Work { cols, rows, units, pair, f16, piece_bytes }.shape(132, shared)
    }

    #[test]
    fn blocks_have_no_more_than_there_is() {
        for ty in QuantType::ALL.into_iter().filter(|&ty| Packed::new(ty, 256).is_some()) {
            for (cols, units) in [(256, 1), (896, 304), (2048, 192), (4096, 8016), (14336, 256), (18944, 224)] {
                for (rows, pair, shared) in (0..12).map(|i| (2 + i % 7, i % 2 == 0, [99 << 10, 227 << 10][i / 6])) {
                    let Some(shape) = shape(ty, (cols, rows, units), pair, shared) else { continue };
                    assert!(shape.shared_bytes + DECLARED_BYTES <= shared, "{ty:?} {cols} {units} {shape:?}");
                    assert!((1..=MAX_STAGES).contains(&shape.stages) && shape.warps <= WARPS, "{shape:?}");
                }
            }
        }
    }

    #[test]
    fn rows_are_kept_where_they_serve_many_units() {
        let of = |cols, units, pair| shape(QuantType::Q4K, (cols, 8, units), pair, 227 << 10);
        let all = |s: Option<Shape>| s.map(|s| (s.resident, s.warps, s.blocks));
        assert_eq!(all(of(4096, 896, true)), Some((true, 16, 132)));
        assert_eq!(all(of(4096, 8016, false)), Some((true, 16, 132)));
        // Two stages rather than two teams.
        assert_eq!(all(of(14336, 256, false)), Some((false, 8, 132)));
        assert_eq!(all(of(896, 56, false)), Some((false, 4, 56)));
        assert_eq!((of(14336, 256, true), of(576, 96, true)), (None, None));
    }
}
