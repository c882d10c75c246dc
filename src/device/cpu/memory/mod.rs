//! Memory for keys and values: per group one address range, reserved once and backed as far as pages are in use.
//!
//! [`KvPool`] grows and shrinks the ranges from any thread; [`KvCache`], which only the executor has, reads
//! and writes rows. A range that was given back stays accessible and reads as zeros, so a caller that
//! shrinks what is in use gets wrong text at worst. A page is [layers][k, v][kv heads], with keys transposed,
//! [head dim][PAGE_TOKENS], since scores are computed in the lanes of the tokens, and values as [PAGE_TOKENS][head dim].

mod buffer;

pub use buffer::Buffer;

use super::account::{Account, machine_bytes};
use crate::device::KvMemory;
use crate::error::{Error, Result};
use crate::plan::{KvGroup, KvLayer, KvType, Limits, PAGE_TOKENS, PageTable, Plan};
use half::f16;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

pub struct KvPool {
    groups: Vec<Range>,
    kv: KvType,
    account: &'static Account,
    resizing: Mutex<()>,
}

/// A reserved address range for the pages of one group.
struct Range {
    base: *mut u8,
    bytes: usize,
    page_bytes: usize,
    group: KvGroup,
    max_pages: u32,
    pages: AtomicU32,
    /// The most pages that were ever backed: what is below can be read without harm.
    readable: AtomicU32,
}

// SAFETY: the address is that of a mapping which lives as long as the range; who may touch what is
// said at `KvCache`.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl KvPool {
    /// Reserves addresses for all that `limits` allow, or all that the machine could ever hold.
    pub fn new(plan: &Plan, limits: &Limits, account: &'static Account) -> Result<Self> {
        let machine = machine_bytes();
        let groups = plan.kv_groups.iter().map(|group| {
            // A windowed group keeps more pages than a sequence looks at, for others whose prompts begin alike.
            let each = plan.context.div_ceil(PAGE_TOKENS) as u64;
            let page_bytes = group.page_bytes(limits.kv_type);
            let useful = (machine / page_bytes.max(1) as u64).saturating_add(1);
            let pages = each.saturating_mul(limits.sequences as u64).min(useful).min(u64::from(u32::MAX));
            Range::reserve(group.clone(), page_bytes, pages as u32)
        });
        Ok(Self { groups: groups.collect::<Result<_>>()?, kv: limits.kv_type, account, resizing: Mutex::new(()) })
    }

    /// Pages of `group` that are backed now.
    pub fn pages(&self, group: usize) -> u32 {
        self.groups[group].pages.load(Acquire)
    }
}

impl KvMemory for KvPool {
    fn resize(&self, group: usize, pages: u32) -> Result<()> {
        let _turn = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(range) = self.groups.get(group) else {
            return Err(Error::memory(format!("KV group {group} of {}", self.groups.len())));
        };
        let now = range.pages.load(Acquire);
        if pages > range.max_pages {
            return Err(Error::memory(format!("{pages} KV pages of group {group}; the most is {}", range.max_pages)));
        }
        let change = u64::from(pages.abs_diff(now)) * range.page_bytes as u64;
        if pages > now {
            self.account.take(change, "KV pages")?;
            range.back(now, pages).inspect_err(|_| self.account.give_back(change))?;
            range.readable.fetch_max(pages, AcqRel);
            range.pages.store(pages, Release);
        } else if pages < now {
            range.pages.store(pages, Release);
            range.empty(pages, now);
            self.account.give_back(change);
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        self.groups.iter().map(|g| u64::from(g.pages.load(Acquire)) * g.page_bytes as u64).sum()
    }
}

impl Drop for KvPool {
    fn drop(&mut self) {
        self.account.give_back(self.held_bytes());
    }
}

impl Range {
    fn reserve(group: KvGroup, page_bytes: usize, max_pages: u32) -> Result<Self> {
        let Some(bytes) = page_bytes.checked_mul(max_pages as usize).map(|b| b.max(1)) else {
            return Err(Error::memory(format!("{max_pages} KV pages of {page_bytes} bytes")));
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the system's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Error::memory(format!("no address range of {bytes} bytes for KV pages: {}", last_error())));
        }
        Ok(Self {
            base: base.cast(),
            bytes,
            page_bytes,
            group,
            max_pages,
            pages: AtomicU32::new(0),
            readable: AtomicU32::new(0),
        })
    }

    /// Backs pages `from..to` with memory of their own now, so that no step meets a shortage.
    fn back(&self, from: u32, to: u32) -> Result<()> {
        let (start, end) = self.whole_pages(from, to);
        // SAFETY: inside the reserved range; making it accessible takes nothing from anybody.
        let done =
            unsafe { libc::mprotect(self.base.add(start).cast(), end - start, libc::PROT_READ | libc::PROT_WRITE) };
        if done != 0 {
            return Err(Error::memory(format!("{} bytes for KV pages: {}", end - start, last_error())));
        }
        // SAFETY: it reads and writes nothing that a program could see. Systems without it back
        // pages when they are first written.
        let done = unsafe { libc::madvise(self.base.add(start).cast(), end - start, libc::MADV_POPULATE_WRITE) };
        let failed = done != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM);
        if failed {
            self.empty(from, to);
            return Err(Error::memory(format!("{} bytes for KV pages are not to be had", end - start)));
        }
        Ok(())
    }

    /// Gives the memory of pages `from..to` back; they read as zeros from now on.
    fn empty(&self, from: u32, to: u32) {
        let (start, end) = (from as usize * self.page_bytes, to as usize * self.page_bytes);
        let whole = start.next_multiple_of(os_page_bytes()).min(end);
        // SAFETY: inside the range, and accessible, since these pages were backed. They are in use by nobody.
        unsafe { std::ptr::write_bytes(self.base.add(start), 0, whole - start) };
        if end > whole {
            // SAFETY: as above. What lies behind `end` in its last system page is not backed either.
            unsafe { libc::madvise(self.base.add(whole).cast(), end - whole, libc::MADV_DONTNEED) };
        }
    }

    /// The bytes of pages `from..to`, widened to whole pages of the system.
    fn whole_pages(&self, from: u32, to: u32) -> (usize, usize) {
        let page = os_page_bytes();
        let (start, end) = (from as usize * self.page_bytes, to as usize * self.page_bytes);
        (start / page * page, end.next_multiple_of(page).min(self.bytes.next_multiple_of(page)))
    }

    /// Where the first element of (page, layer, k or v, head, token 0) is, in elements.
    fn at(&self, page: u32, layer: usize, part: usize, head: usize) -> usize {
        let heads = &self.group.heads;
        let head_elements = PAGE_TOKENS * heads.dim;
        let page_elements = self.group.layers * 2 * heads.kv * head_elements;
        page as usize * page_elements + ((layer * 2 + part) * heads.kv + head) * head_elements
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrowed from it outlives the pool.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// Keys and values of a page for one head.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    F32([&'a [f32]; 2]),
    F16([&'a [f16]; 2]),
}

/// The only way to the contents. One per pool: `store` needs it exclusively, so nobody reads what is being written.
pub struct KvCache {
    pool: Arc<KvPool>,
}

impl KvCache {
    /// The cache of a fresh pool, and the pool for everybody else.
    pub fn new(pool: KvPool) -> (Self, Arc<KvPool>) {
        let pool = Arc::new(pool);
        (Self { pool: pool.clone() }, pool)
    }

    pub fn pool(&self) -> &KvPool {
        &self.pool
    }

    /// Writes a token's row of keys and of values, [kv heads, head dim] each.
    pub fn store(&mut self, at: KvLayer, pages: &PageTable, position: usize, kv: [&[f32]; 2]) {
        match self.pool.kv {
            KvType::F32 => self.store_as(at, pages, position, kv, |x| x),
            KvType::F16 => self.store_as(at, pages, position, kv, f16::from_f32),
        }
    }

    fn store_as<T>(&mut self, at: KvLayer, pages: &PageTable, position: usize, kv: [&[f32]; 2], to: impl Fn(f32) -> T) {
        let (range, page) = self.page(at, pages, position);
        let dim = range.group.heads.dim;
        let (len, token) = (PAGE_TOKENS * dim, position % PAGE_TOKENS);
        let heads = kv[0].chunks_exact(dim).zip(kv[1].chunks_exact(dim)).take(range.group.heads.kv);
        for (head, (key, value)) in heads.enumerate() {
            // SAFETY: `page` checked that the page is backed, and `&mut self` that nobody reads.
            let keys = unsafe { slice_mut::<T>(range, range.at(page, at.layer, 0, head), len) };
            let slots = keys[token..].iter_mut().step_by(PAGE_TOKENS);
            slots.zip(key).for_each(|(slot, &x)| *slot = to(x));
            // SAFETY: as above; the two slices are of different parts of the page.
            let values = unsafe { slice_mut::<T>(range, range.at(page, at.layer, 1, head), len) };
            values[token * dim..].iter_mut().zip(value).for_each(|(slot, &x)| *slot = to(x));
        }
    }

    /// Keys and values of one head in the page that holds `position`.
    pub fn rows(&self, at: KvLayer, pages: &PageTable, position: usize, head: usize) -> Rows<'_> {
        let (range, page) = self.page(at, pages, position);
        let len = PAGE_TOKENS * range.group.heads.dim;
        assert!(head < range.group.heads.kv, "head {head} of {}", range.group.heads.kv);
        let starts = [0, 1].map(|part| range.at(page, at.layer, part, head));
        match self.pool.kv {
            // SAFETY: `page` checked that the page is backed, and a writer would need `&mut self`.
            KvType::F32 => Rows::F32(starts.map(|start| unsafe { slice::<f32>(range, start, len) })),
            // SAFETY: as above.
            KvType::F16 => Rows::F16(starts.map(|start| unsafe { slice::<f16>(range, start, len) })),
        }
    }

    fn page(&self, at: KvLayer, pages: &PageTable, position: usize) -> (&Range, u32) {
        let range = &self.pool.groups[at.group];
        let page = pages.page(at.group, position);
        let readable = range.readable.load(Acquire);
        assert!(page < readable && at.layer < range.group.layers, "page {page} of {readable}");
        (range, page)
    }
}

/// # Safety
/// The elements lie in a page that is or was backed, and nobody writes them meanwhile.
unsafe fn slice<T>(range: &Range, start: usize, len: usize) -> &[T] {
    debug_assert!((start + len) * size_of::<T>() <= range.bytes);
    // SAFETY: the range is aligned to system pages, any bits are a T, and the caller promises the rest.
    unsafe { std::slice::from_raw_parts(range.base.cast::<T>().add(start), len) }
}

/// # Safety
/// As for `slice`, and nobody reads them either.
#[expect(clippy::mut_from_ref, reason = "the range is an address; the caller holds the cache exclusively")]
unsafe fn slice_mut<T>(range: &Range, start: usize, len: usize) -> &mut [T] {
    debug_assert!((start + len) * size_of::<T>() <= range.bytes);
    // SAFETY: as in `slice`.
    unsafe { std::slice::from_raw_parts_mut(range.base.cast::<T>().add(start), len) }
}

fn os_page_bytes() -> usize {
    // SAFETY: asks for a constant.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn last_error() -> std::io::Error {
    std::io::Error::last_os_error()
}
