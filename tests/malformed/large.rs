//! Files that are as large as the limits allow, made of whatever costs the reader most.

use crate::check::{Outcome, alone, check_path};
use crate::forge::{GgufFile, Key, Row, STR, Value};

fn architecture() -> Key {
    Key { name: b"general.architecture".to_vec(), name_len: None, value: Value::str("llama") }
}

fn loads(what: &str, file: &GgufFile) {
    let bytes = file.bytes();
    let path = std::env::temp_dir().join(format!("worker-orcd-{what}-{}.gguf", std::process::id()));
    std::fs::write(&path, &bytes).expect("a file for the test");
    let len = bytes.len();
    drop(bytes);
    let outcome = check_path(what, &path, len);
    std::fs::remove_file(&path).expect("the file");
    assert!(matches!(outcome, Outcome::Loaded), "{what}: {outcome:?}");
}

#[test]
fn a_vocabulary_of_256_thousand_tokens() {
    let _alone = alone();
    let tokens: Vec<String> = (0..262_144).map(|i| format!("token{i}")).collect();
    let merges: Vec<String> = (0..262_144).map(|i| format!("token {i}")).collect();
    let mut file = GgufFile::new(vec![architecture()], Vec::new());
    file.set("tokenizer.ggml.tokens", Value::strs(&tokens));
    file.set("tokenizer.ggml.merges", Value::strs(&merges));
    file.set("tokenizer.ggml.token_type", Value::i32s(&vec![1; tokens.len()]));
    loads("vocabulary", &file);
}

#[test]
fn two_million_empty_strings() {
    let _alone = alone();
    let mut file = GgufFile::new(vec![architecture()], Vec::new());
    file.set("empty", Value::array(STR, 1 << 21, vec![0; 8 << 21]));
    loads("empty-strings", &file);
}

#[test]
fn sixteen_thousand_keys() {
    let _alone = alone();
    let key = |i| Key { name: format!("key.{i}").into_bytes(), name_len: None, value: Value::bool(1) };
    let keys = std::iter::once(architecture()).chain((0..16_000).map(key)).collect();
    loads("keys", &GgufFile::new(keys, Vec::new()));
}

#[test]
fn sixteen_thousand_tensors() {
    let _alone = alone();
    let row = |i| Row {
        label: String::new(),
        name: format!("{i:0128}").into_bytes(),
        name_len: None,
        n_dims: None,
        dims: vec![1],
        ty: 0,
        offset: None,
        data: vec![0; 4],
    };
    loads("tensors", &GgufFile::new(vec![architecture()], (0..16_000).map(row).collect()));
}
