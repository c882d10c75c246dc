//! The golden models: where they are, and the greedy texts that their reference gives.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Once;
use worker_orcd::cuda::Context;
use worker_orcd::gguf::Gguf;
use worker_orcd::token::{Tokenizer, Utf8Stream};

/// The host's CPU as the device, or what `WORKER_ORCD_TEST_DEVICE` says: `cuda` runs these tests on a GPU.
pub fn context() -> Context {
    static DEVICE: Once = Once::new();
    DEVICE.call_once(|| {
        let device = std::env::var_os("WORKER_ORCD_TEST_DEVICE").unwrap_or_else(|| "cpu".into());
        // SAFETY: std guards the environment by a lock, and nothing else of this process reads it.
        unsafe { std::env::set_var("WORKER_ORCD_DEVICE", device) };
    });
    Context::new(0).expect("the device")
}

fn folder() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models/tiny");
    std::env::var_os("WORKER_ORCD_GOLDENS").map_or_else(default, PathBuf::from)
}

pub fn model_path(name: &str) -> PathBuf {
    folder().join(format!("{name}.gguf"))
}

pub struct Golden {
    /// Of the model: `llama-f32`.
    pub name: String,
    json: Value,
}

/// Every golden of the folder.
pub fn all() -> impl Iterator<Item = Golden> {
    let folder = folder();
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.filter_map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name()?.to_str()?.strip_suffix(".golden.json")?.to_owned();
        let text = std::fs::read_to_string(&path).expect("a readable file");
        Some(Golden { name, json: serde_json::from_str(&text).expect("JSON") })
    })
}

impl Golden {
    pub fn n_vocab(&self) -> usize {
        self.json["n_vocab"].as_u64().expect("a number") as usize
    }

    /// Each prompt's ids and context, and the logits of its tokens from a first one on: [tokens - first, n_vocab].
    pub fn logits(&self) -> impl Iterator<Item = (Vec<u32>, usize, usize, Vec<f32>)> {
        let number = |value: &Value| value.as_u64().expect("a number") as usize;
        // This file names no sliding window, but `prompts` were made with one.
        let list = if self.name == "phi3-f32" { "variant_prompts" } else { "prompts" };
        self.json[list].as_array().expect("a list").iter().map(move |p| {
            let raw = STANDARD.decode(p["logits"].as_str().expect("base64")).expect("base64");
            let logits = raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let ids = p["ids"].as_array().expect("a list").iter().map(|id| number(id) as u32).collect();
            (ids, number(&p["n_ctx"]), number(&p["logits_from"]), logits)
        })
    }

    /// Prompts that are texts, each with the text that follows at temperature 0, up to the first end token.
    pub fn texts(&self, model: &Path) -> Vec<(String, String)> {
        let gguf = Gguf::open(model).expect("a model");
        let tokenizer = Tokenizer::from_metadata(gguf.metadata()).expect("a tokenizer");
        let prompts = self.json["prompts"].as_array().expect("a list");
        let texts: Vec<_> = prompts
            .iter()
            .filter_map(|p| Some((p["text"].as_str()?.to_owned(), answer(&tokenizer, &p["greedy"]))))
            .collect();
        assert!(!texts.is_empty(), "{}", self.name);
        texts
    }
}

impl Golden {
    /// The first prompt that is a text, and the ids that follow at temperature 0.
    pub fn greedy(&self) -> Option<(String, Vec<u32>)> {
        let prompt = self.json["prompts"].as_array()?.iter().find(|p| p["text"].is_string())?;
        let ids = prompt["greedy"].as_array()?.iter();
        Some((prompt["text"].as_str()?.into(), ids.map(|id| id.as_u64().expect("an id") as u32).collect()))
    }
}

fn answer(tokenizer: &Tokenizer, ids: &Value) -> String {
    let ids = ids.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32);
    let mut stream = Utf8Stream::new();
    for id in ids.take_while(|&id| !tokenizer.is_end(id)) {
        stream.push(tokenizer.bytes(id));
    }
    stream.finish().unwrap_or_default().replace('\0', "\u{FFFD}")
}
