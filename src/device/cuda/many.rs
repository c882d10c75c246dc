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
    f16: bool,
}

impl Work {
    /// As many parts as there is room for blocks (tests/bench/gpu-products.md): matrices of many rows are read by whole blocks of
    /// many rows, which fetch activations less often, and so are experts, of which there are many.
    fn shape(&self, multiprocessors: usize) -> Option<Shape> {
        let units = self.tiles.div_ceil(8);
        let large = units > if self.rows == 64 { 2 } else { 3 } * multiprocessors;
        let wide = self.pair || (!self.items && large) || (self.items && self.rows == 64);
        let blocks = self.blocks(wide);
        let most = if self.items { 1 } else { PARTS };
        let fits = |cluster: &usize| *cluster <= most && units * cluster <= blocks * multiprocessors;
        let first = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        [first, 1, 8, 4, 2].into_iter().find_map(|cluster| self.rings(wide, cluster))
    }

    /// Blocks that share a multiprocessor.
    fn blocks(&self, wide: bool) -> usize {
        if wide && self.rows > 16 { 1 } else { 2 }
    }

    /// The rings of a block, if there is room for them.
    fn rings(&self, wide: bool, cluster: usize) -> Option<Shape> {
        // A block of 8 tiles has no registers to add up the parts of 64 rows.
        if !wide && self.rows == 64 && cluster == 1 {
            return None;
        }
        let tiles = if wide { 16 } else { 8 };
        let room = if self.blocks(wide) == 1 { SHARED_BYTES } else { HALF_SHARED_BYTES };
        let (weights, x, sums) = (tiles * self.slot_bytes, self.rows * 128, tiles * self.rows * 64);
        let apart = if cluster == 1 || cluster == PARTS { 0 } else { PARTS / cluster * sums };
        // No more than a block has to do.
        let steps = self.cols.div_ceil(STEP_COLS).div_ceil(cluster);
        let (most, most_weights) = (steps.clamp(2, MOST_STAGES), (steps / 4 + 2).min(4));
        let least_weights = if self.f16 { 4 } else { 2 };
        // Where two blocks have no room, one has.
        for room in [room, SHARED_BYTES] {
            let left = |weight_stages: usize| room.saturating_sub(apart + weight_stages * weights) / x;
            let mut weight_stages = least_weights;
            while weight_stages < most_weights && left(weight_stages + 1) >= most {
                weight_stages += 1;
            }
            let stages = left(weight_stages).min(most);
            if stages >= 2 {
                let ring = stages * x + weight_stages * weights;
                let shared_bytes = 1024 + ring.max(sums) + apart;
                return Some(Shape { wide, cluster, stages, weight_stages, shared_bytes });
            }
        }
        None
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
            f16: sizes.iter().any(|p| p.kind == 0),
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
                    assert!((2..=8).contains(&shape.stages), "{work:?} {shape:?}");
                    let adds = shape.wide || rows < 64 || shape.cluster > 1;
                    assert!(adds && (shape.wide || !pair), "{work:?} {shape:?}");
                }
            }
        }
    }
}
