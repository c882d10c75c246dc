//! Small models that another program wrote, one of each family.

use std::path::{Path, PathBuf};

/// The folder of small models that another program wrote.
fn goldens() -> PathBuf {
    std::env::var_os("WORKER_ORCD_GOLDENS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models/tiny"), Into::into)
}

/// The file of the golden of this name.
pub fn golden(name: &str) -> Vec<u8> {
    let path = goldens().join(format!("{name}.gguf"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
