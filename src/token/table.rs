//! From the file's token strings to the token table.
//!
//! The two kinds write text differently: byte-level BPE in its alphabet of printable characters,
//! SentencePiece as it is but for `▁` (a space) and `<0xNN>` (a byte). Here both become plain bytes.

use super::bytes::decode_into;
use super::load::{TOKENS, TYPES, VocabData};
use super::vocab::{TokenType, Vocab};
use crate::error::{Error, Result};
use crate::gguf::quoted;

/// The ids below `rows` that stand for no token, ascending: those that fill the table, and those beyond it.
pub fn never_drawn(data: &VocabData<'_>, rows: usize) -> Vec<u32> {
    let filler = |(i, text): (usize, &[u8])| {
        let code = data.types.as_ref().and_then(|types| types.get(i).copied());
        (is_padding(text) || code == Some(PADDING)).then_some(i as u32)
    };
    let n_tokens = data.tokens.len();
    let beyond = u32::try_from(n_tokens).unwrap_or(u32::MAX)..u32::try_from(rows).unwrap_or(u32::MAX);
    data.tokens.iter_bytes().enumerate().take(rows).filter_map(filler).chain(beyond).collect()
}

/// How the file writes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// "gpt2": byte-level BPE.
    Bpe,
    /// "llama": SentencePiece BPE.
    Spm,
}

/// The number of the type of tokens that fill the table.
const PADDING: i32 = 5;
/// `▁`, which stands for a space.
const LOWER_BLOCK: &[u8] = "\u{2581}".as_bytes();

pub fn build(data: &VocabData<'_>, kind: Kind) -> Result<Vocab> {
    let n_tokens = data.tokens.len();
    if let Some(types) = &data.types
        && types.len() != n_tokens
    {
        return Err(Error::load(format!("{TYPES}: {} types for {n_tokens} tokens", types.len())));
    }
    let bytes = data.tokens.iter_bytes().map(<[u8]>::len).sum();
    let mut vocab = Vocab::with_capacity(n_tokens, bytes)?;
    for (i, text) in data.tokens.iter_bytes().enumerate() {
        let code = data.types.as_ref().map_or(1, |types| types[i]);
        let token_type = token_type(code, text, kind, i)?;
        match kind {
            Kind::Bpe => push_bpe(&mut vocab, token_type, text),
            Kind::Spm => push_spm(&mut vocab, token_type, text),
        }
    }
    Ok(vocab)
}

fn token_type(code: i32, text: &[u8], kind: Kind, index: usize) -> Result<TokenType> {
    if is_padding(text) {
        return Ok(TokenType::Padding);
    }
    let is_byte = kind == Kind::Spm && byte(text).is_some();
    match code {
        0 | 1 | 6 if is_byte => Ok(TokenType::Byte),
        6 if kind == Kind::Spm => Err(Error::load(format!(
            "{TOKENS}[{index}] is of type byte but {}, not <0x00> to <0xFF>",
            quoted(&String::from_utf8_lossy(text))
        ))),
        0 | 1 | 6 => Ok(TokenType::Normal),
        2 => Ok(TokenType::Unknown),
        3 => Ok(TokenType::Control),
        4 => Ok(TokenType::UserDefined),
        PADDING => Ok(TokenType::Padding),
        _ => Err(Error::load(format!("{TYPES}[{index}] is {code}, not 0 to 6"))),
    }
}

/// A text that is not written in the alphabet stays as it is, and no text of a prompt becomes it: its
/// bytes would be another token's.
fn push_bpe(vocab: &mut Vocab, token_type: TokenType, text: &[u8]) {
    let mut decoded = vec![];
    match token_type {
        TokenType::Normal => {
            let spelled = decode_into(text, &mut decoded);
            let text = if spelled { &decoded } else { text };
            vocab.push(token_type, spelled, |out| out.extend_from_slice(text));
        }
        _ => {
            let spelled = token_type == TokenType::UserDefined && text.is_ascii();
            vocab.push(token_type, spelled, |out| out.extend_from_slice(text));
        }
    }
}

fn push_spm(vocab: &mut Vocab, token_type: TokenType, text: &[u8]) {
    match token_type {
        TokenType::Byte => vocab.push(token_type, false, |out| out.extend(byte(text))),
        TokenType::Normal | TokenType::UserDefined => {
            vocab.push(token_type, true, |out| with_spaces(text, out));
        }
        _ => vocab.push(token_type, false, |out| out.extend_from_slice(text)),
    }
}

/// Appends a text with its `▁` as spaces.
fn with_spaces(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some((&first, rest)) = text.split_first() {
        match text.strip_prefix(LOWER_BLOCK) {
            Some(rest) => {
                out.push(b' ');
                text = rest;
            }
            None => {
                out.push(first);
                text = rest;
            }
        }
    }
}

/// The byte that `<0xNN>` names.
fn byte(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    match digits {
        [high, low] => Some((hex(*high)? << 4) | hex(*low)?),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|d| d as u8)
}

/// `[PAD7]` and `<unused7>`: names for rows that no text of the training had.
fn is_padding(text: &[u8]) -> bool {
    let inner = |open: &[u8], close: &[u8]| text.strip_prefix(open)?.strip_suffix(close);
    let number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    inner(b"[PAD", b"]").is_some_and(number) || inner(b"<unused", b">").is_some_and(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_names_are_two_hex_digits() {
        assert_eq!((byte(b"<0x0A>"), byte(b"<0xff>")), (Some(10), Some(255)));
        for text in ["<0x-1>", "<0xZZ>", "<0x0", "<0x0>", "<0x000>", "<0x+1>", "", "0x0A"] {
            assert_eq!(byte(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn padding_is_known_by_its_name() {
        for text in ["[PAD0]", "[PAD151935]", "<unused99>"] {
            assert!(is_padding(text.as_bytes()), "{text}");
        }
        for text in ["[PAD]", "<pad>", "[PAD1", "[PADx]", "<unused>", ""] {
            assert!(!is_padding(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn lower_blocks_are_spaces() {
        let mut out = vec![];
        with_spaces("▁a▁▁\u{2582}é▁".as_bytes(), &mut out);
        assert_eq!(out, " a  \u{2582}é ".as_bytes());
    }
}
