//! Matrix products over the batch's rows, cut into tiles for the threads.
//!
//! How the tiles are cut depends on the number of rows and of threads; no value does, because a kernel
//! gives an element the same bits in any tile.

use super::buffers::{FLOAT_TILE, Room, TILE_ELEMENTS};
use super::pool::{Grid, Pool, Tile};
use super::simd::{Form, Input, Isa};
use super::weights::ModelWeights;
use crate::model::{Linear, WeightId};
use crate::plan::Plan;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What every step needs and none changes.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub plan: &'a Plan,
    pub weights: &'a ModelWeights,
    pub pool: &'a Pool,
    pub isa: Isa,
}

/// Bytes of activations that a tile may read, so that they stay in a core's cache.
const INPUT_BYTES: usize = 256 << 10;
/// The outputs that kernels like best to have together.
const PANEL: usize = 32;
/// Tokens of a tile of floats at the most: its weights stay in the second-level cache for all of them.
const FLOAT_ROWS: usize = FLOAT_TILE / 128;
/// The tokens that kernels of floats like to have together.
const FLOAT_TOKENS: usize = 4;

impl Context<'_> {
    /// Whether a product with any of these weights reads its input in int8.
    pub fn integers(&self, weights: &[WeightId]) -> bool {
        weights.iter().any(|&w| self.isa.form(self.plan.weight(w).ty) == Form::Planes)
    }

    /// How large the tiles of a product [rows, outputs] are.
    pub fn block(&self, [rows, outputs, cols]: [usize; 3], integers: bool) -> [usize; 2] {
        let (fitting, elements) = match integers {
            true => ((INPUT_BYTES / cols.max(1) / 4 * 4).clamp(16, TILE_ELEMENTS / PANEL), TILE_ELEMENTS),
            false => (even(rows), FLOAT_TILE),
        };
        let rows = rows.clamp(1, fitting);
        let share = outputs.div_ceil(2 * self.pool.threads()).next_multiple_of(PANEL);
        [rows, share.clamp(PANEL, (elements / rows / PANEL * PANEL).clamp(PANEL, 1024))]
    }

    /// One tile of linear(input), bias included. The tile's rows count in the input's, its columns in the linear's.
    pub fn tile(&self, linear: &Linear, expert: usize, input: Input<'_>, tile: &mut Tile<'_>, row: &mut [f32]) {
        let cols = tile.cols();
        let first = linear.rows.start;
        let weights = self.weights.rows(linear.weight, expert, first + cols.start..first + cols.end);
        self.isa.matmul(weights, input.rows(tile.rows()), tile, row);
        if let Some(bias) = self.weights.bias(linear, expert, cols) {
            (0..tile.rows().len()).for_each(|t| self.isa.add(tile.row(t), bias));
        }
    }

    /// out [rows, linear.rows] = linear(input)
    pub fn linear(&self, linear: &Linear, input: Input<'_>, out: &mut [f32], rooms: &[Mutex<Room>]) {
        let width = linear.rows.len();
        let integers = self.integers(&[linear.weight]);
        let block = self.block([out.len() / width.max(1), width, input.cols], integers);
        self.pool.each(Grid::new(out, width, width, block), |thread, _, mut tile| {
            self.tile(linear, 0, input, &mut tile, room(rooms, thread).split().1);
        });
    }

    /// out += linear(input)
    pub fn add_linear(&self, linear: &Linear, input: Input<'_>, out: &mut [f32], rooms: &[Mutex<Room>]) {
        let width = linear.rows.len();
        let integers = self.integers(&[linear.weight]);
        let block = self.block([out.len() / width.max(1), width, input.cols], integers);
        self.pool.each(Grid::new(out, width, width, block), |thread, _, mut out| {
            let mut room = room(rooms, thread);
            let (tile, row) = room.split();
            let mut tile = Tile::like(tile, &out);
            self.tile(linear, 0, input, &mut tile, row);
            for t in 0..out.rows().len() {
                self.isa.add(out.row(t), tile.row(t));
            }
        });
    }
}

/// Rows of a tile of floats, about the same for all.
fn even(rows: usize) -> usize {
    let tiles = rows.div_ceil(FLOAT_ROWS).max(1);
    rows.div_ceil(tiles).next_multiple_of(FLOAT_TOKENS).max(1)
}

impl Room {
    /// Room for a tile, and for a row of weights as floats.
    pub fn split(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.tile, &mut self.row)
    }
}

/// What a thread has for itself.
pub fn room(rooms: &[Mutex<Room>], thread: usize) -> MutexGuard<'_, Room> {
    rooms[thread].lock().unwrap_or_else(PoisonError::into_inner)
}
