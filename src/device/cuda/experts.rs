//! A mixture of experts: the router's choice, the chosen experts' products, and their weighted sum.

use super::chosen::{Sorted, row_stride};
use super::few::item_rows;
use super::many::many_rows;
use super::params;
use super::pass::Run;
use super::products::{ChosenExperts, Group, Items, PackedRows, PlainRow, Rows, Store};
use super::raw::Chosen;
use super::scratch::PLACE_ALIGNMENT;
use super::ways::{BATCH_ROWS, PROMPT_ROWS, SMALL_ROWS, Way};
use crate::error::Result;
use crate::plan::Experts;
use crate::quant::QuantType;

/// Experts whose logits a block of kernels/route_row.cu makes.
const ROUTE_WARPS: usize = 4;
/// Above the shared memory that this kernel declares.
const ROUTE_DECLARED_BYTES: usize = 8 << 10;

/// Rows up to which each has a block that reads the whole router, and the shared memory for one that no card has to be asked for.
const FEW_ROWS: usize = 128;
const FEW_ROWS_BYTES: usize = 40 << 10;

/// The shared memory that route_row asks for: the row, and a row of the router for each warp.
fn route_bytes(cols: usize) -> usize {
    4 * cols * (1 + ROUTE_WARPS)
}

impl Run<'_> {
    pub(super) fn experts(&self, e: &Experts) -> Result<()> {
        let s = self.scratch;
        let (n, n_embd) = (self.extent.rows, self.weights.plan.n_embd);
        let grouped = self.packed(&e.gate).is_some();
        let widest = n_embd.max(self.weights.plan.weight(e.down.weight).cols);
        let alone = grouped && self.one_row(self.way(), n, widest) && n_embd.is_multiple_of(8);
        let fits = route_bytes(n_embd) + ROUTE_DECLARED_BYTES <= self.weights.gpu.card.shared_bytes;
        let plain = self.weights.plan.weight(e.router.weight).ty == QuantType::F32 && n_embd.is_multiple_of(8);
        let few = n <= FEW_ROWS && 4 * n_embd <= FEW_ROWS_BYTES;
        // One row is routed best by many blocks.
        let sorts = plain && few && self.sorts_itself(e) && (n > 1 || self.routes_by_clusters(e));
        match plain {
            true if sorts && self.routes_by_clusters(e) => self.route_cluster(e)?,
            true if alone && !sorts && fits => self.route_row(e)?,
            true if few => self.route_rows(e, sorts)?,
            _ => self.route(e)?,
        }
        let normed = self.rows(s.normed, n_embd);
        match grouped {
            true if sorts => self.sorted_experts(e)?,
            true if alone => self.experts_of_one(e)?,
            true => self.grouped_experts(e, normed)?,
            false => self.experts_one_by_one(e, normed)?,
        }
        let combine = params::Combine {
            outputs: s.expert_outputs,
            weights: s.chosen_weights,
            places: if grouped && !alone && !sorts { s.places } else { 0 },
            y: if e.post_norm.is_some() { s.branch } else { s.hidden },
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

    /// The norm, the router's logits and the choice of all rows.
    fn route(&self, e: &Experts) -> Result<()> {
        let s = self.scratch;
        let (n, n_embd, experts) = (self.extent.rows, self.weights.plan.n_embd, e.router.rows.len());
        // The router reads f32: what it leaves apart by little must not be rounded together.
        let norm = self.weights.norm(&e.norm);
        let normed = params::Prepare {
            input: s.hidden,
            weight: norm.weight,
            bias: norm.bias,
            out: s.normed,
            cols: n_embd as u32,
            in_stride: n_embd as u32,
            out_stride: n_embd as u32,
            copies: 1,
            norm: 1 + norm.layer as u32,
            eps: norm.eps,
            scale: 1.0,
            ..params::Prepare::default()
        };
        self.launch("prepare", "prepare", [n, 1, 1], (512, 0), &normed)?;
        let x = self.inputs(self.rows(s.normed, n_embd), None, &[&e.router])?;
        self.products(x, &[(&e.router, s.router, experts)], false)?;
        let route = params::Route {
            logits: s.router,
            chosen: s.chosen,
            weights: s.chosen_weights,
            experts: experts as i32,
            used: e.used as i32,
            n: n as i32,
        };
        self.launch("ffn", "route", [n, 1, 1], (32, 0), &route)
    }

    /// The same for one row and a router of f32, in one kernel.
    fn route_row(&self, e: &Experts) -> Result<()> {
        let (s, cols, experts) = (self.scratch, self.weights.plan.n_embd, e.router.rows.len());
        let norm = self.weights.norm(&e.norm);
        let (router, bias) = self.weights.linear(&e.router);
        let p = params::RouteRow {
            hidden: s.hidden,
            norm_weight: norm.weight,
            norm_bias: norm.bias,
            router,
            bias,
            logits: s.router,
            chosen: s.chosen,
            weights: s.chosen_weights,
            finished: s.attend_finished,
            norm: 1 + norm.layer as u32,
            eps: norm.eps,
            cols: cols as i32,
            experts: experts as i32,
            used: e.used as i32,
        };
        let shared = route_bytes(cols);
        self.launch("route_row", "route_row", [experts.div_ceil(ROUTE_WARPS), 1, 1], (128, shared as u32), &p)
    }

    /// The same for a few rows, left as f32 or f16.
    fn route_rows(&self, e: &Experts, packed: bool) -> Result<()> {
        let (s, cols) = (self.scratch, self.weights.plan.n_embd);
        let norm = self.weights.norm(&e.norm);
        let (router, bias) = self.weights.linear(&e.router);
        let p = params::RouteRows {
            hidden: s.hidden,
            norm_weight: norm.weight,
            norm_bias: norm.bias,
            router,
            bias,
            normed: s.normed,
            rows: if packed { s.packed_input } else { 0 },
            logits: s.router,
            chosen: s.chosen,
            weights: s.chosen_weights,
            norm: 1 + norm.layer as u32,
            eps: norm.eps,
            cols: cols as i32,
            experts: e.router.rows.len() as i32,
            used: e.used as i32,
            row_stride: row_stride(cols) as i32,
        };
        self.launch("route_rows", "route_rows", [self.extent.rows, 1, 1], (512, 4 * cols as u32), &p)
    }

    /// The experts of one row: no sorting, each reads the row where it is.
    fn experts_of_one(&self, e: &Experts) -> Result<()> {
        let s = self.scratch;
        let (way, n_embd, stride) = (self.way(), self.weights.plan.n_embd, e.used.next_multiple_of(8));
        let plain = PlainRow { at: s.hidden, norm: Some(self.weights.norm(&e.norm)) };
        let chosen = |x_each| Some(ChosenExperts { at: s.chosen, used: e.used, x_each, sorted: None });
        let pair = Group {
            linears: &[(&e.gate, s.packed_ffn, stride), (&e.up, s.packed_ffn, stride)],
            x: PackedRows { at: s.packed_input, stride, n: 1, plain: Some(plain) },
            store: Store::Packed,
            activation: Some(e.activation),
            items: None,
            chosen: chosen(false),
        };
        self.packed_product(&pair, way)?;
        let down = Group {
            linears: &[(&e.down, s.expert_outputs, n_embd)],
            x: PackedRows { at: s.packed_ffn, stride, n: 1, plain: None },
            store: Store::Write,
            activation: None,
            items: None,
            chosen: chosen(true),
        };
        self.packed_product(&down, way)
    }

    /// The experts of all rows by kernels that sort the choices themselves: a choice's result lies in its own place.
    fn sorted_experts(&self, e: &Experts) -> Result<()> {
        let (s, way, n_embd, n) = (self.scratch, self.way(), self.weights.plan.n_embd, self.extent.rows);
        let (x_stride, stride) = (row_stride(n_embd), row_stride(e.up.rows.len()));
        // One row is always there.
        let slot = if n > 1 { self.block.slot } else { 0 };
        let sorted = Some(Sorted { rows: n, experts: e.router.rows.len(), slot });
        let chosen = |x_each| Some(ChosenExperts { at: s.chosen, used: e.used, x_each, sorted });
        let pair = Group {
            linears: &[(&e.gate, s.packed_ffn, stride), (&e.up, s.packed_ffn, stride)],
            x: PackedRows { at: s.packed_input, stride: x_stride, n, plain: None },
            store: Store::Packed,
            activation: Some(e.activation),
            items: None,
            chosen: chosen(false),
        };
        self.packed_product(&pair, way)?;
        let down = Group {
            linears: &[(&e.down, s.expert_outputs, n_embd)],
            x: PackedRows { at: s.packed_ffn, stride, n: n * e.used, plain: None },
            store: Store::Write,
            activation: None,
            items: None,
            chosen: chosen(true),
        };
        self.packed_product(&down, way)
    }

    fn experts_one_by_one(&self, e: &Experts, x: Rows) -> Result<()> {
        let (s, width) = (self.scratch, e.up.rows.len());
        let pairs = |at, stride| Rows { at, stride, n: x.n * e.used };
        let chosen = |divide| Chosen { experts: s.chosen, divide };
        self.raw_expert_product(&e.gate, chosen(e.used), x, pairs(s.gate, width))?;
        self.raw_expert_product(&e.up, chosen(e.used), x, pairs(s.up, width))?;
        self.activate(true, x.n * e.used * width, e.activation)?;
        self.raw_expert_product(&e.down, chosen(1), pairs(s.gate, width), pairs(s.expert_outputs, x.stride))
    }

    /// Rows sorted by expert, so that each expert's matrices are read once.
    fn grouped_experts(&self, e: &Experts, x: Rows) -> Result<()> {
        let s = self.scratch;
        // Experts are many matrices at once, which whole blocks read best, however few the rows; the sums are the same.
        let way = match self.way() {
            Way::Small | Way::Split if x.n > 1 && self.has_code(Way::Many) => Way::Many,
            way => way,
        };
        let (items, stride) = self.group(e, x.n, way)?;
        let packed = |at| PackedRows { at, stride, n: items.rows, plain: None };
        let input = params::Prepare {
            input: x.at,
            out: s.packed_input,
            places: s.places,
            cols: x.stride as u32,
            in_stride: x.stride as u32,
            out_stride: stride as u32,
            copies: e.used as u32,
            ..params::Prepare::default()
        };
        self.prepare(input, x.n, way)?;
        let pair = Group {
            linears: &[(&e.gate, s.packed_ffn, stride), (&e.up, s.packed_ffn, stride)],
            x: packed(s.packed_input),
            store: Store::Packed,
            activation: Some(e.activation),
            items: Some(items),
            chosen: None,
        };
        self.packed_product(&pair, way)?;
        let down = Group {
            linears: &[(&e.down, s.expert_outputs, x.stride)],
            x: packed(s.packed_ffn),
            store: Store::Write,
            activation: None,
            items: Some(items),
            chosen: None,
        };
        self.packed_product(&down, way)
    }

    /// Gives each choice of `n` rows its place among the rows sorted by expert; returns the pieces that the products take,
    /// and the stride of the sorted rows.
    fn group(&self, e: &Experts, n: usize, way: Way) -> Result<(Items, usize)> {
        let (s, experts) = (self.scratch, e.router.rows.len());
        let choices = n * e.used;
        // Twice the average, so that few have more and are read twice.
        let average = 2 * choices.div_ceil(experts);
        let most = match way {
            Way::Small => SMALL_ROWS,
            Way::Batch | Way::Split => BATCH_ROWS,
            Way::Many => many_rows(average),
            Way::Prompt => item_rows(choices.div_ceil(experts)),
        };
        let (at, count, rows) = (s.items, s.item_count, n.min(most));
        let items = Items { at, count, items: choices.min(experts + choices / most), rows };
        // The last place is for rows that are not there.
        let spare = choices + PLACE_ALIGNMENT * experts;
        let group = params::Group {
            chosen: s.chosen,
            places: s.places,
            items: at,
            item_count: count,
            slot: self.block.slot,
            n: n as i32,
            used: e.used as i32,
            experts: experts as i32,
            align: PLACE_ALIGNMENT as i32,
            most: rows as i32,
            spare: spare as i32,
        };
        self.launch("experts", "group_experts", [1, 1, 1], (1024, 0), &group)?;
        Ok((items, (spare + PROMPT_ROWS).next_multiple_of(PROMPT_ROWS)))
    }
}
