//! Prompts that begin alike share the pages of their beginning.
//!
//! A block is one full page of a prompt in every group that keeps it. It is found again by its tokens and the block before it, compared
//! as they are and not by a hash, so that no prompt can be made to look like another. A block is listed as soon as a sequence is
//! to compute it: prompts that start together wait for the first of them. What nobody holds stays until its pages are
//! needed, and goes least recently used first, a block always before the one that it follows.

use crate::plan::PAGE_TOKENS;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A full page of a prompt.
pub struct Block {
    id: u64,
    /// In each group; none in a windowed one that has used it for what follows.
    pub pages: Vec<Option<u32>>,
    /// Its keys and values are in its pages.
    ready: AtomicBool,
    /// The lease of the sequence that computes it; 0 for none.
    claim: AtomicU64,
}

impl Block {
    /// Whether every group has kept its page.
    pub fn is_whole(&self) -> bool {
        self.pages.iter().all(Option::is_some)
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether `lease` is the one to compute it.
    pub fn claim(&self, lease: u64) -> bool {
        let claimed = self.claim.compare_exchange(0, lease, Ordering::AcqRel, Ordering::Acquire);
        claimed.map_or_else(|owner| owner == lease, |_| true)
    }

    /// Whether `lease` could be the one.
    pub fn is_open_to(&self, lease: u64) -> bool {
        let owner = self.claim.load(Ordering::Acquire);
        owner == 0 || owner == lease
    }

    /// `lease` will not go on with it.
    pub fn disclaim(&self, lease: u64) {
        let _ = self.claim.compare_exchange(lease, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

/// The block before, and the tokens.
type Key = (u64, [u32; PAGE_TOKENS]);

/// All blocks of a model.
#[derive(Default)]
pub struct Prefixes {
    ids: HashMap<Key, u64>,
    entries: HashMap<u64, Entry>,
    /// Blocks that nobody holds, by when they were let go.
    idle: BTreeMap<u64, u64>,
    clock: u64,
}

struct Entry {
    key: Key,
    block: Arc<Block>,
    holders: usize,
    /// The key in `idle`, where nobody holds it.
    since: u64,
}

/// The id that a prompt's first block follows; no block has it.
const START: u64 = 0;

impl Prefixes {
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    /// The blocks that are known of a prompt's beginning.
    pub fn known(&self, prompt: &[u32]) -> Vec<Arc<Block>> {
        let mut chain: Vec<Arc<Block>> = Vec::new();
        for tokens in blocks(prompt) {
            let before = chain.last().map_or(START, |block| block.id);
            let Some(entry) = self.ids.get(&(before, *tokens)).and_then(|id| self.entries.get(id)) else { break };
            chain.push(entry.block.clone());
        }
        chain
    }

    /// Holds them.
    pub fn hold(&mut self, chain: &[Arc<Block>]) {
        for block in chain {
            let Some(entry) = self.entries.get_mut(&block.id) else { continue };
            if entry.holders == 0 {
                self.idle.remove(&entry.since);
            }
            entry.holders += 1;
        }
    }

    /// Lists the next `count` blocks of `prompt` behind `chain` and adds them to it; `pages` gives the pages of the n-th. One that is
    /// listed already, but of no use to this prompt, is not found again.
    pub fn add_new(
        &mut self,
        prompt: &[u32],
        chain: &mut Vec<Arc<Block>>,
        count: usize,
        pages: &mut dyn FnMut(usize) -> Vec<Option<u32>>,
    ) {
        for (n, tokens) in blocks(prompt).skip(chain.len()).take(count).enumerate() {
            self.clock += 1;
            let key = (chain.last().map_or(START, |block| block.id), *tokens);
            let (ready, claim) = (AtomicBool::new(false), AtomicU64::new(0));
            let block = Arc::new(Block { id: self.clock, pages: pages(n), ready, claim });
            self.ids.insert(key, block.id);
            self.entries.insert(block.id, Entry { key, block: block.clone(), holders: 1, since: 0 });
            chain.push(block);
        }
    }

    /// Lets go of a chain; `free` gets the pages of blocks that are of no use to anybody.
    pub fn release(&mut self, chain: &[Arc<Block>], free: &mut dyn FnMut(&[Option<u32>])) {
        for block in chain.iter().rev() {
            let Some(entry) = self.entries.get_mut(&block.id) else { continue };
            entry.holders -= 1;
            if entry.holders > 0 {
                continue;
            }
            if block.is_ready() {
                self.clock += 1;
                entry.since = self.clock;
                self.idle.insert(self.clock, block.id);
            } else {
                self.forget(block.id, free);
            }
        }
    }

    /// Gives up the block that was let go first. False if somebody holds all of them.
    pub fn evict(&mut self, free: &mut dyn FnMut(&[Option<u32>])) -> bool {
        let Some((_, id)) = self.idle.pop_first() else { return false };
        self.forget(id, free);
        true
    }

    fn forget(&mut self, id: u64, free: &mut dyn FnMut(&[Option<u32>])) {
        if let Some(entry) = self.entries.remove(&id) {
            if self.ids.get(&entry.key) == Some(&id) {
                self.ids.remove(&entry.key);
            }
            free(&entry.block.pages);
        }
    }
}

/// How many blocks a prompt has.
pub fn block_count(prompt: &[u32]) -> usize {
    blocks(prompt).count()
}

/// The full pages of a prompt, but for its last token, which is always computed: somebody wants its logits.
fn blocks(prompt: &[u32]) -> impl Iterator<Item = &[u32; PAGE_TOKENS]> {
    let before_last = &prompt[..prompt.len().saturating_sub(1)];
    before_last.as_chunks().0.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(all: &mut Prefixes, prompt: &[u32], next: &mut u32) -> Vec<Arc<Block>> {
        let mut chain = all.known(prompt);
        all.hold(&chain);
        let pages = &mut |_| {
            *next += 1;
            vec![Some(*next)]
        };
        all.add_new(prompt, &mut chain, usize::MAX, pages);
        chain
    }

    fn pages(chain: &[Arc<Block>]) -> Vec<u32> {
        chain.iter().filter_map(|b| b.pages[0]).collect()
    }

    #[test]
    fn beginnings_are_shared_and_the_rest_is_not() {
        let (mut all, mut next) = (Prefixes::default(), 0);
        let prompt: Vec<u32> = (0..100).collect();
        let mut other = prompt.clone();
        other[40] = 7;
        let first = hold(&mut all, &prompt, &mut next);
        assert_eq!(pages(&first), [1, 2, 3]);
        assert_eq!(pages(&hold(&mut all, &other, &mut next)), [1, 4, 5]);
        assert_eq!(pages(&hold(&mut all, &prompt[..65], &mut next)), [1, 2]);
        // The last token is never taken from a block.
        assert_eq!(pages(&hold(&mut all, &prompt[..64], &mut next)), [1]);
        assert_eq!(pages(&hold(&mut all, &prompt[32..], &mut next)), [6, 7]);
        assert!(pages(&hold(&mut all, &[], &mut next)).is_empty());
    }

    #[test]
    fn what_is_ready_stays_and_goes_from_its_end() {
        let (mut all, mut next) = (Prefixes::default(), 0);
        let prompt: Vec<u32> = (0..100).collect();
        let chain = hold(&mut all, &prompt, &mut next);
        chain[..2].iter().for_each(|b| b.set_ready());
        let mut freed = Vec::new();
        all.release(&chain, &mut |pages| freed.extend(pages.iter().flatten()));
        assert_eq!((freed.as_slice(), all.idle_count()), ([3].as_slice(), 2));
        let again = all.known(&prompt);
        all.hold(&again);
        assert_eq!((again.len(), all.idle_count()), (2, 0));
        assert!(!all.evict(&mut |_| ()));
        all.release(&again, &mut |_| ());
        freed.clear();
        while all.evict(&mut |pages| freed.extend(pages.iter().flatten())) {}
        assert_eq!(freed, [2, 1]);
        assert!(all.ids.is_empty() && all.entries.is_empty());
    }

    #[test]
    fn one_computes_and_another_may_take_over() {
        let (mut all, mut next) = (Prefixes::default(), 0);
        let chain = hold(&mut all, &[1; 40], &mut next);
        let block = &chain[0];
        assert!(block.claim(3) && block.claim(3) && !block.claim(4));
        block.disclaim(4);
        assert!(!block.claim(4));
        block.disclaim(3);
        assert!(block.claim(4) && !block.is_ready());
    }
}
