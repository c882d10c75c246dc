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
/// Steps in a stage of activations of so many rows.
fn x_steps(rows: usize) -> usize {
    if rows == 64 { 2 } else { 4 }
}

/// Rows of activations a block, for so many rows.
pub(super) fn many_rows(rows: usize) -> usize {
    rows.next_power_of_two().clamp(16, 64)
}

/// Which kernel, over how many blocks each matrix' columns go, and a block's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// 16 tiles to a unit, or 8 of gate and 8 of up.
    wide: bool,
    cluster: usize,
    stages: usize,
    weight_stages: usize,
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
    /// The first of the candidates with room for its rings: for as many blocks a multiprocessor as it is made for, or else for one.
    fn shape(&self, multiprocessors: usize) -> Option<Shape> {
        let candidates = self.candidates(multiprocessors);
        let halves = candidates.iter().find_map(|&(wide, cluster)| {
            self.rings(wide, cluster, if self.blocks(wide) == 1 { SHARED_BYTES } else { HALF_SHARED_BYTES })
        });
        halves.or_else(|| candidates.iter().find_map(|&(wide, cluster)| self.rings(wide, cluster, SHARED_BYTES)))
    }

    /// Wide or not, and blocks of a cluster, best first as measured (tests/bench/gpu-many.md). Matrices of many rows are read by whole
    /// blocks of many rows, which fetch activations less often, and so are experts, of which there are many; of others the columns
    /// are split over as many blocks as run at once.
    fn candidates(&self, multiprocessors: usize) -> Vec<(bool, usize)> {
        let narrow_units = self.tiles.div_ceil(8);
        let split = |wide: bool, most_blocks: usize, clusters: &'static [usize]| {
            let units = self.tiles.div_ceil(if wide && !self.pair { 16 } else { 8 });
            clusters.iter().filter(move |&&c| units * c <= most_blocks).map(move |&c| (wide, c))
        };
        let whole = [(true, 1), (false, 1)].into_iter().filter(|&(wide, _)| wide || !self.pair);
        if self.items || narrow_units > 3 * multiprocessors {
            let wide = self.pair || if self.items { self.rows == 64 } else { self.rows > 16 };
            return if wide { whole.collect() } else { whole.rev().collect() };
        }
        if self.pair {
            return split(true, multiprocessors, &[8, 4, 2]).chain(whole).collect();
        }
        // Clusters of four start and meet sooner than those of eight, even if they fill half of the card.
        let first: Vec<_> = if self.rows > 16 && 2 * narrow_units >= multiprocessors * 7 / 16 {
            split(true, multiprocessors, &[4, 2]).chain(split(false, multiprocessors * 5 / 2, &[8])).collect()
        } else {
            // Where few rows are multiplied, half of the blocks do as much.
            let blocks = if self.rows == 16 { multiprocessors * 3 / 2 } else { 2 * multiprocessors };
            split(false, blocks, &[8, 4, 2]).collect()
        };
        first.into_iter().chain(split(true, 2 * multiprocessors, &[8])).chain(whole).collect()
    }

    /// Blocks that share a multiprocessor.
    fn blocks(&self, wide: bool) -> usize {
        if wide && (self.rows > 16 || !self.items) { 1 } else { 2 }
    }

    /// The rings of a block that may have `room` bytes, if there is enough.
    fn rings(&self, wide: bool, cluster: usize, room: usize) -> Option<Shape> {
        let tiles = if wide { 16 } else { 8 };
        let (x, weights, sums) =
            (x_steps(self.rows) * self.rows * STEP_COLS * 2, tiles * self.slot_bytes, tiles * self.rows * 64);
        // Where a warp has no registers to add up its parts, it does so beside the rings; with clusters, all parts but one lie there.
        let beside = if wide { self.rows == 16 } else { self.rows == 64 };
        let apart = if cluster == 1 { usize::from(beside) } else { PARTS / cluster - 1 } * sums;
        let room = room.checked_sub(apart)?;
        // No more than a block has to do.
        let steps = self.cols.div_ceil(STEP_COLS * cluster) + 4;
        let most = if self.f16 { steps.min(MOST_STAGES) } else { steps.div_ceil(4).min(4) };
        let weight_stages = [3, 2].into_iter().map(|stages| (room.saturating_sub(stages * x) / weights).min(most));
        let weight_stages = weight_stages.into_iter().find(|&stages| stages >= 2)?;
        let stages = ((room - weight_stages * weights) / x).min((steps / x_steps(self.rows)).max(2)).min(MOST_STAGES);
        let shared_bytes = 1024 + (stages * x + weight_stages * weights).max(sums) + apart;
        Some(Shape { wide, cluster, stages, weight_stages, shared_bytes })
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
        (args.stages, args.weight_stages) = (shape.stages as u32, shape.weight_stages as u32);
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
                    assert!((2..=8).contains(&shape.stages) && shape.weight_stages >= 2);
                    assert!(shape.wide || !pair, "{work:?} {shape:?}");
                }
            }
        }
    }
}
