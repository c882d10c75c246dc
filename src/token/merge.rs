//! The merging of neighbours, which both kinds of tokenizer share.
//!
//! Symbols are a doubly linked list over one text; the best pair merges first, the leftmost of equals
//! before the others. A heap of candidates makes it O(n log n) whatever the text. A candidate is 64 bits,
//! the pair's key and place; each symbol knows the key of the pair that it now begins, so a candidate
//! is stale if the two differ. The two kinds differ in what a pair is worth, nothing else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Error, Result};

/// No symbol, no token, and no merge.
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
    /// What it merges into with its right neighbour, and that pair's key.
    merged: u32,
    key: u32,
}

/// What a pair of neighbours is worth: the key (lower is better, below `NONE`) and the merged token.
pub trait Pairs {
    fn merged(&self, left: &Symbol, right: &Symbol) -> Option<(u32, u32)>;
}

/// The working memory of one call, kept between pieces.
#[derive(Default)]
pub struct Merger {
    symbols: Vec<Symbol>,
    /// The key in the upper half, the left symbol's place in the lower.
    heap: BinaryHeap<Reverse<u64>>,
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
        self.symbols.push(Symbol { id, start, len, prev, next: NONE, merged: NONE, key: NONE });
    }

    /// Merges until no pair is worth anything; what is left is given by `symbols`.
    pub fn run(&mut self, pairs: &impl Pairs) {
        let mut candidates = std::mem::take(&mut self.heap).into_vec();
        candidates.clear();
        candidates.extend((0..self.symbols.len() as u32).filter_map(|i| self.candidate(i, pairs)));
        self.heap = BinaryHeap::from(candidates);
        while let Some(Reverse(candidate)) = self.heap.pop() {
            let (key, left) = ((candidate >> 32) as u32, candidate as u32);
            if self.symbols[left as usize].key == key {
                self.merge(left);
                let prev = self.symbols[left as usize].prev;
                for index in [prev, left] {
                    let candidate = self.candidate(index, pairs);
                    self.heap.extend(candidate);
                }
            }
        }
    }

    /// The symbols that are left, in the order of the text.
    pub fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }

    /// Looks up what the symbol and its right neighbour are worth now.
    fn candidate(&mut self, index: u32, pairs: &impl Pairs) -> Option<Reverse<u64>> {
        let left = self.symbols.get(index as usize)?;
        let worth = self.symbols.get(left.next as usize).and_then(|right| pairs.merged(left, right));
        let (key, merged) = worth.unwrap_or((NONE, NONE));
        let left = &mut self.symbols[index as usize];
        (left.key, left.merged) = (key, merged);
        worth.map(|_| Reverse(u64::from(key) << 32 | u64::from(index)))
    }

    /// Merges a symbol with its right neighbour, which it has: its key says so.
    fn merge(&mut self, left: u32) {
        let right = self.symbols[left as usize].next;
        let Some(gone) = self.symbols.get_mut(right as usize) else { return };
        let (len, next) = (gone.len, gone.next);
        (gone.len, gone.key) = (0, NONE);
        if let Some(after) = self.symbols.get_mut(next as usize) {
            after.prev = left;
        }
        let symbol = &mut self.symbols[left as usize];
        symbol.id = symbol.merged;
        symbol.len += len;
        symbol.next = next;
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
