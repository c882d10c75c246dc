//! Decode steps of one sequence as one kernel: the bits of many kernels, and two models that decode at the same time.

use super::{gpu, support};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use support::golden::Golden;
use support::runner::{Runner, argmax};
use worker_orcd::device::cuda;

const SWITCH: &str = "WORKER_ORCD_CUDA_STEP";
const CHILD: &str = "CHILD_WITH_THE_SWITCH";
const STEPS: usize = 24;

/// Products of all kinds, and heads of 64 elements and more; experts; windows; norms behind the products.
const MODELS: [&str; 12] = [
    "llama-256-q4_0",
    "llama-256-q4_k",
    "llama-256-q6_k",
    "llama-256-q8_0",
    "llama-f16",
    "qwen2-256-mxfp4",
    "qwen3-256-iq4_xs",
    "phi3-256-q4_k_m",
    "gpt2-256-q4_1",
    "gemma3-256-q4_0",
    "mixtral-256-q4_k",
    "gptoss-256-mxfp4_moe",
];

fn hash(seed: u64, values: &[f32]) -> u64 {
    values.iter().fold(seed, |h, v| (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3).rotate_left(7))
}

/// A prompt and steps after it, from a few places in the context: a hash of all their logits.
fn digest(runner: &mut Runner, prompt: &[u32]) -> u64 {
    let mut all = 0xcbf2_9ce4_8422_2325;
    for tokens in [1, prompt.len()] {
        runner.restart();
        let mut logits = runner.prefill(&prompt[..tokens], 64);
        for _ in 0..STEPS {
            let last = &logits[logits.len() - runner.plan.n_vocab..];
            logits = runner.decode(argmax(last));
            all = hash(all, &logits);
        }
    }
    all
}

/// The test `name` of this file in a process of its own, with the switch set; what it prints.
fn child(name: &str, switch: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("program::{name}"), "--nocapture", "--test-threads=1"])
        .env(SWITCH, switch)
        .env(CHILD, "1")
        .output()
        .expect("this program starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{switch}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Run as a child, it says what it finds.
#[test]
fn one_kernel_makes_the_bits_of_many() {
    let Some(device) = gpu() else { return };
    let name = "one_kernel_makes_the_bits_of_many";
    if !is_child() {
        let said = ["on", "off"].map(|switch| child(name, switch));
        let digests = said.each_ref().map(|s| s.lines().filter(|l| l.starts_with("digest ")).collect::<Vec<_>>());
        assert_eq!(digests[0].len(), MODELS.len());
        assert_eq!(digests[0], digests[1]);
        return;
    }
    for golden in Golden::all(&support::goldens(), &MODELS) {
        let prompt = &golden.prompts[golden.prompts.len() - 1].ids;
        let mut runner = Runner::new(device.as_ref(), &golden.gguf(), prompt.len() + STEPS + 8);
        println!("\ndigest {} {:016x}", golden.name, digest(&mut runner, prompt));
    }
}

/// The blocks of a step's kernel wait for each other: two of them must never hold half of the card each.
#[test]
fn two_models_decode_at_the_same_time() {
    if gpu().is_none() {
        return;
    }
    if !is_child() {
        child("two_models_decode_at_the_same_time", "on");
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
            let first = digest(&mut runner, prompt);
            done.send((name, (0..40).all(|_| digest(&mut runner, prompt) == first))).expect("a listener");
        });
    }
    for _ in 0..2 {
        let (name, same) = both.recv_timeout(Duration::from_secs(60)).expect("an end within a minute");
        assert!(same, "{name} gives other logits beside another model");
    }
}
