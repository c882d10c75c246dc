//! The golden models on the CPU: logits within the type's tolerance whatever the chunks, and the same greedy ids.

use crate::support::golden::{Golden, Prompt, relative_l2};
use crate::support::runner::{Runner, argmax};
use worker_orcd::device::cpu::{Isa, device_with};
use worker_orcd::plan::PAGE_TOKENS;

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

/// Windowed layers use a few pages in turn; with as many as the whole sequence needs, the logits are the same bits.
#[test]
fn pages_used_in_turn_do_not_show() {
    const TOKENS: usize = 400;
    const CHUNK: usize = 16;
    for golden in Golden::all(&crate::support::goldens(), &["gemma3-f32", "gptoss-f32", "phi3-f32"]) {
        let ids: Vec<u32> = golden.prompts.iter().flat_map(|p| &p.ids).copied().cycle().take(TOKENS).collect();
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
            let Ok(device) = device_with(isa) else { continue };
            let run = |rows| {
                let mut runner = Runner::with_rows(device.as_ref(), &golden.gguf(), 512, rows);
                let group = runner.plan.kv_groups.iter().find(|g| g.window.is_some()).expect("a window");
                (group.pages_for(TOKENS, rows), runner.prefill(&ids, CHUNK))
            };
            let ((few, in_turn), (all, apart)) = (run(CHUNK), run(512));
            assert!(2 * few < all && all == TOKENS.div_ceil(PAGE_TOKENS), "{few} of {all} pages");
            assert!(
                in_turn.iter().map(|x| x.to_bits()).eq(apart.iter().map(|x| x.to_bits())),
                "{}, {isa}",
                golden.name
            );
        }
    }
}
