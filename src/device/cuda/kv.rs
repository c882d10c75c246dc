//! KV pages: for each group an address range of the device's whole size, backed with memory as pages are asked for.
//!
//! Pages never move, so a graph that was captured stays valid while the pool grows. Memory is mapped in whole grains; each
//! growth is one block, and blocks that lie wholly above the new end are given back.

use super::driver::{AccessDesc, AllocationProp, Location, Ptr};
use super::gpu::Gpu;
use super::memory::{Stream, in_grains};
use crate::device::KvMemory;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const KIND_PINNED: i32 = 1;
const LOCATION_DEVICE: i32 = 1;
const ACCESS_READ_WRITE: i32 = 3;

pub(super) struct KvPool {
    gpu: Arc<Gpu>,
    stream: Stream,
    groups: Vec<Mutex<Range>>,
    /// Where each group begins, and bytes of its pages: they never change.
    pub(super) places: Vec<(Ptr, u64)>,
    held_bytes: AtomicU64,
}

/// An address range and the blocks mapped at its start, one after the other.
struct Range {
    base: Ptr,
    reserved_bytes: u64,
    blocks: Vec<Block>,
}

struct Block {
    handle: u64,
    bytes: u64,
}

impl KvPool {
    /// Reserves addresses for groups of pages of `page_bytes`; no memory yet. The context must be current.
    pub(super) fn new(gpu: &Arc<Gpu>, page_bytes: &[u64]) -> Result<Self> {
        let mut pool = Self {
            gpu: gpu.clone(),
            stream: Stream::new(gpu)?,
            groups: Vec::new(),
            places: Vec::new(),
            held_bytes: AtomicU64::new(0),
        };
        let reserved_bytes = in_grains(gpu.card.memory_bytes);
        for &bytes in page_bytes {
            let mut base = 0;
            // SAFETY: a place for the address.
            let code = unsafe { gpu.api.address_reserve(&mut base, reserved_bytes as usize, 0, 0, 0) };
            gpu.check(code, "reserving addresses for the KV cache")?;
            pool.groups.push(Mutex::new(Range { base, reserved_bytes, blocks: Vec::new() }));
            pool.places.push((base, bytes));
        }
        Ok(pool)
    }

    /// Maps a block at the end of the range and clears it.
    fn grow(&self, range: &mut Range, bytes: u64) -> Result<()> {
        let mapped = range.mapped();
        if mapped + bytes > range.reserved_bytes {
            return Err(Error::memory(format!("{} bytes of KV cache exceed the device", mapped + bytes)));
        }
        let location = Location { kind: LOCATION_DEVICE, id: self.gpu.ordinal };
        let prop =
            AllocationProp { kind: KIND_PINNED, handle_types: 0, location, win32: std::ptr::null_mut(), flags: [0; 8] };
        let mut handle = 0;
        // SAFETY: a place for the handle, and a full description.
        let code = unsafe { self.gpu.api.physical_create(&mut handle, bytes as usize, &prop, 0) };
        self.gpu.check(code, &format!("taking {bytes} bytes for the KV cache"))?;
        let at = range.base + mapped;
        // SAFETY: the addresses are reserved and not mapped; the handle has as many bytes.
        let code = unsafe { self.gpu.api.map(at, bytes as usize, 0, handle, 0) };
        // SAFETY: the mapping keeps the memory; without one it is freed here.
        let _ = unsafe { self.gpu.api.physical_release(handle) };
        self.gpu.check(code, "mapping the KV cache")?;
        range.blocks.push(Block { handle, bytes });
        self.gpu.hold(bytes);
        self.held_bytes.fetch_add(bytes, Ordering::AcqRel);
        let access = AccessDesc { location, flags: ACCESS_READ_WRITE };
        // SAFETY: the range was mapped above.
        let code = unsafe { self.gpu.api.set_access(at, bytes as usize, &access, 1) };
        // SAFETY: as above.
        let cleared =
            self.gpu.check(code, "opening the KV cache").and_then(|()| unsafe { self.stream.clear(at, bytes) });
        cleared.and_then(|()| self.stream.synchronize()).inspect_err(|_| self.shrink(range, mapped))
    }

    /// Gives back the blocks that begin at `keep` bytes or above.
    fn shrink(&self, range: &mut Range, keep: u64) {
        while let Some(block) = range.blocks.last() {
            let start = range.mapped() - block.bytes;
            if start < keep {
                break;
            }
            // SAFETY: exactly what was mapped, and no batch uses pages above the end. A failure leaves nothing to do.
            let _ = unsafe { self.gpu.api.unmap(range.base + start, block.bytes as usize) };
            self.gpu.release(block.bytes);
            self.held_bytes.fetch_sub(block.bytes, Ordering::AcqRel);
            log::trace!("gave back block {:#x} of the KV cache", block.handle);
            range.blocks.pop();
        }
    }
}

impl Range {
    fn mapped(&self) -> u64 {
        self.blocks.iter().map(|b| b.bytes).sum()
    }
}

impl KvMemory for KvPool {
    fn resize(&self, group: usize, pages: u32) -> Result<()> {
        let (Some(range), Some(&(_, page_bytes))) = (self.groups.get(group), self.places.get(group)) else {
            return Err(Error::parameter(format!("KV group {group} of {}", self.groups.len())));
        };
        let _entered = self.gpu.enter()?;
        let mut range = range.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = u64::from(pages) * page_bytes;
        let mapped = range.mapped();
        if wanted > mapped {
            return self.grow(&mut range, in_grains(wanted - mapped));
        }
        self.shrink(&mut range, wanted);
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Acquire)
    }
}

impl Drop for KvPool {
    fn drop(&mut self) {
        let gpu = self.gpu.clone();
        let entered = gpu.enter();
        for group in &self.groups {
            let mut range = group.lock().unwrap_or_else(PoisonError::into_inner);
            if entered.is_err() {
                let bytes = range.mapped();
                self.gpu.release(bytes);
                continue;
            }
            self.shrink(&mut range, 0);
            // SAFETY: reserved here, nothing is mapped in it any more.
            let _ = unsafe { self.gpu.api.address_free(range.base, range.reserved_bytes as usize) };
        }
    }
}
