//! The golden models on the CPU: logits within the type's tolerance whatever the chunks, and the same greedy ids.

use crate::support::golden::{Golden, Prompt, relative_l2};
use crate::support::runner::{Runner, argmax};
use worker_orcd::device::cpu::{Isa, device_with};

/// Relative L2 error of the logits that is allowed.
fn tolerance(types: &str, isa: Isa) -> f64 {
    match (isa, types) {
        (Isa::Portable, _) | (_, "f32") => 1e-4,
        (_, "f16") => 2e-3,
        (_, "bf16") => 1e-2,
        _ => 2.5e-2,
    }
}

/// Runs one prompt in chunks, then greedily on; what is wrong, or the error of the logits.
fn run(runner: &mut Runner, prompt: &Prompt, chunk: usize, tolerance: f64) -> Result<f64, String> {
    runner.restart();
    let logits = runner.prefill(&prompt.ids, chunk);
    let n_vocab = runner.plan.n_vocab;
    let error = relative_l2(&logits[prompt.logits_from * n_vocab..], &prompt.logits);
    if error.is_nan() || error > tolerance {
        return Err(format!("{} tokens in chunks of {chunk}: error {error:.2e}", prompt.ids.len()));
    }
    let mut id = argmax(&logits[logits.len() - n_vocab..]);
    for (step, (&expected, &gap)) in prompt.greedy.iter().zip(&prompt.gap).enumerate() {
        if f64::from(gap) < tolerance {
            break;
        }
        if id != expected {
            return Err(format!("{} tokens, step {step}: {id}, not {expected}, gap {gap}", prompt.ids.len()));
        }
        id = argmax(&runner.decode(id));
    }
    Ok(error)
}

fn run_all(isa: Isa) {
    let Ok(device) = device_with(isa) else {
        println!("skipped: this processor cannot run {isa:?}");
        return;
    };
    let mut wrong = Vec::new();
    for golden in Golden::all(&crate::support::goldens(), &[""]) {
        let gguf = golden.gguf();
        let limit = tolerance(&golden.types, isa);
        let mut worst = 0f64;
        for prompt in &golden.prompts {
            let mut runner = Runner::new(device.as_ref(), &gguf, prompt.n_ctx);
            for chunk in [128, 1, 7] {
                match run(&mut runner, prompt, chunk, limit) {
                    Ok(error) => worst = worst.max(error),
                    Err(e) => wrong.push(format!("{}: {e}", golden.name)),
                }
            }
        }
        println!("{:24} {worst:.1e} of {limit:.0e}", golden.name);
    }
    assert!(wrong.is_empty(), "{isa:?}:\n{}", wrong.join("\n"));
}

#[test]
fn portable() {
    run_all(Isa::Portable);
}

#[test]
fn avx2() {
    run_all(Isa::Avx2);
}

#[test]
fn avx512() {
    run_all(Isa::Avx512);
}

/// The files are read as they are: where a file names no sliding window, none applies.
#[test]
fn a_window_of_0_is_no_window() {
    let device = device_with(Isa::Portable).unwrap();
    for golden in Golden::all(&crate::support::goldens(), &["phi3-f32"]) {
        for (reading, prompt) in &golden.variants {
            let mut runner = Runner::new(device.as_ref(), &golden.file(), prompt.n_ctx);
            assert!(reading.starts_with("sliding window ignored"));
            run(&mut runner, prompt, 128, 1e-4).unwrap();
        }
    }
}
