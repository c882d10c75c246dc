//! Memory that models keep for later, given back when someone needs it now.
//!
//! Each model keeps the KV pages of ended inferences for its next ones. When memory is short, for another model's pages or
//! weights, all models give back what lies above their highest page in use, and the attempt is made once more.

use super::scheduler::Shared;
use super::sync::lock;
use crate::error::{ErrorCode, Result};
use std::sync::{Arc, Mutex, Weak};

static MODELS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Adds a model to those that are asked.
pub fn register(model: &Arc<Shared>) {
    let mut models = lock(&MODELS);
    models.retain(|m| m.strong_count() > 0);
    models.push(Arc::downgrade(model));
}

/// `attempt`, and once more after relief where it lacked memory.
pub fn with_relief<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    match attempt() {
        Err(error) if error.code() == ErrorCode::OutOfMemory => {
            let models = lock(&MODELS).clone();
            models.iter().filter_map(Weak::upgrade).for_each(|m| m.pages.trim());
            attempt()
        }
        result => result,
    }
}
