//! The boundary that no panic crosses.
//!
//! Every export runs its body here: a panic becomes code 99, a forked child is refused, and the reason of a failure is kept.
//! The library must not print, and Rust's default is to print a panic to stderr; so the first call puts a hook in front of
//! the one in place, which sends the panics of this library's calls and threads to the `log` facade and leaves all others,
//! those of a Rust host, to the hook that was there.

use super::reason;
use crate::engine::process;
use crate::error::{Error, ErrorCode, Result};
use std::any::Any;
use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// The library's own threads are called so, with or without more behind it.
const THREADS: &str = "worker-orcd";

thread_local! {
    /// Calls of exported functions that this thread is in.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `body` and writes its code; gives `otherwise` where it fails. Does nothing without an `error_code`.
///
/// # Safety
/// `error_code` is NULL or can be written.
pub unsafe fn coded<T>(error_code: *mut c_int, otherwise: T, body: impl FnOnce() -> Result<T>) -> T {
    if error_code.is_null() {
        reason::keep(&Error::parameter("error_code is NULL"));
        return otherwise;
    }
    let result = contained(body);
    let code = result.as_ref().map_or_else(Error::code, |_| ErrorCode::Success);
    // SAFETY: not NULL, so the caller vouches for it.
    unsafe { error_code.write_unaligned(code as c_int) };
    result.unwrap_or(otherwise)
}

/// Runs the body of a function that has no way to report a code; the reason is kept all the same.
pub fn plain<T>(otherwise: T, body: impl FnOnce() -> Result<T>) -> T {
    contained(body).unwrap_or(otherwise)
}

fn contained<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // Before anything that could wait for a thread which the fork has left behind.
    let result = process::check().and_then(|()| {
        quiet_our_panics();
        let _inside = Inside::enter();
        let caught = panic::catch_unwind(AssertUnwindSafe(body));
        caught.unwrap_or_else(|payload| Err(fault(&*payload)))
    });
    if let Err(error) = &result {
        reason::keep(error);
    }
    result
}

fn fault(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Error::unknown(format!("a fault inside the library: {}", text.unwrap_or("no message")))
}

/// Counts this thread's calls; a thread past the end of its locals is not counted.
struct Inside;

impl Inside {
    fn enter() -> Self {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = CALLS.try_with(|calls| calls.set(calls.get().saturating_sub(1)));
    }
}

fn quiet_our_panics() {
    static HOOK: Once = Once::new();
    // A hook cannot be changed by a thread that is panicking itself, as a Rust host's may be; the next call does it.
    if HOOK.is_completed() || std::thread::panicking() {
        return;
    }
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| if ours() { tell(info) } else { before(info) }));
    });
}

fn ours() -> bool {
    let inside = CALLS.try_with(|calls| calls.get() > 0).unwrap_or(false);
    inside || std::thread::current().name().is_some_and(|name| name.starts_with(THREADS))
}

fn tell(info: &PanicHookInfo<'_>) {
    log::error!("{info}");
}
