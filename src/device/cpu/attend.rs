//! Attention: q, k and v of the rows, and the softmax over the cache.
//!
//! The pages are walked in order, each as one block of an online softmax, and blocks are aligned to
//! absolute positions. So the sum of a row has the same order in any chunk and any batch.

use super::buffers::{Buffers, Room, Row, TILE_ELEMENTS};
use super::linear::{Context, room};
use super::memory::{KvCache, Rows};
use super::pool::{Chunks, Grid, Tile};
use super::rope::rotate;
use super::simd::{Page, QUERIES, Queries, State};
use crate::model::{Heads, Norm, WeightId};
use crate::plan::{Batch, KvLayer, PAGE_TOKENS, PageTable, Qkv};
use std::ops::Range;

/// Rows whose q and k a thread norms and rotates at once.
const ROWS: usize = 4;
/// Rows of a tile of attention, and queries: rows times heads.
const TILE_ROWS: usize = 16;
const MOST_QUERIES: usize = 128;

/// The attention step, as the plan gives it.
#[derive(Clone, Copy)]
pub struct Attend {
    pub heads: Heads,
    pub kv: KvLayer,
    pub scale: f32,
    pub window: Option<usize>,
    pub sinks: Option<WeightId>,
}

impl Context<'_> {
    /// x = norm(hidden); q, k and v of it, rotated; k and v into the cache.
    pub fn qkv(&self, step: &Qkv, b: &mut Buffers, cache: &mut KvCache, batch: &Batch) {
        let (n, n_embd) = (b.rows.len(), self.plan.n_embd);
        let integers = self.integers(&[&step.q, &step.k, &step.v].map(|l| l.weight));
        let len = n * n_embd;
        self.norm(&step.norm, &b.hidden[..len], &mut b.x[..len], integers, &mut b.planes);
        let input = b.planes.input(&b.x[..len], n_embd, integers);
        let linears = [&step.q, &step.k, &step.v];
        let widths = linears.map(|l| l.rows.len());
        let outs = [&mut b.q[..n * widths[0]], &mut b.k[..n * widths[1]], &mut b.v[..n * widths[2]]];
        let mut i = 0;
        let grids = outs.map(|out| {
            let (width, at) = (widths[i], i);
            i += 1;
            Grid::new(out, width, width, self.block([n, widths[at].max(widths[0]), n_embd], integers))
        });
        self.pool.each(grids, |thread, _, (which, mut tile)| {
            self.tile(linears[which], 0, input, &mut tile, room(&b.rooms, thread).split().1);
        });
        self.position(step, b);
        let dims = [1, 2].map(|i| widths[i]);
        for (i, row) in b.rows.iter().enumerate() {
            let kv = [&b.k[i * dims[0]..][..dims[0]], &b.v[i * dims[1]..][..dims[1]]];
            cache.store(step.kv, &batch.segments[row.segment].pages, row.position, kv);
        }
    }

    /// Norms and rotates each head of q and of k.
    fn position(&self, step: &Qkv, b: &mut Buffers) {
        if step.rope.is_none() && step.q_norm.is_none() && step.k_norm.is_none() {
            return;
        }
        let (n, dim) = (b.rows.len(), step.heads.dim);
        let widths = [step.heads.q * dim, step.heads.kv * dim];
        let rope = step.rope.map(|id| (self.plan.ropes[id.0 as usize].style, &b.ropes[id.0 as usize]));
        let parts = (
            Chunks::new(&mut b.q[..n * widths[0]], ROWS * widths[0]),
            Chunks::new(&mut b.k[..n * widths[1]], ROWS * widths[1]),
        );
        self.pool.each(parts, |_, part, (q, k)| {
            for (x, width, norm) in [(q, widths[0], &step.q_norm), (k, widths[1], &step.k_norm)] {
                for (i, x) in x.chunks_exact_mut(width).enumerate() {
                    let rope = rope.map(|(style, table)| (style, table.row(part * ROWS + i)));
                    for head in x.chunks_exact_mut(dim) {
                        self.norm_head(norm, head);
                        if let Some((style, row)) = rope {
                            rotate(head, style, row);
                        }
                    }
                }
            }
        });
    }

    fn norm_head(&self, norm: &Option<Norm>, head: &mut [f32]) {
        if let Some(norm) = norm {
            self.normed(norm).apply_in_place(head);
        }
    }

    /// mixed = softmax(q K^T * scale [, sink]) V, in the place of q.
    pub fn attend(&self, step: Attend, b: &mut Buffers, cache: &KvCache, batch: &Batch) {
        let (n, dim) = (b.rows.len(), step.heads.dim);
        let width = step.heads.q * dim;
        let (rows, rooms) = (&b.rows, &b.rooms);
        let grid = Grid::new(&mut b.q[..n * width], width, width, self.attend_block(n, step.heads));
        self.pool.each(grid, |thread, _, mut tile| {
            let mut room = room(rooms, thread);
            let heads = tile.cols().start / dim..tile.cols().end / dim;
            let mut at = tile.rows().start;
            for rows in rows[tile.rows()].chunk_by(|a, b| a.segment == b.segment) {
                let first = at - tile.rows().start;
                at += rows.len();
                let run = Run { rows, first, heads: heads.clone(), pages: &batch.segments[rows[0].segment].pages };
                self.attend_run(step, run, cache, &mut room, &mut tile);
            }
        });
    }

    /// Rows and columns of a tile: the heads that share keys and values together, or one where there is little to share.
    fn attend_block(&self, rows: usize, heads: Heads) -> [usize; 2] {
        let shared = heads.q / heads.kv;
        let most = (MOST_QUERIES / shared).min(TILE_ELEMENTS / (shared * heads.dim));
        let share = rows / (2 * self.pool.threads());
        if share == 0 || most == 0 { [1, heads.dim] } else { [share.min(most).min(TILE_ROWS), shared * heads.dim] }
    }

    /// The rows of one sequence in a tile, page by page.
    fn attend_run(&self, step: Attend, run: Run<'_>, cache: &KvCache, room: &mut Room, tile: &mut Tile<'_>) {
        let (dim, width) = (step.heads.dim, tile.cols().len());
        let (heads, count) = (run.heads.len(), run.rows.len() * run.heads.len());
        let (q, mixed) = (&mut room.tile[..count * dim], &mut room.mixed[..count * dim]);
        for (t, q) in q.chunks_exact_mut(width).enumerate() {
            q.copy_from_slice(tile.row(run.first + t));
        }
        mixed.fill(0.0);
        let sinks = step.sinks.map(|id| &self.weights.vector(id)[run.heads.clone()]);
        let mut states: [State; MOST_QUERIES] = std::array::from_fn(|i| State {
            max: sinks.map_or(f32::NEG_INFINITY, |s| s[i % heads]),
            sum: if sinks.is_some() { 1.0 } else { 0.0 },
            tokens: [0; 2],
        });
        let states = &mut states[..count];
        let kv_head = run.heads.start / (step.heads.q / step.heads.kv);
        let mut page = run.rows[0].first(step.window) / PAGE_TOKENS * PAGE_TOKENS;
        while page <= run.rows[run.rows.len() - 1].position {
            for (i, state) in states.iter_mut().enumerate() {
                state.tokens = run.rows[i / heads].tokens(step.window, page);
            }
            let kv = cache.rows(step.kv, run.pages, page, kv_head);
            let few = q.chunks(QUERIES * dim).zip(mixed.chunks_mut(QUERIES * dim)).zip(states.chunks_mut(QUERIES));
            for ((q, mixed), states) in few.filter(|(_, s)| s.iter().any(|s| s.tokens[0] < s.tokens[1])) {
                let queries = Queries { q, states, mixed };
                match kv {
                    Rows::F32([keys, values]) => self.isa.attend(Page { keys, values }, step.scale, queries),
                    Rows::F16([keys, values]) => self.isa.attend(Page { keys, values }, step.scale, queries),
                }
            }
            page += PAGE_TOKENS;
        }
        for (mixed, state) in mixed.chunks_exact_mut(dim).zip(&*states) {
            let scale = 1.0 / state.sum;
            mixed.iter_mut().for_each(|m| *m *= scale);
        }
        for (t, mixed) in mixed.chunks_exact(width).enumerate() {
            tile.row(run.first + t).copy_from_slice(mixed);
        }
    }
}

/// Rows of one sequence in a tile, whose first is the tile's row `first`, and the heads that the tile has.
struct Run<'a> {
    rows: &'a [Row],
    first: usize,
    heads: Range<usize>,
    pages: &'a PageTable,
}

impl Row {
    /// The first position that the row attends to.
    fn first(&self, window: Option<usize>) -> usize {
        window.map_or(0, |w| (self.position + 1).saturating_sub(w))
    }

    /// The tokens of the page at position `page` that the row attends to: from, to.
    fn tokens(&self, window: Option<usize>, page: usize) -> [usize; 2] {
        let to = (self.position + 1).saturating_sub(page).min(PAGE_TOKENS);
        [self.first(window).saturating_sub(page).min(to), to]
    }
}
