//! Where the rows of a program lie that its ops hand on to each other.
//!
//! Whoever reads such a row waits for its elements to appear, so each has a place of its own, written once in a launch. In a
//! step's single kernels a buffer serves many rows, one after the other: here, each row that is read again inside the run gets a
//! new place, and its readers are told. A row that may be read after the run lies, or lies too, where it always does.

use super::driver::Ptr;
use super::params::{Attend, RowProduct};
use super::program::{Body, Op};
use crate::plan::{Plan, Step};
use std::collections::HashMap;

/// `Store` of product_layout.cuh.
const STORE_ADD: u32 = 1;
const STORE_RECORDS: u32 = 2;
const ALIGNMENT: u64 = 128;

/// Bytes of a row in the arena, of f32 and of f16 in whole steps.
fn f32_bytes(width: usize) -> u64 {
    (width as u64 * 4).next_multiple_of(ALIGNMENT)
}

fn f16_bytes(width: usize) -> u64 {
    (width as u64 * 2).next_multiple_of(ALIGNMENT)
}

/// Bytes of the rows that the steps of a plan can hand on, in both halves.
pub(super) fn most_row_bytes(plan: &Plan) -> u64 {
    let cols = |linear: &crate::model::Linear| linear.rows.len();
    let step = |step: &Step| match step {
        Step::Qkv(qkv) => [&qkv.q, &qkv.k, &qkv.v].map(|l| f32_bytes(cols(l))).iter().sum(),
        Step::Attend { heads, .. } => f16_bytes(heads.q * heads.dim),
        Step::Project { linear, .. } => f32_bytes(cols(linear)),
        Step::GateUp { up, .. } => f16_bytes(cols(up)),
        Step::Embed { .. } | Step::Experts(_) | Step::Head { .. } => 0,
    };
    2 * plan.steps.iter().map(step).sum::<u64>()
}

/// A row that an op makes.
struct Made {
    /// Where it goes in a kernel by itself.
    to: Ptr,
    bytes: u64,
    /// Which matrix of the op; attention has none.
    matrix: usize,
}

impl Op {
    fn adds(&self) -> bool {
        matches!(&self.body, Body::Row(row) if row.product.store == STORE_ADD)
    }

    /// Matrices with an output of their own: a pair has one.
    fn outputs(row: &RowProduct) -> usize {
        if row.product.act != 0 { 1 } else { row.product.matrices as usize }
    }

    fn makes(&self) -> Vec<Made> {
        match &self.body {
            Body::Attend { args, .. } => {
                vec![Made { to: args.mixed.packed, bytes: f16_bytes(args.q_stride as usize), matrix: 0 }]
            }
            Body::Row(row) => {
                let made = |(matrix, m): (usize, &super::params::ProductMatrix)| {
                    let width = m.rows as usize;
                    let f16 = row.product.store >= STORE_RECORDS;
                    Made { to: m.out, bytes: if f16 { f16_bytes(width) } else { f32_bytes(width) }, matrix }
                };
                row.product.matrix.iter().enumerate().take(Self::outputs(row)).map(made).collect()
            }
        }
    }

    /// Whether it reads the row at `at`: as its input, or to add to it.
    fn reads(&self, at: Ptr) -> bool {
        match &self.body {
            Body::Attend { args, .. } => [args.q, args.k, args.v].contains(&at),
            Body::Row(row) => row_read(row) == at || (self.adds() && row.product.matrix[0].out == at),
        }
    }

    /// Reads each row where it is by now.
    fn read_from(&mut self, now: &HashMap<Ptr, Ptr>) {
        let place = |at: Ptr| now.get(&at).copied();
        match &mut self.body {
            Body::Attend { args: Attend { q, k, v, .. }, .. } => {
                for at in [q, k, v] {
                    *at = place(*at).unwrap_or(*at);
                }
            }
            Body::Row(row) if row.hidden != 0 => row.hidden = place(row.hidden).unwrap_or(row.hidden),
            Body::Row(row) => {
                if let Some(at) = place(row.product.x) {
                    (row.product.x, row.product.x_stride) = (at, 1);
                }
            }
        }
        if let (true, Body::Row(row)) = (self.adds(), &self.body) {
            let at = row.product.matrix[0].out;
            self.residual = place(at).unwrap_or(at);
        }
    }

    fn put(&mut self, made: &Made, at: Ptr) {
        match &mut self.body {
            Body::Attend { args, .. } => (args.mixed.packed, args.mixed.stride) = (at, 1),
            Body::Row(row) => {
                let pair = Self::outputs(row) < row.product.matrices as usize;
                let f16 = row.product.store >= STORE_RECORDS;
                let last = if pair { row.product.matrices as usize } else { made.matrix + 1 };
                for m in &mut row.product.matrix[made.matrix..last] {
                    m.out = at;
                    m.out_stride = if f16 { 1 } else { m.out_stride };
                }
            }
        }
    }
}

fn row_read(row: &RowProduct) -> Ptr {
    if row.hidden != 0 { row.hidden } else { row.product.x }
}

/// Gives the rows of a run places from `base` on; returns the bytes that they take.
pub(super) fn place_rows(run: &mut [Op], base: Ptr) -> u64 {
    let mut now = HashMap::new();
    let mut used = 0;
    for i in 0..run.len() {
        let Some((op, later)) = run[i..].split_first_mut() else { break };
        op.read_from(&now);
        for made in op.makes() {
            // Ops that follow still name the places of single kernels. One that makes this row anew may add to it.
            let anew = later.iter().position(|o| o.makes().iter().any(|m| m.to == made.to));
            let readers = &later[..anew.map_or(later.len(), |at| at + 1)];
            if !readers.iter().any(|o| o.reads(made.to)) {
                now.remove(&made.to);
                continue;
            }
            op.put(&made, base + used);
            if op.adds() && anew.is_none() {
                op.also = made.to;
            }
            now.insert(made.to, base + used);
            used += made.bytes;
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::kernels::Launch;
    use crate::device::cuda::params::{Mixed, OpKind};
    use crate::device::cuda::program::Room;

    const HIDDEN: Ptr = 1000;
    const Q: Ptr = 2000;
    const K: Ptr = 3000;
    const V: Ptr = 4000;
    const MIXED: Ptr = 5000;
    const FFN: Ptr = 6000;
    const LOGITS: Ptr = 7000;
    const ARENA: Ptr = 1 << 20;

    fn op(kind: OpKind, body: Body) -> Op {
        Op::new(kind, body, Launch::default(), Room::default())
    }

    fn product(hidden: Ptr, x: Ptr, outs: &[Ptr], (store, act): (u32, u32)) -> Op {
        let mut row = RowProduct { hidden, ..RowProduct::default() };
        (row.product.x, row.product.x_stride) = (x, 8);
        (row.product.store, row.product.act, row.product.matrices) = (store, act, outs.len() as u32);
        for (m, &out) in row.product.matrix.iter_mut().zip(outs) {
            (m.out, m.rows, m.out_stride) = (out, 64, 8);
        }
        op(OpKind::Product, Body::Row(row))
    }

    fn qkv() -> Op {
        product(HIDDEN, 0, &[Q, K, V], (0, 0))
    }

    fn attend() -> Op {
        let mixed = Mixed { packed: MIXED, stride: 8, ..Mixed::default() };
        let args = Attend { q: Q, k: K, v: V, mixed, q_stride: 64, ..Attend::default() };
        op(OpKind::Attend64, Body::Attend { groups: 1, args })
    }

    fn layer() -> Vec<Op> {
        let pair = product(HIDDEN, 0, &[FFN, FFN], (2, 1));
        let project = |x| product(0, x, &[HIDDEN], (1, 0));
        vec![qkv(), attend(), project(MIXED), pair, project(FFN)]
    }

    /// (read, made, added to, also) of an op's places.
    fn of(op: &Op) -> (Vec<Ptr>, Vec<Ptr>, Ptr, Ptr) {
        let read = match &op.body {
            Body::Attend { args, .. } => vec![args.q, args.k, args.v],
            Body::Row(row) => vec![row_read(row)],
        };
        (read, op.makes().iter().map(|m| m.to).collect(), op.residual, op.also)
    }

    #[test]
    fn every_row_is_read_where_it_was_made_last() {
        let mut run = [layer(), layer(), vec![product(HIDDEN, 0, &[LOGITS], (0, 0))]].concat();
        let used = place_rows(&mut run, ARENA);
        let places: Vec<_> = run.iter().map(of).collect();
        let in_arena = |at: Ptr| (ARENA..ARENA + used).contains(&at);
        // What is in the arena is made once, before it is read, and everything else is read as it was before the run.
        let mut made = Vec::new();
        for (read, makes, residual, _) in &places {
            for at in read.iter().chain([residual]) {
                assert!(made.contains(at) || *at == HIDDEN || *at == 0, "{at} is read before it is there");
            }
            for &at in makes {
                assert!(!made.contains(&at), "{at} is made twice");
                made.extend(in_arena(at).then_some(at));
            }
        }
        // 3 + 1 + 1 + 1 + 1 rows a layer, of f32 or f16.
        assert_eq!(used, 2 * (5 * 256 + 2 * 128));
        let hidden: Vec<_> = [2, 4, 7, 9].iter().map(|&i| places[i].clone()).collect();
        assert_eq!(hidden[0].2, HIDDEN);
        assert!(hidden.windows(2).all(|w| w[1].2 == w[0].1[0]), "each adds to the one before");
        assert_eq!(hidden.iter().map(|h| h.3).collect::<Vec<_>>(), [0, 0, 0, HIDDEN]);
        assert_eq!((places[10].0[0], places[10].1[0]), (hidden[3].1[0], LOGITS));
    }

    #[test]
    fn records_of_one_row_lie_close() {
        let mut run = layer();
        place_rows(&mut run, ARENA);
        let Body::Attend { args, .. } = &run[1].body else { panic!("attention") };
        assert_eq!(args.mixed.stride, 1);
        let (Body::Row(project), Body::Row(pair)) = (&run[2].body, &run[3].body) else { panic!("products") };
        assert_eq!((project.product.x, project.product.x_stride), (args.mixed.packed, 1));
        let outs: Vec<_> = pair.product.matrix[..2].iter().map(|m| (m.out, m.out_stride)).collect();
        assert!(outs[0] == outs[1] && outs[0].1 == 1 && outs[0].0 >= ARENA);
    }

    #[test]
    fn what_the_run_does_not_read_lies_where_it_always_does() {
        let mut run = layer()[..3].to_vec();
        place_rows(&mut run, ARENA);
        assert_eq!(of(&run[2]).1, [HIDDEN]);
        assert_eq!((run[2].residual, run[2].also), (HIDDEN, 0));
        let mut run = vec![product(0, MIXED, &[HIDDEN], (1, 0)), qkv()];
        place_rows(&mut run, ARENA);
        assert_eq!((of(&run[0]).0, of(&run[0]).3, of(&run[1]).1), (vec![MIXED], HIDDEN, vec![Q, K, V]));
        let Body::Row(first) = &run[0].body else { panic!("a product") };
        assert_eq!(first.product.x_stride, 8, "a row from before the run lies as it always does");
    }
}
