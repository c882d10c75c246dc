//! Who holds which KV pages and which slot.
//!
//! A sequence takes its slot and all the pages it can ever need at its start, or is refused; nothing is taken later. Pages
//! that come back stay in the pool for the next sequence, lowest numbers first, so that the memory above the highest page in
//! use can be given back. A page's old content is never read: a position is looked at only after the sequence that holds
//! the page has written it.

use super::sync::lock;
use crate::device::KvMemory;
use crate::error::{Error, Result};
use crate::plan::{KvGroup, Limits, PageTable, Plan};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What a sequence holds. It must come back through [`Pages::give_back`].
#[derive(Debug)]
pub struct Lease {
    pub slot: u32,
    pub table: Arc<PageTable>,
}

pub struct Pages {
    groups: Vec<KvGroup>,
    /// Tokens of one sequence that are computed at once, at most.
    chunk_tokens: usize,
    slots: u32,
    pool: Mutex<Pool>,
}

struct Pool {
    /// None once the model is unloaded.
    kv: Option<Arc<dyn KvMemory>>,
    free_slots: BTreeSet<u32>,
    groups: Vec<Group>,
}

#[derive(Default)]
struct Group {
    free: BTreeSet<u32>,
    /// Pages 0..backed have memory.
    backed: u32,
}

impl Pages {
    pub fn new(plan: &Plan, limits: &Limits, kv: Arc<dyn KvMemory>) -> Self {
        let slots = u32::try_from(limits.sequences).unwrap_or(u32::MAX);
        let groups = plan.kv_groups.iter().map(|_| Group::default()).collect();
        let pool = Pool { kv: Some(kv), free_slots: (0..slots).collect(), groups };
        Self { groups: plan.kv_groups.clone(), chunk_tokens: limits.batch_tokens, slots, pool: Mutex::new(pool) }
    }

    /// A slot, and pages for `tokens`: all or nothing.
    pub fn take(&self, tokens: usize) -> Result<Lease> {
        let mut pool = lock(&self.pool);
        let kv = pool.kv.clone().ok_or_else(unloaded)?;
        let Some(&slot) = pool.free_slots.first() else {
            let slots = self.slots;
            return Err(Error::memory(format!("all {slots} places for inferences of this model are taken")));
        };
        let wanted = self.groups.iter().map(|g| g.pages_for(tokens, self.chunk_tokens));
        let wanted: Vec<usize> = wanted.collect();
        self.grow(&mut pool, &*kv, &wanted, tokens)?;
        pool.free_slots.remove(&slot);
        let taken = pool.groups.iter_mut().zip(&wanted).map(|(group, &n)| group.take(n));
        let table = PageTable { groups: taken.collect() };
        Ok(Lease { slot, table: Arc::new(table) })
    }

    /// Sees that every group has `wanted` free pages; gives back what it had added where one group fails.
    fn grow(&self, pool: &mut Pool, kv: &dyn KvMemory, wanted: &[usize], tokens: usize) -> Result<()> {
        for (index, &n) in wanted.iter().enumerate() {
            let group = &mut pool.groups[index];
            let Err(error) = group.grow(n, |pages| kv.resize(index, pages)) else {
                continue;
            };
            pool.trim(kv);
            let reason = format!("no KV memory for {tokens} tokens now ({n} pages of group {index}): {error}");
            return Err(Error::new(error.code(), reason));
        }
        Ok(())
    }

    pub fn give_back(&self, lease: Lease) {
        let mut pool = lock(&self.pool);
        pool.free_slots.insert(lease.slot);
        for (group, pages) in pool.groups.iter_mut().zip(&lease.table.groups) {
            group.free.extend(pages);
        }
    }

    /// Gives the memory above the highest page in use back to the device.
    pub fn trim(&self) {
        let mut pool = lock(&self.pool);
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
    fn trim(&mut self, kv: &dyn KvMemory) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            group.trim(|pages| kv.resize(index, pages));
        }
    }
}

impl Group {
    /// Sees that `wanted` pages are free.
    fn grow(&mut self, wanted: usize, resize: impl FnOnce(u32) -> Result<()>) -> Result<()> {
        let missing = wanted.saturating_sub(self.free.len());
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).ok();
        let pages = missing.and_then(|n| self.backed.checked_add(n));
        let pages = pages.ok_or_else(|| Error::memory("more pages than can be numbered"))?;
        resize(pages)?;
        self.free.extend(self.backed..pages);
        self.backed = pages;
        Ok(())
    }

    fn take(&mut self, wanted: usize) -> Vec<u32> {
        (0..wanted).map_while(|_| self.free.pop_first()).collect()
    }

    /// Giving memory back cannot be allowed to fail: if it does, the pages stay where they are.
    fn trim(&mut self, resize: impl FnOnce(u32) -> Result<()>) {
        let mut pages = self.backed;
        while pages > 0 && self.free.contains(&(pages - 1)) {
            pages -= 1;
        }
        if pages < self.backed && resize(pages).is_ok() {
            self.free.split_off(&pages);
            self.backed = pages;
        }
    }
}
