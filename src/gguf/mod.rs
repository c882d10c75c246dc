//! GGUF files, versions 2 and 3: bytes in, checked and typed data out.
//!
//! [`Gguf::open`] maps the file, copies the part before the data once, and checks all of it: after
//! that, no count, length, type or extent needs a second look. Weights are not touched; they are
//! read through [`Source`], which outlives the parsed tables. Any bytes give data or an error.

mod cursor;
mod entry;
mod kind;
mod limits;
mod metadata;
mod source;
mod split;
mod strings;
mod tensor;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

use cursor::Cursor;
use source::Part;
use split::Split;

pub use kind::Kind;
pub use metadata::{Metadata, require};
pub use source::{Source, TensorRef};
pub use strings::{StringBytes, Strings};
pub use tensor::Tensor;

const MAGIC: [u8; 4] = *b"GGUF";

/// A parsed model file.
pub struct Gguf {
    metadata: Metadata,
    /// In the order of the file, part after part.
    tensors: Vec<Tensor>,
    /// Indices into `tensors`, by name.
    by_name: Vec<u32>,
    source: Arc<Source>,
}

impl Gguf {
    /// Opens a model; if it is the first part of several, all of them.
    pub fn open(path: &Path) -> Result<Self> {
        let part = Part::open(path)?;
        let (metadata, mut tensors) = within(path, parse_part(&part, 0))?;
        let split = within(path, Split::read(&metadata))?;
        within(path, split.expect(0, split.count))?;
        let mut parts = vec![part];
        for no in 1..split.count {
            let path = split::sibling(path, no, split.count)?;
            let (part, more) = open_sibling(&path, no, split.count)?;
            parts.push(part);
            tensors.extend(more);
        }
        Self::new(metadata, tensors, parts, split)
    }

    /// Parses a model of one part in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let part = Part::Memory(bytes);
        let (metadata, tensors) = parse_part(&part, 0)?;
        let split = Split::read(&metadata)?;
        split.expect(0, 1)?;
        Self::new(metadata, tensors, vec![part], split)
    }

    fn new(metadata: Metadata, tensors: Vec<Tensor>, parts: Vec<Part>, split: Split) -> Result<Self> {
        let found = tensors.len() as u64;
        if found > limits::TENSORS {
            return Err(Error::load(format!(
                "{found} tensors in {} parts, more than the limit of {}",
                split.count,
                limits::TENSORS
            )));
        }
        if let Some(expected) = split.tensors.filter(|&n| n != found && split.count > 1) {
            return Err(Error::load(format!(
                "metadata key \"split.tensors.count\" is {expected}, but the {} parts hold {found}",
                split.count
            )));
        }
        let by_name = index(&tensors)?;
        Ok(Self { metadata, tensors, by_name, source: Arc::new(Source::new(parts)) })
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str> {
        let name = self.metadata.require_str("general.architecture")?;
        if name.is_empty() || name.len() > limits::ARCHITECTURE_BYTES {
            return Err(Error::load(format!(
                "metadata key \"general.architecture\" is {} bytes long; it must be 1 to {}",
                name.len(),
                limits::ARCHITECTURE_BYTES
            )));
        }
        Ok(name)
    }

    /// The metadata; that of the first part for a split model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let found = self.by_name.binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name));
        let index = *self.by_name.get(found.ok()?)?;
        self.tensors.get(index as usize)
    }

    /// The bytes behind the tensors; to be kept as long as weights are read.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }
}

/// Opens part `no` (from 0) of `count`; its metadata serves only to check that.
fn open_sibling(path: &Path, no: u16, count: u16) -> Result<(Part, Vec<Tensor>)> {
    let part = Part::open(path)?;
    let (metadata, tensors) = within(path, parse_part(&part, no))?;
    within(path, Split::read(&metadata).and_then(|s| s.expect(no, count)))?;
    Ok((part, tensors))
}

/// Parses one file.
fn parse_part(part: &Part, no: u16) -> Result<(Metadata, Vec<Tensor>)> {
    let mut cursor = Cursor::new(part);
    parse_version(&mut cursor)?;
    let tensor_count = cursor.count(limits::MIN_TENSOR_BYTES, limits::TENSORS, "the number of tensors")?;
    let key_count = cursor.count(limits::MIN_ENTRY_BYTES, limits::KEYS, "the number of metadata keys")?;
    let entries = metadata::parse_entries(&mut cursor, key_count)?;
    let metadata_end = cursor.position();
    let mut tensors = tensor::parse_table(&mut cursor, tensor_count, no)?;
    let table_end = cursor.position();
    let metadata = Metadata::new(cursor.into_copy(metadata_end), entries)?;
    let alignment = alignment(&metadata)?;
    let data_start = table_end.next_multiple_of(alignment);
    let end = tensor::place(&mut tensors, data_start, alignment, part.len())?;
    let trailing = part.len().saturating_sub(end.next_multiple_of(alignment));
    if trailing > 0 {
        log::warn!("{trailing} bytes follow the last tensor; they are ignored");
    }
    Ok((metadata, tensors))
}

fn parse_version(cursor: &mut Cursor<'_>) -> Result<()> {
    let magic = cursor.u32("the magic number")?.to_le_bytes();
    if magic != MAGIC {
        return Err(Error::load(format!("the magic number is {:?}, not \"GGUF\"", magic.escape_ascii().to_string())));
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        v if (1..=3).contains(&v.swap_bytes()) => Err(Error::load(format!(
            "the version is {} in big-endian order; only little-endian files are read",
            v.swap_bytes()
        ))),
        v => Err(Error::load(format!("the version is {v}; versions 2 and 3 are read"))),
    }
}

/// `general.alignment`, which the format has as u32 and nothing else.
fn alignment(metadata: &Metadata) -> Result<u64> {
    let key = "general.alignment";
    let Some(value) = metadata.u64(key)? else {
        return Ok(limits::DEFAULT_ALIGNMENT);
    };
    if metadata.kind(key) != Some(Kind::U32) {
        return Err(Error::load(format!(
            "metadata key {key:?} is {}, expected u32",
            metadata.kind(key).map_or("missing", Kind::name)
        )));
    }
    let legal = limits::MIN_ALIGNMENT..=limits::MAX_ALIGNMENT;
    if !value.is_power_of_two() || !legal.contains(&value) {
        return Err(Error::load(format!(
            "metadata key {key:?} is {value}; it must be a power of two from {} to {}",
            legal.start(),
            legal.end()
        )));
    }
    Ok(value)
}

/// The order of the tensors by name; an error if a name appears twice.
fn index(tensors: &[Tensor]) -> Result<Vec<u32>> {
    let mut by_name = Vec::new();
    by_name
        .try_reserve_exact(tensors.len())
        .map_err(|_| Error::memory(format!("no memory for {} tensors", tensors.len())))?;
    by_name.extend(0..tensors.len() as u32);
    let name = |i: u32| tensors[i as usize].name.as_str();
    by_name.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
    match by_name.windows(2).find(|w| name(w[0]) == name(w[1])) {
        Some(twice) => Err(Error::load(format!("tensor {} appears twice", quoted(name(twice[0]))))),
        None => Ok(by_name),
    }
}

/// Names the file in an error.
fn within<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|e| Error::new(e.code(), format!("{}: {}", shown(path), e.reason())))
}

/// A name out of a file for a message: escaped, and cut if it is long.
pub fn quoted(name: &str) -> String {
    quoted_within(name, 80)
}

/// A path for a message, likewise.
fn shown(path: &Path) -> String {
    quoted_within(&path.to_string_lossy(), 512)
}

fn quoted_within(name: &str, chars: usize) -> String {
    match name.char_indices().nth(chars) {
        Some((cut, _)) => format!("{:?}… ({} bytes)", &name[..cut], name.len()),
        None => format!("{name:?}"),
    }
}
