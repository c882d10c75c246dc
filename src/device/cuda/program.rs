//! A decode step of one sequence as a program: products and attention that follow each other become ops in device memory, and
//! one launch of kernels/step_row.cu works through a run of them.
//!
//! What cannot be an op ends the run. A run that is short, or that this card has no room for, goes as single kernels; either
//! way the sums are the same. Ops say nothing of positions, so one program serves every step of a model.

use super::driver::Ptr;
use super::kernels::Launch;
use super::params::{Attend, OpKind, RowProduct, StepArgs, StepBody, StepOp};
use super::pass::Run;
use super::places::place_rows;
use super::scratch::ProgramMemory;
use crate::error::Result;
use std::cell::RefCell;

/// Warps of a block that multiply, each with a ring; one more asks for weights, one stores sums.
const WARPS: usize = 16;
const HELPERS: usize = 2;
const MOST_RING_BYTES: usize = 16 << 10;
/// A run of fewer takes longer to start than it saves.
pub(super) const LEAST_OPS: usize = 3;
/// Bytes of a row from which on those who wait for it ask less often, and how many ns they then pause.
const LONG_ROW_BYTES: usize = 16 << 10;
const PROBE_NS: u32 = 32;

#[derive(Clone, Copy)]
pub(super) enum Body {
    Row(RowProduct),
    Attend { groups: usize, args: Attend },
}

/// One kernel of a step, as an op and by itself.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub kind: OpKind,
    pub body: Body,
    /// What a sum is added to, and the second place that it goes to; set when the run's rows get their places.
    pub residual: Ptr,
    pub also: Ptr,
    pub launch: Launch<'static>,
    pub room: Room,
}

impl Op {
    pub(super) fn new(kind: OpKind, body: Body, launch: Launch<'static>, room: Room) -> Self {
        Self { kind, body, residual: 0, also: 0, launch, room }
    }

    fn code(&self) -> StepOp {
        let (groups, body) = match self.body {
            Body::Row(row) => (0, StepBody { row }),
            Body::Attend { groups, args } => (groups as u32, StepBody { attend: args }),
        };
        StepOp { kind: self.kind as u32, groups, residual: self.residual, also: self.also, pad: 0, body }
    }
}

/// The shared memory of an op, or of a run's launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// A product's row, f16.
    pub row_bytes: usize,
    pub attend_bytes: usize,
    /// The largest piece of the weights; 0: there are none.
    pub piece_bytes: usize,
}

impl Room {
    fn with(self, op: Room) -> Room {
        Room {
            row_bytes: self.row_bytes.max(op.row_bytes),
            attend_bytes: self.attend_bytes.max(op.attend_bytes),
            piece_bytes: self.piece_bytes.max(op.piece_bytes),
        }
    }

    /// Bytes of what a block works on, and of a ring, of a block that may have `bytes`. None: the rings would not hold two pieces.
    fn split(self, bytes: usize) -> Option<(usize, usize)> {
        // An op at a time: a row and attention lie in the same place.
        let x_bytes = self.row_bytes.max(self.attend_bytes).next_multiple_of(128);
        let ring = bytes.saturating_sub(x_bytes) / WARPS / 128 * 128;
        let ring = ring.min(MOST_RING_BYTES);
        (ring >= 2 * self.piece_bytes).then_some((x_bytes, ring))
    }
}

#[derive(Default)]
struct Recorded {
    run: Vec<Op>,
    room: Room,
    /// Ops of the runs that have ended, as they will lie in device memory.
    ended: Vec<StepOp>,
    runs: usize,
    row_bytes: u64,
}

/// Collects the ops of one recording.
pub(super) struct Recorder {
    /// Shared memory that a launch may ask for.
    shared_bytes: usize,
    memory: ProgramMemory,
    recorded: RefCell<Recorded>,
}

impl Recorder {
    pub(super) fn new(shared_bytes: usize, memory: ProgramMemory) -> Self {
        Self { shared_bytes, memory, recorded: RefCell::default() }
    }

    /// All ops, for the place that the launches name.
    pub(super) fn into_ops(self) -> Vec<StepOp> {
        self.recorded.into_inner().ended
    }

    /// Whether an op with this room can be part of a run, and of the present one.
    fn takes(&self, room: Room) -> (bool, bool) {
        let fits = |room: Room| room.split(self.shared_bytes).is_some();
        (fits(room), fits(self.recorded.borrow().room.with(room)))
    }

    fn push(&self, op: Op) {
        let mut recorded = self.recorded.borrow_mut();
        recorded.room = recorded.room.with(op.room);
        recorded.run.push(op);
    }

    /// The run that ends here.
    fn take(&self) -> (Vec<Op>, Room) {
        let mut recorded = self.recorded.borrow_mut();
        (std::mem::take(&mut recorded.run), std::mem::take(&mut recorded.room))
    }

    /// Gives the run's rows their places and puts its ops behind those before. None where it must go as single kernels.
    fn keep(&self, run: &[Op], room: Room) -> Option<StepArgs> {
        let (x_bytes, ring_bytes) = room.split(self.shared_bytes)?;
        let mut recorded = self.recorded.borrow_mut();
        let (m, first) = (&self.memory, recorded.ended.len());
        let rows = m.rows + recorded.row_bytes;
        let mut placed = run.to_vec();
        let half_bytes = place_rows(&mut placed, rows);
        let row_bytes = recorded.row_bytes + 2 * half_bytes;
        let within = first + run.len() <= m.most_ops && recorded.runs < m.most_runs && row_bytes <= m.row_bytes;
        if run.len() < LEAST_OPS || !within {
            return None;
        }
        let turn = m.turns + (recorded.runs * m.blocks * 4) as u64;
        recorded.ended.extend(placed.iter().map(Op::code));
        recorded.row_bytes = row_bytes;
        recorded.runs += 1;
        Some(StepArgs {
            ops: m.ops + (first * size_of::<StepOp>()) as u64,
            rows,
            turn,
            half_bytes,
            n_ops: run.len() as u32,
            x_bytes: x_bytes as u32,
            ring_bytes: ring_bytes as u32,
            probe_ns: if room.row_bytes < LONG_ROW_BYTES { 0 } else { PROBE_NS },
        })
    }
}

impl Run<'_> {
    /// Whether `op` has become part of a program, and so must not be launched.
    pub(super) fn joins(&self, op: Op) -> Result<bool> {
        let Some(recorder) = self.recorder else {
            return Ok(false);
        };
        let (alone, here) = recorder.takes(op.room);
        if !here {
            self.end_run()?;
        }
        if alone {
            recorder.push(op);
        }
        Ok(alone)
    }

    /// Queues the ops that wait, as one kernel or as many.
    pub(super) fn end_run(&self) -> Result<()> {
        let Some(recorder) = self.recorder else {
            return Ok(());
        };
        let (run, room) = recorder.take();
        if run.is_empty() {
            return Ok(());
        }
        if let Some(args) = recorder.keep(&run, room) {
            return self.launch_run(&args, recorder.memory.blocks);
        }
        run.iter().try_for_each(|op| match &op.body {
            Body::Row(args) => self.send(&op.launch, args),
            Body::Attend { args, .. } => self.send(&op.launch, args),
        })
    }

    fn launch_run(&self, args: &StepArgs, blocks: usize) -> Result<()> {
        let launch = Launch {
            file: "step_row",
            name: "step_row",
            grid: [blocks, 1, 1],
            threads: 32 * (WARPS + HELPERS) as u32,
            shared_bytes: args.x_bytes + WARPS as u32 * args.ring_bytes,
            cluster: 0,
            cooperative: true,
        };
        self.send(&launch, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED_BYTES: usize = (227 << 10) - (12 << 10);

    fn room(row_bytes: usize, attend_bytes: usize, piece_bytes: usize) -> Room {
        Room { row_bytes, attend_bytes, piece_bytes }
    }

    #[test]
    fn rings_take_what_rows_and_attention_leave() {
        for (row, attend, piece) in [(1152, 40 << 10, 832), (28 << 10, 75 << 10, 3360), (37 << 10, 44 << 10, 4352)] {
            let (x_bytes, ring) = room(row, attend, piece).split(SHARED_BYTES).expect("room on a Hopper");
            assert!(x_bytes >= row.max(attend) && x_bytes + WARPS * ring <= SHARED_BYTES);
            assert!((2 * piece..=MOST_RING_BYTES).contains(&ring), "{ring}");
        }
        assert_eq!(room(28 << 10, 0, 3360).split(87 << 10), None, "a card with 99 KiB");
        assert_eq!(room(300 << 10, 0, 576).split(SHARED_BYTES), None, "a row that no block can hold");
    }

    #[test]
    fn a_run_is_kept_where_it_is_long_enough_and_has_memory() {
        let memory = ProgramMemory { blocks: 132, most_ops: 5, most_runs: 2, row_bytes: 1 << 20, ..Default::default() };
        let recorder = Recorder::new(SHARED_BYTES, ProgramMemory { ops: 1 << 12, turns: 1 << 16, ..memory });
        let op = Op::new(OpKind::Product, Body::Row(RowProduct::default()), Launch::default(), Room::default());
        let keep = |n: usize| recorder.keep(&vec![op; n], room(1024, 0, 576));
        assert!(keep(LEAST_OPS - 1).is_none());
        let first = keep(3).expect("a run");
        assert_eq!((first.ops, first.turn, first.n_ops), (1 << 12, 1 << 16, 3));
        assert!(keep(3).is_none(), "more ops than there is room for");
        assert_eq!(recorder.into_ops().len(), 3);
    }
}
