//! Products of 9 to 64 rows that a block can keep: how product_panels.cu is launched in the steps of many sequences of small models.
//!
//! The sums are those of the other ways.

use super::kernels::Launch;
use super::packed::{Packed, records};
use super::params::PackedProduct;
use super::pass::Run;
use super::rows::{HELPERS, MAX_STAGES, PARTS};
use super::ways::{BATCH_ROWS, Kernel, Way};
use crate::error::Result;

/// Shared memory of a block, which has its multiprocessor alone, and what the kernels declare.
const BLOCK_BYTES: usize = 218 << 10;
const DECLARED_BYTES: usize = 6 << 10;
/// Stages of a ring below which fewer teams, or another kernel, are faster.
const LEAST_STAGES: usize = 2;
const STEP_COLS: usize = 64;

/// A launch over so many columns and rows, of panels that are `x_stride` rows apart.
#[derive(Clone, Copy, Debug)]
struct Work {
    cols: usize,
    rows: usize,
    x_stride: usize,
    units: usize,
    pair: bool,
    f16: bool,
    piece_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Rows that the kernel is made for.
    rows: usize,
    warps: usize,
    stages: usize,
    shared_bytes: usize,
    blocks: usize,
}

impl Work {
    /// None where a block cannot keep the rows.
    fn shape(self, multiprocessors: usize, shared_bytes: usize) -> Option<Shape> {
        let rows = self.rows.next_power_of_two().clamp(16, BATCH_ROWS);
        let blocks = self.units.min(multiprocessors).max(1);
        let parts = records(self.cols).clamp(1, PARTS);
        let x = self.cols.div_ceil(STEP_COLS) * self.x_stride * STEP_COLS * 2;
        let room = BLOCK_BYTES.min(shared_bytes.saturating_sub(DECLARED_BYTES)).checked_sub(x)?;
        let halves = 1 + usize::from(self.pair);
        let sums = 64 * rows * halves;
        let pieces = records(self.cols).div_ceil(parts) * if self.f16 { 4 } else { 1 };
        // 64 rows take the registers of half of the warps.
        let teams = self.units.div_ceil(blocks).min(if rows == 64 { 8 } else { 16 } / parts);
        (1..=teams).rev().find_map(|teams| {
            let warps = parts * teams;
            // No more than a block has to do.
            let most = self.units.div_ceil(blocks * teams) * halves * pieces;
            let stages = (room / warps).checked_sub(sums)? / self.piece_bytes;
            let stages = stages.min(MAX_STAGES).min(most);
            let shared_bytes = x + warps * (stages * self.piece_bytes + sums);
            (stages >= LEAST_STAGES.min(most)).then_some(Shape { rows, warps, stages, shared_bytes, blocks })
        })
    }
}

impl Run<'_> {
    /// Launches a product of rows that a block can keep; false where another kernel has to.
    pub(super) fn launch_panels(&self, mut args: PackedProduct, sizes: &[Packed], pair: bool) -> Result<bool> {
        let gpu = &self.weights.gpu;
        let rows = args.tokens as usize;
        if rows > BATCH_ROWS || !gpu.kernels()?.abilities.few_rows {
            return Ok(false);
        }
        let work = Work {
            cols: args.cols as usize,
            rows,
            x_stride: args.x_stride as usize,
            units: Kernel { way: Way::Small, pair, wide: false }.number_units(&mut args),
            pair,
            f16: sizes.iter().any(|p| p.kind == 0),
            piece_bytes: sizes.iter().map(|p| p.piece_bytes).max().unwrap_or(1),
        };
        let Some(shape) = work.shape(gpu.card.multiprocessors, gpu.card.shared_bytes) else { return Ok(false) };
        (args.stages, args.slot_bytes) = (shape.stages as u32, work.piece_bytes as u32);
        let name = format!("product_panels_{}{}", shape.rows, if pair { "_pair" } else { "" });
        let launch = Launch {
            file: "product_panels",
            name: &name,
            grid: [shape.blocks, 1, 1],
            threads: 32 * (shape.warps + HELPERS) as u32,
            shared_bytes: shape.shared_bytes as u32,
            ..Launch::default()
        };
        self.send(&launch, &args)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    #[test]
    fn blocks_have_no_more_than_there_is() {
        for ty in QuantType::ALL.into_iter().filter(|&ty| Packed::new(ty, 256).is_some()) {
            for (cols, units) in [(256, 1), (896, 304), (896, 9496), (2048, 192), (2048, 512), (4096, 8016)] {
                for (rows, pair, shared) in
                    (0..12).map(|i| (9 + 11 * (i % 6), i % 2 == 0, [99 << 10, 227 << 10][i / 6]))
                {
                    let packed = Packed::new(ty, cols).expect("a kind");
                    let (f16, piece_bytes, x_stride) = (packed.kind == 0, packed.piece_bytes, rows.next_multiple_of(8));
                    let work = Work { cols, rows, x_stride, units, pair, f16, piece_bytes };
                    let Some(shape) = work.shape(132, shared) else { continue };
                    assert!(shape.shared_bytes + DECLARED_BYTES <= shared, "{work:?} {shape:?}");
                    assert!((1..=MAX_STAGES).contains(&shape.stages) && shape.warps <= 16, "{work:?} {shape:?}");
                    assert!(shape.rows >= rows && (shape.rows < 64 || shape.warps <= 8), "{work:?} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn small_models_rows_are_kept() {
        let packed = Packed::new(QuantType::Q5_0, 896).expect("a kind");
        let of = |cols, rows| {
            let work = Work {
                cols,
                rows,
                x_stride: rows,
                units: 304,
                pair: true,
                f16: false,
                piece_bytes: packed.piece_bytes,
            };
            work.shape(132, 227 << 10).map(|s| (s.rows, s.warps, s.blocks))
        };
        assert_eq!(of(896, 32), Some((32, 12, 132)));
        assert_eq!(of(896, 64), Some((64, 4, 132)));
        assert_eq!((of(4096, 32), of(2048, 64)), (None, None));
    }
}
