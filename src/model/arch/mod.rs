//! The families: each a file that describes it, and a row of [`FAMILIES`].

mod gemma3;
mod gpt2;
mod gpt_oss;
mod llama;
mod parts;
mod phi3;
mod qwen2;
mod qwen3;

use super::ModelSpec;
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// Describes a file of one family; the second argument is the most tokens that the host wants a sequence to hold.
type Describe = fn(&Gguf, Option<usize>) -> Result<ModelSpec>;

/// One family: the file's `general.architecture`, models that it covers, and what reads it.
pub struct Family {
    pub name: &'static str,
    pub models: &'static str,
    describe: Describe,
}

pub const FAMILIES: [Family; 8] = [
    Family { name: "llama", models: "Llama 2 and 3, Mistral, Mixtral, SmolLM2", describe: llama::describe },
    Family { name: "qwen2", models: "Qwen 2 and 2.5", describe: qwen2::describe },
    Family { name: "qwen3", models: "Qwen 3", describe: qwen3::describe },
    Family { name: "qwen3moe", models: "Qwen 3 with experts", describe: qwen3::describe },
    Family { name: "phi3", models: "Phi 3, 3.5 and 4 mini", describe: phi3::describe },
    Family { name: "gemma3", models: "Gemma 3 (text)", describe: gemma3::describe },
    Family { name: "gpt-oss", models: "gpt-oss", describe: gpt_oss::describe },
    Family { name: "gpt2", models: "GPT-2", describe: gpt2::describe },
];

/// The model in a file, checked against its tensor table. `context` lowers the file's own.
pub fn build(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let arch = gguf.architecture()?;
    let Some(family) = FAMILIES.iter().find(|f| f.name == arch) else {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.name).collect();
        let arch: String = arch.chars().take(64).collect();
        return Err(Error::load(format!("general.architecture is {arch:?}; what runs: {}", known.join(", "))));
    };
    let spec = (family.describe)(gguf, context)?;
    let beyond = format!("blk.{}.", spec.layers.len());
    if let Some(t) = gguf.tensors().iter().find(|t| t.name.starts_with(&beyond)) {
        let n = spec.layers.len();
        return Err(Error::load(format!("{arch}.block_count is {n}, but the file has the tensor {}", t.name)));
    }
    check_tokens(gguf, spec.n_vocab)?;
    Ok(spec)
}

/// A token without a row would be looked up beyond the embedding's end; rows without a token are usual.
fn check_tokens(gguf: &Gguf, rows: usize) -> Result<()> {
    let key = "tokenizer.ggml.tokens";
    match gguf.metadata().strings(key)? {
        Some(tokens) if tokens.len() > rows => {
            let n = tokens.len();
            Err(Error::load(format!("{key} has {n} tokens, but token_embd.weight only {rows} rows")))
        }
        _ => Ok(()),
    }
}
