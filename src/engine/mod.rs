//! From a request to text: contexts, models, inferences, and the scheduler that runs all inferences of a model together.
//!
//! A [`Context`] is a device. A [`Model`] is a file on it and one thread, which batches whatever its inferences have to
//! compute. An [`Inference`] is pulled by the host, piece by piece. What an inference says depends on its device, file,
//! prompt, temperature and seed alone: rows of a batch do not see each other, and draws come from seed and position.

#![forbid(unsafe_code)]

mod context;
mod group;
mod inference;
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
mod scheduler;
mod sequence;
mod sync;
mod vocabulary;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;

pub use context::Context;
pub use inference::Inference;
pub use model::{Model, Parts};
pub use outbox::{Finish, LOOK_AHEAD};
pub use request::{MAX_TOKENS, Request};
pub use vocabulary::Vocabulary;
