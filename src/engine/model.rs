//! A model on a device, with the thread that runs it.
//!
//! The parts know nothing of each other's lifetimes: an inference holds what it shares with the scheduler, never the model. So
//! an unload ends the thread and frees the memory whoever still holds an inference; those hear of it at their next call.

use super::context::Context;
use super::facts::Facts;
use super::inference::Inference;
use super::load::{self, LoadOptions, Progress};
use super::pages::{Pages, unloaded};
use super::process;
use super::relief;
use super::request::{Prompt, Request};
use super::scheduler::{Scheduler, Shared};
use super::sync::lock;
use super::vocabulary::Vocabulary;
use crate::device::{Device, LoadedModel, Weights};
use crate::error::{Error, Result};
use crate::plan::{Limits, Plan};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What a model is put together from.
pub struct Parts {
    pub device: Arc<dyn Device>,
    pub plan: Arc<Plan>,
    pub limits: Limits,
    pub loaded: LoadedModel,
    pub vocabulary: Arc<dyn Vocabulary>,
    pub facts: Facts,
    /// Whether prompts that begin alike share what is computed of their beginnings.
    pub shares_prefixes: bool,
}

/// Cheap to clone; unloaded with the last clone, or by [`Model::unload`].
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    vocabulary: Arc<dyn Vocabulary>,
    plan: Arc<Plan>,
    facts: Facts,
    loaded_bytes: u64,
    /// None once unloaded, like the thread.
    weights: Mutex<Option<Arc<dyn Weights>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Model {
    /// Loads a GGUF file. `WORKER_ORCD_CONTEXT` lowers the context that the file names.
    pub fn load(context: &Context, path: &Path) -> Result<Self> {
        Self::load_with(context, path, LoadOptions::default(), &mut |_, _| true)
    }

    /// The same with options; `progress` is told of bytes done and bytes in all, and ends the load by giving false.
    pub fn load_with(context: &Context, path: &Path, options: LoadOptions, progress: Progress<'_>) -> Result<Self> {
        process::claim()?;
        Self::assemble(load::load(context.device(), path, options, progress)?)
    }

    /// Starts the scheduler of a model whose weights are on the device.
    pub fn assemble(parts: Parts) -> Result<Self> {
        let Parts { device, plan, limits, loaded, vocabulary, facts, shares_prefixes } = parts;
        let LoadedModel { executor, kv, weights } = loaded;
        let shared = Arc::new(Shared::new(Pages::new(&plan, &limits, kv, shares_prefixes)));
        relief::register(&shared);
        let scheduler = Scheduler::new(shared.clone(), executor, device, vocabulary.clone(), limits);
        let thread = std::thread::Builder::new().name("worker-orcd".into()).spawn(|| scheduler.run());
        let thread = thread.map_err(|e| Error::memory(format!("no thread for the model's scheduler: {e}")))?;
        let inner = Inner {
            loaded_bytes: weights.held_bytes().saturating_add(shared.pages.held_bytes()),
            shared,
            vocabulary,
            plan,
            facts,
            weights: Mutex::new(Some(weights)),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts an answer; its memory is taken here or not at all.
    pub fn start(&self, request: &Request) -> Result<Inference> {
        if self.inner.shared.is_closed() {
            return Err(unloaded());
        }
        let prompt = match request.prompt() {
            Prompt::Text(text) => self.inner.vocabulary.encode(text)?,
            Prompt::Ids(ids) => self.checked(ids)?.to_vec(),
        };
        let order = request.order(prompt, &self.inner.plan)?;
        Inference::start(self.inner.shared.clone(), self.inner.vocabulary.clone(), order, request.stops())
    }

    fn checked<'a>(&self, ids: &'a [u32]) -> Result<&'a [u32]> {
        let n_vocab = self.inner.plan.n_vocab;
        match ids.iter().position(|&id| id as usize >= n_vocab) {
            Some(i) => Err(Error::parameter(format!("token {i} is {}, not below the vocabulary's {n_vocab}", ids[i]))),
            None => Ok(ids),
        }
    }

    /// The ids of a text: with special tokens added as the file says if `special`; with the text of control tokens taken as
    /// those tokens if `control`.
    pub fn tokenize(&self, text: &str, special: bool, control: bool) -> Result<Vec<u32>> {
        self.inner.vocabulary.encode_as(text, special, control)
    }

    /// The bytes that tokens stand for; none for control tokens.
    pub fn detokenize(&self, ids: &[u32]) -> Result<Vec<u8>> {
        Ok(self.inner.vocabulary.decode(self.checked(ids)?))
    }

    /// What the file says of the model.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// Bytes that loading the model took.
    pub fn loaded_bytes(&self) -> u64 {
        self.inner.loaded_bytes
    }

    /// Bytes held on the device now: weights, working memory and KV pages, in use or in the pool. 0 once unloaded.
    pub fn held_bytes(&self) -> u64 {
        let weights = lock(&self.inner.weights).clone();
        weights.map_or(0, |w| w.held_bytes().saturating_add(self.inner.shared.pages.held_bytes()))
    }

    /// Code 7 if a weight is not where it should be.
    pub fn check_residency(&self) -> Result<()> {
        let weights = lock(&self.inner.weights).clone();
        weights.ok_or_else(unloaded)?.check_residency()
    }

    /// Ends every inference and frees the memory, after the steps in flight.
    pub fn unload(&self) {
        self.inner.unload();
    }
}

impl Inner {
    fn unload(&self) {
        if process::check().is_err() {
            return;
        }
        self.shared.close();
        // Held while waiting: a second caller returns no earlier than the first.
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take() {
            // The scheduler's own end has told every inference, even where it was a panic.
            let _ = thread.join();
        }
        self.shared.pages.close();
        lock(&self.weights).take();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unload();
    }
}
