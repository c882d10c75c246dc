//! From GGUF metadata to a [`ModelSpec`].

#![forbid(unsafe_code)]

mod spec;

pub use spec::*;
