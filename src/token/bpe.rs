//! Byte-level BPE: pieces of bytes, merged by rank.
//!
//! Merges are resolved to ids once at load, so that encoding compares pairs of integers and never
//! builds a string. A merge whose halves or whole are not in the vocabulary can never apply to ids
//! and is skipped; one that is not two halves is an error of the file.

use hashbrown::HashMap;

use super::bytes::decode_into;
use super::merge::{Merger, NONE, Pairs, Symbol};
use super::pre::Pre;
use super::vocab::Vocab;
use crate::error::{Error, Result};
use crate::gguf::{Strings, quoted};

pub struct Bpe {
    pre: Pre,
    /// The token of each single byte, `NONE` if there is none.
    byte_ids: [u32; 256],
    merges: Merges,
}

/// (left, right) to (rank, merged token).
struct Merges(HashMap<(u32, u32), (u32, u32)>);

impl Pairs for Merges {
    fn merged(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        self.0.get(&(left.id, right.id)).copied()
    }
}

impl Bpe {
    /// `merges` are the texts of `tokenizer.ggml.merges`, the best first.
    pub fn new(pre: Pre, vocab: &Vocab, merges: &Strings<'_>) -> Result<Self> {
        let mut table = HashMap::new();
        table.try_reserve(merges.len()).map_err(|_| Error::memory(format!("no memory for {} merges", merges.len())))?;
        let mut skipped = 0;
        let mut whole = vec![];
        for (rank, merge) in merges.iter_bytes().enumerate() {
            match resolve(vocab, merge, rank, &mut whole)? {
                Some((left, right, id)) => {
                    table.entry((left, right)).or_insert((rank as u32, id));
                }
                None => skipped += 1,
            }
        }
        if skipped > 0 {
            log::warn!("tokenizer.ggml.merges: {skipped} of {} name no token", merges.len());
        }
        Ok(Self { pre, byte_ids: std::array::from_fn(|b| vocab.id(&[b as u8]).unwrap_or(NONE)), merges: Merges(table) })
    }

    /// Appends the ids of a text that holds no special token.
    pub fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        for piece in self.pre.split.pieces(text) {
            let bytes = piece.as_bytes();
            ids.try_reserve(bytes.len()).map_err(|_| Error::memory(format!("no memory for {} tokens", ids.len())))?;
            let whole = self.pre.ignore_merges.then(|| vocab.id(bytes)).flatten();
            match whole {
                Some(id) => ids.push(id),
                None => self.encode_piece(bytes, &mut merger, ids)?,
            }
        }
        Ok(())
    }

    fn encode_piece(&self, piece: &[u8], merger: &mut Merger, ids: &mut Vec<u32>) -> Result<()> {
        merger.clear();
        merger.reserve(piece.len())?;
        for &byte in piece {
            let id = self.byte_ids[byte as usize];
            if id == NONE {
                return Err(Error::parameter(format!(
                    "the prompt holds byte 0x{byte:02X}, for which the vocabulary has no token"
                )));
            }
            merger.push(id, 1);
        }
        merger.run(&self.merges);
        ids.extend(merger.symbols().map(|s| s.id));
        Ok(())
    }
}

/// The two halves and the whole of a merge; `None` if one of them is no token. The halves are parted
/// by the first space after the first byte.
fn resolve(vocab: &Vocab, merge: &[u8], rank: usize, whole: &mut Vec<u8>) -> Result<Option<(u32, u32, u32)>> {
    let at = merge.iter().skip(1).position(|&b| b == b' ').map(|i| i + 1);
    let Some(at) = at.filter(|&at| at + 1 < merge.len()) else {
        return Err(Error::load(format!(
            "tokenizer.ggml.merges[{rank}] is {}, not two halves with a space between them",
            quoted(&String::from_utf8_lossy(merge))
        )));
    };
    whole.clear();
    if !decode_into(&merge[..at], whole) {
        return Ok(None);
    }
    let middle = whole.len();
    if !decode_into(&merge[at + 1..], whole) {
        return Ok(None);
    }
    let ids = (vocab.id(&whole[..middle]), vocab.id(&whole[middle..]), vocab.id(whole));
    Ok(match ids {
        (Some(left), Some(right), Some(id)) => Some((left, right, id)),
        _ => None,
    })
}
