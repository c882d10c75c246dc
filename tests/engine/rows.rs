//! What a file's rows and layers must never cost or say: padding is never drawn, an end says nothing, and layers that look over
//! a window hold no more than it.

use crate::goldens::{all, context, model_path};
use crate::{TURN, load, read};
use std::path::PathBuf;
use worker_orcd::cuda::{Inference, Model};
use worker_orcd::device::cpu;
use worker_orcd::gguf::Gguf;
use worker_orcd::plan::{PAGE_TOKENS, lower};
use worker_orcd::token::Tokenizer;

/// Its embedding does not serve as the output matrix, so that rows of the one can change without the other.
const MODEL: &str = "qwen3-f32";

/// A changed copy of a golden's file, gone afterwards.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("worker-orcd-{name}-{}.gguf", std::process::id()));
        std::fs::write(&path, bytes).expect("a copy");
        Self(path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let removed = std::fs::remove_file(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// The model with the output rows `to` twice those of the tokens `from`: where one of these is the likeliest, its double is more so.
fn doubled(name: &str, from: &[u32], to: &[u32]) -> Copy {
    let mut bytes = std::fs::read(model_path(MODEL)).expect("the model");
    let gguf = Gguf::from_bytes(bytes.clone()).expect("the model");
    let output = gguf.tensor("output.weight").expect("an output matrix");
    let (start, row_bytes) = (output.data.offset as usize, 4 * output.dims[0]);
    for (from, to) in from.iter().cycle().zip(to) {
        let row = bytes[start + *from as usize * row_bytes..][..row_bytes].to_vec();
        let double = row.as_chunks::<4>().0.iter().flat_map(|x| (2.0 * f32::from_le_bytes(*x)).to_le_bytes());
        let double: Vec<u8> = double.collect();
        bytes[start + *to as usize * row_bytes..][..row_bytes].copy_from_slice(&double);
    }
    Copy::new(name, &bytes)
}

fn tokenizer() -> Tokenizer {
    let gguf = Gguf::open(&model_path(MODEL)).expect("the model");
    Tokenizer::from_metadata(gguf.metadata()).expect("a tokenizer")
}

/// The prompt that is a text, and the greedy ids that follow.
fn prompt() -> (String, Vec<u32>) {
    let golden = all().find(|g| g.name == MODEL).expect("the golden");
    golden.greedy().expect("a prompt that is a text")
}

fn text(model: &Model, prompt: &str, temperature: f32, seed: u64) -> String {
    read(&mut Inference::start(model, prompt, 24, temperature, seed).expect("memory")).expect("a text")
}

#[test]
fn padding_is_never_drawn() {
    let _turn = TURN.read();
    let context = context();
    let (tokenizer, (prompt, greedy)) = (tokenizer(), prompt());
    let padding: Vec<u32> = (0..tokenizer.n_tokens() as u32).filter(|&id| tokenizer.is_padding(id)).collect();
    assert!(padding.len() > 4);
    let copy = doubled("padding", &greedy, &padding);
    let (sound, padded) = (load(&context, &model_path(MODEL)), load(&context, &copy.0));
    for seed in 0..40 {
        let temperature = [0.0, 0.5, 2.0][seed as usize % 3];
        let want = text(&sound, &prompt, temperature, seed);
        assert_eq!(text(&padded, &prompt, temperature, seed), want, "temperature {temperature}, seed {seed}");
    }
}

#[test]
fn an_end_says_nothing_and_ends() {
    let _turn = TURN.read();
    let context = context();
    let (tokenizer, (prompt, greedy)) = (tokenizer(), prompt());
    let by_key = tokenizer.eos().expect("an end that the file names");
    let encode = worker_orcd::token::Encode { add_special: false, parse_special: true };
    let by_text = tokenizer.encode("<|im_end|>", encode).expect("a control token");
    assert!(by_text.len() == 1 && by_text[0] != by_key);
    for end in [by_key, by_text[0]] {
        let copy = doubled(&format!("end-{end}"), &greedy[..1], &[end]);
        assert_eq!(text(&load(&context, &copy.0), &prompt, 0.0, 0), "", "{end}");
    }
    assert_ne!(text(&load(&context, &model_path(MODEL)), &prompt, 0.0, 0), "");
}

/// A golden for sequences longer than its file allows.
fn longer(name: &str, key: &str, tokens: u32) -> Copy {
    let mut bytes = std::fs::read(model_path(name)).expect("the model");
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).expect("the key");
    // The key is followed by the type's number and the value.
    bytes[at + key.len() + 4..][..4].copy_from_slice(&tokens.to_le_bytes());
    Copy::new(name, &bytes)
}

/// Bytes of KV memory that an answer of so many tokens takes.
fn kv_bytes(copy: &Copy, tokens: u32) -> u64 {
    let model = load(&context(), &copy.0);
    let before = model.vram_bytes();
    let _inference = Inference::start(&model, "a", tokens, 0.0, 0).expect("memory");
    model.vram_bytes() - before
}

/// From some length on, an answer's memory grows by its other layers alone.
#[test]
fn windowed_layers_hold_their_window_alone() {
    let _turn = TURN.write();
    if std::env::var("WORKER_ORCD_TEST_DEVICE").is_ok_and(|device| device != "cpu") {
        println!("skipped: a GPU maps memory in pieces of its own size");
        return;
    }
    for (name, key) in [("gptoss-f32", "gpt-oss.context_length"), ("gemma3-f32", "gemma3.context_length")] {
        let copy = longer(name, key, 4096);
        let spec = worker_orcd::model::build(&Gguf::open(&copy.0).expect("the copy"), None).expect("the model");
        let plan = lower(&spec, Vec::new());
        let limits = cpu::device().expect("the CPU").limits(&plan);
        let whole: usize =
            plan.kv_groups.iter().filter(|g| g.window.is_none()).map(|g| g.page_bytes(limits.kv_type)).sum();
        assert!(plan.kv_groups.iter().any(|g| g.window.is_some()) && whole > 0, "{name}");
        let more = kv_bytes(&copy, 2048) - kv_bytes(&copy, 1024);
        assert_eq!(more, (1024 / PAGE_TOKENS * whole) as u64, "{name}");
    }
}
