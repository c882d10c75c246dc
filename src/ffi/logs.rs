//! Log messages, for a host that asks for them.
//!
//! A logger is installed at the first request and never before, so that a Rust host's own is not in the way. Two locks keep the
//! promise that the callback is not called any more once the host has taken it back: a message holds the sink's lock while
//! the host has it, and a message that comes up inside the callback is dropped.

use super::guard::coded;
use crate::error::{Error, Result};
use log::{LevelFilter, Log, Metadata, Record};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError, RwLock};

/// How grave a message is; each level includes those above it.
#[repr(C)]
// The prefix is what C hosts see.
#[allow(clippy::enum_variant_names)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOrcdLogLevel {
    /// Nothing at all.
    WorkerOrcdLogOff = 0,
    /// What fails.
    WorkerOrcdLogError = 1,
    /// What may be wrong.
    WorkerOrcdLogWarn = 2,
    /// What is done: loads, devices.
    WorkerOrcdLogInfo = 3,
    /// How it is done, step by step.
    WorkerOrcdLogDebug = 4,
}

type Callback = unsafe extern "C" fn(user: *mut c_void, level: c_int, message: *const c_char);

/// Where messages go.
#[derive(Clone, Copy)]
struct Sink {
    callback: Callback,
    user: *mut c_void,
    level: LevelFilter,
}

// SAFETY: the pointer is never followed here, only given back to the host, which asked for calls from any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);
static INSTALLED: Mutex<bool> = Mutex::new(false);

thread_local! {
    /// This thread is in the host's callback.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Logger;

/// Has the library's messages sent to the host, or, with NULL, to nobody again, which is how it begins. Once this returns,
/// the callback given before is not called any more.
///
/// @param callback    called from any thread, by several at once, with user, a worker_orcd_log_level and the message, which is
///                    gone afterwards. It must return: no exception and no longjmp may leave it. What it makes the library
///                    log is dropped.
/// @param user        given to the callback.
/// @param level       a worker_orcd_log_level: what is less grave is not sent.
/// @param error_code  must not be NULL. 5: no such level; called from inside the callback; or the process, a Rust host's, has a
///                    logger of its own.
/// @return true on success.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_set_log(
    callback: Option<unsafe extern "C" fn(user: *mut c_void, level: c_int, message: *const c_char)>,
    user: *mut c_void,
    level: c_int,
    error_code: *mut c_int,
) -> bool {
    let set = || {
        let level = filter(level)?;
        replace(callback.map(|callback| Sink { callback, user, level })).map(|()| true)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, set) }
}

const LEVELS: [(WorkerOrcdLogLevel, LevelFilter); 5] = [
    (WorkerOrcdLogLevel::WorkerOrcdLogOff, LevelFilter::Off),
    (WorkerOrcdLogLevel::WorkerOrcdLogError, LevelFilter::Error),
    (WorkerOrcdLogLevel::WorkerOrcdLogWarn, LevelFilter::Warn),
    (WorkerOrcdLogLevel::WorkerOrcdLogInfo, LevelFilter::Info),
    (WorkerOrcdLogLevel::WorkerOrcdLogDebug, LevelFilter::Debug),
];

fn filter(level: c_int) -> Result<LevelFilter> {
    let found = LEVELS.iter().find(|(ours, _)| *ours as c_int == level);
    found.map(|f| f.1).ok_or_else(|| Error::parameter(format!("level is {level}, no worker_orcd_log_level")))
}

fn replace(sink: Option<Sink>) -> Result<()> {
    if INSIDE.try_with(Cell::get).unwrap_or(false) {
        return Err(Error::parameter("the log cannot be changed from inside its callback"));
    }
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed && sink.is_some() {
        let other = |_| Error::parameter("the process has a logger of its own");
        log::set_logger(&Logger).map_err(other)?;
        *installed = true;
    }
    if *installed {
        let level = sink.map_or(LevelFilter::Off, |s| s.level);
        *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
        log::set_max_level(level);
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // A thread that is past the end of its locals cannot tell whether it is inside.
        if INSIDE.try_with(|inside| inside.replace(true)).unwrap_or(true) {
            return;
        }
        let message = record.args().to_string().replace('\0', "\u{FFFD}");
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(sink), Ok(message)) = (*sink, CString::new(message))
            && record.level() <= sink.level
        {
            // SAFETY: the host's own function with the host's own pointer; the message lives until it returns.
            unsafe { (sink.callback)(sink.user, record.level() as c_int, message.as_ptr()) };
        }
        drop(sink);
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }

    fn flush(&self) {}
}
