//! Runs one sequence on a device, chunk by chunk and step by step, without the engine.

use std::sync::Arc;
use worker_orcd::device::{Device, LoadedModel};
use worker_orcd::gguf::Gguf;
use worker_orcd::model;
use worker_orcd::plan::{Batch, Output, PageTable, Phase, Plan, Segment, Tokens, Want, lower};

/// Rows that a batch of these tests may have, all with logits.
const ROWS: usize = 128;

pub struct Runner {
    pub plan: Arc<Plan>,
    model: LoadedModel,
    pages: Arc<PageTable>,
    position: usize,
}

impl Runner {
    /// Loads the model for sequences of up to `context` tokens.
    pub fn new(device: &dyn Device, gguf: &Gguf, context: usize) -> Runner {
        Self::with_rows(device, gguf, context, ROWS)
    }

    /// The same for batches of at most so many rows: the fewer, the fewer pages a window needs.
    pub fn with_rows(device: &dyn Device, gguf: &Gguf, context: usize, rows: usize) -> Runner {
        let spec = model::build(gguf, Some(context)).unwrap();
        let plan = Arc::new(lower(&spec, Vec::new()));
        let mut limits = device.limits(&plan);
        limits.batch_tokens = rows;
        limits.logit_rows = rows;
        let model = device.load(plan.clone(), gguf.source().clone(), limits, &mut |_, _| true).unwrap();
        let mut pages = PageTable::default();
        for (g, group) in plan.kv_groups.iter().enumerate() {
            let n = group.pages_for(context, rows) as u32;
            model.kv.resize(g, n).unwrap();
            // Backwards, so that a page's number is not its place.
            pages.groups.push((0..n).rev().collect());
        }
        Runner { plan, model, pages: Arc::new(pages), position: 0 }
    }

    /// Begins a new sequence.
    pub fn restart(&mut self) {
        self.position = 0;
    }

    /// Feeds `ids`; the logits of each, [ids.len(), n_vocab].
    pub fn feed(&mut self, ids: &[u32], phase: Phase) -> Vec<f32> {
        self.submit(ids, phase, Want::AllLogits)
    }

    /// Feeds `ids`; the logits that are wanted.
    pub fn submit(&mut self, ids: &[u32], phase: Phase, want: Want) -> Vec<f32> {
        let segment = Segment {
            slot: 0,
            phase,
            position: self.position,
            tokens: Tokens::Known(ids.to_vec()),
            pages: self.pages.clone(),
            want,
        };
        self.position += ids.len();
        self.model.executor.submit(&Batch { segments: vec![segment] }).unwrap();
        match self.model.executor.collect().unwrap().pop() {
            Some(Output::Logits(logits)) => logits,
            Some(Output::Nothing) => Vec::new(),
            other => panic!("asked for logits, got {other:?}"),
        }
    }

    /// Feeds a prompt in chunks of `chunk` tokens; the logits of each token.
    pub fn prefill(&mut self, ids: &[u32], chunk: usize) -> Vec<f32> {
        ids.chunks(chunk).flat_map(|ids| self.feed(ids, Phase::Prefill)).collect()
    }

    /// Feeds one token of an answer; its logits.
    pub fn decode(&mut self, id: u32) -> Vec<f32> {
        self.feed(&[id], Phase::Decode)
    }
}

/// The id with the largest logit, the lowest where several are equal.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, best) as u32
}
