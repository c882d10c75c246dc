//! The token table: what each id stands for, and which id a text is.
//!
//! All texts lie in one arena, already decoded to the bytes that they stand for; the index is a table
//! of ids hashed by those bytes, so no token owns a string. Only tokens that text may become are in
//! the index: control, unknown, byte and padding tokens can be neither spelled nor merged into.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Error, Result};

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// Fills the table up to the rows of the embedding; never given and never sampled.
    Padding,
    /// One byte of a character that has no token of its own.
    Byte,
}

pub struct Vocab {
    arena: Vec<u8>,
    /// Where each token's text ends in the arena; it starts where the one before ends.
    ends: Vec<u32>,
    types: Vec<TokenType>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest_bytes: usize,
}

impl Vocab {
    /// An empty table with room for `tokens` tokens of `bytes` bytes in all.
    pub fn with_capacity(tokens: usize, bytes: usize) -> Result<Self> {
        let short = |_| Error::memory(format!("no memory for a vocabulary of {tokens} tokens"));
        if u32::try_from(bytes).is_err() {
            return Err(Error::load(format!("tokenizer.ggml.tokens: {bytes} bytes of text, more than {}", u32::MAX)));
        }
        let mut vocab = Self {
            arena: vec![],
            ends: vec![],
            types: vec![],
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            longest_bytes: 0,
        };
        vocab.arena.try_reserve_exact(bytes).map_err(short)?;
        vocab.ends.try_reserve_exact(tokens).map_err(short)?;
        vocab.types.try_reserve_exact(tokens).map_err(short)?;
        vocab
            .index
            .try_reserve(tokens, |_| 0)
            .map_err(|_| Error::memory(format!("no memory for the index of {tokens} tokens")))?;
        Ok(vocab)
    }

    /// Appends a token whose text is written by `write`. `spelled`: text may become it.
    pub fn push(&mut self, kind: TokenType, spelled: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let id = self.ends.len() as u32;
        write(&mut self.arena);
        self.ends.push(self.arena.len() as u32);
        self.types.push(kind);
        if spelled {
            self.enter(id);
        }
    }

    /// The last of equal texts wins, but a normal token before a user-defined one, which is found by
    /// other means.
    fn enter(&mut self, id: u32) {
        let Self { arena, ends, types, index, hasher, longest_bytes } = self;
        let text = |id: u32| slice(arena, ends, id);
        let own = text(id);
        if own.is_empty() {
            return;
        }
        *longest_bytes = (*longest_bytes).max(own.len());
        let hash = hasher.hash_one(own);
        let rehash = |&other: &u32| hasher.hash_one(text(other));
        match index.entry(hash, |&other| text(other) == own, rehash) {
            hashbrown::hash_table::Entry::Occupied(mut at) => {
                if types[id as usize] == TokenType::Normal || types[*at.get() as usize] != TokenType::Normal {
                    *at.get_mut() = id;
                }
            }
            hashbrown::hash_table::Entry::Vacant(at) => {
                at.insert(id);
            }
        }
    }

    /// The token that a text is, if it is one.
    pub fn id(&self, text: &[u8]) -> Option<u32> {
        if text.is_empty() || text.len() > self.longest_bytes {
            return None;
        }
        let hash = self.hasher.hash_one(text);
        self.index.find(hash, |&id| slice(&self.arena, &self.ends, id) == text).copied()
    }

    /// The text of a token, control tokens included; empty out of range.
    pub fn text(&self, id: u32) -> &[u8] {
        slice(&self.arena, &self.ends, id)
    }

    pub fn kind(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn ids(&self) -> std::ops::Range<u32> {
        0..self.ends.len() as u32
    }
}

fn slice<'a>(arena: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let id = id as usize;
    let Some(&end) = ends.get(id) else { return &[] };
    let start = match id {
        0 => 0,
        _ => ends[id - 1],
    };
    &arena[start as usize..end as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[(&str, TokenType)]) -> Vocab {
        let mut vocab = Vocab::with_capacity(tokens.len(), 64).unwrap();
        for (text, kind) in tokens {
            let spelled = matches!(kind, TokenType::Normal | TokenType::UserDefined);
            vocab.push(*kind, spelled, |out| out.extend_from_slice(text.as_bytes()));
        }
        vocab
    }

    #[test]
    fn text_becomes_an_id_and_back() {
        use TokenType::*;
        let v = vocab(&[("a", Normal), ("", Normal), ("<s>", Control), ("ab", Normal), ("é", Normal)]);
        assert_eq!((v.id(b"a"), v.id(b"ab"), v.id("é".as_bytes())), (Some(0), Some(3), Some(4)));
        assert_eq!((v.id(b"<s>"), v.id(b""), v.id(b"abcdefgh")), (None, None, None));
        assert_eq!((v.text(2), v.text(1), v.text(9)), (&b"<s>"[..], &b""[..], &b""[..]));
        assert_eq!((v.kind(2), v.kind(5), v.len()), (Some(Control), None, 5));
    }

    #[test]
    fn the_last_of_duplicates_wins_and_normal_before_user_defined() {
        use TokenType::*;
        let v = vocab(&[
            ("a", Normal),
            ("a", Normal),
            ("b", Normal),
            ("b", UserDefined),
            ("c", UserDefined),
            ("c", Normal),
        ]);
        assert_eq!((v.id(b"a"), v.id(b"b"), v.id(b"c")), (Some(1), Some(2), Some(5)));
    }

    #[test]
    fn more_text_than_offsets_can_name_is_refused() {
        let error = Vocab::with_capacity(1, u32::MAX as usize + 1).err().unwrap();
        assert!(error.reason().contains("tokenizer.ggml.tokens"));
    }
}
