//! The interpreter: one batch after the other, one `match` over the plan's steps.

use super::attend::Attend;
use super::buffers::{Buffers, Row, Sizes};
use super::check;
use super::head::Embed;
use super::linear::Context;
use super::memory::KvCache;
use super::pool::Pool;
use super::simd::Isa;
use super::weights::ModelWeights;
use crate::device::Executor;
use crate::error::{Error, Result};
use crate::plan::{Batch, Limits, Output, Plan, Step, Want};
use std::sync::Arc;

pub struct Interpreter {
    plan: Arc<Plan>,
    weights: Arc<ModelWeights>,
    pool: Arc<Pool>,
    isa: Isa,
    limits: Limits,
    cache: KvCache,
    buffers: Buffers,
    done: Option<Vec<Output>>,
}

/// What an interpreter is made of.
pub struct Parts {
    pub plan: Arc<Plan>,
    pub weights: Arc<ModelWeights>,
    pub pool: Arc<Pool>,
    pub isa: Isa,
    pub limits: Limits,
}

impl Interpreter {
    pub fn new(parts: Parts, cache: KvCache, sizes: &Sizes) -> Result<Self> {
        let Parts { plan, weights, pool, isa, limits } = parts;
        let buffers = Buffers::new(&plan, sizes)?;
        Ok(Self { plan, weights, pool, isa, limits, cache, buffers, done: None })
    }

    /// The experts that the last step with any chose for the last batch's rows: [rows, used], best first.
    #[cfg(test)]
    pub fn chosen(&self) -> &[usize] {
        &self.buffers.routing.experts[..self.buffers.rows.len() * self.plan.experts_used]
    }

    /// Lists the batch's rows and those whose logits are wanted, and fills the ropes' tables.
    fn prepare(&mut self, batch: &Batch) {
        let b = &mut self.buffers;
        b.rows.clear();
        b.heads.clear();
        for (i, segment) in batch.segments.iter().enumerate() {
            let start = b.rows.len();
            let positions = segment.position..segment.position + segment.tokens.len();
            b.rows.extend(positions.map(|position| Row { segment: i, position }));
            match segment.want {
                Want::Nothing => {}
                Want::Token(_) | Want::Logits => b.heads.push(b.rows.len() - 1),
                Want::AllLogits => b.heads.extend(start..b.rows.len()),
            }
        }
        for (table, rope) in b.ropes.iter_mut().zip(&self.plan.ropes) {
            table.fill(rope, &b.rows);
        }
    }

    fn run(&mut self, batch: &Batch) -> Vec<Output> {
        let context = Context { plan: &self.plan, weights: &self.weights, pool: &self.pool, isa: self.isa };
        let (b, cache) = (&mut self.buffers, &mut self.cache);
        let mut outputs = Vec::new();
        for step in &self.plan.steps {
            match step {
                &Step::Embed { table, positions, scale } => context.embed(Embed { table, positions, scale }, b, batch),
                Step::Qkv(qkv) => context.qkv(qkv, b, cache, batch),
                &Step::Attend { heads, kv, scale, window, sinks } => {
                    context.attend(Attend { heads, kv, scale, window, sinks }, b, cache, batch);
                }
                Step::Project { input, linear, post_norm } => context.project(*input, linear, post_norm.as_ref(), b),
                Step::GateUp { norm, gate, up, activation } => {
                    context.gate_up(norm, (gate.as_ref(), up), *activation, b);
                }
                Step::Experts(experts) => context.experts(experts, b),
                Step::Head { norm, linear } => outputs = context.head(norm, linear, b, batch),
            }
        }
        outputs
    }
}

impl Executor for Interpreter {
    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, batch: &Batch) -> Result<()> {
        if self.done.is_some() {
            return Err(Error::inference("a batch is submitted while another waits to be collected"));
        }
        check::batch(batch, &self.plan, &self.limits, self.cache.pool())?;
        self.prepare(batch);
        self.done = Some(self.run(batch));
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Output>> {
        self.done.take().ok_or_else(|| Error::inference("no batch was submitted"))
    }
}
