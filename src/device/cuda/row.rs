//! Products of one row of activations: how product_row.cuh is launched in the steps of a single sequence.
//!
//! The sums are those of the other ways. Two blocks of eight warps fill a multiprocessor, and so every kernel's blocks are dealt
//! out evenly (tests/bench/gpu-decode.md).

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
/// Blocks of eight warps that a multiprocessor takes of one launch, and of any.
const BLOCKS: usize = 2;
const MOST_BLOCKS: usize = 4;
const STEP_COLS: usize = 64;
/// Bytes under way to a block until its row is there: few, or the row comes after them.
const QUIET_BYTES: usize = 20 << 10;
/// Pairs of kinds that have kernels of their own, and these kernels' ending.
const KINDS: [([u32; 2], &str); 4] =
    [([1, 1], "q4_0"), ([5, 5], "q8_0"), ([3, 5], "q5_0_q8_0"), ([8, 10], "q4_k_q6_k")];
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

/// Shared memory of a block with which a multiprocessor takes no more than `blocks`, besides what the kernel declares. With one more
/// the blocks that start while another kernel ends are dealt out unevenly.
fn no_more_than(blocks: usize, shared_bytes: usize) -> usize {
    shared_bytes / (blocks + 1) + 1024
}

/// The kernel for matrices of these sizes; `ahead` where no block has more than one unit.
fn kernel(sizes: &[Packed], pair: bool, ahead: bool) -> (&'static str, String) {
    let name = if pair { "product_row_pair" } else { "product_row" };
    match KINDS.iter().find(|(kinds, _)| sizes.iter().all(|p| kinds.contains(&p.kind))) {
        Some((_, ending)) => ("product_row_kinds", format!("{name}_{ending}{}", if ahead { "_ahead" } else { "" })),
        None => ("product_row", name.to_string()),
    }
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
        let wanted = row_bytes(args.cols as usize) + args.stages as usize * warps * piece;
        let multiprocessors = gpu.card.multiprocessors.max(1);
        let together = (BLOCKS * WARPS / warps).min(MOST_BLOCKS);
        let dense = warps == WARPS || units > multiprocessors;
        let shared_bytes = wanted.max(if dense { no_more_than(together, gpu.card.shared_bytes) } else { 0 });
        let quiet = QUIET_BYTES / piece.max(1);
        let mut row = RowProduct { product: args, quiet: quiet.max(1) as u32, ..RowProduct::default() };
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
        let blocks = together * multiprocessors;
        let grid = [units.min(blocks.div_ceil(experts)), experts, 1];
        let (file, name) = kernel(sizes, pair, grid[0] == units && group.chosen.is_none());
        let launch = Launch {
            file,
            name: &name,
            grid,
            threads: 32 * (warps + HELPERS) as u32,
            shared_bytes: shared_bytes as u32,
            ..Launch::default()
        };
        self.send(&launch, &row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    fn packed(types: &[QuantType]) -> Vec<Packed> {
        types.iter().map(|&ty| Packed::new(ty, 4096).expect("a kind")).collect()
    }

    #[test]
    fn two_kinds_have_kernels_of_their_own() {
        let name = |types: &[QuantType], pair, ahead| kernel(&packed(types), pair, ahead).1;
        assert_eq!(name(&[QuantType::Q4K, QuantType::Q4K, QuantType::Q6K], false, true), "product_row_q4_k_q6_k_ahead");
        assert_eq!(name(&[QuantType::Q8_0], false, false), "product_row_q8_0");
        assert_eq!(name(&[QuantType::Q5_0, QuantType::Q5_0], true, true), "product_row_pair_q5_0_q8_0_ahead");
        assert_eq!(name(&[QuantType::Q4K, QuantType::Q8_0], false, true), "product_row");
        assert_eq!(kernel(&packed(&[QuantType::F16]), true, true), ("product_row", "product_row_pair".to_string()));
        let source = include_str!("../../../kernels/product_row_kinds.cu");
        for (_, ending) in KINDS {
            assert!(source.contains(&format!("PRODUCT_ROW(_{ending}, ")), "{ending}");
            assert!(source.contains(&format!("PRODUCT_ROW(_{ending}_ahead, ")), "{ending}");
        }
    }

    #[test]
    fn shared_memory_keeps_a_third_block_out() {
        let shared_bytes = 227 << 10;
        for blocks in 1..=MOST_BLOCKS {
            let bytes = no_more_than(blocks, shared_bytes);
            assert!(
                (blocks + 1) * bytes > shared_bytes && blocks * (bytes + DECLARED_BYTES) <= shared_bytes,
                "{blocks}"
            );
        }
    }
}
