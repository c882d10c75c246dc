//! Products of the experts that up to 64 rows chose, sorted by the kernel itself: how product_experts.cu is launched.
//!
//! The sums are those of the other ways of decoding. WORKER_ORCD_CUDA_EXPERTS=sorted leaves all of it to those.

use super::driver::Ptr;
use super::kernels::Launch;
use super::packed::{Packed, records};
use super::params::{Choices, ExpertsProduct, PackedProduct, RouteCluster};
use super::pass::Run;
use super::products::ChosenExperts;
use super::ways::Way;
use crate::error::Result;
use crate::model::Linear;
use crate::plan::Experts;

/// Warps that make a unit together, and those beside them.
const TEAM: usize = 4;
const HELPERS: usize = 2;
const MAX_STAGES: usize = 8;
const MAX_CHOICES: usize = 256;
/// Shared memory of a team's sums, for each eight rows of an item.
const SUM_BYTES: usize = 3072;
const MAX_EXPERTS: usize = 128;
const KIND_MXFP4: u32 = 12;
/// Rows f16 [rows, x_stride], of product_experts.cu alone.
const STORE_ROWS: u32 = 4;
const STEP_COLS: usize = 64;
/// Experts of a block of route_cluster.cu, blocks of a cluster, the longest row, and clusters from which on each has several rows.
const ROUTE_EXPERTS: usize = 4;
const MOST_CLUSTER: usize = 8;
const MOST_ROUTE_COLS: usize = 4096;
const ROUTE_CLUSTERS: usize = 32;
/// Above the shared memory that the kernels declare.
const DECLARED_BYTES: usize = 9 << 10;

/// Rows of one pass, sorted by the expert that they chose.
#[derive(Clone, Copy)]
pub(super) struct Sorted {
    pub rows: usize,
    pub experts: usize,
    /// Below 0 for a row that is not there; null where all are.
    pub slot: Ptr,
}

/// How a launch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Rows of an item.
    most: usize,
    teams: usize,
    /// Rings in a block, in stages each, and items whose rows it keeps.
    stages: usize,
    x_buffers: usize,
    /// Teams that share rings.
    share: usize,
}

/// Elements from row to row of activations.
pub(super) fn row_stride(cols: usize) -> usize {
    cols.next_multiple_of(STEP_COLS)
}

impl Cut {
    /// As measured (tests/bench/gpu-many.md): of many rows, an expert has more than eight too often to read it twice.
    fn new(rows: usize, choices: usize, experts: usize) -> Cut {
        match rows {
            1 => Cut { most: 1, teams: 3, stages: 3, x_buffers: 2, share: 1 },
            ..=8 => Cut { most: rows, teams: 4, stages: 3, x_buffers: 2, share: 1 },
            _ if choices <= 5 * experts => Cut { most: 8, teams: 4, stages: 3, x_buffers: 2, share: 2 },
            _ => Cut { most: 16, teams: 4, stages: 3, x_buffers: 1, share: 2 },
        }
    }

    fn shared_bytes(&self, cols: usize, piece: usize) -> usize {
        let sums = SUM_BYTES * self.teams * self.most.div_ceil(8);
        self.x_buffers * self.most * (2 * row_stride(cols) + 16) + TEAM * self.teams * self.stages * piece + sums
    }
}

impl Run<'_> {
    /// Whether the pass's rows can go to these experts by product_experts.cu; their router is one that route_row or route_rows reads.
    pub(super) fn sorts_itself(&self, e: &Experts) -> bool {
        let sized = |l: &Linear| {
            self.packed(l).filter(|p| p.kind == KIND_MXFP4).map(|p| (self.weights.plan.weight(l.weight).cols, p))
        };
        let (Some(up), Some(down)) = (sized(&e.up), sized(&e.down)) else { return false };
        let choices = self.extent.rows * e.used;
        let cut = Cut::new(self.extent.rows, choices, e.router.rows.len());
        let room = self.weights.gpu.card.shared_bytes.saturating_sub(DECLARED_BYTES);
        let fits = |(cols, packed): (usize, Packed)| cut.shared_bytes(cols, packed.piece_bytes) <= room;
        let few = choices <= MAX_CHOICES.min(32 * TEAM * cut.teams) && e.router.rows.len() <= MAX_EXPERTS;
        self.way() != Way::Prompt
            && self.has_code(Way::Split)
            && few
            && fits(up)
            && fits(down)
            && self.weights.gpu.card.experts
    }

    /// Whether a cluster of blocks has room for the router, and its row.
    pub(super) fn routes_by_clusters(&self, e: &Experts) -> bool {
        e.router.rows.len() <= ROUTE_EXPERTS * MOST_CLUSTER && self.weights.plan.n_embd <= MOST_ROUTE_COLS
    }

    /// The norm, the router's logits and the choice of a few rows, which are left as f16.
    pub(super) fn route_cluster(&self, e: &Experts) -> Result<()> {
        let (s, cols, n) = (self.scratch, self.weights.plan.n_embd, self.extent.rows);
        let norm = self.weights.norm(&e.norm);
        let (router, bias) = self.weights.linear(&e.router);
        let each = n.div_ceil(ROUTE_CLUSTERS);
        let p = RouteCluster {
            hidden: s.hidden,
            norm_weight: norm.weight,
            norm_bias: norm.bias,
            router,
            bias,
            rows: s.packed_input,
            chosen: s.chosen,
            weights: s.chosen_weights,
            norm: 1 + norm.layer as u32,
            eps: norm.eps,
            cols: cols as i32,
            experts: e.router.rows.len() as i32,
            used: e.used as i32,
            row_stride: row_stride(cols) as i32,
            n: n as i32,
            each: each as i32,
        };
        let cluster = e.router.rows.len().div_ceil(ROUTE_EXPERTS).next_power_of_two();
        let launch = Launch {
            file: "route_cluster",
            name: "route_cluster",
            grid: [cluster, n.div_ceil(each), 1],
            threads: 256,
            shared_bytes: (4 * cols * (1 + ROUTE_EXPERTS)) as u32,
            cluster: cluster as u32,
        };
        self.send(&launch, &p)
    }

    /// Works out the grid and the rings as the head of product_experts.cu asks for.
    pub(super) fn launch_sorted(
        &self,
        mut args: PackedProduct,
        sizes: &[Packed],
        chosen: ChosenExperts,
        sorted: Sorted,
    ) -> Result<()> {
        let (choices, cols) = (sorted.rows * chosen.used, args.cols as usize);
        let cut = Cut::new(sorted.rows, choices, sorted.experts);
        let piece = sizes.iter().map(|p| p.piece_bytes).max().unwrap_or(1);
        let pair = args.matrices == 2;
        if pair {
            args.store = STORE_ROWS;
        }
        args.tokens = cut.most as u32;
        args.stages = cut.stages.min(MAX_STAGES).min(2 * records(cols)) as u32;
        args.slot_bytes = piece as u32;
        let params = ExpertsProduct {
            product: args,
            choices: Choices {
                chosen: chosen.at,
                slot: sorted.slot,
                count: choices as u32,
                used: chosen.used as u32,
                experts: sorted.experts as u32,
                most: cut.most as u32,
            },
            x_divide: if chosen.x_each { 1 } else { chosen.used as u32 },
            x_buffers: cut.x_buffers as u32,
            chosen_before: chosen.x_each.into(),
            share: cut.share as u32,
        };
        let launch = Launch {
            file: "product_experts",
            name: match (cut.most, pair) {
                (..=8, true) => "product_experts_8_pair",
                (..=8, false) => "product_experts_8",
                (_, true) => "product_experts_16_pair",
                (_, false) => "product_experts_16",
            },
            grid: [self.weights.gpu.card.multiprocessors, 1, 1],
            threads: 32 * (TEAM * cut.teams + HELPERS) as u32,
            shared_bytes: cut.shared_bytes(cols, piece) as u32,
            ..Launch::default()
        };
        self.send(&launch, &params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::QuantType;

    #[test]
    fn every_cut_has_room() {
        let packed = Packed::new(QuantType::MXFP4, 2880).expect("a kind");
        assert_eq!(packed.kind, KIND_MXFP4);
        for rows in 1..=64 {
            for (used, experts) in [(4, 32), (1, 8), (4, 128)] {
                let cut = Cut::new(rows, rows * used, experts);
                let bytes = cut.shared_bytes(2880, packed.piece_bytes) + DECLARED_BYTES;
                assert!(
                    bytes <= 227 << 10 && (2..=MAX_STAGES).contains(&cut.stages),
                    "{rows} rows: {cut:?}, {bytes} bytes"
                );
                assert!(cut.most <= 16 && rows * used <= 32 * TEAM * cut.teams, "{cut:?}");
            }
        }
    }
}
