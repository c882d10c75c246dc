//! The split of a text into the pieces within which byte-level BPE merges.
//!
//! Each rule is one published pattern, scanned by hand: a regex engine either backtracks (and dies of
//! a long run) or cannot look ahead. The pieces cover the text, in order and without gaps. The tests
//! hold every rule against its pattern.

mod class;
mod cursor;
mod gpt2;
mod modern;
#[cfg(test)]
mod tests;

/// How a text is split; one published pattern each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// GPT-2's own.
    Gpt2,
    /// Every number character alone, then GPT-2's between them.
    SmolLm,
    /// cl100k's: numbers of up to three digits.
    Llama3,
    /// As `Llama3`, but single digits.
    Qwen2,
    /// As `Qwen2`, with combining marks part of words.
    Qwen35,
    /// o200k's: words also end where a new capital begins.
    Gpt4o,
    /// As `Gpt4o`, but single digits and no contractions.
    Tekken,
}

impl Split {
    /// The end of the piece that starts at byte `at`, which is before the end of the text.
    pub fn piece_end(self, text: &str, at: usize) -> usize {
        match self {
            Self::Gpt2 => gpt2::piece_end(text, at),
            Self::SmolLm => gpt2::piece_end_digits_apart(text, at),
            Self::Llama3 => modern::LLAMA3.piece_end(text, at),
            Self::Qwen2 => modern::QWEN2.piece_end(text, at),
            Self::Qwen35 => modern::QWEN35.piece_end(text, at),
            Self::Gpt4o => modern::GPT4O.piece_end(text, at),
            Self::Tekken => modern::TEKKEN.piece_end(text, at),
        }
    }

    /// The pieces of a text.
    pub fn pieces(self, text: &str) -> impl Iterator<Item = &str> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at;
            (start < text.len()).then(|| {
                at = self.piece_end(text, start);
                &text[start..at]
            })
        })
    }
}
