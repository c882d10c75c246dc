//! The host's CPU as a device: a readable interpreter of the plan, and the oracle of every other device.
//!
//! Invariant: the result of a row hangs on its sequence alone, never on the other rows of the batch, on
//! how a prompt is cut into chunks, or on the number of threads. Weights are used where the file is
//! mapped; what a batch needs is allocated at load.
//!
//! The environment: `WORKER_ORCD_CPU` names the instruction set (`portable`, `avx2`, `avx512`; the best one
//! where it is unset), `WORKER_ORCD_THREADS` the number of threads (as many as the process may use cores),
//! `WORKER_ORCD_MEMORY` the MiB that all models together may hold. Each is read when a model is loaded.

mod account;
mod attend;
mod buffers;
mod check;
mod exec;
mod ffn;
mod head;
mod linear;
mod memory;
mod norm;
mod pool;
mod rope;
mod simd;
mod weights;

#[cfg(test)]
mod tests;

pub use simd::Isa;

use super::{Device, LoadedModel};
use crate::error::{Error, Result};
use crate::gguf::Source;
use crate::plan::{KvType, Limits, Plan};
use account::Account;
use buffers::Sizes;
use exec::{Interpreter, Parts};
use memory::{KvCache, KvPool};
use pool::Pool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use weights::ModelWeights;

/// What all models of the process hold together.
static ACCOUNT: Account = Account::new();
/// The threads that the models share; they end with the last model.
static POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
/// More threads than any machine has cores are a mistake.
const MOST_THREADS: usize = 1024;

/// The host's CPU. Where a field is `None`, the environment decides at each load.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    isa: Option<Isa>,
    threads: Option<usize>,
}

type Opened = (Interpreter, Arc<KvPool>, Arc<ModelWeights>);

/// The CPU as the environment sets it up.
pub fn device() -> Result<Arc<dyn Device>> {
    Ok(Arc::new(Cpu::default()))
}

/// The CPU with a given instruction set, so that one process can compare several.
pub fn device_with(isa: Isa) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(Cpu { isa: Some(isa.present()?), threads: None }))
}

/// The same with threads of its own.
pub fn device_with_threads(isa: Isa, threads: usize) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(Cpu { isa: Some(isa.present()?), threads: Some(threads.clamp(1, MOST_THREADS)) }))
}

impl Cpu {
    fn isa(&self) -> Result<Isa> {
        self.isa.map_or_else(Isa::from_env, Ok)
    }

    /// The pool: one for all models that leave the number of threads to the environment.
    fn pool(&self) -> Result<Arc<Pool>> {
        if let Some(threads) = self.threads {
            return Ok(Arc::new(Pool::new(threads)));
        }
        let mut shared = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = shared.upgrade() {
            return Ok(pool);
        }
        let pool = Arc::new(Pool::new(threads_from_env()?));
        *shared = Arc::downgrade(&pool);
        Ok(pool)
    }

    fn interpreter(&self, plan: Arc<Plan>, source: Arc<Source>, limits: Limits) -> Result<Opened> {
        let (isa, pool) = (self.isa()?, self.pool()?);
        let sizes = Sizes::new(&plan, isa, limits.batch_tokens, pool.threads());
        let weights = Arc::new(ModelWeights::new(plan.clone(), source, sizes.bytes(&plan), &ACCOUNT)?);
        let (cache, kv) = KvCache::new(KvPool::new(&plan, &limits, &ACCOUNT)?);
        let parts = Parts { plan, weights: weights.clone(), pool, isa, limits };
        Ok((Interpreter::new(parts, cache, &sizes)?, kv, weights))
    }
}

fn threads_from_env() -> Result<usize> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    match std::env::var_os("WORKER_ORCD_THREADS") {
        Some(text) if !text.is_empty() => {
            let text = text.to_string_lossy();
            let threads = text.parse().ok().filter(|n| (1..=MOST_THREADS).contains(n));
            threads.ok_or_else(|| Error::device(format!("WORKER_ORCD_THREADS={text}: it must be 1 to {MOST_THREADS}")))
        }
        _ => Ok(cores),
    }
}

impl Device for Cpu {
    fn name(&self) -> String {
        self.isa().map_or_else(|_| "CPU".into(), |isa| format!("CPU ({isa})"))
    }

    /// Keys and values are kept in f16 where the weights are less precise than that too.
    fn limits(&self, plan: &Plan) -> Limits {
        let isa = self.isa().unwrap_or(Isa::Portable);
        let precise = isa == Isa::Portable || plan.weights.iter().all(|w| w.ty == crate::quant::QuantType::F32);
        let batch_tokens = buffers::batch_tokens(plan, isa);
        Limits {
            batch_tokens,
            sequences: batch_tokens.min(256),
            logit_rows: batch_tokens,
            kv_type: if precise { KvType::F32 } else { KvType::F16 },
        }
    }

    fn reads_file(&self) -> bool {
        true
    }

    fn load(
        &self,
        plan: Arc<Plan>,
        source: Arc<Source>,
        limits: Limits,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<LoadedModel> {
        let total = plan.weight_bytes();
        let (interpreter, kv, weights) = self.interpreter(plan, source, limits)?;
        if !progress(total, total) {
            return Err(Error::load("the load was ended by its caller"));
        }
        Ok(LoadedModel { executor: Box::new(interpreter), kv, weights })
    }

    fn held_bytes(&self) -> u64 {
        ACCOUNT.held_bytes()
    }

    fn check_health(&self) -> Result<()> {
        Ok(())
    }
}
