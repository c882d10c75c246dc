//! Any bytes as a model give a model or code 3 with a reason, within 50 ms and little memory.
//!
//! Named cases are tables of faults put into a sound file; the systematic layer tries what no table
//! lists. Letters as in the cases' names: H header, K metadata, T tensor table, D data and files.

mod case;
mod check;
mod files;
#[path = "../forge/mod.rs"]
mod forge;
mod header;
mod large;
mod metadata;
mod systematic;
mod tensors;

use case::Case;
use check::alone;

fn all_cases() -> impl Iterator<Item = &'static Case> {
    header::CASES.iter().chain(metadata::CASES).chain(tensors::CASES)
}

#[test]
fn every_named_case() {
    let _alone = alone();
    let complaints: Vec<String> = all_cases().filter_map(Case::complaint).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
