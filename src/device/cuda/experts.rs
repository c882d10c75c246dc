//! A mixture of experts: the router's choice, the chosen experts' products, and their weighted sum.

use super::params;
use super::pass::Run;
use super::products::{Group, Items, PackedRows, Rows, Store};
use super::raw::Chosen;
use super::scratch::PLACE_ALIGNMENT;
use super::ways::{BATCH_ROWS, PROMPT_ROWS, SMALL_ROWS, Way};
use crate::error::Result;
use crate::plan::Experts;

impl Run<'_> {
    pub(super) fn experts(&self, e: &Experts) -> Result<()> {
        let s = self.scratch;
        let (n, n_embd) = (self.extent.rows, self.weights.plan.n_embd);
        let experts = e.router.rows.len();
        let grouped = self.packed(&e.gate).is_some();
        // The router reads f32: what it leaves apart by little must not be rounded together.
        let normed = self.rows(s.normed, n_embd);
        self.norm_rows("norm_rows", &e.norm, s.hidden, normed, 0)?;
        let x = self.inputs(normed, None, &[&e.router])?;
        self.products(x, &[(&e.router, s.router, experts)], false)?;
        let route = params::Route {
            logits: s.router,
            chosen: s.chosen,
            weights: s.chosen_weights,
            experts: experts as i32,
            used: e.used as i32,
            n: n as i32,
        };
        self.launch("ffn", "route", [n, 1, 1], (32, 0), &route)?;
        match grouped {
            true => self.grouped_experts(e, normed)?,
            false => self.experts_one_by_one(e, normed)?,
        }
        let combine = params::Combine {
            outputs: s.expert_outputs,
            weights: s.chosen_weights,
            places: if grouped { s.places } else { 0 },
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
        let (s, way) = (self.scratch, self.way());
        let (items, stride) = self.group(e, x.n, way)?;
        let packed = |at| PackedRows { at, stride, n: items.rows };
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
        };
        self.packed_product(&pair, way)?;
        let down = Group {
            linears: &[(&e.down, s.expert_outputs, x.stride)],
            x: packed(s.packed_ffn),
            store: Store::Write,
            activation: None,
            items: Some(items),
        };
        self.packed_product(&down, way)
    }

    /// Gives each choice of `n` rows its place among the rows sorted by expert; returns the pieces that the products take,
    /// and the stride of the sorted rows.
    fn group(&self, e: &Experts, n: usize, way: Way) -> Result<(Items, usize)> {
        let (s, experts) = (self.scratch, e.router.rows.len());
        let choices = n * e.used;
        let most = match way {
            Way::Small => SMALL_ROWS,
            Way::Batch | Way::Split => BATCH_ROWS,
            Way::Prompt => PROMPT_ROWS,
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
        self.launch("experts", "group_experts", [1, 1, 1], (256, 0), &group)?;
        Ok((items, (spare + PROMPT_ROWS).next_multiple_of(PROMPT_ROWS)))
    }
}
