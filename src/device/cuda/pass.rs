//! One pass: the plan's steps over the rows of one phase, queued on a stream.
//!
//! Nothing here reads device memory or depends on what the rows are, only on how many there are at the most; the rows
//! themselves are in the pass's block. So the same calls can be recorded once in a graph.

use super::driver::{Handle, Ptr};
use super::inputs::BlockAt;
use super::packed::{records, tiles};
use super::params;
use super::products::{Group, PackedRows, PlainRow, Rows, Store};
use super::scratch::{SAMPLE_PARTS, Scratch, Sizes};
use super::ways::{PROMPT_ROWS, Way};
use super::weights::LoadedWeights;
use crate::error::Result;
use crate::model::{Activation, Linear, Norm, WeightId};
use crate::plan::{Input, Phase, Qkv, Step};
use crate::quant::QuantType;

/// How much of a block is filled, or may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub phase: Phase,
    pub rows: usize,
    /// Prefill: tiles of rows.
    pub tiles: usize,
    /// Decode: splits of the longest row.
    pub splits: usize,
    /// Rows of logits.
    pub heads: usize,
}

/// What a pass runs with.
pub(super) struct Run<'a> {
    pub weights: &'a LoadedWeights,
    pub sizes: &'a Sizes,
    pub scratch: &'a Scratch,
    /// Address and page size of each KV group.
    pub kv: &'a [(Ptr, u64)],
    /// Address of each rope's frequencies.
    pub ropes: &'a [Ptr],
    pub stream: Handle,
    pub block: BlockAt,
    pub extent: Extent,
}

/// The input of products: f32 rows for weights in the file's layout, packed rows for repacked ones, or both.
#[derive(Clone, Copy)]
pub(super) struct Inputs {
    plain: Option<Rows>,
    packed: Option<PackedRows>,
}

impl Run<'_> {
    pub(super) fn steps(&self) -> Result<()> {
        let plan = self.weights.plan.clone();
        plan.steps.iter().enumerate().try_for_each(|(i, step)| match step {
            Step::Embed { table, positions, scale } => self.embed(*table, *positions, *scale),
            Step::Qkv(qkv) => self.qkv(qkv),
            Step::Attend { .. } => self.attend(&plan.steps[i.saturating_sub(1)..plan.steps.len().min(i + 2)]),
            Step::Project { input, linear, post_norm } => {
                let x = match input {
                    Input::Mixed => self.packed_mixed(step),
                    Input::Ffn => i.checked_sub(1).and_then(|before| self.packed_ffn(&plan.steps[before..=i])),
                };
                self.project((*input, x), linear, post_norm.as_ref())
            }
            Step::GateUp { norm, gate, up, activation } => {
                let to = plan.steps.get(i..i + 2).and_then(|steps| self.packed_ffn(steps));
                self.gate_up((norm, *activation), gate.as_ref(), up, to)
            }
            Step::Experts(experts) => self.experts(experts),
            Step::Head { norm, linear } => self.head(norm, linear),
        })
    }

    /// Where a feed-forward's activation goes as packed rows, if its products can make them and the next can read them.
    fn packed_ffn(&self, steps: &[Step]) -> Option<PackedRows> {
        let [Step::GateUp { gate, up, activation, .. }, Step::Project { input: Input::Ffn, linear, .. }] = steps else {
            return None;
        };
        let made = match gate {
            Some(gate) => self.is_pair(gate, up),
            None => *activation == Activation::Gelu && self.packed(up).is_some(),
        };
        let read = self.packed(linear).is_some();
        (made && read).then(|| self.packed_rows(self.scratch.packed_ffn, self.extent.rows))
    }

    /// `n` packed rows at `at`, as far apart as the pass's way wants them.
    pub(super) fn packed_rows(&self, at: Ptr, n: usize) -> PackedRows {
        let multiple = if self.way() == Way::Prompt { PROMPT_ROWS } else { 8 };
        PackedRows { at, stride: n.next_multiple_of(multiple), n, plain: None }
    }

    pub(super) fn rows(&self, at: Ptr, stride: usize) -> Rows {
        Rows { at, stride, n: self.extent.rows }
    }

    pub(super) fn hidden(&self) -> Rows {
        self.rows(self.scratch.hidden, self.weights.plan.n_embd)
    }

    /// `from`, normed or as it is, in the forms that `linears` read.
    pub(super) fn inputs(&self, from: Rows, norm: Option<&Norm>, linears: &[&Linear]) -> Result<Inputs> {
        let mut inputs = Inputs { plain: None, packed: None };
        if linears.iter().any(|l| self.packed(l).is_some()) {
            let to = self.packed_rows(self.scratch.packed_input, from.n);
            inputs.packed = Some(self.prepare_rows(from, norm, to, self.way())?);
        }
        if linears.iter().any(|l| self.packed(l).is_none()) {
            inputs.plain = Some(match norm {
                None => from,
                Some(norm) => {
                    let to = Rows { at: self.scratch.normed, ..from };
                    self.norm_rows("norm_rows", norm, from.at, to, 0)?;
                    to
                }
            });
        }
        Ok(inputs)
    }

    /// Returns `to`, filled; or says where the row is that its product makes ready itself.
    fn prepare_rows(&self, from: Rows, norm: Option<&Norm>, to: PackedRows, way: Way) -> Result<PackedRows> {
        if self.one_row(way, from.n, from.stride) && from.stride.is_multiple_of(8) {
            let plain = PlainRow { at: from.at, norm: norm.map(|n| self.weights.norm(n)) };
            return Ok(PackedRows { plain: Some(plain), ..to });
        }
        let mut p = params::Prepare {
            input: from.at,
            out: to.at,
            cols: from.stride as u32,
            in_stride: from.stride as u32,
            out_stride: to.stride as u32,
            copies: 1,
            ..params::Prepare::default()
        };
        if let Some(norm) = norm {
            let arg = self.weights.norm(norm);
            (p.weight, p.bias, p.eps, p.norm) = (arg.weight, arg.bias, arg.eps, 1 + arg.layer as u32);
        }
        self.prepare(p, from.n, way)?;
        Ok(to)
    }

    /// y = W x, or y += W x, for up to three matrices that share their input.
    pub(super) fn products(&self, x: Inputs, linears: &[(&Linear, Ptr, usize)], add: bool) -> Result<()> {
        let (packed, plain): (Vec<_>, Vec<_>) = linears.iter().partition(|l| self.packed(l.0).is_some());
        if let Some(x) = x.packed.filter(|_| !packed.is_empty()) {
            let store = if add { Store::Add } else { Store::Write };
            let group = Group { linears: &packed, x, store, activation: None, items: None, chosen: None };
            self.packed_product(&group, self.way())?;
        }
        for (linear, at, stride) in plain {
            if let Some(x) = x.plain {
                self.raw_product(linear, x, Rows { at, stride, n: x.n }, add)?;
            }
        }
        Ok(())
    }

    fn embed(&self, table: WeightId, positions: Option<WeightId>, scale: f32) -> Result<()> {
        let plan = &self.weights.plan;
        let w = plan.weight(table);
        let learned = positions.map(|id| plan.weight(id));
        let p = params::Embed {
            table: self.weights.at(table),
            positions: positions.map_or(0, |id| self.weights.at(id)),
            token: self.block.token,
            slot: self.block.slot,
            position: self.block.position,
            drawn: self.scratch.drawn,
            hidden: self.scratch.hidden,
            table_row_bytes: w.row_bytes() as u64,
            positions_row_bytes: learned.map_or(0, |w| w.row_bytes() as u64),
            table_type: w.ty as i32,
            positions_type: learned.map_or(QuantType::F32, |w| w.ty) as i32,
            width: plan.n_embd as i32,
            scale,
        };
        let Some(packed) = self.weights.stored[table.0 as usize] else {
            return self.launch("embed", "embed", [plan.n_embd.div_ceil(2048), self.extent.rows, 1], (256, 0), &p);
        };
        let p = params::EmbedPacked {
            table: p.table,
            token: p.token,
            slot: p.slot,
            position: p.position,
            drawn: p.drawn,
            positions: p.positions,
            hidden: p.hidden,
            positions_row_bytes: p.positions_row_bytes,
            positions_type: p.positions_type,
            kind: packed.kind,
            piece_bytes: packed.piece_bytes as u32,
            last_piece_bytes: packed.last_piece_bytes as u32,
            tile_bytes: packed.tile_bytes as u32,
            tiles: tiles(w.rows) as u32,
            width: p.width,
            scale,
        };
        self.launch("embed_packed", "embed_packed", [records(plan.n_embd), self.extent.rows, 1], (32, 0), &p)
    }

    pub(super) fn norm_rows(&self, kernel: &str, norm: &Norm, from: Ptr, to: Rows, gather: Ptr) -> Result<()> {
        let norm = self.weights.norm(norm);
        let p = params::NormRows { x: from, y: to.at, gather, norm, width: to.stride as i32 };
        self.launch("norm", kernel, [to.n, 1, 1], (256, 0), &p)
    }

    fn qkv(&self, qkv: &Qkv) -> Result<()> {
        let s = self.scratch;
        let (q_width, kv_width) = (qkv.heads.q * qkv.heads.dim, qkv.heads.kv * qkv.heads.dim);
        let x = self.inputs(self.hidden(), Some(&qkv.norm), &[&qkv.q, &qkv.k, &qkv.v])?;
        self.products(x, &[(&qkv.q, s.q, q_width), (&qkv.k, s.k, kv_width), (&qkv.v, s.v, kv_width)], false)?;
        if self.extent.phase == Phase::Decode {
            return Ok(());
        }
        let p = params::QkvEpilogue {
            q: s.q,
            k: s.k,
            v: s.v,
            slot: self.block.slot,
            position: self.block.position,
            q_norm: self.norm_or_none(qkv.q_norm),
            k_norm: self.norm_or_none(qkv.k_norm),
            kv: self.kv_view(qkv.kv, qkv.heads),
            rope: self.rope(qkv),
            q_heads: qkv.heads.q as i32,
            q_stride: q_width as i32,
            kv_stride: kv_width as i32,
        };
        let grid = [(qkv.heads.q + 2 * qkv.heads.kv).div_ceil(4), self.extent.rows, 1];
        self.launch("qkv", "qkv_epilogue", grid, (128, 0), &p)
    }

    fn project(
        &self,
        (input, packed): (Input, Option<PackedRows>),
        linear: &Linear,
        post_norm: Option<&Norm>,
    ) -> Result<()> {
        let from = match input {
            Input::Mixed => self.scratch.mixed,
            Input::Ffn => self.scratch.gate,
        };
        let cols = self.weights.plan.weight(linear.weight).cols;
        let x = match packed {
            Some(_) => Inputs { plain: None, packed },
            None => self.inputs(self.rows(from, cols), None, &[linear])?,
        };
        let n_embd = self.weights.plan.n_embd;
        let Some(norm) = post_norm else {
            return self.products(x, &[(linear, self.scratch.hidden, n_embd)], true);
        };
        self.products(x, &[(linear, self.scratch.branch, n_embd)], false)?;
        self.norm_rows("add_norm_rows", norm, self.scratch.branch, self.hidden(), 0)
    }

    fn gate_up(
        &self,
        (norm, activation): (&Norm, Activation),
        gate: Option<&Linear>,
        up: &Linear,
        to: Option<PackedRows>,
    ) -> Result<()> {
        let (s, width) = (self.scratch, up.rows.len());
        let both: Vec<&Linear> = gate.into_iter().chain([up]).collect();
        let x = self.inputs(self.hidden(), Some(norm), &both)?;
        if let (Some(to), Some(x)) = (to, x.packed) {
            let linears: Vec<_> = both.iter().map(|&l| (l, to.at, to.stride)).collect();
            let group = Group {
                linears: &linears,
                x,
                store: Store::Packed,
                activation: Some(activation),
                items: None,
                chosen: None,
            };
            return self.packed_product(&group, self.way());
        }
        if let Some(gate) = gate {
            self.products(x, &[(gate, s.gate, width)], false)?;
        }
        self.products(x, &[(up, s.up, width)], false)?;
        self.activate(gate.is_some(), self.extent.rows * width, activation)
    }

    /// gate = activation(gate, up)
    pub(super) fn activate(&self, gated: bool, count: usize, activation: Activation) -> Result<()> {
        let (kind, alpha, limit) = match activation {
            Activation::Silu => (0, 0.0, 0.0),
            Activation::Gelu => (1, 0.0, 0.0),
            Activation::ClampedSwiglu { alpha, limit } => (2, alpha, limit),
        };
        let s = self.scratch;
        let gate = if gated { s.gate } else { 0 };
        let p = params::Activate { gate, up: s.up, y: s.gate, count: count as u64, kind, alpha, limit };
        self.launch("ffn", "activate", [count.div_ceil(256), 1, 1], (256, 0), &p)
    }

    fn head(&self, norm: &Norm, linear: &Linear) -> Result<()> {
        let (s, plan, n) = (self.scratch, &self.weights.plan, self.extent.heads);
        let logits = Rows { at: s.logits, stride: plan.n_vocab, n };
        // In decoding, every row has logits, in its own place.
        let all = self.extent.phase == Phase::Decode;
        let normed = Rows { at: s.head_input, stride: plan.n_embd, n };
        if !all || self.packed(linear).is_none() {
            self.norm_rows("norm_rows", norm, s.hidden, normed, self.block.gather)?;
        }
        if self.packed(linear).is_some() {
            // Few rows, whatever the phase: they go the way of decoding.
            let way = self.decoding(n);
            let x = PackedRows { at: s.packed_input, stride: n.next_multiple_of(8), n, plain: None };
            let x = match all {
                true => self.prepare_rows(self.hidden(), Some(norm), x, way)?,
                false => self.prepare_rows(normed, None, x, way)?,
            };
            let linears = [(linear, logits.at, logits.stride)];
            let group =
                Group { linears: &linears, x, store: Store::Write, activation: None, items: None, chosen: None };
            self.packed_product(&group, way)?;
        } else {
            self.raw_product(linear, normed, logits, false)?;
        }
        let p = params::Sample {
            logits: s.logits,
            draws: self.block.draws,
            never: s.never,
            best: s.best,
            finished: s.sample_finished,
            drawn: s.drawn,
            outputs: s.outputs,
            n_vocab: plan.n_vocab as i32,
            parts: SAMPLE_PARTS as i32,
        };
        self.launch("sample", "sample", [SAMPLE_PARTS, n, 1], (256, 0), &p)
    }
}
