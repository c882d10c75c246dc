//! Threads that share the parts of one step.
//!
//! [`Pool::each`] hands every part of a [`Split`] to exactly one thread, the caller's among them, and
//! returns when all are done. Which thread does a part never shows in its result. A thread that wakes
//! up too late is not waited for: the caller closes the job and only waits for those inside it. The
//! workers spin for a moment after a job, since the next one is usually microseconds away, then sleep.

mod split;

pub use split::{Chunks, Grid, Split, Tile};

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a worker looks for the next job before it sleeps.
const SPIN: Duration = Duration::from_micros(300);

/// The low half of the state counts the workers inside the job; this bit says that others may enter.
const OPEN: u64 = 1 << 31;
/// One more job: the high half of the state.
const NEXT: u64 = 1 << 32;

type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What to do: a function of (thread, part), and how many parts there are.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    parts: usize,
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only while the state is closed with nobody inside, and read only by those
// who entered while it was open; the state's acquire and release order the two.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only followed under the protocol above, from whichever thread.
unsafe impl Send for Shared {}

pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    wake: Vec<Thread>,
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads`, the caller's included. Fewer if the system gives no more.
    pub fn new(threads: usize) -> Self {
        let mut shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { work: std::ptr::null::<fn(usize, usize)>() as *const Work<'static>, parts: 0 }),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            asleep: Vec::new(),
            panic: Mutex::new(None),
        });
        if let Some(fresh) = Arc::get_mut(&mut shared) {
            fresh.asleep = (1..threads).map(|_| AtomicBool::new(false)).collect();
        }
        let workers: Vec<_> = (1..threads)
            .map_while(|thread| {
                let shared = shared.clone();
                let named = thread::Builder::new().name(format!("orcd-cpu-{thread}"));
                named.spawn(move || shared.serve(thread)).ok()
            })
            .collect();
        let wake = workers.iter().map(|w| w.thread().clone()).collect();
        Self { shared, workers, wake, turn: Mutex::new(()) }
    }

    /// Threads that may take part: the thread numbers that `each` passes are below this.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(thread, index, part)` for every part.
    pub fn each<S: Split>(&self, split: S, f: impl Fn(usize, usize, S::Part) + Sync) {
        let parts = split.parts();
        // SAFETY: `run` calls the closure exactly once for each index below `parts`, and `split` is
        // consumed here, so no part is handed out twice.
        self.run(parts, &|thread, index| f(thread, index, unsafe { split.part(index) }));
    }

    /// Runs alone where there is nothing to share, or while another model has the pool.
    fn run(&self, parts: usize, work: &Work<'_>) {
        let turn = match self.turn.try_lock() {
            Ok(turn) if parts > 1 && !self.workers.is_empty() => turn,
            Err(std::sync::TryLockError::Poisoned(turn)) if parts > 1 => turn.into_inner(),
            _ => return (0..parts).for_each(|part| work(0, part)),
        };
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes, and nobody follows the pointer after this function: it
        // does not return or unwind before the job is closed and empty.
        let work = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: the state is closed and empty, and `turn` keeps other callers out.
        unsafe { *shared.job.get() = Job { work, parts } };
        shared.next.store(0, Relaxed);
        let epoch = (shared.state.load(Relaxed) & !(NEXT - 1)).wrapping_add(NEXT);
        shared.state.store(epoch | OPEN, SeqCst);
        for (asleep, thread) in shared.asleep.iter().zip(&self.wake) {
            if asleep.load(SeqCst) && asleep.swap(false, SeqCst) {
                thread.unpark();
            }
        }
        shared.work(Job { work, parts }, 0);
        shared.close();
        drop(turn);
        if let Some(panic) = lock(&shared.panic).take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its work throws, so there is nothing to learn from its end.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Does parts until none is left. A panic is kept for the caller, and ends the job.
    fn work(&self, job: Job, thread: usize) {
        let all = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let part = self.next.fetch_add(1, Relaxed);
                if part >= job.parts {
                    return;
                }
                // SAFETY: the job is open or we are inside it, so the caller has not returned and
                // the closure is alive.
                unsafe { (*job.work)(thread, part) };
            }
        }));
        if let Err(panic) = all {
            self.next.store(job.parts, Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Lets nobody in any more and waits for those inside.
    fn close(&self) {
        let mut spins = 0u32;
        let mut inside = self.state.fetch_and(!OPEN, AcqRel) & (OPEN - 1);
        while inside > 0 {
            spins += 1;
            if spins.is_multiple_of(4096) {
                thread::yield_now();
            }
            std::hint::spin_loop();
            inside = self.state.load(Acquire) & (OPEN - 1);
        }
    }

    fn serve(&self, thread: usize) {
        let mut seen = 0;
        while let Some(state) = self.wait(thread, seen) {
            seen = state & !(NEXT - 1);
            if self.enter(state) {
                // SAFETY: inside an open job nobody writes it.
                let job = unsafe { *self.job.get() };
                self.work(job, thread);
                self.state.fetch_sub(1, Release);
            }
        }
    }

    /// The state, once it shows an open job after `seen`; `None` at the end of the pool.
    fn wait(&self, thread: usize, seen: u64) -> Option<u64> {
        let fresh = |state: u64| state & OPEN != 0 && state & !(NEXT - 1) != seen;
        let mut since = Instant::now();
        for spins in 1u32.. {
            let state = self.state.load(Acquire);
            if fresh(state) {
                return Some(state);
            }
            if self.stop.load(Relaxed) {
                return None;
            }
            std::hint::spin_loop();
            if spins.is_multiple_of(64) && since.elapsed() > SPIN {
                let asleep = &self.asleep[thread - 1];
                asleep.store(true, SeqCst);
                if !fresh(self.state.load(SeqCst)) && !self.stop.load(SeqCst) {
                    thread::park();
                }
                asleep.store(false, SeqCst);
                since = Instant::now();
            }
        }
        None
    }

    /// Counts this worker in, unless the job of `state` has closed meanwhile.
    fn enter(&self, mut state: u64) -> bool {
        let job = state & !(NEXT - 1);
        while state & OPEN != 0 && state & !(NEXT - 1) == job {
            match self.state.compare_exchange_weak(state, state + 1, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for n in [0usize, 1, 2, 63, 500] {
                let mut counts = vec![0u32; n * 3];
                pool.each(Chunks::new(&mut counts, 3), |thread, i, part| {
                    assert!(thread < threads && part.len() == 3);
                    part.iter_mut().for_each(|c| *c += 1 + i as u32);
                });
                assert!(counts.iter().enumerate().all(|(i, &c)| c == 1 + i as u32 / 3));
            }
        }
    }

    #[test]
    fn workers_that_sleep_wake_up_again() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            std::thread::sleep(SPIN * 4);
            let seen = [const { AtomicUsize::new(0) }; 2];
            let mut data = [0u8; 2];
            pool.each(Chunks::new(&mut data, 1), |thread, _, _| {
                seen[thread].fetch_add(1, SeqCst);
                let start = Instant::now();
                while seen.iter().any(|s| s.load(SeqCst) == 0) && start.elapsed() < Duration::from_secs(10) {
                    thread::yield_now();
                }
            });
            assert_eq!(seen.map(|s| s.into_inner()), [1, 1]);
        }
    }

    #[test]
    fn callers_at_once_do_not_disturb_each_other() {
        let pool = Pool::new(2);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let mut data = [0u32; 40];
                        pool.each(Chunks::new(&mut data, 1), |_, i, part| part[0] = i as u32);
                        assert!(data.iter().enumerate().all(|(i, &d)| d == i as u32));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in [0, 7] {
            let mut data = [0u8; 8];
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.each(Chunks::new(&mut data, 1), |_, i, _| assert_ne!(i, bad, "as meant"));
            }));
            assert!(failed.is_err());
        }
        let mut data = [0u8; 8];
        pool.each(Chunks::new(&mut data, 1), |_, _, part| part[0] = 1);
        assert_eq!(data, [1; 8]);
    }
}
