//! Products of one row of activations: how product_row.cu is launched in the steps of a single sequence.
//!
//! The sums are those of the other ways. Two blocks fill a multiprocessor by their registers, and so every kernel's blocks are
//! dealt out evenly (tests/bench/gpu-decode.md).

use super::kernels::Launch;
use super::packed::{Packed, records};
use super::params::{PackedProduct, RowProduct};
use super::pass::Run;
use super::products::Group;
use super::ways::{Kernel, Way};
use crate::error::Result;

/// Warps of a block at the most: the parts of the columns.
const WARPS: usize = 8;
/// Warps beside those: one asks for weights, one stores sums.
const HELPERS: usize = 2;
const MAX_STAGES: usize = 16;
/// Records of a row up to which gate and up by warps of their own are faster.
const SHORT_RECORDS: usize = 3;
/// Blocks of eight warps that a multiprocessor takes of one launch.
const BLOCKS: usize = 2;
const STEP_COLS: usize = 64;
/// The largest piece of any type, and above the shared memory that the kernels declare.
const MOST_PIECE_BYTES: usize = 4352;
const DECLARED_BYTES: usize = 8 << 10;

/// Shared memory for the weights on their way to a block: what was fastest (tests/bench/gpu-decode.md).
fn ring_bytes(cols: usize, f16: bool) -> usize {
    let kib = match cols {
        4097..=8192 => 48,
        3072.. => 72,
        _ if f16 => 72,
        _ => 20,
    };
    kib << 10
}

/// Bytes of a row of activations in a block.
fn row_bytes(cols: usize) -> usize {
    cols.next_multiple_of(STEP_COLS) * 2
}

/// Whether a block that may have `shared_bytes` can keep a row of `cols` columns beside the smallest rings.
pub(super) fn fits(cols: usize, shared_bytes: usize) -> bool {
    row_bytes(cols) + 2 * WARPS * MOST_PIECE_BYTES + DECLARED_BYTES <= shared_bytes
}

impl Run<'_> {
    pub(super) fn launch_row(
        &self,
        mut args: PackedProduct,
        sizes: &[Packed],
        pair: bool,
        group: &Group,
    ) -> Result<()> {
        let units = Kernel { way: Way::Small, pair, wide: false }.number_units(&mut args);
        let parts = records(args.cols as usize).clamp(1, WARPS);
        // Of a short row, gate and up have warps of their own. They share the row, so only where they make it together.
        let warps = if pair && parts <= SHORT_RECORDS && group.x.plain.is_some() { 2 * parts } else { parts };
        let piece = sizes.iter().map(|p| p.piece_bytes).max().unwrap_or(1);
        args.slot_bytes = piece as u32;
        let f16 = sizes.iter().any(|p| p.kind == 0);
        let ring = ring_bytes(args.cols as usize, f16);
        args.stages = (ring / (warps * piece)).clamp(2, MAX_STAGES) as u32;
        let gpu = &self.weights.gpu;
        // Two blocks find room together.
        let room = (gpu.card.shared_bytes / 2).saturating_sub(DECLARED_BYTES + row_bytes(args.cols as usize));
        args.stages = args.stages.min((room / (warps * piece)) as u32).max(2);
        let shared_bytes = row_bytes(args.cols as usize) + args.stages as usize * warps * piece;
        let mut row = RowProduct { product: args, ..RowProduct::default() };
        if let Some(plain) = group.x.plain {
            row.hidden = plain.at;
            if let Some(norm) = plain.norm {
                (row.norm_weight, row.norm_bias, row.eps, row.norm) =
                    (norm.weight, norm.bias, norm.eps, 1 + norm.layer as u32);
            }
        }
        let experts = group.chosen.map_or(1, |c| c.used);
        if let Some(chosen) = group.chosen {
            (row.chosen, row.x_per_expert) = (chosen.at, chosen.x_each.into());
        }
        let blocks = BLOCKS * WARPS / warps * gpu.card.multiprocessors.max(1);
        let launch = Launch {
            file: "product_row",
            name: if pair { "product_row_pair" } else { "product_row" },
            grid: [units.min(blocks.div_ceil(experts)), experts, 1],
            threads: 32 * (warps + HELPERS) as u32,
            shared_bytes: shared_bytes as u32,
            ..Launch::default()
        };
        self.send(&launch, &row)
    }
}
