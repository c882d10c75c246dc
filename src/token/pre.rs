//! The names under which files ask for a way to split (`tokenizer.ggml.pre`).
//!
//! A name settles three things that the file says nowhere else: the pattern, whether a piece that is a
//! token of its own skips the merging, and whether BOS comes first unless the file says otherwise. A
//! name that is not here is an error: a wrong split gives plausible text and wrong ids.

use super::split::Split;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pre {
    pub split: Split,
    pub ignore_merges: bool,
    pub add_bos: bool,
}

impl Pre {
    const fn plain(split: Split) -> Self {
        Self { split, ignore_merges: false, add_bos: false }
    }

    /// Whole pieces first, and BOS at the start.
    const fn whole(split: Split) -> Self {
        Self { split, ignore_merges: true, add_bos: true }
    }

    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre)| *pre)
    }
}

/// Every name that is known, those that mean the same next to each other.
pub fn splits() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|(names, _)| names.iter().copied())
}

const TABLE: &[(&[&str], Pre)] = &[
    (
        &["gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "mellum", "exaone4", "trillion", "granite-docling"],
        Pre::plain(Split::Gpt2),
    ),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], Pre::plain(Split::SmolLm)),
    (&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2"], Pre::whole(Split::Llama3)),
    (&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], Pre::plain(Split::Llama3)),
    (
        &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        Pre::plain(Split::Qwen2),
    ),
    (&["qwen35"], Pre::plain(Split::Qwen35)),
    (&["gpt-4o", "o200k", "llama4", "kanana2"], Pre::plain(Split::Gpt4o)),
    (&["tekken"], Pre::whole(Split::Tekken)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_for_two_things() {
        let mut seen = std::collections::HashSet::new();
        for name in splits() {
            assert!(seen.insert(name), "{name}");
        }
    }

    #[test]
    fn names_settle_merges_and_bos() {
        assert_eq!(Pre::named("llama-bpe"), Some(Pre::whole(Split::Llama3)));
        assert_eq!(Pre::named("qwen2"), Some(Pre::plain(Split::Qwen2)));
        for unknown in ["", "default", "QWEN2", "qwen2 "] {
            assert_eq!(Pre::named(unknown), None);
        }
    }
}
