//! How each weight lies on the device: as in the file, or repacked into the records of kernels/product_layout.cuh.
//!
//! Matrices that products read are repacked, all types but F32, unless a row range begins inside a block of tiles. Vectors, tables that
//! are only looked up, and everything under WORKER_ORCD_CUDA_SAFE=1 stay as they are.

use super::upload::fits_a_buffer;
use crate::model::{Linear, Weight};
use crate::plan::{Plan, Step};
use crate::quant::QuantType;

pub(super) const TILE_ROWS: usize = 16;
/// Rows of a block of tiles, whose records lie between each other.
pub(super) const BLOCK_ROWS: usize = 128;
pub(super) const RECORD_COLS: usize = 256;
const STEP_COLS: usize = 64;

/// A repacked matrix's sizes, as the kernels take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// `Kind` of product_layout.cuh; 0 is F16.
    pub kind: u32,
    /// Bytes of what lies in one piece: a record, of F16 a step.
    pub piece_bytes: usize,
    pub last_piece_bytes: usize,
    pub tile_bytes: usize,
}

/// (kind, scales, superblock scales, two high bits, one high bit, a step): bytes of a record's planes.
fn planes(ty: QuantType) -> Option<(u32, [usize; 5])> {
    Some(match ty {
        QuantType::F32 => return None,
        QuantType::F16 | QuantType::BF16 => (0, [0, 0, 0, 0, 2048]),
        QuantType::Q4_0 => (1, [256, 0, 0, 0, 512]),
        QuantType::Q4_1 => (2, [512, 0, 0, 0, 512]),
        QuantType::Q5_0 => (3, [256, 0, 0, 512, 512]),
        QuantType::Q5_1 => (4, [512, 0, 0, 512, 512]),
        QuantType::Q8_0 => (5, [256, 0, 0, 0, 1024]),
        QuantType::Q2K => (6, [256, 64, 1024, 0, 0]),
        QuantType::Q3K => (7, [256, 32, 1024, 512, 0]),
        QuantType::Q4K => (8, [256, 64, 0, 0, 512]),
        QuantType::Q5K => (9, [256, 64, 0, 512, 512]),
        QuantType::Q6K => (10, [256, 32, 1024, 0, 512]),
        QuantType::IQ4NL | QuantType::IQ4XS => (11, [256, 0, 0, 0, 512]),
        QuantType::MXFP4 => (12, [128, 0, 0, 0, 512]),
    })
}

/// Records that a row of activations of so many columns takes.
pub(super) fn records(cols: usize) -> usize {
    cols.div_ceil(RECORD_COLS)
}

pub(super) fn tiles(rows: usize) -> usize {
    rows.div_ceil(TILE_ROWS)
}

impl Packed {
    pub(super) fn new(ty: QuantType, cols: usize) -> Option<Packed> {
        let (kind, [scales, d, high2, high1, step_bytes]) = planes(ty)?;
        let record_bytes = scales + d + high2 + high1 + 4 * step_bytes;
        let missing = 4 * records(cols) - cols.div_ceil(STEP_COLS);
        let tile_bytes = records(cols) * record_bytes - missing * step_bytes;
        let (piece_bytes, last_piece_bytes) = match kind {
            0 => (step_bytes, step_bytes),
            _ => (record_bytes, record_bytes - missing * step_bytes),
        };
        Some(Packed { kind, piece_bytes, last_piece_bytes, tile_bytes })
    }

    /// Bytes of one matrix of `rows` rows.
    pub(super) fn matrix_bytes(&self, rows: usize) -> u64 {
        tiles(rows) as u64 * self.tile_bytes as u64
    }
}

/// The linears of a step.
fn linears(step: &Step) -> Vec<&Linear> {
    match step {
        Step::Embed { .. } | Step::Attend { .. } => Vec::new(),
        Step::Qkv(qkv) => vec![&qkv.q, &qkv.k, &qkv.v],
        Step::Project { linear, .. } | Step::Head { linear, .. } => vec![linear],
        Step::GateUp { gate, up, .. } => gate.iter().chain([up]).collect(),
        Step::Experts(e) => vec![&e.router, &e.gate, &e.up, &e.down],
    }
}

/// A row range that the kernels can find: whole blocks of one matrix.
fn on_blocks(linear: &Linear, weight: &Weight) -> bool {
    let (start, end) = (linear.rows.start, linear.rows.end);
    let aligned = start % BLOCK_ROWS == 0 && (end % BLOCK_ROWS == 0 || end == weight.rows);
    linear.rows == (0..weight.rows) || (weight.experts == 1 && aligned)
}

/// Experts go one way or the other: gate and up as a pair with down, or all three as they are.
fn keep_together(plan: &Plan, stored: &mut [Option<Packed>], linears: [&Linear; 3]) {
    let [gate, up, down] = linears.map(|l| stored[l.weight.0 as usize]);
    let same = linears[0].rows.len() == linears[1].rows.len();
    let whole = linears.iter().all(|l| l.rows == (0..plan.weight(l.weight).rows));
    if gate.is_none() || gate != up || down.is_none() || !same || !whole {
        linears.iter().for_each(|l| stored[l.weight.0 as usize] = None);
    }
}

/// For each weight of the plan: how it is repacked, or None.
pub(super) fn plan_storage(plan: &Plan) -> Vec<Option<Packed>> {
    let mut stored = vec![None; plan.weights.len()];
    if std::env::var_os("WORKER_ORCD_CUDA_SAFE").is_some_and(|v| v == "1") {
        return stored;
    }
    let all = || plan.steps.iter().flat_map(linears);
    for linear in all() {
        let weight = plan.weight(linear.weight);
        let packed = Packed::new(weight.ty, weight.cols).filter(|_| fits_a_buffer(weight));
        stored[linear.weight.0 as usize] = packed;
    }
    for linear in all().filter(|l| !on_blocks(l, plan.weight(l.weight))) {
        stored[linear.weight.0 as usize] = None;
    }
    for step in &plan.steps {
        if let Step::Experts(e) = step {
            keep_together(plan, &mut stored, [&e.gate, &e.up, &e.down]);
        }
    }
    // Learned positions are looked up in the file's layout.
    for step in &plan.steps {
        if let Step::Embed { positions: Some(id), .. } = step {
            stored[id.0 as usize] = None;
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repacked_bytes_are_those_of_the_file_or_a_little_more() {
        for ty in QuantType::ALL {
            for cols in [256, 4096, 14336] {
                let Some(packed) = Packed::new(ty, cols) else {
                    assert_eq!(ty, QuantType::F32);
                    continue;
                };
                let file = ty.row_bytes(cols).expect("whole blocks") as f64 * 16.0;
                let ratio = packed.tile_bytes as f64 / file;
                let most = if ty == QuantType::IQ4XS { 1.1 } else { 1.04 };
                assert!((0.999..=most).contains(&ratio), "{ty:?}: {ratio}");
            }
        }
    }

    #[test]
    fn the_last_record_is_cut_off_after_its_last_step() {
        let packed = Packed::new(QuantType::Q8_0, 896).expect("a kind");
        assert_eq!(packed.piece_bytes, 256 + 4096);
        assert_eq!(packed.last_piece_bytes, 256 + 2048);
        assert_eq!(packed.tile_bytes, 3 * packed.piece_bytes + packed.last_piece_bytes);
        assert_eq!(packed.matrix_bytes(17), 2 * packed.tile_bytes as u64);
    }
}
