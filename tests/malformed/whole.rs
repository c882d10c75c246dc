//! A file through the whole engine: loaded on the CPU, and four tokens out of it.
//!
//! What loads may still fail to answer, but only in the ways that the contract has for it: poisoned
//! weights give no number to choose by (4), a vocabulary lacks a byte of the prompt or the context is
//! too short for it (5), memory for the answer is not to be had (2).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use worker_orcd::device::cpu;
use worker_orcd::engine::{Context, Model, Request};
use worker_orcd::error::{Error, ErrorCode};

use crate::check::{Outcome, measured};
use crate::folder::Folder;

const PROMPT: &str = "the th\u{e9} <|end|> of";
const TOKENS: u32 = 4;

/// The CPU, opened once.
pub struct Engine(Context);

impl Engine {
    pub fn new() -> Self {
        Self(Context::on(cpu::device().expect("the CPU")))
    }

    /// Loads what lies at a path and lets it answer.
    pub fn check(&self, what: &str, path: &Path, file_bytes: usize) -> Outcome {
        measured(what, file_bytes, || {
            let model = Model::load(&self.0, path)?;
            if let Err(error) = answer(&model) {
                use ErrorCode::{InferenceFailed, InvalidParameter, OutOfMemory};
                let allowed = [InferenceFailed, InvalidParameter, OutOfMemory];
                assert!(allowed.contains(&error.code()), "{what}: {:?}: {error}", error.code());
            }
            Ok(())
        })
    }
}

fn answer(model: &Model) -> Result<(), Error> {
    let inference = model.start(&Request::new(PROMPT, TOKENS, 0.0, 1)?)?;
    let mut pieces = 0;
    while let Some((piece, index)) = inference.next_piece()? {
        assert!(!piece.is_empty() && index == pieces && index <= TOKENS, "{index}: {piece:?}");
        pieces += 1;
    }
    Ok(())
}

/// A file on the disk that is changed a little at a time.
pub struct Patient {
    path: PathBuf,
    file: File,
    sound: Vec<u8>,
    _folder: Folder,
}

impl Patient {
    pub fn new(test: &str, sound: Vec<u8>) -> Self {
        let folder = Folder::new(test);
        let path = folder.write("patient.gguf", &sound);
        let file = File::options().write(true).open(&path).expect("the patient");
        Self { path, file, sound, _folder: folder }
    }

    /// Checks the file with `bytes` at `offset`, and heals it.
    pub fn check_with(&self, engine: &Engine, what: &str, offset: usize, bytes: &[u8]) -> Outcome {
        self.file.write_all_at(bytes, offset as u64).expect("a write");
        let outcome = engine.check(what, &self.path, self.sound.len());
        let sound = &self.sound[offset..offset + bytes.len()];
        self.file.write_all_at(sound, offset as u64).expect("a write");
        outcome
    }
}
