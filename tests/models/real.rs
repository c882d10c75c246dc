//! Published models with real weights on the CPU: prompt ids, greedy continuations and the likelihood of a text, against
//! references computed from float weights. `scripts/get-model.sh` fetches the files.

use crate::support::runner::{Runner, argmax};
use serde_json::Value;
use std::path::PathBuf;
use worker_orcd::device::cpu::{Isa, device_with};
use worker_orcd::gguf::Gguf;
use worker_orcd::plan::{Phase, Want};
use worker_orcd::token::{Encode, Tokenizer};

const CONTEXT: usize = 1024;
/// Tokens of the likelihood's text that are fed at once.
const CHUNK: usize = 128;

fn reference(name: &str) -> Value {
    let path = crate::support::folder("WORKER_ORCD_REFERENCES", "models/real").join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// The model's file; None, said aloud, where it has not been fetched. CI must have it.
fn model(reference: &Value) -> Option<PathBuf> {
    let folder = std::env::var_os("WORKER_ORCD_MODELS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".models"));
    let path = folder.join(reference["file"].as_str().unwrap());
    if path.is_file() {
        return Some(path);
    }
    assert!(std::env::var_os("WORKER_ORCD_CI").is_none(), "{} is missing", path.display());
    println!("skipped: {} is missing; scripts/get-model.sh fetches it", path.display());
    None
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Feeds a prompt; the logits of its last token alone, since those of all would take longer than the prompt.
fn last_logits(runner: &mut Runner, ids: &[u32]) -> Vec<f32> {
    let (before, last) = ids.split_at((ids.len() - 1) / CHUNK * CHUNK);
    before.chunks(CHUNK).for_each(|ids| drop(runner.submit(ids, Phase::Prefill, Want::Nothing)));
    runner.submit(last, Phase::Prefill, Want::Logits)
}

/// Feeds the prompt and then the reference's own continuation; checks each step's logits.
fn greedy(runner: &mut Runner, prompt: &Value, isa: Isa) {
    runner.restart();
    let name = &prompt["name"];
    let mut last = last_logits(runner, &ids(&prompt["ids"]));
    for (step, id) in ids(&prompt["greedy"]).into_iter().enumerate() {
        if isa == Isa::Portable {
            for entry in prompt["top5"][step].as_array().unwrap() {
                let (token, logit) = (entry[0].as_u64().unwrap() as usize, entry[1].as_f64().unwrap());
                let error = (f64::from(last[token]) - logit).abs();
                assert!(error <= 5e-2, "{name}, step {step}, token {token}: {} is not {logit}", last[token]);
            }
        } else if prompt["gap"][step].as_f64().unwrap() >= 0.5 {
            assert_eq!(argmax(&last), id, "{name}, step {step}");
        }
        last = runner.decode(id);
    }
}

/// -ln of the softmax of `logits` at `id`.
fn negative_log_likelihood(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - max)
}

fn likelihood(runner: &mut Runner, reference: &Value, isa: Isa) {
    runner.restart();
    let ids = ids(&reference["ids"]);
    let mut total = 0.0;
    for (start, chunk) in (0..).step_by(CHUNK).zip(ids.chunks(CHUNK)) {
        let logits = runner.feed(chunk, Phase::Prefill);
        for (row, next) in logits.chunks(runner.plan.n_vocab).zip(&ids[start + 1..]) {
            total += negative_log_likelihood(row, *next);
        }
    }
    let expected = reference["total"].as_f64().unwrap();
    let allowed = if isa == Isa::Portable { 5e-4 } else { 3e-3 };
    let error = (total - expected).abs() / expected;
    println!("{isa:?}: {total:.3} of {expected:.3} ({:.3} %)", 100.0 * error);
    assert!(error <= allowed, "{isa:?}: likelihood {total}, not {expected}");
}

fn check(reference_name: &str) {
    let reference = reference(reference_name);
    let Some(path) = model(&reference) else { return };
    let gguf = Gguf::open(&path).unwrap();
    let tokenizer = Tokenizer::from_metadata(gguf.metadata()).unwrap();
    let whole = Encode { add_special: true, parse_special: true };
    for prompt in reference["prompts"].as_array().unwrap() {
        let encoded = tokenizer.encode(prompt["prompt"].as_str().unwrap(), whole).unwrap();
        assert_eq!(encoded, ids(&prompt["ids"]), "{}", prompt["name"]);
    }
    let text = &reference["likelihood"];
    let plain = Encode { parse_special: false, ..whole };
    assert_eq!(tokenizer.encode(text["text"].as_str().unwrap(), plain).unwrap(), ids(&text["ids"]));
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
        let Ok(device) = device_with(isa) else { continue };
        let mut runner = Runner::new(device.as_ref(), &gguf, CONTEXT);
        for prompt in reference["prompts"].as_array().unwrap() {
            greedy(&mut runner, prompt, isa);
        }
        likelihood(&mut runner, text, isa);
    }
}

#[test]
fn smollm2_135m_instruct() {
    check("smollm2-135m-instruct-q4_1.json");
}

#[test]
fn gemma_3_270m() {
    check("gemma-3-270m-q4_k_m.json");
}
