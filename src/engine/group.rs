//! The pages of one group of layers: which have memory, and which of those are free.

use crate::error::{Error, Result};
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Group {
    free: BTreeSet<u32>,
    /// Pages 0..backed have memory.
    backed: u32,
}

impl Group {
    /// How many of `wanted` pages are not free.
    pub fn missing(&self, wanted: usize) -> usize {
        wanted.saturating_sub(self.free.len())
    }

    /// Sees that `wanted` pages are free; `resize` gives pages 0..n memory.
    pub fn grow(&mut self, wanted: usize, resize: impl FnOnce(u32) -> Result<()>) -> Result<()> {
        let missing = self.missing(wanted);
        if missing == 0 {
            return Ok(());
        }
        let pages = u32::try_from(missing).ok().and_then(|n| self.backed.checked_add(n));
        let pages = pages.ok_or_else(|| Error::memory("more pages than can be numbered"))?;
        resize(pages)?;
        self.free.extend(self.backed..pages);
        self.backed = pages;
        Ok(())
    }

    /// Up to `wanted` free pages, lowest numbers first.
    pub fn take(&mut self, wanted: usize) -> Vec<u32> {
        (0..wanted).map_while(|_| self.free.pop_first()).collect()
    }

    pub fn give_back(&mut self, pages: &[u32]) {
        self.free.extend(pages);
    }

    /// Takes memory from the free pages above the highest one in use. Giving back cannot be allowed to fail: if it does, all
    /// stays as it is.
    pub fn trim(&mut self, resize: impl FnOnce(u32) -> Result<()>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_by_what_is_missing_and_shrink_to_what_is_used() {
        let mut group = Group::default();
        let ok = |want: u32| move |pages| if pages == want { Ok(()) } else { Err(Error::memory("another size")) };
        assert_eq!(group.grow(4, ok(4)), Ok(()));
        assert_eq!(group.take(3), [0, 1, 2]);
        assert_eq!(group.grow(3, ok(6)), Ok(()));
        assert!(group.grow(9, |_| Err(Error::memory("none"))).is_err());
        assert_eq!(group.missing(4), 1);
        assert!(group.grow(usize::MAX, |_| Ok(())).is_err());
        assert_eq!(group.take(1), [3]);
        group.give_back(&[1]);
        group.trim(ok(4));
        assert_eq!(group.take(9), [1]);
        group.give_back(&[0, 1, 2, 3]);
        group.trim(|_| Err(Error::unknown("stuck")));
        assert_eq!(group.take(9), [0, 1, 2, 3]);
    }
}
