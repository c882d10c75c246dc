//! Attention: what its kernels are told, in a prompt and in decoding.

use super::kernels::Launch;
use super::params;
use super::pass::Run;
use super::products::PackedRows;
use super::ways::Way;
use crate::error::{Error, Result};
use crate::model::{Heads, Norm, RopeStyle};
use crate::plan::{Input, KvLayer, Phase, Qkv, Step};

/// Columns in which products step: a packed row must be full up to a multiple of it.
const STEP_COLS: usize = 64;
/// Threads of a block in decoding, and the query heads that it takes together.
const DECODE_THREADS: u32 = 256;
const HEADS_TOGETHER: usize = 8;
/// Splits of a row that may be one cluster of blocks, which merge through shared memory.
const CLUSTER_SPLITS: usize = 8;
/// Above the shared memory that attention's kernels declare.
const DECLARED_BYTES: usize = 24 << 10;
/// Three tiles of 64 keys and values in f16, by a head's width.
const HOPPER_TILE_BYTES: usize = 3 * 2 * 64 * 2;
/// Tokens of a round in decoding; of heads wider than 128, half as many.
const ROUND_TOKENS: usize = 128;

/// Shared memory that attention asks for: in a prompt, and in decoding.
fn asked_bytes(heads: Heads) -> (usize, usize) {
    let width = prompt_width(heads);
    // Two tiles of keys and values in f16, each row with room to keep off another's banks.
    let tile = if width == 256 { 32 } else { 64 };
    (8 * tile * (width + 8), round_bytes(heads.dim))
}

/// A round's keys and values as kernels/attend_decode.cu keeps them.
fn round_bytes(dim: usize) -> usize {
    let row = if made_for(dim) { 2 * dim } else { ((dim / 8) | 1) * 16 };
    2 * row * if dim > 128 { ROUND_TOKENS / 2 } else { ROUND_TOKENS }
}

/// Whether decoding has kernels for heads of just this width.
fn made_for(dim: usize) -> bool {
    dim == 64 || dim == 128
}

/// Whether blocks that may have `shared_bytes` can attend with these heads.
pub(super) fn fits(heads: Heads, shared_bytes: usize) -> bool {
    let (prompt, decode) = asked_bytes(heads);
    prompt.max(decode) + DECLARED_BYTES <= shared_bytes
}

/// The width that a prompt's kernel is made for.
fn prompt_width(heads: Heads) -> usize {
    [32, 64, 96, 128, 256].into_iter().find(|&d| d >= heads.dim).unwrap_or(256)
}

impl Run<'_> {
    pub(super) fn rope(&self, qkv: &Qkv) -> params::RopeArg {
        let Some(id) = qkv.rope else {
            return params::RopeArg::default();
        };
        let rope = &self.weights.plan.ropes[id.0 as usize];
        params::RopeArg {
            inv_freq: self.ropes[id.0 as usize],
            magnitude: rope.magnitude,
            pairs: rope.inv_freq.len() as i32,
            adjacent: (rope.style == RopeStyle::Pairs).into(),
        }
    }

    pub(super) fn norm_or_none(&self, norm: Option<Norm>) -> params::NormArg {
        norm.map_or_else(Default::default, |n| self.weights.norm(&n))
    }

    pub(super) fn kv_view(&self, kv: KvLayer, heads: Heads) -> params::KvView {
        let (base, page_bytes) = self.kv[kv.group];
        params::KvView {
            base,
            page_bytes,
            tables: self.scratch.tables,
            table_stride: self.sizes.table_stride as i32,
            group: kv.group as i32,
            table_offset: self.sizes.table_offsets[kv.group] as i32,
            layer: kv.layer as i32,
            heads: heads.kv as i32,
            dim: heads.dim as i32,
            ring: self.weights.plan.kv_groups[kv.group].window.is_some().into(),
        }
    }

    /// Where attention puts its output as packed rows, if `next`, the projection that reads it, can.
    pub(super) fn packed_mixed(&self, next: &Step) -> Option<PackedRows> {
        let Step::Project { input: Input::Mixed, linear, .. } = next else {
            return None;
        };
        let whole = self.weights.plan.weight(linear.weight).cols.is_multiple_of(STEP_COLS);
        let packed = whole && self.packed(linear).is_some();
        packed.then(|| self.packed_rows(self.scratch.packed_input, self.extent.rows))
    }

    /// `steps`: the q, k and v before, the attention, and the projection after it.
    pub(super) fn attend(&self, steps: &[Step]) -> Result<()> {
        let [Step::Qkv(qkv), Step::Attend { heads, kv, scale, window, sinks }, next] = steps else {
            return Err(Error::inference("an attention step that stands alone"));
        };
        let s = self.scratch;
        let mixed = match self.packed_mixed(next) {
            Some(to) => {
                params::Mixed { plain: 0, packed: to.at, stride: to.stride as i32, panels: self.way().panels().into() }
            }
            None => params::Mixed { plain: s.mixed, ..params::Mixed::default() },
        };
        let p = params::Attend {
            q: s.q,
            k: s.k,
            v: s.v,
            slot: self.block.slot,
            position: self.block.position,
            tiles: self.block.tiles,
            sinks: sinks.map_or(0, |id| self.weights.at(id)),
            partial: s.partial,
            finished: s.attend_finished,
            mixed,
            q_norm: self.norm_or_none(qkv.q_norm),
            k_norm: self.norm_or_none(qkv.k_norm),
            rope: self.rope(qkv),
            kv: self.kv_view(*kv, *heads),
            scale: *scale,
            window: window.map_or(0, |w| w.min(i32::MAX as usize)) as i32,
            q_heads: heads.q as i32,
            q_stride: (heads.q * heads.dim) as i32,
            kv_stride: (heads.kv * heads.dim) as i32,
            splits: self.extent.splits as i32,
        };
        match self.extent.phase {
            Phase::Prefill => self.attend_prompt(*heads, &p),
            Phase::Decode => self.attend_rows(*heads, &p),
        }
    }

    fn attend_prompt(&self, heads: Heads, p: &params::Attend) -> Result<()> {
        if self.has_code(Way::Prompt)
            && let Some(width) = [64, 128].into_iter().find(|&d| heads.dim <= d && heads.dim > d / 2)
        {
            let name = format!("attend_prefill_d{width}_hopper");
            let shared = 1024 + HOPPER_TILE_BYTES * width;
            return self.launch("attend_prefill", &name, [self.extent.tiles, heads.q, 1], (128, shared as u32), p);
        }
        let name = format!("attend_prefill_d{}", prompt_width(heads));
        let shared = asked_bytes(heads).0;
        self.launch("attend_prefill", &name, [self.extent.tiles, heads.q, 1], (128, shared as u32), p)
    }

    fn attend_rows(&self, heads: Heads, p: &params::Attend) -> Result<()> {
        let dim = heads.dim;
        let grid = [self.extent.splits, heads.kv * (heads.q / heads.kv).div_ceil(HEADS_TOGETHER), self.extent.rows];
        // Where each block finds a multiprocessor for itself, there is room for two rounds; the sums are the same.
        let card = &self.weights.gpu.card;
        let few = made_for(dim)
            && grid.iter().product::<usize>() <= card.multiprocessors
            && 2 * round_bytes(dim) + DECLARED_BYTES <= card.shared_bytes;
        let split = grid[0] > 1;
        let name = match (dim, few) {
            (64, true) if split => "attend_decode_d64_splits",
            (64, true) => "attend_decode_d64_few",
            (64, false) => "attend_decode_d64",
            (128, true) => "attend_decode_d128_few",
            (128, false) => "attend_decode_d128",
            (..128, _) => "attend_decode",
            _ => "attend_decode_d256",
        };
        let shared_bytes = (round_bytes(dim) * if few { 2 } else { 1 }) as u32;
        // Clusters that many blocks wait for would cost more than they save.
        let near = few && split && grid[0] <= CLUSTER_SPLITS && self.weights.gpu.kernels()?.abilities.clusters;
        let cluster = if near { grid[0] as u32 } else { 0 };
        let file = "attend_decode";
        self.send(&Launch { file, name, grid, threads: DECODE_THREADS, shared_bytes, cluster }, p)
    }
}
