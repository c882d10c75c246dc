//! What the engine asks of a device, whichever it is.
//!
//! A [`Device`] is a place that models can be loaded to; a [`LoadedModel`] is one plan with its weights there. A model is run
//! by one thread (the engine's scheduler), which holds its [`Executor`]; KV memory is grown and given back from any thread,
//! through [`KvMemory`], while a batch runs.

pub mod cpu;

#[cfg(feature = "cuda")]
pub mod cuda;

use crate::error::Result;
use crate::gguf::Source;
use crate::plan::{Batch, Limits, Output, Plan};
use std::sync::Arc;

/// A place to run models.
pub trait Device: Send + Sync {
    /// For people: `NVIDIA H100 80GB HBM3`, `CPU (AVX-512)`.
    fn name(&self) -> String;

    /// The limits that suit this device for this plan; the engine may lower them.
    fn limits(&self, plan: &Plan) -> Limits;

    /// Whether the weights stay in the mapped file.
    fn reads_file(&self) -> bool {
        false
    }

    /// Puts the weights on the device. Refuses with code 2 before anything is uploaded if weights and working memory do not
    /// fit. `progress` is called with bytes done and bytes in all, and ends the load with an error where it returns false.
    fn load(
        &self,
        plan: Arc<Plan>,
        source: Arc<Source>,
        limits: Limits,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<LoadedModel>;

    /// Bytes that this process holds on the device through this library, over all models.
    fn held_bytes(&self) -> u64;

    /// Code 1 once the device has reported an error that it does not recover from.
    fn check_health(&self) -> Result<()>;
}

/// One model on a device.
pub struct LoadedModel {
    pub executor: Box<dyn Executor>,
    pub kv: Arc<dyn KvMemory>,
    pub weights: Arc<dyn Weights>,
}

/// The model's memory on the device, apart from KV pages.
pub trait Weights: Send + Sync {
    /// Bytes held: weights as stored and working memory.
    fn held_bytes(&self) -> u64;

    /// Asks the system about every weight allocation: code 7 if one is not where it should be.
    fn check_residency(&self) -> Result<()>;
}

/// Memory for KV pages: for each group of the plan, pages 0..n in one address range that never moves.
pub trait KvMemory: Send + Sync {
    /// Backs pages 0..`pages` of `group` with memory, or gives back what is above. Code 2 if it is not to be had; then
    /// nothing has changed. Fresh pages hold zeros.
    fn resize(&self, group: usize, pages: u32) -> Result<()>;

    /// Bytes held now.
    fn held_bytes(&self) -> u64;
}

/// Runs batches, in the order of their submission.
pub trait Executor: Send {
    /// How many batches may be submitted and not yet collected. 1: a batch is collected before the next is submitted, and
    /// [`crate::plan::Tokens::Sampled`] is not used.
    fn depth(&self) -> usize;

    /// Queues `batch`. After an error nothing of it was queued.
    fn submit(&mut self, batch: &Batch) -> Result<()>;

    /// Waits for the oldest batch that was submitted: one output per segment.
    fn collect(&mut self) -> Result<Vec<Output>>;
}
