//! Locks that outlive a panic, and work that threads share out.
//!
//! What a lock of the engine guards is left whole before anything can panic, so a poisoned lock is taken as it is: one
//! inference that went wrong must not take the others down.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Does `each` piece of work, on this thread and up to `threads` - 1 others.
pub fn share_out<T: Send>(work: Vec<T>, threads: usize, each: impl Fn(T) + Sync) {
    let others = work.len().min(threads).saturating_sub(1);
    let queue = Mutex::new(work.into_iter());
    let next = || lock(&queue).next();
    let help = || {
        while let Some(piece) = next() {
            each(piece);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            // What no thread is to be had for is done here.
            let _ = std::thread::Builder::new().name("worker-orcd-draw".into()).spawn_scoped(scope, help);
        }
        help();
    });
}
