//! worker_orcd: GGUF language models for any host that can call C.

#[doc(hidden)]
pub mod device;
pub mod error;
#[doc(hidden)]
pub mod gguf;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod quant;
