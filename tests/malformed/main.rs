//! Any bytes as a model give a model or code 3 with a reason, within 50 ms and little memory.
//!
//! Named cases are tables of faults put into a sound file; the systematic layer tries what no table
//! lists. Letters as in the cases' names: H header, K metadata, T tensor table, D data and files,
//! P hyperparameters, V vocabulary.

mod case;
mod check;
mod families;
mod files;
mod folder;
#[path = "../forge/mod.rs"]
mod forge;
mod goldens;
mod header;
mod hyper;
mod large;
mod metadata;
mod meter;
mod systematic;
mod tensors;
mod vocab;
mod whole;

use case::Case;
use folder::Folder;
use meter::alone;
use whole::Engine;

fn all_cases() -> impl Iterator<Item = &'static Case> {
    header::CASES.iter().chain(metadata::CASES).chain(tensors::CASES).chain(hyper::CASES).chain(vocab::CASES)
}

#[test]
fn every_named_case() {
    let _alone = alone();
    let complaints: Vec<String> = all_cases().filter_map(Case::complaint).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The same through the engine: what loads answers, or says by a code why it cannot.
#[test]
fn every_named_case_through_the_engine() {
    let _alone = alone();
    let engine = Engine::new();
    let folder = Folder::new("engine");
    let complaints: Vec<String> = all_cases()
        .filter_map(|case| {
            let mut file = forge::llama::model();
            (case.fault)(&mut file);
            let bytes = file.bytes();
            let path = folder.write("case.gguf", &bytes);
            case.complaint_of(engine.check(case.id, &path, bytes.len()))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What the faults are put into is really there: the reader gives back what the forge wrote.
#[test]
fn the_sound_file_reads_as_written() {
    let _alone = alone();
    let file = forge::llama::model();
    let gguf = worker_orcd::gguf::Gguf::from_bytes(file.bytes()).expect("a sound file");
    let keys: Vec<&str> = gguf.metadata().keys().collect();
    assert_eq!(keys.len(), file.keys.len());
    assert!(file.keys.iter().all(|k| keys.iter().any(|found| found.as_bytes() == k.name)));
    let tokens = gguf.metadata().require_strings("tokenizer.ggml.tokens").expect("the tokens");
    assert!(tokens.iter_bytes().eq(forge::llama::tokens().iter().map(String::as_bytes)));
    for (found, row) in gguf.tensors().iter().zip(&file.tensors) {
        assert_eq!(found.name.as_bytes(), row.name);
        assert_eq!(found.ty.ggml(), row.ty);
        assert!(found.dims[..found.n_dims].iter().map(|&d| d as u64).eq(row.dims.iter().copied()));
        assert_eq!(gguf.source().bytes(&found.data), row.data);
    }
    assert_eq!(gguf.tensors().len(), file.tensors.len());
}
