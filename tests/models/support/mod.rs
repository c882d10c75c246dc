//! What several integration tests need: where the data is, and a golden model run on a device.

pub mod golden;
pub mod runner;

use std::path::PathBuf;

/// The folder that the variable `name` gives, else `default` beside the repository.
pub fn folder(name: &str, default: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) => path.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared").join(default),
    }
}

/// The folder of the golden models.
pub fn goldens() -> PathBuf {
    folder("WORKER_ORCD_GOLDENS", "models/tiny")
}
