//! Files that are as large as the limits allow, made of whatever costs the reader most.

use crate::check::{Outcome, check_path};
use crate::folder::Folder;
use crate::forge::{GgufFile, Key, Row, STR, U8, Value, llama};
use crate::meter::alone;

fn outcome(what: &str, file: &GgufFile) -> Outcome {
    let folder = Folder::new(what);
    let bytes = file.bytes();
    let path = folder.write("large.gguf", &bytes);
    let len = bytes.len();
    drop(bytes);
    check_path(what, &path, len)
}

fn loads(what: &str, file: &GgufFile) {
    let outcome = outcome(what, file);
    assert!(matches!(outcome, Outcome::Loaded), "{what}: {outcome:?}");
}

#[test]
fn more_than_may_stand_before_the_data() {
    let _alone = alone();
    let mut file = llama::model();
    for key in ["probe.1", "probe.2", "probe.3", "probe.4"] {
        file.set(key, Value::array(U8, 16 << 20, vec![0; 16 << 20]));
    }
    let outcome = outcome("metadata", &file);
    assert!(matches!(&outcome, Outcome::Refused(reason) if reason.contains("probe.4")), "{outcome:?}");
}

#[test]
fn a_vocabulary_of_256_thousand_tokens() {
    let _alone = alone();
    let tokens: Vec<String> = (0..262_144).map(|i| format!("token{i}")).collect();
    let merges: Vec<String> = (0..262_144).map(|i| format!("token {i}")).collect();
    let mut file = llama::model();
    file.set("probe.tokens", Value::strs(&tokens));
    file.set("probe.merges", Value::strs(&merges));
    file.set("probe.token_type", Value::i32s(&vec![1; tokens.len()]));
    loads("vocabulary", &file);
}

#[test]
fn two_million_empty_strings() {
    let _alone = alone();
    let mut file = llama::model();
    file.set("empty", Value::array(STR, 1 << 21, vec![0; 8 << 21]));
    loads("empty-strings", &file);
}

#[test]
fn sixteen_thousand_keys() {
    let _alone = alone();
    let key = |i| Key { name: format!("key.{i}").into_bytes(), name_len: None, value: Value::bool(1) };
    let mut file = llama::model();
    file.keys.extend((0..16_000).map(key));
    loads("keys", &file);
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
    let mut file = llama::model();
    file.tensors.extend((0..16_000).map(row));
    loads("tensors", &file);
}
