//! The merging of neighbours, which both kinds of tokenizer share.
//!
//! Symbols are a doubly linked list over one text; the best pair merges first, the leftmost of equals
//! before the others. A heap of candidates makes it O(n log n) whatever the text: an entry is stale if
//! the length that the pair spans has changed, because a symbol only ever grows. The two kinds differ
//! in what a pair is worth, nothing else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Error, Result};

/// No symbol, and no token.
pub const NONE: u32 = u32::MAX;

/// A run of the text that is one token, or (id `NONE`) one character that is none.
#[derive(Clone, Copy, Debug)]
pub struct Symbol {
    pub id: u32,
    pub start: u32,
    /// In bytes; 0 once merged into its left neighbour.
    pub len: u32,
    prev: u32,
    next: u32,
}

/// What a pair of neighbours is worth: the key (lower is better) and the merged token.
pub trait Pairs {
    fn merged(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)>;
}

/// (key, position of the left symbol, bytes of the pair, merged token)
type Candidate = Reverse<(u32, u32, u32, u32)>;

/// The working memory of one call, kept between pieces.
#[derive(Default)]
pub struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Candidate>,
}

impl Merger {
    pub fn clear(&mut self) {
        self.symbols.clear();
    }

    /// Makes room for the symbols of a text and their candidates.
    pub fn reserve(&mut self, symbols: usize) -> Result<()> {
        let short = |_| Error::memory(format!("no memory to tokenise {symbols} symbols"));
        self.symbols.try_reserve(symbols).map_err(short)?;
        // A merge consumes one candidate and brings at most two.
        self.heap.try_reserve(symbols.saturating_mul(2)).map_err(short)
    }

    /// Appends the next symbol of the text.
    pub fn push(&mut self, id: u32, len: u32) {
        let index = self.symbols.len() as u32;
        let (prev, start) = match self.symbols.last_mut() {
            Some(last) => {
                last.next = index;
                (index - 1, last.start + last.len)
            }
            None => (NONE, 0),
        };
        self.symbols.push(Symbol { id, start, len, prev, next: NONE });
    }

    /// Merges until no pair is worth anything; what is left is given by `symbols`.
    pub fn run(&mut self, pairs: &impl Pairs) {
        let mut candidates = std::mem::take(&mut self.heap).into_vec();
        candidates.clear();
        let first = (0..self.symbols.len() as u32).filter_map(|i| self.candidate(i, pairs));
        candidates.extend(first);
        self.heap = BinaryHeap::from(candidates);
        while let Some(Reverse((_, left, len, id))) = self.heap.pop() {
            if self.merge(left, len, id) {
                let prev = self.symbols[left as usize].prev;
                let around = [prev, left].map(|i| self.candidate(i, pairs));
                self.heap.extend(around.into_iter().flatten());
            }
        }
    }

    /// The symbols that are left, in the order of the text.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn candidate(&self, left: u32, pairs: &impl Pairs) -> Option<Candidate> {
        let symbol = self.symbols.get(left as usize)?;
        let right = self.symbols.get(symbol.next as usize)?;
        let (key, id) = pairs.merged(symbol, right)?;
        Some(Reverse((key, left, symbol.len + right.len, id)))
    }

    /// False if the candidate is stale.
    fn merge(&mut self, left: u32, len: u32, id: u32) -> bool {
        let Symbol { len: left_len, next: right, .. } = self.symbols[left as usize];
        let Some(&Symbol { len: right_len, next, .. }) = self.symbols.get(right as usize) else {
            return false;
        };
        if left_len == 0 || left_len + right_len != len {
            return false;
        }
        self.symbols[right as usize].len = 0;
        if let Some(after) = self.symbols.get_mut(next as usize) {
            after.prev = left;
        }
        let symbol = &mut self.symbols[left as usize];
        symbol.id = id;
        symbol.len = len;
        symbol.next = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Table(HashMap<(u32, u32), (u32, u32)>);

    impl Pairs for Table {
        fn merged(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
            self.0.get(&(left.id, right.id)).copied()
        }
    }

    /// Scans the whole list for the best pair each time.
    fn naive(mut ids: Vec<u32>, table: &Table) -> Vec<u32> {
        loop {
            let best = (0..ids.len().saturating_sub(1))
                .filter_map(|i| table.0.get(&(ids[i], ids[i + 1])).map(|&(k, id)| (k, i, id)))
                .min();
            let Some((_, i, id)) = best else { return ids };
            ids[i] = id;
            ids.remove(i + 1);
        }
    }

    #[test]
    fn merges_as_the_naive_search_does() {
        let mut seed = 11u64;
        let mut next = move |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 33) % n) as u32
        };
        for _ in 0..500 {
            let mut table = Table(HashMap::new());
            for id in 3..12 {
                let pair = (next(id as u64), next(id as u64));
                table.0.entry(pair).or_insert((next(6), id));
            }
            let ids: Vec<u32> = (0..next(40)).map(|_| next(3)).collect();
            let mut merger = Merger::default();
            ids.iter().for_each(|&id| merger.push(id, 1));
            merger.run(&table);
            let got: Vec<u32> = merger.symbols().map(|s| s.id).collect();
            assert_eq!(got, naive(ids.clone(), &table), "{ids:?}");
        }
    }
}
