//! What every file must do: load, or be refused with code 3 and a reason, fast and in little memory.
//!
//! [`load`] is the whole of what is done with a file. Memory is what the heap holds at most, counted
//! by this test's own allocator; so that it counts one file only, tests run one at a time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use worker_orcd::error::{Error, ErrorCode};
use worker_orcd::gguf::Gguf;
use worker_orcd::token::{Encode, Tokenizer};

const TIME_MAX: Duration = Duration::from_millis(50);
const PROMPT: &str = "the thé <|end|> \u{1f600}";
/// A busy machine may stop us for longer than a load takes; only a load that is slow every time is.
const ATTEMPTS: usize = 5;
const MEMORY_MAX_BYTES: usize = 16 << 20;

/// Held by each test for as long as it runs.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a file.
#[derive(Debug)]
pub enum Outcome {
    Loaded,
    Refused(String),
}

/// Parses a file and looks at all that it holds.
fn load(bytes: &[u8]) -> Result<(), Error> {
    visit(&Gguf::from_bytes(bytes.to_vec())?)
}

/// Builds what an engine needs of the file, and reads the last byte of every weight.
fn visit(gguf: &Gguf) -> Result<(), Error> {
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    let spec = worker_orcd::model::build(gguf, None)?;
    let plan = worker_orcd::plan::lower(&spec, Vec::new());
    assert!(plan.weight_bytes() > 0);
    for tensor in gguf.tensors() {
        let bytes = gguf.source().bytes(&tensor.data);
        assert_eq!(bytes.len() as u64, tensor.data.bytes, "{}", tensor.name);
        assert_ne!(bytes.last(), None, "{}", tensor.name);
    }
    // A damaged vocabulary may lack bytes of the prompt, which is the prompt's fault then.
    if let Ok(ids) = tokenizer.encode(PROMPT, Encode { add_special: true, parse_special: true }) {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_tokens()));
        tokenizer.decode(&ids);
    }
    Ok(())
}

/// Checks a file in memory; `what` says in a failure which one it was.
pub fn check(what: &str, bytes: &[u8]) -> Outcome {
    measured(what, bytes.len(), || load(bytes))
}

/// Checks what lies at a path, which may be no file at all.
pub fn check_path(what: &str, path: &Path, file_bytes: usize) -> Outcome {
    measured(what, file_bytes, || visit(&Gguf::open(path)?))
}

fn measured(what: &str, file_bytes: usize, load: impl Fn() -> Result<(), Error>) -> Outcome {
    let mut slow = TIME_MAX;
    for _ in 0..ATTEMPTS {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let start = Instant::now();
        let result = load();
        slow = start.elapsed();
        let peak = PEAK.load(Relaxed).saturating_sub(before);
        let limit = file_bytes + MEMORY_MAX_BYTES;
        assert!(peak <= limit, "{what}: {peak} bytes of heap for a file of {file_bytes}");
        if slow <= TIME_MAX {
            return judge(what, result);
        }
    }
    panic!("{what}: took {slow:?}");
}

fn judge(what: &str, result: Result<(), Error>) -> Outcome {
    let Err(error) = result else {
        return Outcome::Loaded;
    };
    assert_eq!(error.code(), ErrorCode::ModelLoadFailed, "{what}: {error}");
    assert!(error.reason().len() > 10, "{what}: no reason: {error}");
    assert!(error.reason().len() < 1_000, "{what}: an endless reason: {error}");
    assert!(!error.reason().contains('\0'), "{what}: a reason with NUL: {error}");
    Outcome::Refused(error.reason().to_string())
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every request goes to the system's allocator unchanged; counting touches atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let live = LIVE.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(live - layout.size(), Relaxed);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}
