//! Matrix products: which kernel makes y = W x + b for a weight and a phase.
//!
//! The choice hangs on the weight and the phase alone. Where the number of rows picks among kernels (product_small.cu and
//! product_batch.cu), they make the same sums in the same order: a row's result does not know its neighbours.

use super::driver::Ptr;
use super::kernels::Launch;
use super::packed::{Packed, TILE_ROWS, tiles};
use super::params::{self, PackedProduct, ProductMatrix};
use super::pass::Run;
use crate::error::Result;
use crate::model::{Activation, Linear};
use crate::plan::Phase;

/// Rows of f32: [n, stride].
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub at: Ptr,
    pub stride: usize,
    pub n: usize,
}

/// Activations in the form that repacked weights want, of which kind hangs on the phase: f16 records or panels.
#[derive(Clone, Copy)]
pub(super) struct PackedRows {
    pub at: Ptr,
    /// Rows from record to record: `row_stride` of product_layout.cuh.
    pub stride: usize,
    pub n: usize,
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(super) enum Store {
    /// f32 rows.
    Write,
    Add,
    /// The input of a product that follows, f16.
    Packed,
}

/// Which rows go through which expert, as group_experts lays it out.
#[derive(Clone, Copy)]
pub(super) struct Items {
    pub at: Ptr,
    pub count: Ptr,
    /// Items at the most, and rows of one at the most.
    pub items: usize,
    pub rows: usize,
}

/// The ways of products over repacked weights. The first three make the same sums in the same order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Up to 8 rows a block.
    Small,
    /// Up to 64 rows a block.
    Batch,
    /// Up to 64 rows, the columns split over a cluster of blocks: cards from sm_90 on.
    Split,
    /// Hopper's tensor cores, 128 rows a block.
    Prompt,
}

impl Way {
    fn file(self) -> &'static str {
        match self {
            Way::Small => "product_small",
            Way::Batch => "product_batch",
            Way::Split => "product_split",
            Way::Prompt => "product_prefill",
        }
    }
}

/// Numbers the units of a launch through its matrices; returns how many there are.
fn number_units(args: &mut PackedProduct, (pair, way, wide): (bool, Way, bool)) -> usize {
    let tiles_per_unit = match way {
        Way::Small => 1 << u32::from(wide),
        Way::Batch if pair => 4,
        Way::Batch => 8,
        Way::Split | Way::Prompt => 8 << u32::from(wide),
    };
    let matrices = args.matrices as usize;
    for (i, m) in args.matrix.iter_mut().take(matrices).enumerate() {
        m.first_unit = if pair { 0 } else { args.units };
        if !pair || i == 0 {
            args.units += m.tiles.div_ceil(tiles_per_unit);
        }
    }
    args.units as usize
}

/// Of the ways that make the same sums from the same input, the one that was fastest (tests/bench/gpu-products.md). A cluster
/// for an eighth of the columns pays where there are few rows of weights; up to 16 rows, so do two passes of 8.
fn fastest(way: Way, args: &PackedProduct, pair: bool, items: Option<Items>) -> Way {
    if way != Way::Split {
        return way;
    }
    let matrices = if pair { 1 } else { args.matrices as usize };
    let tiles: u32 = args.matrix.iter().take(matrices).map(|m| m.tiles).sum();
    if tiles >= if pair { MANY_PAIRED_TILES } else { MANY_TILES } {
        Way::Batch
    } else if items.is_none() && args.tokens as usize <= 2 * SMALL_ROWS {
        Way::Small
    } else {
        Way::Split
    }
}

/// Bytes that a piece takes in a ring of shared memory; F16 goes past it where it can.
fn slot_bytes(packed: &Packed, way: Way) -> usize {
    match (packed.kind, way) {
        (0, Way::Small | Way::Split) => 0,
        (0, Way::Batch) => 4 * packed.piece_bytes,
        _ => packed.piece_bytes,
    }
}

/// Rows of activations that a block takes, by way.
pub(super) const SMALL_ROWS: usize = 8;
pub(super) const BATCH_ROWS: usize = 64;
pub(super) const PROMPT_ROWS: usize = 128;
/// Tiles from which on blocks that go through all columns fill the card: of gate alone, and of all matrices.
const MANY_PAIRED_TILES: u32 = 256;
const MANY_TILES: u32 = 2000;
/// Blocks of a cluster of product_split.
const SPLIT_BLOCKS: usize = 8;
/// Shared memory that a block may have, and what a block that shares the multiprocessor with another takes.
const SHARED_BYTES: usize = 226 * 1024;
const HALF_SHARED_BYTES: usize = 100 * 1024;

/// One launch over repacked weights, before the sizes are worked out.
pub(super) struct Group<'a> {
    /// Each with where its output goes and that output's stride.
    pub linears: &'a [(&'a Linear, Ptr, usize)],
    pub x: PackedRows,
    pub store: Store,
    /// Gate and up together, or what follows a single matrix.
    pub activation: Option<Activation>,
    pub items: Option<Items>,
}

impl Run<'_> {
    pub(super) fn packed(&self, linear: &Linear) -> Option<Packed> {
        self.weights.stored[linear.weight.0 as usize]
    }

    /// Whether gate and up can go through one launch with their activation.
    pub(super) fn is_pair(&self, gate: &Linear, up: &Linear) -> bool {
        let (a, b) = (self.packed(gate), self.packed(up));
        a.is_some() && a == b && gate.rows.len() == up.rows.len()
    }

    /// The way of the pass's rows; the rows of a head go the way of decoding in a prompt too.
    pub(super) fn way(&self) -> Way {
        match self.extent.phase {
            Phase::Prefill if self.weights.gpu.capability == 90 => Way::Prompt,
            Phase::Prefill => self.many(),
            Phase::Decode => self.decoding(self.extent.rows),
        }
    }

    /// The way of `rows` rows in decoding.
    pub(super) fn decoding(&self, rows: usize) -> Way {
        if rows <= SMALL_ROWS { Way::Small } else { self.many() }
    }

    fn many(&self) -> Way {
        if self.weights.gpu.capability >= 90 { Way::Split } else { Way::Batch }
    }

    fn matrix(&self, linear: &Linear, packed: &Packed, (out, out_stride): (Ptr, usize)) -> ProductMatrix {
        let weight = self.weights.plan.weight(linear.weight);
        let first_tile = linear.rows.start / TILE_ROWS;
        ProductMatrix {
            weights: self.weights.at(linear.weight) + (first_tile * packed.tile_bytes) as u64,
            bias: linear.bias.map_or(0, |id| self.weights.at(id) + linear.rows.start as u64 * 4),
            out,
            expert_bytes: packed.matrix_bytes(weight.rows),
            kind: packed.kind,
            rows: linear.rows.len() as u32,
            out_stride: out_stride as u32,
            first_unit: 0,
            piece_bytes: packed.piece_bytes as u32,
            last_piece_bytes: packed.last_piece_bytes as u32,
            tile_bytes: packed.tile_bytes as u32,
            tiles: tiles(linear.rows.len()) as u32,
        }
    }

    /// y = W x of repacked matrices that share their input, in one launch.
    pub(super) fn packed_product(&self, group: &Group, way: Way) -> Result<()> {
        let pair = group.linears.len() == 2 && group.activation.is_some();
        let mut args = PackedProduct {
            x: group.x.at,
            matrices: group.linears.len() as u32,
            tokens: group.items.map_or(group.x.n, |i| i.rows) as u32,
            x_stride: group.x.stride as u32,
            out_scale: 1.0,
            store_scale: 1.0,
            ..PackedProduct::default()
        };
        if let Some(items) = &group.items {
            (args.items, args.item_count) = (items.at, items.count);
        }
        args.store = match (group.store, way) {
            (Store::Write, _) => 0,
            (Store::Add, _) => 1,
            (Store::Packed, Way::Small | Way::Batch | Way::Split) => 2,
            (Store::Packed, Way::Prompt) => 3,
        };
        args.act = match group.activation {
            None => 0,
            Some(Activation::Silu) => 1,
            Some(Activation::Gelu) if pair => 2,
            Some(Activation::ClampedSwiglu { .. }) => 3,
            Some(Activation::Gelu) => 4,
        };
        if let Some(Activation::ClampedSwiglu { alpha, limit }) = group.activation {
            (args.alpha, args.limit) = (alpha, limit);
        }
        let mut sizes = Vec::with_capacity(3);
        for (place, &(linear, out, stride)) in args.matrix.iter_mut().zip(group.linears) {
            if let Some(packed) = self.packed(linear) {
                *place = self.matrix(linear, &packed, (out, stride));
                args.cols = self.weights.plan.weight(linear.weight).cols as u32;
                sizes.push(packed);
            }
        }
        self.launch_packed(args, &sizes, (pair, way), group.items)
    }

    /// Works out units, stages and grid as the heads of product_small.cu, product_batch.cu and product_prefill.cu ask for.
    fn launch_packed(
        &self,
        mut args: PackedProduct,
        sizes: &[Packed],
        (pair, way): (bool, Way),
        items: Option<Items>,
    ) -> Result<()> {
        let tokens = args.tokens as usize;
        let way = fastest(way, &args, pair, items);
        let wide = !pair && self.wide(&args, way, items);
        let units = number_units(&mut args, (pair, way, wide));
        let slot = sizes.iter().map(|p| slot_bytes(p, way)).max().unwrap_or(0);
        args.slot_bytes = slot as u32;
        let together = 1 + usize::from(pair || wide);
        let stages = |stage: usize, room: usize, most: usize| (room / stage.max(1)).clamp(2, most);
        let rows_bytes = 512 * tokens.next_multiple_of(8).min(BATCH_ROWS);
        let blocks = |rows: usize| items.map_or(tokens.div_ceil(rows), |i| i.items);
        let (grid, threads, shared) = match way {
            Way::Small => {
                let stage = 8 * (together * slot + 512 * tokens.min(SMALL_ROWS));
                args.stages = stages(stage, HALF_SHARED_BYTES, 4) as u32;
                ([units, blocks(SMALL_ROWS), 1], 256, args.stages as usize * stage)
            }
            Way::Batch => {
                let stage = 8 * slot + rows_bytes;
                args.stages = stages(stage, HALF_SHARED_BYTES + 10 * 1024, 4) as u32;
                ([units, blocks(BATCH_ROWS), 1], 256, (args.stages as usize * stage).max(16384))
            }
            Way::Split => {
                let stage = 8 * together * slot + rows_bytes;
                let room = if together == 1 { 110 } else { 220 } * 1024;
                args.stages = stages(stage, room, 4) as u32;
                let shared = (args.stages as usize * stage).max(together * 32768);
                ([SPLIT_BLOCKS * units, blocks(BATCH_ROWS), 1], 256, shared)
            }
            Way::Prompt => {
                args.weight_stages = if sizes.iter().any(|p| p.kind == 0) { 4 } else { 2 };
                let weights = args.weight_stages as usize * 8 * together * slot;
                args.stages = stages(16384, SHARED_BYTES.saturating_sub(weights + 1024), 8) as u32;
                let shared = (args.stages as usize * 16384 + weights).max(together * 81920);
                ([blocks(PROMPT_ROWS), units, 1], 384, 1024 + shared)
            }
        };
        let file = way.file();
        let name = format!(
            "{file}{}",
            if pair {
                "_pair"
            } else if wide {
                "_wide"
            } else {
                ""
            }
        );
        let mut launch = Launch { file, name: &name, grid, threads, shared_bytes: shared as u32 };
        let gpu = &self.weights.gpu;
        if way == Way::Small {
            // A block takes several units in turn: no more blocks than run at once.
            launch.grid[0] = units.min(gpu.kernels()?.resident_blocks(gpu, &launch)?);
        }
        // SAFETY: the struct that these kernels declare; addresses as in `launch`.
        unsafe { gpu.kernels()?.launch(gpu, self.stream, &launch, &args) }
    }

    /// Whether a unit has twice as many rows of weights: the same sums, made where they fetch activations less often.
    fn wide(&self, args: &PackedProduct, way: Way, items: Option<Items>) -> bool {
        match way {
            // As measured: only for the largest matrices.
            Way::Small => args.tokens > 1 && args.matrix[0].tiles >= 4096,
            Way::Batch => false,
            Way::Split => args.tokens > 32 && args.matrix.iter().any(|m| m.tiles >= 128),
            Way::Prompt => {
                let tiles: usize = args.matrix.iter().map(|m| m.tiles as usize).sum();
                let blocks = items.map_or(args.tokens as usize, |i| i.items * PROMPT_ROWS).div_ceil(PROMPT_ROWS);
                tiles / 16 * blocks >= self.weights.gpu.multiprocessors.max(1) as usize
            }
        }
    }

    /// Queues a kernel of `file`.
    pub(super) fn launch<P: Copy>(
        &self,
        file: &'static str,
        name: &str,
        grid: [usize; 3],
        (threads, shared_bytes): (u32, u32),
        params: &P,
    ) -> Result<()> {
        let launch = Launch { file, name, grid, threads, shared_bytes };
        let gpu = &self.weights.gpu;
        // SAFETY: each caller passes the struct that its kernel declares, with addresses from `Scratch`, `LoadedWeights` and
        // `KvPool`, which are as large as the plan and the limits say; `submit` has checked the batch against both.
        unsafe { gpu.kernels()?.launch(gpu, self.stream, &launch, params) }
    }

    /// Puts f32 rows, normed or as they are, into the form that products of `way` read.
    pub(super) fn prepare(&self, p: params::Prepare, n: usize, way: Way) -> Result<()> {
        let p = params::Prepare { format: if way == Way::Prompt { 3 } else { 2 }, scale: 1.0, ..p };
        self.launch("prepare", "prepare", [n, 1, 1], (512, 0), &p)
    }
}
