//! From GGUF metadata to a [`ModelSpec`].

#![forbid(unsafe_code)]

mod arch;
mod builder;
mod keys;
mod rope;
#[cfg(test)]
mod rope_tests;
mod spec;

pub use arch::{FAMILIES, Family, build};
pub use spec::*;
