//! Who holds which KV pages.
//!
//! A sequence takes all the pages it can ever need at its start, or is refused; nothing is taken later. Pages
//! that come back stay in the pool for the next sequence, lowest numbers first, so that the memory above the highest page in
//! use can be given back. A page's old content is never read: a position is looked at only after the sequence that holds
//! the page has written it, or after it was found to hold the very tokens that stand there ([`super::prefix`]).

use super::group::Group;
use super::layout::{Layout, Rules};
use super::prefix::{Block, Prefixes, block_count};
use super::sync::lock;
use crate::device::KvMemory;
use crate::error::{Error, Result};
use crate::plan::{Limits, PAGE_TOKENS, PageTable, Plan};
use std::sync::{Arc, Mutex};

/// Blocks that nobody holds are kept while the pool need not grow for it beyond so many tokens.
const KEPT_TOKENS: usize = 8192;

/// What a sequence holds. It must come back through [`Pages::give_back`].
pub struct Lease {
    /// No two leases of a model have the same.
    pub id: u64,
    pub table: Arc<PageTable>,
    /// The full pages of the prompt, which others may share; empty where pages are not shared.
    pub chain: Vec<Arc<Block>>,
    /// The pages of each group that are nobody else's.
    private: Vec<Vec<u32>>,
}

pub struct Pages {
    rules: Rules,
    /// Whether prompts that begin alike share pages.
    shares: bool,
    pool: Mutex<Pool>,
}

struct Pool {
    /// None once the model is unloaded.
    kv: Option<Arc<dyn KvMemory>>,
    leases: u64,
    groups: Vec<Group>,
    prefixes: Prefixes,
}

impl Pages {
    /// `share`: prompts that begin alike share pages.
    pub fn new(plan: &Plan, limits: &Limits, kv: Arc<dyn KvMemory>, share: bool) -> Self {
        let groups = plan.kv_groups.iter().map(|_| Group::default()).collect();
        let pool = Pool { kv: Some(kv), leases: 0, groups, prefixes: Prefixes::default() };
        Self { rules: Rules::new(plan, limits), shares: share, pool: Mutex::new(pool) }
    }

    /// Pages for `prompt` and all that follows it up to `tokens` in all: all or nothing.
    pub fn take(&self, prompt: &[u32], tokens: usize) -> Result<Lease> {
        let mut pool = lock(&self.pool);
        let kv = pool.kv.clone().ok_or_else(unloaded)?;
        let shared = if self.shares { prompt } else { &[] };
        let mut chain = pool.prefixes.known(shared);
        let known = chain.len();
        chain.truncate(self.rules.usable(&chain));
        pool.prefixes.hold(&chain);
        let lengths = (prompt.len(), tokens);
        let generous = self.rules.kept(chain.len(), known, block_count(shared));
        // Where memory is short, what others might want is not kept.
        for kept in [generous, Vec::new()] {
            let layout = Layout::new(&self.rules, lengths, chain.len(), kept);
            match pool.make_room(&*kv, &layout.wanted()) {
                Ok(()) => return Ok(pool.hand_out(shared, chain, &layout)),
                Err(error) if layout.is_frugal() => {
                    pool.release(&chain);
                    return Err(Error::new(error.code(), format!("no KV memory for {tokens} tokens now: {error}")));
                }
                Err(_) => {}
            }
        }
        Err(Error::unknown("no layout of a sequence's pages was tried"))
    }

    pub fn give_back(&self, lease: Lease) {
        let mut pool = lock(&self.pool);
        for block in &lease.chain {
            block.disclaim(lease.id);
        }
        for (group, pages) in pool.groups.iter_mut().zip(&lease.private) {
            group.give_back(pages);
        }
        pool.release(&lease.chain);
    }

    /// Gives the memory above the highest page in use back to the device.
    pub fn trim(&self) {
        let mut pool = lock(&self.pool);
        while pool.evict() {}
        if let Some(kv) = pool.kv.clone() {
            pool.trim(&*kv);
        }
    }

    /// Bytes that the pages hold, in use or in the pool.
    pub fn held_bytes(&self) -> u64 {
        let kv = lock(&self.pool).kv.clone();
        kv.map_or(0, |kv| kv.held_bytes())
    }

    /// Lets go of the memory; whoever takes pages afterwards is refused.
    pub fn close(&self) {
        lock(&self.pool).kv = None;
    }
}

/// What a call on an unloaded model hears.
pub fn unloaded() -> Error {
    Error::parameter("the model has been unloaded")
}

impl Pool {
    /// Sees that every group has its `wanted` free pages. Blocks that nobody holds go first where there are many, and
    /// last where there are few.
    fn make_room(&mut self, kv: &dyn KvMemory, wanted: &[usize]) -> Result<()> {
        while self.is_short(wanted) && self.prefixes.idle_count() > KEPT_TOKENS / PAGE_TOKENS {
            self.evict();
        }
        while let Err(error) = self.grow(kv, wanted) {
            if !self.evict() {
                self.trim(kv);
                return Err(error);
            }
        }
        Ok(())
    }

    fn is_short(&self, wanted: &[usize]) -> bool {
        self.groups.iter().zip(wanted).any(|(group, &n)| group.missing(n) > 0)
    }

    fn grow(&mut self, kv: &dyn KvMemory, wanted: &[usize]) -> Result<()> {
        let groups = self.groups.iter_mut().zip(wanted).enumerate();
        groups.into_iter().try_for_each(|(index, (group, &n))| group.grow(n, |pages| kv.resize(index, pages)))
    }

    /// The pages of a layout, once there is room for them; `chain` gets the blocks of its own.
    fn hand_out(&mut self, prompt: &[u32], mut chain: Vec<Arc<Block>>, layout: &Layout) -> Lease {
        let Self { groups, prefixes, .. } = self;
        let mut wanted = layout.wanted();
        let mut pages = |n: usize| {
            let groups = groups.iter_mut().zip(&mut wanted).zip(layout.keepers(n));
            let pages = groups.map(|((group, left), keeps)| {
                let page = if keeps { group.take(1).pop() } else { None };
                *left -= usize::from(page.is_some());
                page
            });
            pages.collect()
        };
        prefixes.add_new(prompt, &mut chain, layout.own_blocks(), &mut pages);
        let private: Vec<Vec<u32>> = groups.iter_mut().zip(wanted).map(|(group, n)| group.take(n)).collect();
        let table = private.iter().enumerate().map(|(index, turns)| layout.table(index, &chain, turns));
        let table = Arc::new(PageTable { groups: table.collect() });
        self.leases += 1;
        Lease { id: self.leases, table, chain, private }
    }

    fn release(&mut self, chain: &[Arc<Block>]) {
        let groups = &mut self.groups;
        self.prefixes.release(chain, &mut |pages| free(groups, pages));
    }

    fn evict(&mut self) -> bool {
        let groups = &mut self.groups;
        self.prefixes.evict(&mut |pages| free(groups, pages))
    }

    fn trim(&mut self, kv: &dyn KvMemory) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.trim(|pages| kv.resize(index, pages));
        }
    }
}

/// Frees a block's page of each group that has one.
fn free(groups: &mut [Group], pages: &[Option<u32>]) {
    for (group, page) in groups.iter_mut().zip(pages) {
        group.give_back(page.as_slice());
    }
}
