//! What every file must do: load, or be refused with code 3 and a reason, fast and in little memory.
//!
//! Here a file goes through everything but the device: parsed, its tokenizer built, its model described
//! and lowered to a plan. That is where a damaged file is refused; `whole` takes it through the engine.

use std::path::Path;
use std::time::Duration;

use worker_orcd::error::{Error, ErrorCode};
use worker_orcd::gguf::Gguf;
use worker_orcd::token::{Encode, Tokenizer};

use crate::meter::cost_of;

const PROCESSOR_MAX: Duration = Duration::from_millis(50);
/// A busy machine may take longer than the processor; what waits for something never ends.
const CLOCK_MAX: Duration = Duration::from_secs(10);
/// A first run may pay for what every process pays once.
const ATTEMPTS: usize = 3;
const HEAP_MAX_BYTES: usize = 16 << 20;
const PROMPT: &str = "the thé <|end|> \u{1f600}";

/// What became of a file.
#[derive(Debug)]
pub enum Outcome {
    Loaded,
    Refused(String),
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
    // The copy that is given away stands for the file.
    measured(what, 2 * bytes.len(), || visit(&Gguf::from_bytes(bytes.to_vec())?))
}

/// Checks what lies at a path, which may be no file at all.
pub fn check_path(what: &str, path: &Path, file_bytes: usize) -> Outcome {
    measured(what, file_bytes, || visit(&Gguf::open(path)?))
}

/// Loads a file and holds what that cost against the limits.
pub fn measured(what: &str, file_bytes: usize, load: impl Fn() -> Result<(), Error>) -> Outcome {
    let mut processor = Duration::ZERO;
    for _ in 0..ATTEMPTS {
        let (result, cost) = cost_of(&load);
        let (heap, limit) = (cost.heap_bytes, file_bytes + HEAP_MAX_BYTES);
        assert!(heap <= limit, "{what}: {heap} bytes of heap, more than {limit}");
        assert!(cost.clock <= CLOCK_MAX, "{what}: took {:?}", cost.clock);
        if cost.processor <= PROCESSOR_MAX {
            return judge(what, result);
        }
        processor = cost.processor;
    }
    panic!("{what}: took {processor:?} of the processor");
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
