//! One pass: the plan's steps over the rows of one phase, queued on a stream.
//!
//! Nothing here reads device memory or depends on what the rows are, only on how many there are at the most; the rows
//! themselves are in the pass's block. So the same calls can be recorded once in a graph.

use super::driver::{Handle, Ptr};
use super::inputs::BlockAt;
use super::params;
use super::products::{Chosen, Rows};
use super::scratch::{SAMPLE_PARTS, SPLIT_TOKENS, Scratch, Sizes};
use super::weights::LoadedWeights;
use crate::error::Result;
use crate::model::{Activation, Heads, Linear, Norm, RopeStyle, WeightId};
use crate::plan::{Experts, Input, KvLayer, Phase, Qkv, Step};
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

impl Run<'_> {
    pub(super) fn steps(&self) -> Result<()> {
        let plan = self.weights.plan.clone();
        plan.steps.iter().try_for_each(|step| match step {
            Step::Embed { table, positions, scale } => self.embed(*table, *positions, *scale),
            Step::Qkv(qkv) => self.qkv(qkv),
            Step::Attend { heads, kv, scale, window, sinks } => {
                self.attend(*heads, *kv, self.attend_params(*heads, *kv, (*scale, *window, *sinks)))
            }
            Step::Project { input, linear, post_norm } => self.project(*input, linear, post_norm.as_ref()),
            Step::GateUp { norm, gate, up, activation } => self.gate_up(norm, gate.as_ref(), up, *activation),
            Step::Experts(experts) => self.experts(experts),
            Step::Head { norm, linear } => self.head(norm, linear),
        })
    }

    fn rows(&self, at: Ptr, stride: usize) -> Rows {
        Rows { at, stride, n: self.extent.rows }
    }

    fn hidden(&self) -> Rows {
        self.rows(self.scratch.hidden, self.weights.plan.n_embd)
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
        self.launch("embed", "embed", [plan.n_embd.div_ceil(2048), self.extent.rows, 1], (256, 0), &p)
    }

    /// The normed residual, ready for a product.
    fn normed(&self, norm: &Norm) -> Result<Rows> {
        let x = self.rows(self.scratch.normed, self.weights.plan.n_embd);
        self.norm_rows("norm_rows", norm, self.scratch.hidden, x, 0)?;
        Ok(x)
    }

    fn norm_rows(&self, kernel: &str, norm: &Norm, from: Ptr, to: Rows, gather: Ptr) -> Result<()> {
        let norm = self.weights.norm(norm);
        let p = params::NormRows { x: from, y: to.at, gather, norm, width: to.stride as i32 };
        self.launch("norm", kernel, [to.n, 1, 1], (256, 0), &p)
    }

    fn qkv(&self, qkv: &Qkv) -> Result<()> {
        let s = self.scratch;
        let (q_width, kv_width) = (qkv.heads.q * qkv.heads.dim, qkv.heads.kv * qkv.heads.dim);
        let x = self.normed(&qkv.norm)?;
        self.product(&qkv.q, x, self.rows(s.q, q_width), false)?;
        self.product(&qkv.k, x, self.rows(s.k, kv_width), false)?;
        self.product(&qkv.v, x, self.rows(s.v, kv_width), false)?;
        let rope = qkv.rope.map(|id| (&self.weights.plan.ropes[id.0 as usize], self.ropes[id.0 as usize]));
        let p = params::QkvEpilogue {
            q: s.q,
            k: s.k,
            v: s.v,
            slot: self.block.slot,
            position: self.block.position,
            inv_freq: rope.map_or(0, |r| r.1),
            q_norm: qkv.q_norm.map_or_else(Default::default, |n| self.weights.norm(&n)),
            k_norm: qkv.k_norm.map_or_else(Default::default, |n| self.weights.norm(&n)),
            kv: self.kv_view(qkv.kv, qkv.heads),
            magnitude: rope.map_or(1.0, |r| r.0.magnitude),
            pairs: rope.map_or(0, |r| r.0.inv_freq.len()) as i32,
            adjacent: rope.is_some_and(|r| r.0.style == RopeStyle::Pairs).into(),
            q_heads: qkv.heads.q as i32,
            q_stride: q_width as i32,
            kv_stride: kv_width as i32,
        };
        let grid = [(qkv.heads.q + 2 * qkv.heads.kv).div_ceil(4), self.extent.rows, 1];
        self.launch("qkv", "qkv_epilogue", grid, (128, 0), &p)
    }

    fn kv_view(&self, kv: KvLayer, heads: Heads) -> params::KvView {
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
        }
    }

    fn attend_params(
        &self,
        heads: Heads,
        kv: KvLayer,
        (scale, window, sinks): (f32, Option<usize>, Option<WeightId>),
    ) -> params::Attend {
        let s = self.scratch;
        params::Attend {
            q: s.q,
            mixed: s.mixed,
            slot: self.block.slot,
            position: self.block.position,
            tiles: self.block.tiles,
            sinks: sinks.map_or(0, |id| self.weights.at(id)),
            partial: s.partial,
            finished: s.attend_finished,
            kv: self.kv_view(kv, heads),
            scale,
            window: window.map_or(0, |w| w.min(i32::MAX as usize)) as i32,
            q_heads: heads.q as i32,
            q_stride: (heads.q * heads.dim) as i32,
            splits: self.extent.splits as i32,
        }
    }

    fn attend(&self, heads: Heads, _kv: KvLayer, p: params::Attend) -> Result<()> {
        if self.extent.phase == Phase::Prefill {
            let width = [32, 64, 96, 128, 256].into_iter().find(|&d| d >= heads.dim).unwrap_or(256);
            let name = format!("attend_prefill_d{width}");
            return self.launch("attend_prefill", &name, [self.extent.tiles, heads.q, 1], (128, 0), &p);
        }
        let group = heads.q / heads.kv;
        let together = group.next_power_of_two().min(8);
        let wide = [64, 128, 256].into_iter().position(|d| d >= heads.dim).unwrap_or(2);
        let name = format!("attend_decode_g{together}_j{}", 1 << wide);
        let splits = match p.window {
            0 => self.extent.splits,
            window => self.extent.splits.min(window as usize / SPLIT_TOKENS + 2),
        };
        let shared = 4 * (together * heads.dim + 4 * together * (heads.dim + 2));
        let grid = [splits, heads.kv * group.div_ceil(together), self.extent.rows];
        self.launch("attend_decode", &name, grid, (128, shared as u32), &p)
    }

    fn project(&self, input: Input, linear: &Linear, post_norm: Option<&Norm>) -> Result<()> {
        let cols = self.weights.plan.weight(linear.weight).cols;
        let x = match input {
            Input::Mixed => self.rows(self.scratch.mixed, cols),
            Input::Ffn => self.rows(self.scratch.gate, cols),
        };
        let Some(norm) = post_norm else {
            return self.product(linear, x, self.hidden(), true);
        };
        let branch = self.rows(self.scratch.branch, self.weights.plan.n_embd);
        self.product(linear, x, branch, false)?;
        self.norm_rows("add_norm_rows", norm, branch.at, self.hidden(), 0)
    }

    fn gate_up(&self, norm: &Norm, gate: Option<&Linear>, up: &Linear, activation: Activation) -> Result<()> {
        let width = up.rows.len();
        let x = self.normed(norm)?;
        if let Some(gate) = gate {
            self.product(gate, x, self.rows(self.scratch.gate, width), false)?;
        }
        self.product(up, x, self.rows(self.scratch.up, width), false)?;
        self.activate(gate.is_some(), self.extent.rows * width, activation)
    }

    /// gate = activation(gate, up)
    fn activate(&self, gated: bool, count: usize, activation: Activation) -> Result<()> {
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

    fn experts(&self, e: &Experts) -> Result<()> {
        let s = self.scratch;
        let (n, width, n_embd) = (self.extent.rows, e.up.rows.len(), self.weights.plan.n_embd);
        let x = self.normed(&e.norm)?;
        let experts = e.router.rows.len();
        self.product(&e.router, x, self.rows(s.router, experts), false)?;
        let route = params::Route {
            logits: s.router,
            chosen: s.chosen,
            weights: s.chosen_weights,
            experts: experts as i32,
            used: e.used as i32,
            n: n as i32,
        };
        self.launch("ffn", "route", [n, 1, 1], (32, 0), &route)?;
        let pairs = |at, stride| Rows { at, stride, n: n * e.used };
        let chosen = |divide| Chosen { experts: s.chosen, divide };
        self.expert_product(&e.gate, chosen(e.used), x, pairs(s.gate, width))?;
        self.expert_product(&e.up, chosen(e.used), x, pairs(s.up, width))?;
        self.activate(true, n * e.used * width, e.activation)?;
        self.expert_product(&e.down, chosen(1), pairs(s.gate, width), pairs(s.expert_outputs, n_embd))?;
        let to = if e.post_norm.is_some() { s.branch } else { s.hidden };
        let combine = params::Combine {
            outputs: s.expert_outputs,
            weights: s.chosen_weights,
            y: to,
            used: e.used as i32,
            width: n_embd as i32,
            add: e.post_norm.is_none().into(),
        };
        self.launch("ffn", "combine", [n_embd.div_ceil(256), n, 1], (256, 0), &combine)?;
        match &e.post_norm {
            Some(norm) => self.norm_rows("add_norm_rows", norm, s.branch, self.hidden(), 0),
            None => Ok(()),
        }
    }

    fn head(&self, norm: &Norm, linear: &Linear) -> Result<()> {
        let (s, plan) = (self.scratch, &self.weights.plan);
        let x = Rows { at: s.head_input, stride: plan.n_embd, n: self.extent.heads };
        self.norm_rows("norm_rows", norm, s.hidden, x, self.block.gather)?;
        let logits = Rows { at: s.logits, stride: plan.n_vocab, n: self.extent.heads };
        self.product(linear, x, logits, false)?;
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
        self.launch("sample", "sample", [SAMPLE_PARTS, self.extent.heads, 1], (256, 0), &p)
    }
}
