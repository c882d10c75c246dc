//! The README's table of what runs is what the code's own tables say.
//!
//! `WORKER_ORCD_WRITE_README=1 cargo test --test readme` writes it; without it, a difference is a failure.

use std::fs;
use std::path::Path;
use worker_orcd::model::FAMILIES;
use worker_orcd::quant::QuantType;
use worker_orcd::token::{TOKENIZERS, splits};

const BEGIN: &str = "<!-- what runs: begin -->\n";
const END: &str = "<!-- what runs: end -->\n";
/// Columns of a paragraph.
const WIDTH: usize = 120;

/// Names in code type, with commas, in lines of at most [`WIDTH`].
fn list(names: impl Iterator<Item = &'static str>) -> String {
    let mut lines = vec![String::new()];
    for name in names {
        let word = format!("`{name}`, ");
        match lines.last_mut() {
            Some(line) if line.len() + word.len() <= WIDTH => line.push_str(&word),
            _ => lines.push(word),
        }
    }
    let text = lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n");
    text.trim_end_matches(',').to_string()
}

fn table() -> String {
    let mut text = String::from("| `general.architecture` | models |\n|---|---|\n");
    for family in &FAMILIES {
        text += &format!("| `{}` | {} |\n", family.name, family.models);
    }
    let types = list(QuantType::ALL.iter().map(|t| t.name()));
    text += &format!("\nTypes of tensors, in any mixture:\n{types}.\n");
    text += "\n| `tokenizer.ggml.model` | is |\n|---|---|\n";
    for tokenizer in &TOKENIZERS {
        text += &format!("| `{}` | {} |\n", tokenizer.name, tokenizer.what);
    }
    text + &format!("\nSplits of byte-level BPE (`tokenizer.ggml.pre`):\n{}.\n", list(splits()))
}

#[test]
fn the_table_of_what_runs_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("README.md");
    let (before, rest) = readme.split_once(BEGIN).expect("the table's begin");
    let (found, after) = rest.split_once(END).expect("the table's end");
    let table = table();
    if std::env::var_os("WORKER_ORCD_WRITE_README").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("README.md");
        return;
    }
    assert_eq!(found, table, "run with WORKER_ORCD_WRITE_README set to write it");
}

/// The comparison above holds for any table: this one has every family, type and split.
#[test]
fn every_name_is_in_the_table() {
    let table = table();
    let names = FAMILIES.iter().map(|f| f.name).chain(QuantType::ALL.iter().map(|t| t.name())).chain(splits());
    let missing: Vec<&str> = names.filter(|name| !table.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(table.lines().all(|line| line.len() <= WIDTH));
}
