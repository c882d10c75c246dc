//! The pinned buffers of uploads, kept from one load to the next: pinning and giving back takes longer than a small model's
//! copy.
//!
//! They are small, so that what a reader has put into one is still in the processor's cache when the device fetches it. A
//! model whose rows are long takes larger ones, which are not kept.

use super::gpu::Gpu;
use super::memory::Pinned;
use crate::error::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a buffer that is kept, and of the largest.
pub(super) const BUFFER_BYTES: usize = 2 << 20;
pub(super) const MOST_BUFFER_BYTES: usize = 8 << 20;
/// Buffers of a load, which are kept too.
pub(super) const BUFFERS: usize = 24;

static KEPT: Mutex<Vec<Pinned>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<Pinned>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer that goes back when it is dropped, which must be when nothing is copied from it any more.
pub(super) struct Buffer(Option<Pinned>);

impl Buffer {
    /// A buffer of at least `bytes` bytes. The context must be current.
    pub(super) fn take(gpu: &Arc<Gpu>, bytes: usize) -> Result<Buffer> {
        let fits = |b: &Pinned| b.is_of(gpu) && b.bytes().len() >= bytes;
        let mut kept = kept();
        let found = kept.iter().position(fits).map(|at| kept.swap_remove(at));
        drop(kept);
        let buffer = found.map_or_else(|| Pinned::new(gpu, bytes), Ok)?;
        Ok(Buffer(Some(buffer)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Pinned::bytes)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], Pinned::bytes_mut)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = kept();
        if self.bytes().len() == BUFFER_BYTES && kept.len() < BUFFERS {
            kept.extend(self.0.take());
        }
    }
}
