//! A golden model: a small GGUF file and the float32 logits that transformers computes for it.

use base64::Engine;
use serde_json::Value;
use std::path::{Path, PathBuf};
use worker_orcd::gguf::Gguf;

pub struct Golden {
    /// The file's name without its ending: `llama-256-q4_k`.
    pub name: String,
    /// The tensor types' names, in lower case: `q4_k`.
    pub types: String,
    pub prompts: Vec<Prompt>,
    /// Prompts as another reading of the file gives them, by the reading's name.
    pub variants: Vec<(String, Prompt)>,
    config: Value,
    path: PathBuf,
}

pub struct Prompt {
    pub ids: Vec<u32>,
    /// The context to open the model with.
    pub n_ctx: usize,
    /// Logits [ids.len() - logits_from, n_vocab].
    pub logits_from: usize,
    pub logits: Vec<f32>,
    pub greedy: Vec<u32>,
    pub gap: Vec<f32>,
}

impl Golden {
    /// Every golden of the folder whose name begins with one of `prefixes`, in the order of their names.
    pub fn all(folder: &Path, prefixes: &[&str]) -> Vec<Golden> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut names: Vec<String> = entries
            .filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".golden.json").map(String::from))
            .filter(|n| prefixes.iter().any(|p| n.starts_with(p)))
            .collect();
        names.sort();
        assert!(!names.is_empty(), "no golden model in {}", folder.display());
        names.into_iter().map(|name| Golden::read(folder, name)).collect()
    }

    fn read(folder: &Path, name: String) -> Golden {
        let text = std::fs::read_to_string(folder.join(format!("{name}.golden.json"))).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let prompts = json["prompts"].as_array().unwrap().iter().map(prompt).collect();
        let variants = json["variant_prompts"].as_array().into_iter().flatten();
        Golden {
            types: json["types"].as_str().unwrap().to_string(),
            prompts,
            variants: variants.map(|v| (v["variant"].as_str().unwrap().to_string(), prompt(v))).collect(),
            config: json["config"].clone(),
            path: folder.join(format!("{name}.gguf")),
            name,
        }
    }

    /// The file as it is.
    pub fn file(&self) -> Gguf {
        Gguf::from_bytes(std::fs::read(&self.path).unwrap()).unwrap()
    }

    /// The file as its config means it: one golden was computed with a sliding window, but its file's key says 0.
    pub fn gguf(&self) -> Gguf {
        let mut bytes = std::fs::read(&self.path).unwrap();
        let key = b"phi3.attention.sliding_window";
        let window = self.config["sliding_window"].as_u64().unwrap_or(0) as u32;
        if let Some(at) = bytes.windows(key.len()).position(|w| w == key) {
            // The key is followed by the type's number and the value.
            let value = at + key.len() + 4;
            bytes[value..value + 4].copy_from_slice(&window.to_le_bytes());
        }
        Gguf::from_bytes(bytes).unwrap()
    }
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn prompt(v: &Value) -> Prompt {
    let raw = base64::engine::general_purpose::STANDARD.decode(v["logits"].as_str().unwrap()).unwrap();
    Prompt {
        ids: ids(&v["ids"]),
        n_ctx: v["n_ctx"].as_u64().unwrap() as usize,
        logits_from: v["logits_from"].as_u64().unwrap() as usize,
        logits: raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        greedy: ids(&v["greedy"]),
        gap: v["gap"].as_array().unwrap().iter().map(|g| g.as_f64().unwrap() as f32).collect(),
    }
}

/// ‖out - reference‖ / ‖reference‖; NaN never passes for small.
pub fn relative_l2(out: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(out.len(), reference.len());
    let sum = |f: &dyn Fn(usize) -> f64| (0..out.len()).map(f).sum::<f64>();
    let error = sum(&|i| (f64::from(out[i]) - f64::from(reference[i])).powi(2));
    (error / sum(&|i| f64::from(reference[i]).powi(2))).sqrt()
}
