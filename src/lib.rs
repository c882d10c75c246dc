//! worker_orcd: GGUF language models for any host that can call C.

pub mod cuda_ffi;
#[doc(hidden)]
pub mod device;
#[doc(hidden)]
pub mod engine;
pub mod error;
mod ffi;
#[doc(hidden)]
pub mod gguf;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod quant;
#[doc(hidden)]
pub mod token;

pub use cuda_ffi as cuda;
