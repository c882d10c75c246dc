//! Activation buffers: everything a batch needs, allocated once when the model is loaded.

use super::memory::Buffer;
use super::pool::Chunks;
use super::simd::{Form, Input, Isa, Planes};
use crate::error::Result;
use crate::plan::Plan;
use std::ops::Range;
use std::sync::Mutex;

/// The most elements of a tile of a matrix product.
pub const TILE_ELEMENTS: usize = 1 << 14;
/// The same where weights are not quantised.
pub const FLOAT_TILE: usize = 32 << 10;
/// Bytes of logits that are computed at once, where a row is not larger.
const LOGIT_BYTES: usize = 8 << 20;
/// Bytes that a batch's activations may take before the batch is made smaller.
const BATCH_BYTES: usize = 24 << 20;
const BATCH_TOKENS: Range<usize> = 32..512;

/// How many elements each buffer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub rows: usize,
    /// (token, expert) pairs.
    pub pairs: usize,
    pub logit_rows: usize,
    /// Elements of activations in int8; 0 where no kernel reads them.
    pub planes: usize,
    /// Elements of activations in int16; 0 likewise.
    pub both: usize,
    /// Elements that a thread has for itself, next to its tile.
    pub room: usize,
    /// Elements of its tile: the most of a product, or the head of a query if that is more.
    pub tile: usize,
    pub rope: usize,
    pub threads: usize,
}

impl Sizes {
    pub fn new(plan: &Plan, isa: Isa, rows: usize, threads: usize) -> Self {
        let pairs = rows * plan.experts_used;
        let ffn_rows = rows.max(pairs);
        let widest = [rows * plan.n_embd, rows * plan.q_width, ffn_rows * plan.ffn_width, pairs * plan.n_embd];
        let planes = widest.into_iter().max().unwrap_or(0);
        let integers = plan.weights.iter().any(|w| isa.form(w.ty) == Form::Planes);
        let floats = plan.weights.iter().any(|w| w.rows > 1 && isa.form(w.ty) == Form::Float);
        let tile = if floats { FLOAT_TILE } else { TILE_ELEMENTS };
        let dim = plan.kv_groups.iter().map(|g| g.heads.dim).max().unwrap_or(0);
        Self {
            rows,
            pairs,
            logit_rows: (LOGIT_BYTES / size_of::<f32>() / plan.n_vocab.max(1)).clamp(1, rows.max(1)),
            planes: if integers { planes } else { 0 },
            both: if integers && isa.reads_both() { planes } else { 0 },
            room: plan.weights.iter().map(|w| w.cols).max().unwrap_or(0).max(plan.n_embd),
            tile: tile.max(dim),
            rope: plan.ropes.iter().map(|r| r.inv_freq.len()).sum(),
            threads,
        }
    }

    pub fn bytes(&self, plan: &Plan) -> u64 {
        let floats = self.rows * (2 * plan.n_embd + plan.q_width + 2 * plan.kv_width + plan.experts + 2 * self.rope)
            + self.rows.max(self.pairs) * plan.ffn_width
            + self.pairs * plan.n_embd
            + self.logit_rows * plan.n_vocab
            + self.threads * (self.room + 2 * self.tile);
        let integers = 2 * self.planes + self.both * size_of::<i16>();
        let planes = integers + self.planes / 32 * size_of::<f32>() + self.planes / 16 * size_of::<i32>();
        (floats * size_of::<f32>() + planes) as u64
    }
}

/// Tokens in a batch such that the activations stay in bounds.
pub fn batch_tokens(plan: &Plan, isa: Isa) -> usize {
    let bytes = |rows| Sizes::new(plan, isa, rows, 1).bytes(plan) as usize;
    let per_token = (bytes(BATCH_TOKENS.end) - bytes(BATCH_TOKENS.start)) / BATCH_TOKENS.len();
    (BATCH_BYTES / per_token.max(1)).clamp(BATCH_TOKENS.start, BATCH_TOKENS.end) / 32 * 32
}

/// Room for activations in int8.
pub struct PlaneBuffer {
    scales: Buffer<f32>,
    sums: Buffer<i32>,
    coarse: Buffer<i8>,
    fine: Buffer<i8>,
    both: Buffer<i16>,
}

/// Planes in runs of rows: scales, sums, coarse and fine integers, and those of both if a kernel reads them.
pub type PlaneChunks<'a> = (Chunks<'a, f32>, Chunks<'a, i32>, Chunks<'a, i8>, Chunks<'a, i8>, Option<Chunks<'a, i16>>);

impl PlaneBuffer {
    fn new(len: usize, both: usize) -> Result<Self> {
        Ok(Self {
            scales: Buffer::zeros(len / 32)?,
            sums: Buffer::zeros(len / 16)?,
            coarse: Buffer::zeros(len)?,
            fine: Buffer::zeros(len)?,
            both: Buffer::zeros(both)?,
        })
    }

    /// Room for the planes of `len` values, in runs of `size`.
    pub fn chunks(&mut self, len: usize, size: usize) -> PlaneChunks<'_> {
        (
            Chunks::new(&mut self.scales[..len / 32], size / 32),
            Chunks::new(&mut self.sums[..len / 16], size / 16),
            Chunks::new(&mut self.coarse[..len], size),
            Chunks::new(&mut self.fine[..len], size),
            self.both.get_mut(..len).map(|both| Chunks::new(both, size)),
        )
    }

    /// `float` [rows, cols] together with what has been quantised of it, if it has been.
    pub fn input<'a>(&'a self, float: &'a [f32], cols: usize, integers: bool) -> Input<'a> {
        let Self { scales, sums, coarse, fine, both } = self;
        let all = Planes { scales, sums, coarse, fine, both };
        let planes = all.part(0, if integers { float.len() } else { 0 });
        Input { cols, float, planes: planes.unwrap_or_default() }
    }
}

/// Cosines and sines of a rope for the batch's rows: [rows, pairs].
pub struct RopeTable {
    pub pairs: usize,
    pub cos: Buffer<f32>,
    pub sin: Buffer<f32>,
}

/// What a thread has for itself.
pub struct Room {
    pub row: Buffer<f32>,
    pub tile: Buffer<f32>,
    /// Attention's sums, next to the tile that holds q.
    pub mixed: Buffer<f32>,
}

/// A row of the batch: which segment it is of, and where it stands in its sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    pub segment: usize,
    pub position: usize,
}

/// How the rows of the batch are spread over experts; pairs are in the order of the experts, then of the rows.
#[derive(Default)]
pub struct Routing {
    /// The row of each pair.
    pub rows: Vec<usize>,
    /// [rows, used]: the pair and the weight of each choice, best first.
    pub choices: Vec<(usize, f32)>,
    /// [rows, used]: the experts chosen, best first.
    pub experts: Vec<usize>,
    /// Where each expert's pairs start.
    pub starts: Vec<usize>,
    /// Ranges of pairs of one expert each, and whose they are.
    pub blocks: Vec<Range<usize>>,
    pub block_experts: Vec<usize>,
}

pub struct Buffers {
    /// The residual [rows, n_embd].
    pub hidden: Buffer<f32>,
    /// What a norm gives, or a branch before its post-norm [rows, n_embd].
    pub x: Buffer<f32>,
    /// q [rows, heads.q * head dim]; attention puts its output (`mixed`) in its place.
    pub q: Buffer<f32>,
    pub k: Buffer<f32>,
    pub v: Buffer<f32>,
    /// [rows or pairs, feed-forward]
    pub ffn: Buffer<f32>,
    /// [rows, experts]
    pub router: Buffer<f32>,
    /// Inputs, then outputs, of the experts [pairs, n_embd].
    pub pairs: Buffer<f32>,
    pub logits: Buffer<f32>,
    pub planes: PlaneBuffer,
    pub ropes: Vec<RopeTable>,
    pub rooms: Vec<Mutex<Room>>,
    pub rows: Vec<Row>,
    /// Rows whose logits are wanted.
    pub heads: Vec<usize>,
    /// What was drawn for these, as many as there are rows of logits.
    pub drawn: Vec<Option<u32>>,
    pub routing: Routing,
}

impl Buffers {
    pub fn new(plan: &Plan, sizes: &Sizes) -> Result<Self> {
        let rows = sizes.rows;
        let table = |pairs: usize| {
            Ok(RopeTable { pairs, cos: Buffer::zeros(rows * pairs)?, sin: Buffer::zeros(rows * pairs)? })
        };
        let tile = || Buffer::zeros(sizes.tile);
        let room = |_| Ok(Mutex::new(Room { row: Buffer::zeros(sizes.room)?, tile: tile()?, mixed: tile()? }));
        Ok(Self {
            hidden: Buffer::zeros(rows * plan.n_embd)?,
            x: Buffer::zeros(rows * plan.n_embd)?,
            q: Buffer::zeros(rows * plan.q_width)?,
            k: Buffer::zeros(rows * plan.kv_width)?,
            v: Buffer::zeros(rows * plan.kv_width)?,
            ffn: Buffer::zeros(rows.max(sizes.pairs) * plan.ffn_width)?,
            router: Buffer::zeros(rows * plan.experts)?,
            pairs: Buffer::zeros(sizes.pairs * plan.n_embd)?,
            logits: Buffer::zeros(sizes.logit_rows * plan.n_vocab)?,
            planes: PlaneBuffer::new(sizes.planes, sizes.both)?,
            ropes: plan.ropes.iter().map(|r| table(r.inv_freq.len())).collect::<Result<_>>()?,
            rooms: (0..sizes.threads).map(room).collect::<Result<_>>()?,
            rows: Vec::with_capacity(rows),
            heads: Vec::with_capacity(rows),
            drawn: vec![None; sizes.logit_rows],
            routing: Routing::new(plan, sizes),
        })
    }
}

impl Routing {
    fn new(plan: &Plan, sizes: &Sizes) -> Self {
        if sizes.pairs == 0 {
            return Self::default();
        }
        Self {
            rows: vec![0; sizes.pairs],
            choices: vec![(0, 0.0); sizes.pairs],
            experts: vec![0; sizes.pairs],
            starts: vec![0; plan.experts + 1],
            blocks: Vec::with_capacity(plan.experts + sizes.pairs),
            block_experts: Vec::with_capacity(plan.experts + sizes.pairs),
        }
    }
}
