//! worker_orcd: GGUF language models for any host that can call C.

pub mod error;
#[doc(hidden)]
pub mod quant;
