//! Passes recorded once and replayed: a decode step is one call to the driver instead of hundreds.

use super::driver::{CAPTURE_THREAD_LOCAL, Handle};
use super::gpu::Gpu;
use super::memory::Stream;
use crate::error::{Error, ErrorCode, Result};
use std::sync::Arc;

/// A recorded pass.
pub(super) struct Graph {
    gpu: Arc<Gpu>,
    exec: Handle,
}

// SAFETY: the driver's graphs may be used from any one thread at a time.
unsafe impl Send for Graph {}

/// Code 6 for all but a lack of memory.
fn of_launch(e: Error) -> Error {
    if e.code() == ErrorCode::OutOfMemory { e } else { Error::launch(e.reason()) }
}

impl Graph {
    /// Records what `queue` queues on `stream`, without running it. The context must be current.
    pub(super) fn record(gpu: &Arc<Gpu>, stream: &Stream, queue: impl FnOnce() -> Result<()>) -> Result<Self> {
        // SAFETY: the stream is alive; other threads are not hindered.
        let code = unsafe { gpu.api.stream_capture(stream.handle, CAPTURE_THREAD_LOCAL) };
        gpu.check(code, "recording a graph").map_err(of_launch)?;
        let queued = queue();
        let mut graph = std::ptr::null_mut();
        // SAFETY: the capture began above; it must end whatever happened.
        let code = unsafe { gpu.api.stream_end_capture(stream.handle, &mut graph) };
        let ended = gpu.check(code, "ending a graph").map_err(of_launch);
        let mut exec = std::ptr::null_mut();
        let made = queued.and(ended).and_then(|()| {
            // SAFETY: a whole graph, and a place for its executable form.
            let code = unsafe { gpu.api.graph_instantiate(&mut exec, graph, 0) };
            gpu.check(code, "instantiating a graph").map_err(of_launch)
        });
        if !graph.is_null() {
            // SAFETY: made above; the executable form does not need it.
            let _ = unsafe { gpu.api.graph_destroy(graph) };
        }
        made.map(|()| Self { gpu: gpu.clone(), exec })
    }

    pub(super) fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are alive.
        let code = unsafe { self.gpu.api.graph_launch(self.exec, stream.handle) };
        self.gpu.check(code, "launching a graph").map_err(of_launch)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.enter() {
            // SAFETY: made here, destroyed once; the driver waits for a launch in flight.
            let _ = unsafe { self.gpu.api.graph_exec_destroy(self.exec) };
        }
    }
}
