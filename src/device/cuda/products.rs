//! Matrix products: which kernel makes y = W x + b for a weight and a phase.
//!
//! The choice hangs on the weight and the phase alone. Where the number of rows picks among kernels (product_small.cu and
//! product_batch.cu), they make the same sums in the same order: a row's result does not know its neighbours.

use super::chosen::Sorted;
use super::driver::Ptr;
use super::kernels::Launch;
use super::packed::{Packed, TILE_ROWS, tiles};
use super::params::{self, PackedProduct, ProductMatrix};
use super::pass::Run;
use super::row;
use super::ways::{BATCH_ROWS, Kernel, PROMPT_ROWS, Rings, SMALL_ROWS, SPLIT_BLOCKS, Way, Work};
use crate::error::{Error, Result};
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
    /// A single row that is still f32: the product makes the norm, and nothing is at `at`.
    pub plain: Option<PlainRow>,
}

#[derive(Clone, Copy)]
pub(super) struct PlainRow {
    pub at: Ptr,
    pub norm: Option<params::NormArg>,
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

/// One launch over repacked weights, before the sizes are worked out.
pub(super) struct Group<'a> {
    /// Each with where its output goes and that output's stride.
    pub linears: &'a [(&'a Linear, Ptr, usize)],
    pub x: PackedRows,
    pub store: Store,
    /// Gate and up together, or what follows a single matrix.
    pub activation: Option<Activation>,
    pub items: Option<Items>,
    /// For one row: its experts.
    pub chosen: Option<ChosenExperts>,
}

/// The experts that one row goes through, best first; or all rows, which the kernel then sorts.
#[derive(Clone, Copy)]
pub(super) struct ChosenExperts {
    pub at: Ptr,
    pub used: usize,
    /// Whether each has its own row of activations.
    pub x_each: bool,
    pub sorted: Option<Sorted>,
}

/// Rows above which Way::Many is the fastest as measured, and of models that are narrower than this.
const MANY_ROWS: [usize; 2] = [SMALL_ROWS, 16];
const NARROW: usize = 2048;

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
            Phase::Prefill if self.has_code(Way::Prompt) => Way::Prompt,
            Phase::Prefill => self.many(),
            Phase::Decode => self.decoding(self.extent.rows),
        }
    }

    /// Whether the card's code has these kernels: they are there but empty where it is too old for them.
    pub(super) fn has_code(&self, way: Way) -> bool {
        let kernels = self.weights.gpu.kernels();
        let wgmma = matches!(way, Way::Many | Way::Prompt);
        kernels.is_ok_and(|k| if wgmma { k.abilities.wgmma } else { k.abilities.clusters })
    }

    /// The way of `rows` rows in decoding.
    pub(super) fn decoding(&self, rows: usize) -> Way {
        let narrow = self.weights.plan.n_embd < NARROW;
        match rows {
            0..=SMALL_ROWS => Way::Small,
            _ if rows > MANY_ROWS[usize::from(narrow)] && self.has_code(Way::Many) => Way::Many,
            _ => self.many(),
        }
    }

    /// Whether `n` rows of `cols` columns go through product_row.cuh, which takes one.
    pub(super) fn one_row(&self, way: Way, n: usize, cols: usize) -> bool {
        way == Way::Small && n == 1 && self.has_code(Way::Split) && row::fits(cols, self.weights.gpu.card.shared_bytes)
    }

    fn many(&self) -> Way {
        if self.has_code(Way::Split) { Way::Split } else { Way::Batch }
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
            (Store::Packed, _) => 2 + u32::from(way.panels()),
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
        if let Some((chosen, sorted)) = group.chosen.and_then(|c| Some((c, c.sorted?))) {
            return self.launch_sorted(args, &sizes, chosen, sorted);
        }
        if self.one_row(way, group.x.n, args.cols as usize) && group.items.is_none() {
            return self.launch_row(args, &sizes, pair, group);
        }
        if self.few_rows(way, group.x.n) && group.items.is_none() && self.launch_rows(args, &sizes, pair)? {
            return Ok(());
        }
        match way {
            Way::Many if group.items.is_none() && self.launch_panels(args, &sizes, pair)? => Ok(()),
            Way::Many => self.launch_many(args, &sizes, pair, group.items),
            Way::Prompt if self.launch_few(&mut args, &sizes, pair, group.items)? => Ok(()),
            _ => self.launch_packed(args, &sizes, (pair, way), group.items),
        }
    }

    fn launch_packed(
        &self,
        mut args: PackedProduct,
        sizes: &[Packed],
        (pair, way): (bool, Way),
        items: Option<Items>,
    ) -> Result<()> {
        let gpu = &self.weights.gpu;
        let tokens = args.tokens as usize;
        let items = items.map(|i| i.items);
        let work = Work { tokens, items, multiprocessors: gpu.card.multiprocessors };
        let (kernel, rings) = self.fitting(Kernel::candidates(way, &args, pair, work), sizes, tokens)?;
        let units = kernel.number_units(&mut args);
        args.stages = rings.stages as u32;
        args.weight_stages = rings.weight_stages as u32;
        args.slot_bytes = rings.slot_bytes as u32;
        let blocks = |rows: usize| items.unwrap_or(tokens.div_ceil(rows));
        let (grid, threads) = match kernel.way {
            Way::Small => ([units, blocks(SMALL_ROWS), 1], 256),
            Way::Batch => ([units, blocks(BATCH_ROWS), 1], 256),
            Way::Split => ([SPLIT_BLOCKS * units, blocks(BATCH_ROWS), 1], 256),
            Way::Many | Way::Prompt => ([blocks(PROMPT_ROWS), units, 1], 384),
        };
        let (file, name, shared_bytes) = (kernel.way.file(), kernel.name(), rings.shared_bytes as u32);
        let mut launch = Launch { file, name: &name, grid, threads, shared_bytes, ..Launch::default() };
        if kernel.way == Way::Small {
            // A block takes several units in turn: no more blocks than run at once.
            launch.grid[0] = units.min(gpu.kernels()?.resident_blocks(gpu, &launch)?);
        }
        self.send(&launch, &args)
    }

    /// The first of the kernels whose rings the card has room for.
    fn fitting(&self, kernels: Vec<Kernel>, sizes: &[Packed], tokens: usize) -> Result<(Kernel, Rings)> {
        let gpu = &self.weights.gpu;
        for kernel in kernels {
            let room = gpu.kernels()?.room(gpu, kernel.way.file(), &kernel.name())?;
            if let Some(rings) = kernel.rings(sizes, tokens, room) {
                return Ok((kernel, rings));
            }
        }
        let bytes = gpu.card.shared_bytes;
        Err(Error::launch(format!("no product fits the {bytes} bytes of shared memory of GPU {}", gpu.ordinal)))
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
        let launch = Launch { file, name, grid, threads, shared_bytes, ..Launch::default() };
        self.send(&launch, params)
    }

    /// Queues a kernel that is wholly described.
    pub(super) fn send<P: Copy>(&self, launch: &Launch, params: &P) -> Result<()> {
        let gpu = &self.weights.gpu;
        // SAFETY: each caller passes the struct that its kernel declares, with addresses from `Scratch`, `LoadedWeights` and
        // `KvPool`, which are as large as the plan and the limits say; `submit` has checked the batch against both.
        unsafe { gpu.kernels()?.launch(gpu, self.stream, launch, params) }
    }

    /// Puts f32 rows, normed or as they are, into the form that products of `way` read.
    pub(super) fn prepare(&self, p: params::Prepare, n: usize, way: Way) -> Result<()> {
        let p = params::Prepare { format: 2 + u32::from(way.panels()), scale: 1.0, ..p };
        self.launch("prepare", "prepare", [n, 1, 1], (512, 0), &p)
    }
}
