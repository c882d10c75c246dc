//! Attention: what its kernels are told, in a prompt and in decoding.

use super::params;
use super::pass::Run;
use super::products::PackedRows;
use super::scratch::PART_TAIL;
use super::ways::Way;
use crate::error::{Error, Result};
use crate::model::{Heads, Norm, RopeStyle};
use crate::plan::{Input, KvLayer, Phase, Qkv, Step};

/// Columns in which products step: a packed row must be full up to a multiple of it.
const STEP_COLS: usize = 64;
/// Warps of a block in decoding that take chunks in turn.
const DECODE_WARPS: usize = 4;
/// Query heads of a block from which twice the warps were faster (tests/bench/gpu-decode.md).
const FEW_HEADS: usize = 4;
/// Query heads that a block takes together in decoding.
const HEADS_TOGETHER: usize = 16;
/// Above the shared memory that attention's kernels declare.
const DECLARED_BYTES: usize = 24 << 10;
/// Three tiles of 64 keys and values in f16, by a head's width.
const HOPPER_TILE_BYTES: usize = 3 * 2 * 64 * 2;
/// Tokens of a warp's chunk in decoding; of heads wider than 128, half as many.
const CHUNK_TOKENS: usize = 32;

/// Shared memory that attention asks for: in a prompt, and in decoding.
fn asked_bytes(heads: Heads) -> (usize, usize) {
    let width = prompt_width(heads);
    // Two tiles of keys and values in f16, each row with room to keep off another's banks.
    let tile = if width == 256 { 32 } else { 64 };
    // A warp's keys and values of a chunk, later its part of the result.
    let group = heads.q / heads.kv.max(1);
    let chunk = 4 * heads.dim * if heads.dim > 128 { CHUNK_TOKENS / 2 } else { CHUNK_TOKENS };
    let part = 4 * group.min(HEADS_TOGETHER) * (heads.dim + PART_TAIL);
    (8 * tile * (width + 8), DECODE_WARPS * chunk.max(part).next_multiple_of(128))
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
        let group = heads.q / heads.kv;
        let width = [64, 128, 256].into_iter().find(|&d| d >= heads.dim).unwrap_or(256);
        let shared = asked_bytes(heads).1;
        let grid = [self.extent.splits, heads.kv * group.div_ceil(HEADS_TOGETHER), self.extent.rows];
        // Where the card waits for a few blocks with some heads each, twice the warps share a block's work; the sums are the same.
        let blocks = grid.iter().product::<usize>();
        let few = width <= 128 && group >= FEW_HEADS && blocks <= self.weights.gpu.card.multiprocessors;
        let (name, warps) = match few {
            true => (format!("attend_decode_d{width}_few"), 2 * DECODE_WARPS),
            false => (format!("attend_decode_d{width}"), DECODE_WARPS),
        };
        self.launch("attend_decode", &name, grid, (32 * warps as u32, shared as u32), p)
    }
}
