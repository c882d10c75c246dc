//! The tokens that end an answer.
//!
//! A file names one or a few; chat models also end on tokens that only their template mentions, so the
//! known ones count wherever they exist as special tokens.

use super::load::VocabData;
use super::vocab::{TokenType, Vocab};

const KNOWN: &[&[u8]] = &[
    b"<|im_end|>",
    b"<|endoftext|>",
    b"<|end_of_text|>",
    b"<|eot_id|>",
    b"<|eom_id|>",
    b"<end_of_turn>",
    b"<eos>",
    END,
    RETURN,
    CALL,
    STRUCK,
    b"<EOT>",
    b"[EOS]",
    b"<end_of_utterance>",
    "<｜end▁of▁sentence｜>".as_bytes(),
];

/// Also the end of struck-out text in HTML, which some vocabularies have as a user-defined token.
const STRUCK: &[u8] = b"</s>";
const END: &[u8] = b"<|end|>";
const RETURN: &[u8] = b"<|return|>";
const CALL: &[u8] = b"<|call|>";

/// The ends, sorted. `named`: what the file gives as its end.
pub fn find(data: &VocabData<'_>, vocab: &Vocab, named: Option<u32>) -> Vec<u32> {
    let ends = |&id: &u32| match vocab.kind(id) {
        Some(TokenType::Control) => KNOWN.contains(&vocab.text(id)),
        Some(TokenType::UserDefined) => KNOWN.contains(&vocab.text(id)) && vocab.text(id) != STRUCK,
        _ => false,
    };
    let mut known: Vec<u32> = vocab.ids().filter(ends).collect();
    // Where an answer ends with `return` or `call`, `end` only parts its messages.
    let has = |text: &[u8]| known.iter().any(|&id| vocab.text(id) == text);
    if has(RETURN) && has(CALL) {
        known.retain(|&id| vocab.text(id) != END);
    }
    known.extend([named, data.eot, data.eom].into_iter().flatten());
    known.sort_unstable();
    known.dedup();
    known
}
