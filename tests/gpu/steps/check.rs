//! A plan on a device under test against the same plan on the portable CPU: rows of a prompt and rows of decoding, each in
//! companies of many sizes, which must not show in a single bit.

use super::weights::source;
use crate::support::golden::relative_l2;
use std::sync::Arc;
use worker_orcd::device::{Device, LoadedModel, cpu};
use worker_orcd::plan::{Batch, KvType, Limits, Output, PageTable, Phase, Plan, Segment, Tokens, Want};

/// Rows of the longest prompt, and the sequences that decode together: sequence i is the prompt's first i + 1 tokens.
pub const ROWS: usize = 70;
const SEQUENCES: usize = 64;
const PROMPTS: [usize; 10] = [1, 2, 7, 8, 9, 16, 17, 33, 64, 65];
const COMPANIES: [usize; 9] = [2, 3, 7, 8, 9, 16, 17, 33, 64];

/// A plan and the file of its weights.
pub struct Made {
    pub plan: Plan,
    pub file: Vec<u8>,
}

/// The largest relative errors of a row: of a prompt, and of decoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    pub prompt: f64,
    pub decode: f64,
}

impl Errors {
    pub fn worst(self, other: Errors) -> Errors {
        Errors { prompt: worse(self.prompt, other.prompt), decode: worse(self.decode, other.decode) }
    }
}

/// The larger; NaN is larger than all.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

struct Bench {
    model: LoadedModel,
    pages: Vec<Arc<PageTable>>,
    n_vocab: usize,
}

/// Every 29th is 0.
fn token(plan: &Plan, position: usize) -> u32 {
    (position % 29 * 7919 % plan.n_vocab) as u32
}

impl Bench {
    fn new(device: &dyn Device, plan: &Arc<Plan>, file: Vec<u8>, limits: Limits) -> Bench {
        let model = device.load(plan.clone(), source(file), limits, &mut |_, _| true).expect("room for a small plan");
        let mut tables = vec![PageTable::default(); limits.sequences];
        for (g, group) in plan.kv_groups.iter().enumerate() {
            let each = group.pages_for(ROWS + 1, limits.batch_tokens) as u32;
            model.kv.resize(g, each * limits.sequences as u32).expect("room for pages");
            for (i, table) in (0..).zip(&mut tables) {
                table.groups.push((0..each).map(|p| p * limits.sequences as u32 + i).collect());
            }
        }
        Bench { model, pages: tables.into_iter().map(Arc::new).collect(), n_vocab: plan.n_vocab }
    }

    fn segment(
        &self,
        plan: &Plan,
        slot: usize,
        phase: Phase,
        positions: std::ops::Range<usize>,
        want: Want,
    ) -> Segment {
        let position = positions.start;
        let tokens = Tokens::Known(positions.map(|p| token(plan, p)).collect());
        Segment { slot: slot as u32, phase, position, tokens, pages: self.pages[slot].clone(), want }
    }

    fn run(&mut self, segments: Vec<Segment>) -> Vec<Vec<f32>> {
        self.model.executor.submit(&Batch { segments }).expect("a batch");
        let outputs = self.model.executor.collect().expect("its outputs");
        let logits = |o| if let Output::Logits(logits) = o { logits } else { Vec::new() };
        outputs.into_iter().map(logits).collect()
    }

    /// The logits of a prompt's rows, all of them.
    fn prompt(&mut self, plan: &Plan, rows: usize) -> Vec<f32> {
        let segment = self.segment(plan, 0, Phase::Prefill, 0..rows, Want::AllLogits);
        self.run(vec![segment]).remove(0)
    }

    /// Fills the cache of every sequence.
    fn fill(&mut self, plan: &Plan, batch_tokens: usize) {
        let mut batch = Vec::new();
        for slot in 0..SEQUENCES {
            let segment = self.segment(plan, slot, Phase::Prefill, 0..slot + 1, Want::Nothing);
            if batch.iter().map(|s: &Segment| s.tokens.len()).sum::<usize>() + slot + 1 > batch_tokens {
                self.run(std::mem::take(&mut batch));
            }
            batch.push(segment);
        }
        self.run(batch);
    }

    /// The logits of the next row of each of these sequences.
    fn decode(&mut self, plan: &Plan, slots: &[usize]) -> Vec<Vec<f32>> {
        let segment = |&slot: &usize| self.segment(plan, slot, Phase::Decode, slot + 1..slot + 2, Want::Logits);
        let segments = slots.iter().map(segment).collect();
        self.run(segments)
    }
}

/// What the portable CPU says of every row.
fn oracle(plan: &Arc<Plan>, file: Vec<u8>) -> Vec<f32> {
    let device = cpu::device_with(cpu::Isa::Portable).expect("the portable CPU");
    let rows = ROWS + 1;
    let limits = Limits { batch_tokens: rows, sequences: 1, logit_rows: rows, kv_type: KvType::F32 };
    Bench::new(device.as_ref(), plan, file, limits).prompt(plan, rows)
}

/// The errors of `device`, which reads `file` instead of the plan's own; and what must never be: a row that knows its company.
pub fn compare(device: &dyn Device, made: &Made, file: Vec<u8>) -> (Errors, Vec<String>) {
    let plan = Arc::new(made.plan.clone());
    let expected = oracle(&plan, made.file.clone());
    let mut limits = device.limits(&plan);
    (limits.batch_tokens, limits.sequences, limits.logit_rows) = (256, SEQUENCES, 128);
    let mut bench = Bench::new(device, &plan, file, limits);
    let n = bench.n_vocab;
    let row_error = |got: &[f32], row: usize| relative_l2(got, &expected[row * n..(row + 1) * n]);
    let (mut errors, mut wrong) = (Errors::default(), Vec::new());

    let longest = bench.prompt(&plan, ROWS);
    errors.prompt = longest.chunks(n).zip(0..).map(|(got, row)| row_error(got, row)).fold(0.0, worse);
    for rows in PROMPTS {
        if bench.prompt(&plan, rows) != longest[..rows * n] {
            wrong.push(format!("a prompt of {rows} rows shows in them"));
        }
    }
    bench.fill(&plan, limits.batch_tokens);
    let alone: Vec<Vec<f32>> = (0..SEQUENCES).map(|slot| bench.decode(&plan, &[slot]).remove(0)).collect();
    errors.decode = alone.iter().zip(1..).map(|(got, row)| row_error(got, row)).fold(0.0, worse);
    for rows in COMPANIES {
        // Not always from the first: a row's place in the batch must not show either.
        let slots: Vec<usize> = (0..rows).map(|i| (i * 5 + rows) % SEQUENCES).collect();
        let together = bench.decode(&plan, &slots);
        let differs = slots.iter().zip(&together).find(|(slot, got)| **got != alone[**slot]);
        wrong.extend(differs.map(|(slot, _)| format!("{rows} rows of decoding show in that of sequence {slot}")));
    }
    (errors, wrong)
}
