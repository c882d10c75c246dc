//! worker_orcd: GGUF language models for any host that can call C.
//!
//! How a token is made:
//!
//! 1. [`gguf`] maps a file and turns it into checked data; [`quant`] knows how its blocks of weights are stored. `model`
//!    describes the family as a spec, `token` builds the tokenizer, both from metadata alone. [`plan`] lowers the spec to a
//!    straight list of steps, from which the memory for weights, activations and cache follows.
//! 2. [`device`] loads the plan, on the CPU or on an NVIDIA GPU, and runs it over batches: rows of many sequences, each of which
//!    gives the same bits whatever its neighbours are.
//! 3. [`engine`] takes a prompt, takes pages of the cache for all that the answer can need, and hands both to the model's
//!    scheduler. That one thread makes a batch of everything that can go on, has it run, and puts each drawn token into its
//!    inference's outbox.
//! 4. The host pulls: tokens become bytes, bytes become whole characters, and a piece of text crosses into C through `ffi`, or
//!    into Rust through [`cuda_ffi`].
//!
//! Dependencies point down this list and never up, and a test keeps it so. `unsafe` stays at the edges: C, the kernel, SIMD and
//! the driver.

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
