//! The CUDA device against the golden models and against itself. On a machine without a GPU every test says so and passes.

#![cfg(feature = "cuda")]

mod beside;
mod long;
mod speed;
mod steps;
mod stubs;
#[path = "../models/support/mod.rs"]
mod support;

use std::sync::Arc;
use support::golden::{Golden, Prompt, relative_l2};
use support::runner::{Runner, argmax};
use worker_orcd::device::{Device, LoadedModel, cuda};
use worker_orcd::gguf::Gguf;
use worker_orcd::model;
use worker_orcd::plan::{Batch, Draw, Output, PageTable, Phase, Plan, Segment, Tokens, Want, draw, lower};

/// The first GPU; None, said aloud, where there is none.
pub fn gpu() -> Option<Arc<dyn Device>> {
    if cuda::device_count() == 0 {
        println!("skipped: no GPU on this machine");
        return None;
    }
    Some(cuda::device(0).expect("the GPU"))
}

/// Relative L2 error of the logits that is allowed.
fn tolerance(types: &str) -> f64 {
    match types {
        "f32" => 2e-3,
        "f16" => 4e-3,
        "bf16" => 1e-2,
        _ => 2.5e-2,
    }
}

/// Runs one prompt in chunks, then greedily on; the error of the logits, and where the ids differ.
fn run(runner: &mut Runner, prompt: &Prompt, chunk: usize, tolerance: f64) -> (f64, Option<String>) {
    runner.restart();
    let logits = runner.prefill(&prompt.ids, chunk);
    let n_vocab = runner.plan.n_vocab;
    let error = relative_l2(&logits[prompt.logits_from * n_vocab..], &prompt.logits);
    let mut id = argmax(&logits[logits.len() - n_vocab..]);
    for (step, (&expected, &gap)) in prompt.greedy.iter().zip(&prompt.gap).enumerate() {
        if f64::from(gap) < 4.0 * tolerance {
            break;
        }
        if id != expected {
            let what = format!("{} tokens, step {step}: {id}, not {expected}, gap {gap}", prompt.ids.len());
            return (error, Some(what));
        }
        id = argmax(&runner.decode(id));
    }
    (error, None)
}

#[test]
fn golden_models() {
    let Some(device) = gpu() else { return };
    let mut wrong = Vec::new();
    for golden in Golden::all(&support::goldens(), &[""]) {
        let gguf = golden.gguf();
        let limit = tolerance(&golden.types);
        let (mut worst, mut decoded) = (0f64, 0f64);
        for prompt in &golden.prompts {
            let mut runner = Runner::new(device.as_ref(), &gguf, prompt.n_ctx);
            let whole = runner.prefill(&prompt.ids, 128);
            for chunk in [128, 7] {
                let (error, differs) = run(&mut runner, prompt, chunk, limit);
                worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
                wrong.extend(differs.map(|d| format!("{}: {d}", golden.name)));
                runner.restart();
                if runner.prefill(&prompt.ids, chunk) != whole {
                    wrong.push(format!("{}: chunks of {chunk} show", golden.name));
                }
            }
            runner.restart();
            let logits: Vec<f32> = prompt.ids.iter().flat_map(|&id| runner.decode(id)).collect();
            let error = relative_l2(&logits[prompt.logits_from * runner.plan.n_vocab..], &prompt.logits);
            decoded = decoded.max(if error.is_nan() { f64::INFINITY } else { error });
        }
        println!("{:24} prefill {worst:.1e} decode {decoded:.1e} of {limit:.0e}", golden.name);
        if worst > limit || decoded > limit {
            wrong.push(format!("{}: error {worst:.1e} / {decoded:.1e} over {limit:.0e}", golden.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A file that names no window has none, on the GPU too.
#[test]
fn a_window_of_0_is_no_window() {
    let Some(device) = gpu() else { return };
    for golden in Golden::all(&support::goldens(), &["phi3-f32"]) {
        for (reading, prompt) in &golden.variants {
            let mut runner = Runner::new(device.as_ref(), &golden.file(), prompt.n_ctx);
            assert!(reading.starts_with("sliding window ignored"));
            assert!(run(&mut runner, prompt, 128, 2e-3).0 < 2e-3);
        }
    }
}

/// Several sequences on one model.
struct Crowd {
    plan: Arc<Plan>,
    model: LoadedModel,
    pages: Vec<Arc<PageTable>>,
}

const CROWD: usize = 20;

impl Crowd {
    fn new(device: &dyn Device, gguf: &Gguf) -> Crowd {
        let plan = Arc::new(lower(&model::build(gguf, Some(256)).expect("a model"), vec![3, 77]));
        let limits = device.limits(&plan);
        let model = device.load(plan.clone(), gguf.source().clone(), limits, &mut |_, _| true).expect("memory");
        let mut pages = vec![PageTable::default(); CROWD];
        for (g, group) in plan.kv_groups.iter().enumerate() {
            let each = group.pages_for(256, limits.batch_tokens) as u32;
            model.kv.resize(g, each * CROWD as u32).expect("memory");
            for (i, table) in pages.iter_mut().enumerate() {
                table.groups.push((0..each).map(|p| p * CROWD as u32 + i as u32).collect());
            }
        }
        Crowd { plan, model, pages: pages.into_iter().map(Arc::new).collect() }
    }

    fn segment(&self, i: usize, position: usize, tokens: Tokens, want: Want) -> Segment {
        let phase = if position == 0 { Phase::Prefill } else { Phase::Decode };
        Segment { slot: i as u32, phase, position, tokens, pages: self.pages[i].clone(), want }
    }

    fn run(&mut self, segments: Vec<Segment>) -> Vec<Output> {
        self.model.executor.submit(&Batch { segments }).expect("a batch");
        self.model.executor.collect().expect("its outputs")
    }

    fn prompt(&self, i: usize) -> Vec<u32> {
        (0..1 + i * 2).map(|k| ((k * 31 + i * 7 + 1) % 250) as u32).collect()
    }
}

fn draw_of(i: usize) -> Draw {
    Draw { temperature: [0.0, 0.5, 1.0, 2.0][i % 4], seed: 1000 + i as u64 }
}

/// Prompts and steps of many sequences at once give the bits that each gives alone, and tokens are drawn as on the CPU.
#[test]
fn company_does_not_show() {
    let Some(device) = gpu() else { return };
    for golden in Golden::all(&support::goldens(), &["llama-f32", "gptoss-256", "gemma3-f32", "qwen2-256-q5_0"]) {
        let mut crowd = Crowd::new(device.as_ref(), &golden.gguf());
        let prompts: Vec<Vec<u32>> = (0..CROWD).map(|i| crowd.prompt(i)).collect();
        let alone: Vec<(Vec<f32>, Vec<f32>)> = (0..CROWD)
            .map(|i| {
                let first = crowd.segment(i, 0, Tokens::Known(prompts[i].clone()), Want::Logits);
                let prompt = logits(crowd.run(vec![first]));
                let second = crowd.segment(i, prompts[i].len(), Tokens::Known(vec![9]), Want::Logits);
                (prompt, logits(crowd.run(vec![second])))
            })
            .collect();
        let half = CROWD / 2;
        let first = |crowd: &Crowd, i: usize| crowd.segment(i, 0, Tokens::Known(prompts[i].clone()), Want::Logits);
        let second = |crowd: &Crowd, i: usize| crowd.segment(i, prompts[i].len(), Tokens::Known(vec![9]), Want::Logits);
        let one: Vec<Segment> = (0..half / 2).map(|i| first(&crowd, i)).collect();
        let two: Vec<Segment> =
            (0..half).map(|i| if i < half / 2 { second(&crowd, i) } else { first(&crowd, i) }).collect();
        let three: Vec<Segment> = (0..half).map(|i| second(&crowd, i)).collect();
        for (output, (prompt, _)) in crowd.run(one).into_iter().zip(&alone) {
            assert!(logits(vec![output]) == *prompt, "{}: a prompt in company", golden.name);
        }
        for (i, output) in crowd.run(two).into_iter().enumerate() {
            let expected = if i < half / 2 { &alone[i].1 } else { &alone[i].0 };
            assert!(logits(vec![output]) == *expected, "{}: {i} in mixed company", golden.name);
        }
        for (output, (_, step)) in crowd.run(three).into_iter().zip(&alone) {
            assert!(logits(vec![output]) == *step, "{}: a step in company", golden.name);
        }
        draws_are_the_references(&mut crowd, &prompts, &alone);
    }
}

fn logits(outputs: Vec<Output>) -> Vec<f32> {
    match outputs.into_iter().next() {
        Some(Output::Logits(logits)) => logits,
        other => panic!("asked for logits, got {other:?}"),
    }
}

/// The same prompts once more, now drawn from, and the drawn tokens fed on without the host seeing them first.
fn draws_are_the_references(crowd: &mut Crowd, prompts: &[Vec<u32>], alone: &[(Vec<f32>, Vec<f32>)]) {
    let n = CROWD / 3;
    let first: Vec<Segment> =
        (0..n).map(|i| crowd.segment(i, 0, Tokens::Known(prompts[i].clone()), Want::Token(draw_of(i)))).collect();
    let second: Vec<Segment> =
        (0..n).map(|i| crowd.segment(i, prompts[i].len(), Tokens::Sampled, Want::Token(draw_of(i)))).collect();
    crowd.model.executor.submit(&Batch { segments: first }).expect("a batch");
    crowd.model.executor.submit(&Batch { segments: second }).expect("a second batch");
    let drawn = [crowd.model.executor.collect().expect("outputs"), crowd.model.executor.collect().expect("outputs")];
    for i in 0..n {
        let expected = draw(&alone[i].0, &crowd.plan.never_drawn, draw_of(i), prompts[i].len()).expect("a token");
        assert_eq!(drawn[0][i], Output::Token(expected), "sequence {i}");
        let fed = crowd.segment(i, prompts[i].len(), Tokens::Known(vec![expected]), Want::Token(draw_of(i)));
        assert_eq!(crowd.run(vec![fed])[0], drawn[1][i], "sequence {i}, second token");
    }
}

/// Loading and dropping gives everything back.
#[test]
fn nothing_stays() {
    let Some(device) = gpu() else { return };
    let golden = Golden::all(&support::goldens(), &["llama-256-q4_k"]).remove(0);
    let mut crowd = Crowd::new(device.as_ref(), &golden.gguf());
    assert!(crowd.model.weights.held_bytes() > 0 && crowd.model.kv.held_bytes() > 0);
    crowd.model.weights.check_residency().expect("resident weights");
    device.check_health().expect("a healthy device");
    let prompt = crowd.prompt(5);
    crowd.run(vec![crowd.segment(5, 0, Tokens::Known(prompt), Want::Nothing)]);
    crowd.model.kv.resize(0, 0).expect("giving back");
    assert_eq!(crowd.model.kv.held_bytes(), 0);
}
