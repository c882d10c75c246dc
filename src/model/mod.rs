//! From GGUF metadata to a [`ModelSpec`].

#![forbid(unsafe_code)]

mod arch;
mod builder;
mod keys;
mod rope;
mod spec;

pub use arch::{FAMILIES, Family, build};
pub use spec::*;
