//! Byte-level BPE: pieces of bytes, merged by rank.
//!
//! Merges are resolved to ids once at load, so that encoding compares pairs of integers and never
//! builds a string. A merge whose halves or whole are not in the vocabulary can never apply to ids
//! and is skipped; one that is not two halves is an error of the file.

use hashbrown::HashMap;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

use super::bytes::decode_into;
use super::merge::{Merger, NONE, Pairs, Symbol};
use super::pre::Pre;
use super::vocab::Vocab;
use crate::error::{Error, Result};
use crate::gguf::{Strings, quoted};

/// Merges that a thread looks up in one go, and threads that do.
const PART: usize = 16 << 10;
const THREADS: usize = 6;

/// Left half, right half, whole.
type Ids = Option<(u32, u32, u32)>;

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
        resolve_all(vocab, merges, |rank, ids| match ids {
            Some((left, right, id)) => {
                table.entry((left, right)).or_insert((rank as u32, id));
            }
            None => skipped += 1,
        })?;
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

/// The ids of every merge, in the order of their ranks. The looking up is what a load waits for, and is shared by threads.
fn resolve_all(vocab: &Vocab, merges: &Strings<'_>, mut take: impl FnMut(usize, Ids)) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS);
    for start in (0..merges.len()).step_by(PART * threads) {
        let firsts: Vec<usize> = (start..merges.len()).step_by(PART).take(threads).collect();
        let parts: Vec<Result<Vec<Ids>>> = thread::scope(|scope| {
            let spawn = |&first: &usize| {
                let part = move || resolve_part(vocab, merges, first);
                thread::Builder::new().spawn_scoped(scope, part).map_err(|_| first)
            };
            let others: Vec<_> = firsts[1..].iter().map(spawn).collect();
            let own = resolve_part(vocab, merges, start);
            let join = |other| match other {
                Ok(thread) => ScopedJoinHandle::join(thread).unwrap_or_else(|panic| resume_unwind(panic)),
                // A system that gives no thread leaves it to this one.
                Err(first) => resolve_part(vocab, merges, first),
            };
            std::iter::once(own).chain(others.into_iter().map(join)).collect()
        });
        for (first, part) in firsts.into_iter().zip(parts) {
            part?.into_iter().enumerate().for_each(|(i, ids)| take(first + i, ids));
        }
    }
    Ok(())
}

/// Up to [`PART`] merges from rank `first` on.
fn resolve_part(vocab: &Vocab, merges: &Strings<'_>, first: usize) -> Result<Vec<Ids>> {
    let count = PART.min(merges.len() - first);
    let mut part = Vec::new();
    part.try_reserve_exact(count).map_err(|_| Error::memory(format!("no memory for {count} merges")))?;
    let mut whole = vec![];
    for (rank, merge) in merges.iter_bytes().enumerate().skip(first).take(PART) {
        part.push(resolve(vocab, merge, rank, &mut whole)?);
    }
    Ok(part)
}

/// The two halves and the whole of a merge; `None` if one of them is no token. The halves are parted
/// by the first space after the first byte.
fn resolve(vocab: &Vocab, merge: &[u8], rank: usize, whole: &mut Vec<u8>) -> Result<Ids> {
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
