//! How a prompt's few rows are launched (kernels/product_prefill.cuh, 16 to 64 rows a block): smaller blocks than those for many
//! rows, so that all multiprocessors have one. The sums are the same.

use super::kernels::Launch;
use super::packed::Packed;
use super::params::PackedProduct;
use super::pass::Run;
use super::products::Items;
use super::ways::{Kernel, PROMPT_ROWS, Way};
use crate::error::{Error, Result};

const BLOCK: u32 = 384;
const TILES: usize = 8;
/// Shared memory of a block that has its multiprocessor alone, and of one of two, without what the kernel itself declares.
const SHARED_BYTES: usize = 224 * 1024;
const HALF_SHARED_BYTES: usize = 111 * 1024;
/// More than a block can have where there are two.
const ALONE_BYTES: usize = 116 * 1024;
const MOST_STAGES: usize = 8;
/// Bytes of a row of sums of a tile: 16 floats, and room to keep off each other's banks.
const SUM_BYTES: usize = 80;

/// A launch's rows a block, and its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: usize,
    stages: usize,
    weight_stages: usize,
    shared_bytes: usize,
}

/// What a launch is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Blocks of 128 rows of weights.
    pub units: usize,
    /// Rows of activations; with items the most that one has.
    pub tokens: usize,
    pub items: bool,
}

impl Work {
    /// Rows of activations a block, the fewest with which each block finds a multiprocessor for itself; None where there are more than
    /// that anyway: then blocks for many rows are faster (tests/bench/gpu-many.md).
    fn rows(self, multiprocessors: usize) -> Option<usize> {
        if self.items {
            return (self.tokens <= 64).then(|| self.tokens.next_power_of_two().max(16));
        }
        [16, 32, 64].into_iter().find(|rows| self.units * self.tokens.div_ceil(*rows) <= multiprocessors)
    }
}

/// The rings of a block of so many rows, which has its multiprocessor for itself or shares it.
fn shape(rows: usize, (pair, alone): (bool, bool), slot_bytes: usize, f16: bool) -> Option<Shape> {
    let tiles = TILES << usize::from(pair);
    let room = if pair || alone { SHARED_BYTES } else { HALF_SHARED_BYTES };
    let (weights, x) = (tiles * slot_bytes, rows * 128);
    let (least, most) = if f16 { (4, 8) } else { (2, 4) };
    [room, SHARED_BYTES].into_iter().find_map(|room| {
        let fits = |&n: &usize| room >= n * weights + MOST_STAGES * x;
        let weight_stages = (least..=most).rev().find(fits).unwrap_or(least);
        let stages = (room.checked_sub(weight_stages * weights)? / x).min(MOST_STAGES);
        let wanted = 1024 + (stages * x + weight_stages * weights).max(tiles * rows * SUM_BYTES);
        // Or the card puts two on one multiprocessor while another has none.
        let shared_bytes = if alone { wanted.max(ALONE_BYTES) } else { wanted };
        (stages >= 2).then_some(Shape { rows, stages, weight_stages, shared_bytes })
    })
}

/// Rows of one expert that go through a block together, for so many on average.
pub(super) fn item_rows(average: usize) -> usize {
    (2 * average).next_power_of_two().clamp(16, PROMPT_ROWS)
}

impl Run<'_> {
    /// Launches a product of few rows of a prompt; false where the kernels for many rows serve it.
    pub(super) fn launch_few(
        &self,
        args: &mut PackedProduct,
        sizes: &[Packed],
        pair: bool,
        items: Option<Items>,
    ) -> Result<bool> {
        let gpu = &self.weights.gpu;
        let tokens = args.tokens as usize;
        let matrices = if pair { 1 } else { args.matrices as usize };
        let units = args.matrix.iter().take(matrices).map(|m| (m.tiles as usize).div_ceil(TILES)).sum();
        let work = Work { units, tokens, items: items.is_some() };
        let Some(rows) = work.rows(gpu.card.multiprocessors) else { return Ok(false) };
        let slot_bytes = sizes.iter().map(|p| p.piece_bytes).max().unwrap_or(0);
        let groups = items.map_or(tokens.div_ceil(rows), |i| i.items);
        let shape = shape(rows, (pair, items.is_none()), slot_bytes, sizes.iter().any(|p| p.kind == 0));
        let shape = shape.ok_or_else(|| Error::launch(format!("a product without room in shared memory: {work:?}")))?;
        let units = Kernel { way: Way::Prompt, pair, wide: false }.number_units(args);
        (args.stages, args.weight_stages) = (shape.stages as u32, shape.weight_stages as u32);
        args.slot_bytes = slot_bytes as u32;
        let name = format!("product_prefill_{rows}{}", if pair { "_pair" } else { "" });
        let launch = Launch {
            file: match rows {
                16 => "product_prefill_16",
                32 => "product_prefill_32",
                _ => "product_prefill_64",
            },
            name: &name,
            grid: [units, groups, 1],
            threads: BLOCK,
            shared_bytes: shape.shared_bytes as u32,
            ..Launch::default()
        };
        self.send(&launch, args)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    #[test]
    fn every_product_has_room() {
        for packed in QuantType::ALL.into_iter().filter_map(|ty| Packed::new(ty, 4096)) {
            for (rows, pair, alone) in (0..12).map(|i| (16 << (i % 3), i % 2 == 0, i >= 6)) {
                let shape = shape(rows, (pair, alone), packed.piece_bytes, packed.kind == 0);
                let shape = shape.unwrap_or_else(|| panic!("{rows} rows of kind {}", packed.kind));
                assert!(shape.shared_bytes + 1024 <= 227 << 10 && (2..=8).contains(&shape.stages), "{shape:?}");
                assert!((2..=8).contains(&shape.weight_stages), "{shape:?}");
            }
        }
    }

    #[test]
    fn few_rows_are_cut_so_that_all_multiprocessors_have_a_block() {
        let rows = |units, tokens, items| Work { units, tokens, items }.rows(132);
        assert_eq!(rows(7, 64, false), Some(16));
        assert_eq!(rows(32, 128, false), Some(32));
        assert_eq!(rows(112, 64, false), Some(64));
        assert_eq!((rows(112, 128, false), rows(32, 2048, false)), (None, None));
        assert_eq!((rows(23, 30, true), rows(23, 128, true)), (Some(32), None));
    }
}
