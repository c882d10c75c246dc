//! Two models on one GPU, each with a thread of its own: neither shows in what the other says.

use super::{gpu, support};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use support::golden::Golden;
use support::runner::{Runner, argmax};
use worker_orcd::device::cuda;

const STEPS: usize = 24;
const ROUNDS: usize = 40;

/// A prompt and steps after it; the logits of the last.
fn answer(runner: &mut Runner, prompt: &[u32]) -> Vec<f32> {
    runner.restart();
    let mut logits = runner.prefill(prompt, 64);
    for _ in 0..STEPS {
        let last = &logits[logits.len() - runner.plan.n_vocab..];
        logits = runner.decode(argmax(last));
    }
    logits
}

#[test]
fn two_models_decode_at_the_same_time() {
    if gpu().is_none() {
        return;
    }
    let (done, both) = channel();
    for name in ["llama-256-q4_k", "qwen3-256-iq4_xs"] {
        let done = done.clone();
        thread::spawn(move || {
            let device = cuda::device(0).expect("the GPU");
            let golden = Golden::all(&support::goldens(), &[name]).remove(0);
            let prompt = &golden.prompts[0].ids;
            let mut runner = Runner::new(device.as_ref(), &golden.gguf(), prompt.len() + STEPS + 8);
            let first = answer(&mut runner, prompt);
            done.send((name, (0..ROUNDS).all(|_| answer(&mut runner, prompt) == first))).expect("a listener");
        });
    }
    for _ in 0..2 {
        let (name, same) = both.recv_timeout(Duration::from_secs(60)).expect("an end within a minute");
        assert!(same, "{name} gives other logits beside another model");
    }
}
