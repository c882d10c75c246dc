//! The interpreter against plain arithmetic in double precision, and against itself in other batches.

mod fixture;
mod reference;
mod refusals;
mod routing;

use super::*;
use crate::plan::{Batch, Draw, Output, PageTable, Phase, Segment, Tokens, Want, lower};
use crate::quant::QuantType;
use fixture::{Fixture, N_VOCAB, Shape};
use reference::Reference;

const SHAPES: [fn(QuantType) -> Shape; 4] = [fixture::llama, fixture::gemma, fixture::gpt2, fixture::oss];

/// A loaded fixture with pages for a few sequences.
struct Loaded {
    model: LoadedModel,
    plan: Arc<Plan>,
    limits: Limits,
    tables: Vec<Arc<PageTable>>,
}

impl Loaded {
    fn new(fixture: &Fixture, isa: Isa, threads: usize) -> Self {
        let device = device_with_threads(isa, threads).expect("an instruction set of this CPU");
        let plan = Arc::new(lower(&fixture.spec, vec![]));
        let limits = Limits { batch_tokens: 64, sequences: 4, ..device.limits(&plan) };
        let model = device.load(plan.clone(), fixture.source.clone(), limits, &mut |_, _| true).expect("loads");
        let mut tables = vec![PageTable::default(); limits.sequences];
        for (i, group) in plan.kv_groups.iter().enumerate() {
            let each = group.pages_for(plan.context, limits.batch_tokens) as u32;
            model.kv.resize(i, each * tables.len() as u32).expect("memory");
            for (slot, table) in (0..).zip(&mut tables) {
                // Neither in order nor next to each other.
                table.groups.push((0..each).rev().map(|page| page * limits.sequences as u32 + slot).collect());
            }
        }
        Self { model, plan, limits, tables: tables.into_iter().map(Arc::new).collect() }
    }

    fn segment(&self, slot: u32, position: usize, tokens: &[u32], want: Want) -> Segment {
        Segment {
            slot,
            phase: Phase::Prefill,
            position,
            tokens: Tokens::Known(tokens.to_vec()),
            pages: self.tables[slot as usize].clone(),
            want,
        }
    }

    fn run(&mut self, segments: Vec<Segment>) -> Vec<Output> {
        self.model.executor.submit(&Batch { segments }).expect("a sound batch");
        self.model.executor.collect().expect("outputs")
    }

    /// All logits of a sequence in slot 0, computed alone in chunks.
    fn logits(&mut self, tokens: &[u32], chunk: usize) -> Vec<f32> {
        let mut all = Vec::new();
        for (i, part) in tokens.chunks(chunk).enumerate() {
            let segment = self.segment(0, i * chunk, part, Want::AllLogits);
            all.extend(floats(self.run(vec![segment]).remove(0)));
        }
        all
    }
}

fn floats(output: Output) -> Vec<f32> {
    match output {
        Output::Logits(logits) => logits,
        other => panic!("logits were wanted, not {other:?}"),
    }
}

fn tokens(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i * 31 + i * 7 + seed * 13) % N_VOCAB) as u32).collect()
}

fn distance(found: &[f32], want: &[f64]) -> f64 {
    let difference: f64 = found.iter().zip(want).map(|(f, w)| (f64::from(*f) - w).powi(2)).sum();
    (difference / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

fn sets() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.present().is_ok())
}

#[test]
fn logits_are_those_of_plain_arithmetic() {
    let tokens = tokens(100, 1);
    for shape in SHAPES {
        let fixture = Fixture::new(shape(QuantType::F32));
        let want = Reference::new(&fixture).logits(&tokens).concat();
        for isa in sets() {
            let found = Loaded::new(&fixture, isa, 2).logits(&tokens, 64);
            let error = distance(&found, &want);
            assert!(error < 1e-5, "{isa}: {error} with {:?}", shape(QuantType::F32));
        }
    }
}

#[test]
fn block_types_stay_within_their_tolerance() {
    let tokens = tokens(40, 2);
    // Random blocks are rougher than trained weights are, hence twice what those are allowed.
    let types = [(QuantType::Q4_0, 5e-2), (QuantType::Q8_0, 5e-2), (QuantType::F16, 2e-3), (QuantType::BF16, 1e-2)];
    for (ty, tolerance) in types {
        for shape in [fixture::llama, fixture::oss] {
            let fixture = Fixture::new(shape(ty));
            let want = Reference::new(&fixture).logits(&tokens).concat();
            for isa in sets() {
                let tolerance = if isa == Isa::Portable { 1e-5 } else { tolerance };
                let error = distance(&Loaded::new(&fixture, isa, 2).logits(&tokens, 64), &want);
                assert!(error < tolerance, "{isa}, {}: {error}", ty.name());
            }
        }
    }
}

#[test]
fn chunks_and_threads_do_not_show() {
    let tokens = tokens(90, 3);
    for (shape, ty) in SHAPES.into_iter().zip([QuantType::Q4K, QuantType::F32, QuantType::F16, QuantType::Q8_0]) {
        let fixture = Fixture::new(shape(ty));
        for isa in sets() {
            let whole = Loaded::new(&fixture, isa, 1).logits(&tokens, 64);
            for (threads, chunk) in [(2, 64), (2, 7), (3, 1), (2, 33)] {
                let other = Loaded::new(&fixture, isa, threads).logits(&tokens, chunk);
                let same = whole.iter().map(|x| x.to_bits()).eq(other.iter().map(|x| x.to_bits()));
                assert!(same, "{isa}: chunks of {chunk} on {threads} threads show with {:?}", shape(ty));
            }
        }
    }
}

#[test]
fn other_sequences_do_not_show() {
    let texts = [tokens(50, 4), tokens(31, 5), tokens(70, 6)];
    for (shape, ty) in SHAPES.into_iter().zip([QuantType::Q4_1, QuantType::Q4_0, QuantType::F32, QuantType::Q8_0]) {
        let fixture = Fixture::new(shape(ty));
        for isa in sets() {
            let alone: Vec<_> = texts.iter().map(|t| Loaded::new(&fixture, isa, 2).logits(t, 64)).collect();
            let mut loaded = Loaded::new(&fixture, isa, 2);
            let mut together = vec![Vec::new(); texts.len()];
            for start in (0..70).step_by(13) {
                let mut segments = Vec::new();
                for (slot, text) in (0..).zip(&texts) {
                    let part = &text[start.min(text.len())..(start + 13).min(text.len())];
                    if !part.is_empty() {
                        segments.push(loaded.segment(slot, start, part, Want::AllLogits));
                    }
                }
                let slots: Vec<_> = segments.iter().map(|s| s.slot as usize).collect();
                for (slot, output) in slots.into_iter().zip(loaded.run(segments)) {
                    together[slot].extend(floats(output));
                }
            }
            assert!(together == alone, "{isa}: a batch shows with {:?}", shape(ty));
        }
    }
}

#[test]
fn each_segment_gets_what_it_wants() {
    let fixture = Fixture::new(fixture::llama(QuantType::F32));
    let mut loaded = Loaded::new(&fixture, Isa::Portable, 2);
    let all = loaded.logits(&[5, 6, 7], 3);
    let last = &all[2 * N_VOCAB..];
    let greedy = Want::Token(Draw { temperature: 0.0, seed: 0 });
    let wants = [Want::Nothing, greedy, Want::Logits, Want::AllLogits];
    let segments = (0..).zip(wants).map(|(slot, want)| loaded.segment(slot, 0, &[5, 6, 7], want)).collect();
    let best = (0..N_VOCAB).reduce(|a, b| if last[b] > last[a] { b } else { a }).expect("a vocabulary") as u32;
    let want = [Output::Nothing, Output::Token(best), Output::Logits(last.to_vec()), Output::Logits(all.clone())];
    assert_eq!(loaded.run(segments), want);
}
