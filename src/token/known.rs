//! The kinds of tokenizers, by the name that a file gives in `tokenizer.ggml.model`.
//!
//! One row each: refusals and the README list what runs from here, and nothing else says which name is which kind.

use super::load::MODEL;
use super::table::Kind;
use crate::error::{Error, Result};
use crate::gguf::quoted;

/// One kind of tokenizer.
pub struct Known {
    /// `tokenizer.ggml.model`.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    pub(super) kind: Kind,
}

/// Every kind that runs.
pub const TOKENIZERS: [Known; 2] = [
    Known { name: "gpt2", what: "byte-level BPE", kind: Kind::Bpe },
    Known { name: "llama", what: "SentencePiece BPE", kind: Kind::Spm },
];

/// The kind of this name.
pub fn named(name: &str) -> Result<Kind> {
    let found = TOKENIZERS.iter().find(|t| t.name == name);
    found.map(|t| t.kind).ok_or_else(|| {
        let runs = TOKENIZERS.map(|t| t.name).join(", ");
        Error::load(format!("{MODEL} is {}; what runs: {runs}", quoted(name)))
    })
}

/// The name of a kind.
pub fn name(kind: Kind) -> &'static str {
    TOKENIZERS.iter().find(|t| t.kind == kind).map_or("", |t| t.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_belong_together() {
        for t in TOKENIZERS {
            assert_eq!(named(t.name).unwrap(), t.kind);
            assert_eq!(name(t.kind), t.name);
        }
        let reason = named("bert").err().unwrap().reason().to_string();
        assert!(["bert", "gpt2", "llama"].iter().all(|part| reason.contains(part)), "{reason}");
    }
}
