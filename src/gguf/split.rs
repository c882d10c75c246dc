//! Models in several files: `name-00001-of-00003.gguf` and its siblings.
//!
//! The first part holds the metadata; each holds its own tensors and says which part it is of how
//! many. The names follow from the first, so nothing in a file ever names another file.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

use super::metadata::Metadata;
use super::{limits, shown};

/// What a part says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Counted from 0.
    pub no: u16,
    pub count: u16,
    /// Tensors of all parts together, if the part says.
    pub tensors: Option<u64>,
}

impl Split {
    pub(super) fn read(metadata: &Metadata) -> Result<Self> {
        let count = metadata.u64("split.count")?.unwrap_or(1).max(1);
        if count > limits::PARTS {
            return Err(Error::load(format!(
                "metadata key \"split.count\" is {count}, more than the limit of {}",
                limits::PARTS
            )));
        }
        let no = metadata.u64("split.no")?.unwrap_or(0);
        if no >= count {
            return Err(Error::load(format!("metadata key \"split.no\" is {no}, but there are {count} parts")));
        }
        Ok(Self { no: no as u16, count: count as u16, tensors: metadata.u64("split.tensors.count")? })
    }

    /// Checks that this is part `no` of `count`.
    pub(super) fn expect(self, no: u16, count: u16) -> Result<()> {
        if (self.no, self.count) == (no, count) {
            return Ok(());
        }
        Err(Error::load(format!(
            "metadata keys \"split.no\" and \"split.count\" say part {} of {}, and part {} of {count} is wanted \
             here; a split model is opened by its first part",
            self.no + 1,
            self.count,
            no + 1
        )))
    }
}

/// The path of part `no` (from 0) of the model whose first part is `first`.
pub(super) fn sibling(first: &Path, no: u16, count: u16) -> Result<PathBuf> {
    let own = suffix(0, count);
    let stem = first.as_os_str().as_bytes().strip_suffix(own.as_bytes()).ok_or_else(|| {
        Error::load(format!(
            "metadata key \"split.count\" is {count}, but the name of {} does not end in {own}",
            shown(first)
        ))
    })?;
    let mut path = stem.to_vec();
    path.extend(suffix(no, count).bytes());
    Ok(PathBuf::from(OsString::from_vec(path)))
}

fn suffix(no: u16, count: u16) -> String {
    format!("-{:05}-of-{count:05}.gguf", u32::from(no) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_share_all_but_the_number() {
        let first = Path::new("dir/m-00001-of-00003.gguf");
        assert_eq!(sibling(first, 2, 3).unwrap(), Path::new("dir/m-00003-of-00003.gguf"));
        assert!(sibling(first, 1, 4).is_err());
        assert!(sibling(Path::new("m.gguf"), 1, 2).is_err());
    }

    #[test]
    fn names_are_bytes() {
        let first = PathBuf::from(OsString::from_vec(b"\xff-00001-of-00002.gguf".to_vec()));
        let second = sibling(&first, 1, 2).unwrap();
        assert_eq!(second.as_os_str().as_bytes(), b"\xff-00002-of-00002.gguf");
    }
}
