//! From a path to the parts of a model.

use super::facts::Facts;
use super::model::Parts;
use super::relief::with_relief;
use super::vocabulary::Vocabulary;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Source};
use crate::model;
use crate::plan::{KvType, Limits, Plan, lower};
use crate::token::{Encode, Tokenizer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CONTEXT: &str = "WORKER_ORCD_CONTEXT";
/// Bytes that are mapped at once; it takes less than a millisecond.
const POPULATED_BYTES: u64 = 4 << 20;
const PREFIX: &str = "WORKER_ORCD_PREFIX";

/// What a host asks of a load beyond the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Lowers the context that the file names.
    pub context: Option<usize>,
    /// How keys and values are stored; the device's own choice where it is None.
    pub kv_type: Option<KvType>,
    /// Lowers the number of inferences that compute at once.
    pub sequences: Option<usize>,
}

/// Called with bytes done and bytes in all; false ends the load.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

pub(super) fn load(
    device: &Arc<dyn Device>,
    path: &Path,
    options: LoadOptions,
    progress: Progress<'_>,
) -> Result<Parts> {
    let context = [asked_context()?, options.context].into_iter().flatten().min();
    let gguf = Gguf::open(path)?;
    let spec = model::build(&gguf, context)?;
    let plan = Arc::new(lower(&spec, Tokenizer::never_drawn(gguf.metadata(), spec.n_vocab)?));
    let limits = limits(device, &plan, options);
    let family = spec.family;
    let name = path.display();
    let (tokenizer, loaded) = with_tokenizer(&gguf, device.reads_file(), |wanted| {
        let mut progress = |done: u64, all: u64| {
            log::debug!("loading {name}: {done} of {all} bytes");
            progress(done, all) && wanted.load(Ordering::Relaxed)
        };
        let mut attempt = || device.load(plan.clone(), gguf.source().clone(), limits, &mut progress);
        with_relief(&mut attempt)
    });
    let tokenizer = tokenizer?;
    let loaded = loaded?;
    log::info!("{name}: {family}, context {}, on {}", plan.context, device.name());
    let facts = Facts::read(&gguf, &plan, &tokenizer, family)?;
    let vocabulary = Arc::new(tokenizer);
    let shares_prefixes = shares_prefixes()?;
    Ok(Parts { device: device.clone(), plan, limits, loaded, vocabulary, facts, shares_prefixes })
}

/// The tokenizer, made by a thread of its own while `load` brings the weights to the device: a large vocabulary takes as long.
/// What `load` is given turns false once the tokenizer has failed. `mapped`: the weights stay in the file.
fn with_tokenizer<T>(gguf: &Gguf, mapped: bool, load: impl FnOnce(&AtomicBool) -> T) -> (Result<Tokenizer>, T) {
    let wanted = AtomicBool::new(true);
    let make = || {
        let made = Tokenizer::from_metadata(gguf.metadata());
        wanted.store(made.is_ok(), Ordering::Relaxed);
        made
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("orcd-tokenizer".into()).spawn_scoped(scope, make);
        let loaded = load(&wanted);
        let tokenizer = match thread {
            Ok(thread) => {
                if mapped {
                    populate(gguf.source(), || thread.is_finished());
                }
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            // A machine that gives no thread makes it here.
            Err(_) => make(),
        };
        (tokenizer, loaded)
    })
}

/// Maps the file's first bytes until `done`: what waits for a large vocabulary has nothing else to do, and the first token reads them.
fn populate(source: &Source, done: impl Fn() -> bool) {
    let mut start = 0;
    while !done() {
        match source.populate(start, POPULATED_BYTES) {
            0 => return,
            bytes => start += bytes,
        }
    }
}

fn limits(device: &Arc<dyn Device>, plan: &Plan, options: LoadOptions) -> Limits {
    let own = device.limits(plan);
    Limits {
        kv_type: options.kv_type.unwrap_or(own.kv_type),
        sequences: options.sequences.unwrap_or(own.sequences).min(own.sequences).max(1),
        ..own
    }
}

/// The context that the environment asks for.
fn asked_context() -> Result<Option<usize>> {
    let Some(value) = std::env::var_os(CONTEXT).filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    match value.to_str().and_then(|v| v.trim().parse().ok()) {
        Some(tokens) if tokens > 0 => Ok(Some(tokens)),
        _ => Err(Error::parameter(format!("{CONTEXT} is {value:?}, not a number of tokens"))),
    }
}

/// Whether prompts share pages; the environment can forbid it.
fn shares_prefixes() -> Result<bool> {
    let value = std::env::var_os(PREFIX).unwrap_or_default();
    match value.to_str() {
        Some("" | "on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(Error::parameter(format!("{PREFIX} is {value:?}, neither \"on\" nor \"off\""))),
    }
}

impl Vocabulary for Tokenizer {
    fn encode_as(&self, text: &str, special: bool, control: bool) -> Result<Vec<u32>> {
        Tokenizer::encode(self, text, Encode { add_special: special, parse_special: control })
    }

    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        Tokenizer::decode(self, ids)
    }

    fn bytes(&self, id: u32) -> &[u8] {
        if self.is_control(id) { &[] } else { Tokenizer::bytes(self, id) }
    }

    fn ends(&self, id: u32) -> bool {
        self.is_end(id)
    }
}
