//! Memory that frees itself: on the device, pinned on the host; streams and events likewise.
//!
//! Device memory is taken in whole [`GRAIN`]s, which is what the driver hands out, so that the bytes we report are the bytes
//! that are gone.

use super::driver::{EVENT_DISABLE_TIMING, HOST_PORTABLE, Handle, Ptr, STREAM_NON_BLOCKING};
use super::gpu::Gpu;
use crate::error::{Error, Result};
use std::sync::Arc;

pub(super) const GRAIN: u64 = 2 << 20;

/// `bytes` in whole grains.
pub(super) fn in_grains(bytes: u64) -> u64 {
    bytes.div_ceil(GRAIN).max(1) * GRAIN
}

/// One allocation on the device.
pub(super) struct DeviceMemory {
    gpu: Arc<Gpu>,
    pub(super) ptr: Ptr,
    pub(super) bytes: u64,
}

impl DeviceMemory {
    /// The context must be current.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: u64, what: &str) -> Result<Self> {
        let bytes = in_grains(bytes);
        let mut ptr = 0;
        // SAFETY: a place for the address.
        let code = unsafe { gpu.api.memory_alloc(&mut ptr, bytes as usize) };
        gpu.check(code, &format!("allocating {bytes} bytes for {what}"))?;
        gpu.hold(bytes);
        Ok(Self { gpu: gpu.clone(), ptr, bytes })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.enter() {
            // SAFETY: allocated here, freed once; the driver waits for what still uses it. A failure leaves nothing to do.
            let _ = unsafe { self.gpu.api.memory_free(self.ptr) };
        }
        self.gpu.release(self.bytes);
    }
}

/// Host memory that the device copies from and to without help.
pub(super) struct Pinned {
    gpu: Arc<Gpu>,
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Whatever the system left there. The context must be current.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(64);
        let mut ptr = std::ptr::null_mut();
        // SAFETY: a place for the address.
        let code = unsafe { gpu.api.host_alloc(&mut ptr, bytes, HOST_PORTABLE) };
        gpu.check(code, &format!("pinning {bytes} bytes of host memory"))?;
        if ptr.is_null() {
            return Err(Error::memory(format!("pinning {bytes} bytes of host memory gave none")));
        }
        Ok(Self { gpu: gpu.clone(), ptr: ptr.cast(), bytes })
    }

    pub(super) fn is_of(&self, gpu: &Arc<Gpu>) -> bool {
        Arc::ptr_eq(&self.gpu, gpu)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and owned; mapped in by the driver, so every byte has a value.
        unsafe { std::slice::from_raw_parts(self.ptr, self.bytes) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.enter() {
            // SAFETY: allocated here, freed once.
            let _ = unsafe { self.gpu.api.host_free(self.ptr.cast()) };
        }
    }
}

/// A queue of work, independent of the host's default stream.
pub(super) struct Stream {
    gpu: Arc<Gpu>,
    pub(super) handle: Handle,
}

// SAFETY: the driver's streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The context must be current.
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for the stream.
        let code = unsafe { gpu.api.stream_create(&mut handle, STREAM_NON_BLOCKING) };
        gpu.check(code, "creating a stream")?;
        Ok(Self { gpu: gpu.clone(), handle })
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        let code = unsafe { self.gpu.api.stream_synchronize(self.handle) };
        self.gpu.check(code, "waiting for the device")
    }

    /// Queues a copy of `from`.
    ///
    /// # Safety
    /// `to` has room, and `from` stays as it is until the stream has passed this point.
    pub(super) unsafe fn upload(&self, to: Ptr, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        let code = unsafe { self.gpu.api.copy_to_device(to, from.as_ptr().cast(), from.len(), self.handle) };
        self.gpu.check(code, "copying to the device")
    }

    /// Queues a copy to `to`.
    ///
    /// # Safety
    /// `from` has as many bytes, and `to` is neither read nor freed until the stream has passed this point.
    pub(super) unsafe fn download(&self, to: &mut [u8], from: Ptr) -> Result<()> {
        // SAFETY: the caller's promise.
        let code = unsafe { self.gpu.api.copy_to_host(to.as_mut_ptr().cast(), from, to.len(), self.handle) };
        self.gpu.check(code, "copying from the device")
    }

    /// Queues zeros.
    ///
    /// # Safety
    /// `to` has `bytes` bytes.
    pub(super) unsafe fn clear(&self, to: Ptr, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        let code = unsafe { self.gpu.api.fill(to, 0, bytes as usize, self.handle) };
        self.gpu.check(code, "clearing memory")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.enter() {
            // SAFETY: created here, destroyed once, after its work.
            unsafe {
                let _ = self.gpu.api.stream_synchronize(self.handle);
                let _ = self.gpu.api.stream_destroy(self.handle);
            }
        }
    }
}

/// A point in a stream that the host can wait for.
pub(super) struct Event {
    gpu: Arc<Gpu>,
    handle: Handle,
}

// SAFETY: the driver's events may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// The context must be current.
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for the event.
        let code = unsafe { gpu.api.event_create(&mut handle, EVENT_DISABLE_TIMING) };
        gpu.check(code, "creating an event")?;
        Ok(Self { gpu: gpu.clone(), handle })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are alive.
        let code = unsafe { self.gpu.api.event_record(self.handle, stream.handle) };
        self.gpu.check(code, "recording an event")
    }

    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        let code = unsafe { self.gpu.api.event_synchronize(self.handle) };
        self.gpu.check(code, "waiting for the device")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.enter() {
            // SAFETY: created here, destroyed once.
            let _ = unsafe { self.gpu.api.event_destroy(self.handle) };
        }
    }
}
