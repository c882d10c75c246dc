//! From a request to text: contexts, models, inferences, and the scheduler that runs all inferences of a model together.
//!
//! A [`Context`] is a device. A [`Model`] is a file on it and one thread, which batches whatever its inferences have to
//! compute. An [`Inference`] is pulled by the host, piece by piece. What an inference says depends on its device, file,
//! prompt, temperature and seed alone: rows of a batch do not see each other, and draws come from seed and position.

#![forbid(unsafe_code)]

mod context;
mod facts;
mod group;
mod inference;
mod layout;
mod load;
mod model;
mod outbox;
mod pace;
mod pages;
mod prefix;
pub mod process;
mod relief;
mod request;
mod roster;
mod sampler;
mod scheduler;
mod sequence;
mod softmax;
mod stops;
mod sync;
mod truncate;
mod vocabulary;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod option_tests;
#[cfg(test)]
mod sampler_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;

pub use crate::plan::KvType;
pub use context::Context;
pub use facts::Facts;
pub use inference::{Inference, Statistics};
pub use load::{LoadOptions, Progress};
pub use model::{Model, Parts};
pub use outbox::{Finish, LOOK_AHEAD};
pub use request::{MAX_TOKENS, Options, Prompt, Request};
pub use sampler::{Drawn, Sampling};
pub use vocabulary::Vocabulary;
