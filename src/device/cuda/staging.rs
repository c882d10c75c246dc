//! Logits on their way to the host: copied into pinned memory behind the passes that make them, and read once their batch has
//! ended. So nobody waits for a copy while there is more to queue, and the copy engine needs nobody's help.

use super::driver::Ptr;
use super::gpu::Gpu;
use super::memory::{Pinned, Stream};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The rows of logits that one batch asks for. Takes no memory before there are any, and then grows with the batches.
pub(super) struct Staging {
    row_bytes: usize,
    memory: Option<Pinned>,
}

impl Staging {
    /// For rows of `n_vocab` floats.
    pub(super) fn new(n_vocab: usize) -> Self {
        Self { row_bytes: n_vocab * 4, memory: None }
    }

    /// Makes room for `rows` rows. Nothing may be on its way here, and the context must be current.
    pub(super) fn reserve(&mut self, gpu: &Arc<Gpu>, rows: usize) -> Result<()> {
        let held = self.memory.as_ref().map_or(0, |m| m.bytes().len());
        if held < rows * self.row_bytes {
            // The old ones go first: both need not be there together.
            self.memory = None;
            self.memory = Some(Pinned::new(gpu, rows.next_power_of_two() * self.row_bytes)?);
        }
        Ok(())
    }

    /// Queues a copy of `rows` rows that begin at `from`, to row `first` and those after it.
    ///
    /// # Safety
    /// There are as many at `from`, and nobody reads here until the stream has passed this point.
    pub(super) unsafe fn fetch(&mut self, stream: &Stream, first: usize, rows: usize, from: Ptr) -> Result<()> {
        let bytes = first * self.row_bytes..(first + rows) * self.row_bytes;
        let to = self.memory.as_mut().and_then(|m| m.bytes_mut().get_mut(bytes));
        let to = to.ok_or_else(|| Error::inference("more rows of logits than a batch asks for"))?;
        // SAFETY: the caller's promise.
        unsafe { stream.download(to, from) }
    }

    /// Rows that have arrived.
    pub(super) fn rows(&self, first: usize, rows: usize) -> Vec<f32> {
        let bytes = first * self.row_bytes..(first + rows) * self.row_bytes;
        let bytes = self.memory.as_ref().and_then(|m| m.bytes().get(bytes)).unwrap_or_default();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}
