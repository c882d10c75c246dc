//! How product_many.cuh is launched: rows a block, the parts of the columns over clusters, and what the rings hold.

use super::kernels::Launch;
use super::packed::Packed;
use super::params::PackedProduct;
use super::pass::Run;
use super::products::Items;
use super::ways::{Kernel, Way};
use crate::error::{Error, Result};

const BLOCK: u32 = 384;
/// Parts of the columns whose sums are formed apart.
const PARTS: usize = 8;
/// Shared memory of a block that has its multiprocessor alone, and of one of two, without what the kernel itself declares.
const SHARED_BYTES: usize = 224 * 1024;
const HALF_SHARED_BYTES: usize = 111 * 1024;
const MOST_STAGES: usize = 8;
const STEP_COLS: usize = 64;

/// Rows of activations a block, for so many rows.
pub(super) fn many_rows(rows: usize) -> usize {
    rows.next_power_of_two().clamp(16, 64)
}

/// Which kernel, over how many blocks each matrix' columns go, and a block's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// 16 tiles to a unit, or 8 of gate and 8 of up.
    wide: bool,
    cluster: usize,
    stages: usize,
    shared_bytes: usize,
}

/// What a launch is over.
#[derive(Clone, Copy, Debug)]
struct Work {
    tiles: usize,
    cols: usize,
    pair: bool,
    /// Rows of activations a block.
    rows: usize,
    items: bool,
    slot_bytes: usize,
    /// All of the matrices are F16.
    f16: bool,
}

impl Work {
    /// As measured (tests/bench/gpu-many.md). Matrices of many rows are read by whole blocks of many rows, which fetch activations
    /// less often, and so are experts, of which there are many; of others the columns are split over as many blocks as find room.
    fn shape(&self, multiprocessors: usize) -> Option<Shape> {
        let units = self.tiles.div_ceil(8);
        let large = units > 3 * multiprocessors;
        let wide = self.pair || self.rows > 16 && large || self.items && self.rows == 64;
        if let Some(shape) = self.split(wide, multiprocessors) {
            return Some(shape);
        }
        [!wide, wide].into_iter().filter(|&wide| wide || !self.pair).find_map(|wide| {
            let shape = self.split(wide, multiprocessors);
            shape.or_else(|| [1, 8, 4, 2].into_iter().find_map(|cluster| self.ring(wide, cluster, SHARED_BYTES)))
        })
    }

    /// The columns over as many blocks as run at once.
    fn split(&self, wide: bool, multiprocessors: usize) -> Option<Shape> {
        let units = self.tiles.div_ceil(if wide && !self.pair { 16 } else { 8 });
        let (blocks, room) = match self.blocks(wide) {
            1 => (multiprocessors, SHARED_BYTES),
            // Where few rows are multiplied, half of the blocks do as much.
            _ if self.rows == 16 && !wide => (multiprocessors * 3 / 2, HALF_SHARED_BYTES),
            _ if self.pair => (multiprocessors, HALF_SHARED_BYTES),
            _ => (2 * multiprocessors, HALF_SHARED_BYTES),
        };
        let most = if self.items { 1 } else { PARTS };
        let clusters = [8, 4, 2].into_iter().filter(|&c| c <= most && units * c <= blocks);
        clusters.chain([1]).find_map(|cluster| self.ring(wide, cluster, room))
    }

    /// Blocks that share a multiprocessor.
    fn blocks(&self, wide: bool) -> usize {
        if wide && self.rows > 16 { 1 } else { 2 }
    }

    /// Steps of 64 columns in a stage of the ring: those of a piece.
    fn stage_steps(&self) -> usize {
        if self.f16 { 1 } else { 4 }
    }

    /// The ring of a block that may have `room` bytes, if two stages fit.
    fn ring(&self, wide: bool, cluster: usize, room: usize) -> Option<Shape> {
        let tiles = if wide { 16 } else { 8 };
        let sums = tiles * self.rows * 64;
        // Where a warp has no registers to add up its parts, it does so beside the ring; with clusters, all parts but one lie there.
        let beside = if wide { self.rows == 16 } else { self.rows == 64 };
        let apart = if cluster == 1 { usize::from(beside) } else { PARTS / cluster - 1 } * sums;
        let stage = self.stage_steps() * self.rows * STEP_COLS * 2 + tiles * self.slot_bytes;
        // No more than a block has to do.
        let pieces = self.cols.div_ceil(STEP_COLS * self.stage_steps() * cluster) + 1;
        let stages = (room.saturating_sub(apart) / stage).min(pieces).min(MOST_STAGES);
        let shared_bytes = 1024 + (stages * stage).max(sums) + apart;
        (stages >= 2).then_some(Shape { wide, cluster, stages, shared_bytes })
    }
}

impl Run<'_> {
    /// Works out units, stages and grid as the head of product_many.cuh asks for.
    pub(super) fn launch_many(
        &self,
        mut args: PackedProduct,
        sizes: &[Packed],
        pair: bool,
        items: Option<Items>,
    ) -> Result<()> {
        let gpu = &self.weights.gpu;
        let (tokens, rows) = (args.tokens as usize, many_rows(args.tokens as usize));
        let matrices = if pair { 1 } else { args.matrices as usize };
        let work = Work {
            tiles: args.matrix.iter().take(matrices).map(|m| m.tiles as usize).sum(),
            cols: args.cols as usize,
            pair,
            rows,
            items: items.is_some(),
            slot_bytes: sizes.iter().map(|p| p.piece_bytes).max().unwrap_or(0),
            f16: sizes.iter().all(|p| p.kind == 0),
        };
        let shape = work.shape(gpu.card.multiprocessors);
        let shape = shape.ok_or_else(|| Error::launch(format!("a product without room in shared memory: {work:?}")))?;
        let kernel = Kernel { way: Way::Many, pair, wide: shape.wide && !pair };
        let units = kernel.number_units(&mut args);
        args.slot_bytes = work.slot_bytes as u32;
        (args.stages, args.weight_stages) = (shape.stages as u32, work.stage_steps() as u32);
        let ending = if pair { "_pair" } else { ["", "_wide"][usize::from(shape.wide)] };
        let name = format!("product_many_{rows}{ending}");
        let launch = Launch {
            file: match rows {
                16 => "product_many_16",
                32 => "product_many_32",
                _ => "product_many_64",
            },
            name: &name,
            grid: [shape.cluster * units, items.map_or(tokens.div_ceil(rows), |i| i.items), 1],
            threads: BLOCK,
            shared_bytes: shape.shared_bytes as u32,
            cluster: shape.cluster as u32,
            cooperative: false,
        };
        self.send(&launch, &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    #[test]
    fn every_product_has_room() {
        for packed in QuantType::ALL.into_iter().filter_map(|ty| Packed::new(ty, 4096)) {
            for (tiles, cols) in [(1, 32), (56, 896), (256, 14336), (512, 4096), (9496, 896)] {
                for (rows, pair, items) in (0..12).map(|i| (16 << (i % 3), i % 2 == 0, i >= 6)) {
                    let (slot_bytes, f16) = (packed.piece_bytes, packed.kind == 0);
                    let work = Work { tiles, cols, pair, rows, items, slot_bytes, f16 };
                    let shape = work.shape(132).unwrap_or_else(|| panic!("{work:?}"));
                    assert!(shape.shared_bytes + 1024 <= 227 << 10, "{work:?} {shape:?}");
                    assert!((2..=8).contains(&shape.stages) && (shape.wide || !pair), "{work:?} {shape:?}");
                }
            }
        }
    }
}
