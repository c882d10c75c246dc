//! One GPU as this process sees it: its primary context, what the library holds there, and whether it is lost.
//!
//! The primary context is shared with the host: retained once, for as long as the process lives, and never reset. A call
//! makes it current for its own duration ([`Gpu::enter`]) and leaves the thread's context as it found it.

use super::card::Card;
use super::driver::{Api, Handle, Status};
use super::kernels::Kernels;
use crate::error::{Error, Result};
use std::ffi::c_int;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub(super) struct Gpu {
    pub(super) api: &'static Api,
    context: Handle,
    pub(super) ordinal: c_int,
    pub(super) card: Card,
    held_bytes: AtomicU64,
    lost: AtomicBool,
    kernels: OnceLock<Result<Kernels>>,
}

// SAFETY: the driver's handles may be used from any thread; all else is atomic or guarded.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// How many GPUs there are: 0 without a usable driver.
pub(super) fn count() -> c_int {
    let Ok(api) = Api::get() else {
        return 0;
    };
    let mut count = 0;
    // SAFETY: a place for the number.
    match unsafe { api.device_count(&mut count) } {
        0 => count.max(0),
        _ => 0,
    }
}

impl Gpu {
    /// The GPU `ordinal`, the same one each time.
    pub(super) fn get(ordinal: c_int) -> Result<Arc<Gpu>> {
        static KNOWN: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
        let api = Api::get().map_err(|reason| Error::new(crate::error::ErrorCode::DeviceNotFound, reason))?;
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = known.iter().find(|g| g.ordinal == ordinal) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Self::open(api, ordinal)?);
        known.push(gpu.clone());
        Ok(gpu)
    }

    fn open(api: &'static Api, ordinal: c_int) -> Result<Gpu> {
        let fail = |what: &str, code| Error::device(format!("GPU {ordinal}: {what}: {}", api.name_of(code)));
        let mut device = 0;
        // SAFETY: a place for the device.
        match unsafe { api.device_get(&mut device, ordinal) } {
            0 => {}
            code => return Err(fail("no such device", code)),
        }
        let card = Card::ask(api, ordinal, device)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: a place for the context, which is kept for good.
        match unsafe { api.primary_retain(&mut context, device) } {
            0 => {}
            2 => return Err(Error::memory(fail("no memory for its context", 2).reason())),
            code => return Err(fail("its context cannot be had", code)),
        }
        Ok(Gpu {
            api,
            context,
            ordinal,
            card,
            held_bytes: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            kernels: OnceLock::new(),
        })
    }

    /// Makes the context current on this thread until the guard goes.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        self.check_lost()?;
        // SAFETY: the context is retained.
        let code = unsafe { self.api.context_push(self.context) };
        self.check(code, "making the context current")?;
        Ok(Entered { gpu: self, only_this_thread: PhantomData })
    }

    /// Code 1 once the device is lost.
    pub(super) fn check_lost(&self) -> Result<()> {
        match self.lost.load(Ordering::Acquire) {
            false => Ok(()),
            true => {
                Err(Error::device(format!("GPU {} is lost after an error; the process must restart", self.ordinal)))
            }
        }
    }

    /// What a driver call returned. An error that the device does not recover from marks it as lost.
    pub(super) fn check(&self, code: Status, what: &str) -> Result<()> {
        match code {
            0 => Ok(()),
            2 => Err(Error::memory(format!("{what}: GPU {} is out of memory", self.ordinal))),
            _ => {
                let reason = format!("{what}: {}", self.api.name_of(code));
                if is_sticky(code) {
                    self.lost.store(true, Ordering::Release);
                    return Err(Error::device(reason));
                }
                Err(Error::unknown(reason))
            }
        }
    }

    /// The kernels, loaded at the first call. The context must be current.
    pub(super) fn kernels(&self) -> Result<&Kernels> {
        self.kernels.get_or_init(|| Kernels::load(self)).as_ref().map_err(Clone::clone)
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Acquire)
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.held_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn release(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Bytes free on the device, and in all, as the driver says. The context must be current.
    pub(super) fn memory_info(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: places for two numbers.
        let code = unsafe { self.api.memory_info(&mut free, &mut total) };
        self.check(code, "asking for the free memory")?;
        Ok((free as u64, total as u64))
    }
}

/// The codes after which the context answers every call with an error.
fn is_sticky(code: Status) -> bool {
    matches!(code, 4 | 201 | 214 | 219 | 220 | 221 | 226 | 700 | 702 | 708..=710 | 714..=719 | 721 | 999)
}

/// The context is current on this thread.
pub(super) struct Entered<'a> {
    gpu: &'a Gpu,
    only_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: this thread pushed it, and guards are dropped in reverse order. What could fail leaves nothing to do.
        let _ = unsafe { self.gpu.api.context_pop(&mut context) };
    }
}
