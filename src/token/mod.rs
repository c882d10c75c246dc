//! Text to token ids and back, from the metadata of the file alone.
//!
//! Two kinds exist: byte-level BPE (`tokenizer.ggml.model` = "gpt2": split by a pattern, merge by rank)
//! and SentencePiece BPE ("llama": merge by score). Control tokens are cut out of the text first. What
//! the file asks for and this module does not know is an error, never a guess; encoding is linear or
//! n log n in the text, whatever the text and whatever the file.

#![forbid(unsafe_code)]

mod bpe;
mod bytes;
mod ends;
mod known;
mod load;
mod merge;
mod pre;
mod special;
mod split;
mod spm;
mod table;
#[cfg(test)]
mod tests;
mod utf8;
mod vocab;

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::gguf::{Metadata, quoted};
use bpe::Bpe;
use load::VocabData;
use pre::Pre;
use special::{Part, Specials};
use spm::Spm;
use table::Kind;
use vocab::{TokenType, Vocab};

pub use known::{Known, TOKENIZERS};
pub use pre::splits;
pub use utf8::Utf8Stream;

/// How a text is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encode {
    /// BOS and EOS, as the file says.
    pub add_special: bool,
    /// The text of a control token becomes that token.
    pub parse_special: bool,
}

/// A model's tokenizer. Immutable; any number of threads may use it at once.
pub struct Tokenizer {
    vocab: Vocab,
    scheme: Scheme,
    pre: String,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    ends: Vec<u32>,
}

enum Scheme {
    Bpe(Bpe),
    Spm { spm: Spm, space_prefix: bool },
}

impl Tokenizer {
    /// Code 3, naming the key, for anything that is missing, wrong or unknown.
    pub fn from_metadata(m: &Metadata) -> Result<Self> {
        let data = &VocabData::read(m)?;
        let kind = known::named(data.model)?;
        let vocab = table::build(data, kind)?;
        let (scheme, add_bos) = scheme(data, kind, &vocab)?;
        // SentencePiece vocabularies that name no ids have them here.
        let usual = |id| (kind == Kind::Spm && vocab.kind(id) == Some(TokenType::Control)).then_some(id);
        let (bos, eos) = (data.bos.or_else(|| usual(1)), data.eos.or_else(|| usual(2)));
        let add_bos = data.add_bos.unwrap_or(add_bos);
        let add_eos = data.add_eos.unwrap_or(false);
        for (add, id, key) in [(add_bos, bos, load::BOS), (add_eos, eos, load::EOS)] {
            if add && id.is_none() {
                return Err(Error::load(format!("{key} is missing or out of range, and the token is to be added")));
            }
        }
        Ok(Self {
            scheme,
            pre: data.pre.unwrap_or_default().to_string(),
            specials: Specials::new(&vocab, &strip_after(data, kind, &vocab))?,
            ends: ends::find(data, &vocab, eos),
            vocab,
            bos,
            eos,
            add_bos,
            add_eos,
        })
    }

    /// The ids below `rows` that stand for no token, ascending, for whoever cannot wait for the whole tokenizer.
    pub fn never_drawn(m: &Metadata, rows: usize) -> Result<Vec<u32>> {
        Ok(table::never_drawn(&VocabData::read(m)?, rows))
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, opts: Encode) -> Result<Vec<u32>> {
        if text.len() >= u32::MAX as usize {
            return Err(Error::parameter(format!("the prompt has {} bytes, more than {}", text.len(), u32::MAX - 1)));
        }
        let mut ids = vec![];
        let with = |add: bool, id: Option<u32>| id.filter(|_| add && opts.add_special);
        ids.extend(with(self.add_bos, self.bos));
        let mut after_special = true;
        self.specials.split(text, opts.parse_special, |part| {
            match part {
                Part::Token(id) => push(&mut ids, id)?,
                Part::Text(text) => self.encode_text(text, after_special, &mut ids)?,
            }
            after_special = matches!(part, Part::Token(_));
            Ok(())
        })?;
        ids.extend(with(self.add_eos, self.eos));
        Ok(ids)
    }

    fn encode_text(&self, text: &str, after_special: bool, ids: &mut Vec<u32>) -> Result<()> {
        match &self.scheme {
            Scheme::Bpe(bpe) => bpe.encode(&self.vocab, text, ids),
            Scheme::Spm { spm, space_prefix } => {
                let text = normalized(text, *space_prefix && after_special)?;
                spm.encode(&self.vocab, &text, ids)
            }
        }
    }

    /// The bytes that a token stands for; none for control tokens, padding and ids out of range.
    pub fn bytes(&self, id: u32) -> &[u8] {
        match self.vocab.kind(id) {
            Some(TokenType::Normal | TokenType::UserDefined | TokenType::Byte) => self.vocab.text(id),
            _ => &[],
        }
    }

    /// The bytes of many tokens, without the space that encoding puts before a text.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut out: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id)).copied().collect();
        let prefixed = matches!(self.scheme, Scheme::Spm { space_prefix, .. } if space_prefix);
        if prefixed && out.first() == Some(&b' ') {
            out.remove(0);
        }
        out
    }

    pub fn n_tokens(&self) -> usize {
        self.vocab.len()
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether an answer ends with this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// Whether the token stands for no text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(TokenType::Control | TokenType::Unknown))
    }

    /// Whether the token only fills the table, and must never be sampled.
    pub fn is_padding(&self, id: u32) -> bool {
        self.vocab.kind(id) == Some(TokenType::Padding)
    }

    /// `tokenizer.ggml.model`.
    pub fn kind(&self) -> &'static str {
        known::name(match self.scheme {
            Scheme::Bpe(_) => Kind::Bpe,
            Scheme::Spm { .. } => Kind::Spm,
        })
    }

    /// `tokenizer.ggml.pre`; empty if the file has none.
    pub fn pre(&self) -> &str {
        &self.pre
    }
}

/// The way to encode, and whether BOS comes first if the file does not say.
fn scheme(data: &VocabData<'_>, kind: Kind, vocab: &Vocab) -> Result<(Scheme, bool)> {
    if kind == Kind::Spm {
        let scores = data.scores.as_deref();
        let scores = scores.ok_or_else(|| load::missing(load::SCORES))?;
        let usual = matches!(vocab.kind(0), Some(TokenType::Unknown | TokenType::Control));
        let unknown = data.unknown.or(usual.then_some(0));
        let spm = Spm::new(vocab, scores, unknown)?;
        let space_prefix = data.space_prefix.unwrap_or(true);
        return Ok((Scheme::Spm { spm, space_prefix }, true));
    }
    let name = data.pre.ok_or_else(|| load::missing(load::PRE))?;
    let unknown = || {
        let runs = pre::splits().collect::<Vec<_>>().join(", ");
        Error::load(format!("{} is {}; what runs: {runs}", load::PRE, quoted(name)))
    };
    let pre = Pre::named(name).ok_or_else(unknown)?;
    let merges = data.merges.as_ref();
    let merges = merges.ok_or_else(|| load::missing(load::MERGES))?;
    Ok((Scheme::Bpe(Bpe::new(pre, vocab, merges)?), pre.add_bos))
}

/// Phi-3's special tokens swallow the white space after them, but for these.
fn strip_after(data: &VocabData<'_>, kind: Kind, vocab: &Vocab) -> Vec<u32> {
    const KEEP: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
    if kind != Kind::Spm || !data.is_phi3 {
        return vec![];
    }
    let special = |id: &u32| {
        use TokenType::{Control, Unknown, UserDefined};
        matches!(vocab.kind(*id), Some(Control | Unknown | UserDefined))
    };
    let ids = vocab.ids().filter(special);
    ids.filter(|&id| !KEEP.contains(&vocab.text(id))).collect()
}

fn push(ids: &mut Vec<u32>, id: u32) -> Result<()> {
    ids.try_reserve(1).map_err(|_| Error::memory(format!("no memory for {} tokens", ids.len())))?;
    ids.push(id);
    Ok(())
}

/// A text as SentencePiece sees it: `▁` is a space, and a space comes first if `prefix`.
fn normalized(text: &str, prefix: bool) -> Result<Cow<'_, str>> {
    if !prefix && !text.contains('\u{2581}') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::new();
    out.try_reserve(text.len() + 1)
        .map_err(|_| Error::memory(format!("no memory for a prompt of {} bytes", text.len())))?;
    if prefix {
        out.push(' ');
    }
    for part in text.split_inclusive('\u{2581}') {
        match part.strip_suffix('\u{2581}') {
            Some(before) => {
                out.push_str(before);
                out.push(' ');
            }
            None => out.push_str(part),
        }
    }
    Ok(Cow::Owned(out))
}
