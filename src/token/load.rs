//! What the metadata says of the tokenizer, read and checked.
//!
//! This is the one file that knows the keys; every error names the key, and the index where there is
//! one. Ids of special tokens are often out of range in files that work elsewhere: such an id counts as
//! missing, with a warning. Everything else that is wrong is an error.

use crate::error::{Error, Result};
use crate::gguf::{Metadata, Strings};

pub const MODEL: &str = "tokenizer.ggml.model";
pub const PRE: &str = "tokenizer.ggml.pre";
pub const TOKENS: &str = "tokenizer.ggml.tokens";
pub const SCORES: &str = "tokenizer.ggml.scores";
pub const TYPES: &str = "tokenizer.ggml.token_type";
pub const MERGES: &str = "tokenizer.ggml.merges";
pub const BOS: &str = "tokenizer.ggml.bos_token_id";
pub const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// More tokens than any vocabulary has.
const MOST_TOKENS: usize = 4 << 20;

/// The keys' values; `None` where the file is silent.
pub struct VocabData<'a> {
    pub model: &'a str,
    pub pre: Option<&'a str>,
    pub tokens: Strings<'a>,
    pub scores: Option<Vec<f32>>,
    pub types: Option<Vec<i32>>,
    pub merges: Option<Strings<'a>>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub space_prefix: Option<bool>,
    /// Special tokens swallow the white space after them, which only the model's name tells.
    pub is_phi3: bool,
}

impl<'a> VocabData<'a> {
    pub fn read(m: &'a Metadata) -> Result<Self> {
        let tokens = m.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
        let n_tokens = tokens.len();
        if n_tokens == 0 || n_tokens > MOST_TOKENS {
            return Err(Error::load(format!("{TOKENS}: {n_tokens} tokens, not 1 to {MOST_TOKENS}")));
        }
        let id = |key| special_id(m, key, n_tokens);
        Ok(Self {
            model: m.str(MODEL)?.ok_or_else(|| missing(MODEL))?,
            pre: m.str(PRE)?,
            tokens,
            scores: m.f32s(SCORES)?,
            types: m.i32s(TYPES)?,
            merges: m.strings(MERGES)?,
            bos: id(BOS)?,
            eos: id(EOS)?,
            eot: id(EOT)?,
            eom: id(EOM)?,
            unknown: id(UNKNOWN)?,
            add_bos: m.bool(ADD_BOS)?,
            add_eos: m.bool(ADD_EOS)?,
            space_prefix: m.bool(SPACE_PREFIX)?,
            is_phi3: is_phi3(m)?,
        })
    }
}

fn special_id(m: &Metadata, key: &str, n_tokens: usize) -> Result<Option<u32>> {
    let Some(id) = m.i64(key)? else {
        return Ok(None);
    };
    let valid = u32::try_from(id).ok().filter(|&id| (id as usize) < n_tokens);
    if valid.is_none() {
        log::warn!("{key} is {id}, beyond the {n_tokens} tokens: ignored");
    }
    Ok(valid)
}

fn is_phi3(m: &Metadata) -> Result<bool> {
    let name = m.str("general.name")?.unwrap_or_default().to_ascii_lowercase();
    let architecture = m.str("general.architecture")?.unwrap_or_default();
    Ok(architecture == "phi3" || name.contains("phi-3") || name.contains("phi3"))
}

pub fn missing(key: &str) -> Error {
    Error::load(format!("{key} is missing"))
}
