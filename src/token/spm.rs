//! SentencePiece BPE: characters, merged by the score of what they give.
//!
//! There is no list of merges: any two neighbours whose text together is a token may merge, the
//! highest score first. A character that is no token becomes its bytes (`<0xNN>`), or the unknown
//! token in a vocabulary without them. Spaces are `▁` in the file alone; the table holds them as spaces.

use super::merge::{Merger, NONE, Pairs, Symbol};
use super::vocab::{TokenType, Vocab};
use crate::error::{Error, Result};

pub struct Spm {
    /// The score of each token as a key: the lower, the higher the score.
    keys: Vec<u32>,
    /// The token of each single byte, `NONE` if there is none.
    byte_ids: [u32; 256],
    unknown: Option<u32>,
}

impl Spm {
    /// `scores`: one for each token.
    pub fn new(vocab: &Vocab, scores: &[f32], unknown: Option<u32>) -> Result<Self> {
        if scores.len() != vocab.len() {
            return Err(Error::load(format!(
                "tokenizer.ggml.scores: {} scores for {} tokens",
                scores.len(),
                vocab.len()
            )));
        }
        if let Some(i) = scores.iter().position(|s| !s.is_finite()) {
            return Err(Error::load(format!("tokenizer.ggml.scores[{i}] is {}", scores[i])));
        }
        let mut byte_ids = std::array::from_fn(|b| vocab.id(&[b as u8]).unwrap_or(NONE));
        for id in vocab.ids().filter(|&id| vocab.kind(id) == Some(TokenType::Byte)) {
            if let [byte] = vocab.text(id) {
                byte_ids[*byte as usize] = id;
            }
        }
        Ok(Self { keys: scores.iter().map(|&s| key(s)).collect(), byte_ids, unknown })
    }

    /// Appends the ids of a text that holds no special token.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        merger.reserve(text.chars().count())?;
        ids.try_reserve(text.len()).map_err(|_| Error::memory(format!("no memory for {} tokens", text.len())))?;
        let mut at = 0;
        for c in text.chars() {
            let len = c.len_utf8();
            let id = vocab.id(&text.as_bytes()[at..at + len]).unwrap_or(NONE);
            merger.push(id, len as u32);
            at += len;
        }
        let text = text.as_bytes();
        merger.run(&Scored { spm: self, vocab, text });
        for symbol in merger.symbols() {
            match symbol.id {
                NONE => self.push_bytes(span(text, symbol.start, symbol.len), ids)?,
                id => ids.push(id),
            }
        }
        Ok(())
    }

    fn push_bytes(&self, bytes: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        if bytes.iter().all(|&b| self.byte_ids[b as usize] != NONE) {
            ids.extend(bytes.iter().map(|&b| self.byte_ids[b as usize]));
            return Ok(());
        }
        let Some(unknown) = self.unknown else {
            return Err(Error::parameter(format!(
                "the prompt holds {:?}, for which the vocabulary has no token",
                String::from_utf8_lossy(bytes)
            )));
        };
        ids.push(unknown);
        Ok(())
    }
}

struct Scored<'a> {
    spm: &'a Spm,
    vocab: &'a Vocab,
    text: &'a [u8],
}

impl Pairs for Scored<'_> {
    fn merged(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        let id = self.vocab.id(span(self.text, left.start, left.len + right.len))?;
        Some((*self.spm.keys.get(id as usize)?, id))
    }
}

fn span(text: &[u8], start: u32, len: u32) -> &[u8] {
    &text[start as usize..(start + len) as usize]
}

/// Orders finite floats from the highest to the lowest; the two zeros are equal.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let ascending = match bits >> 31 {
        0 => bits | 1 << 31,
        _ => !bits,
    };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fall_as_scores_rise() {
        let scores = [f32::MAX, 1.5, 1.0, f32::MIN_POSITIVE, 0.0, -1e-9, -1.0, -1000.0, f32::MIN];
        assert!(scores.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert_eq!(key(0.0), key(-0.0));
    }
}
