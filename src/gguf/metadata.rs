//! The metadata: keys and typed values.
//!
//! A missing key is `None`, a value of another type is an error that names the key and both types.
//! Integers of every width are read alike if the value fits, since writers differ in the width they
//! choose. Entries are sorted by key: lookups are short, and duplicates stand side by side.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

use super::cursor::Cursor;
use super::entry::Entry;
use super::kind::Kind;
use super::quoted;
use super::strings::Strings;

/// The keys and values of one part.
pub struct Metadata {
    copy: Vec<u8>,
    /// By key, each key once.
    entries: Vec<Entry>,
}

/// Reads `count` entries, in the order of the file.
pub(super) fn parse_entries(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    entries
        .try_reserve_exact(count as usize)
        .map_err(|_| Error::memory(format!("no memory for {count} metadata keys")))?;
    for _ in 0..count {
        entries.push(Entry::parse(cursor)?);
    }
    Ok(entries)
}

impl Metadata {
    /// `copy` holds the bytes that the entries point into.
    pub(super) fn new(copy: Vec<u8>, mut entries: Vec<Entry>) -> Result<Self> {
        entries.sort_unstable_by(|a, b| a.key.of(&copy).cmp(b.key.of(&copy)));
        let twice = entries.windows(2).find(|pair| pair[0].key.of(&copy) == pair[1].key.of(&copy));
        if let Some(pair) = twice {
            let key = String::from_utf8_lossy(pair[0].key.of(&copy));
            return Err(Error::load(format!("metadata key {} appears twice", quoted(&key))));
        }
        Ok(Self { copy, entries })
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys, in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| self.key_of(e))
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Whether the key is there and holds an array.
    pub fn is_array(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|e| e.array.is_some())
    }

    /// The type of the key's value (of an array's elements).
    pub fn kind(&self, key: &str) -> Option<Kind> {
        self.entry(key).map(|e| e.kind)
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.integer(key, "an unsigned integer")
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.integer(key, "an unsigned integer of 32 bits")
    }

    pub fn i64(&self, key: &str) -> Result<Option<i64>> {
        self.integer(key, "an integer")
    }

    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        let Some((kind, bytes)) = self.scalar(key, "a float")? else {
            return Ok(None);
        };
        let value = kind.float(bytes).ok_or_else(|| self.mismatch(key, "a float"))?;
        narrow(value).map(Some).ok_or_else(|| unfit(key, value, "a float of 32 bits"))
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.scalar(key, "a bool")? {
            None => Ok(None),
            Some((Kind::Bool, bytes)) => Ok(Some(bytes == [1])),
            Some(_) => Err(self.mismatch(key, "a bool")),
        }
    }

    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        let Some(bytes) = self.str_bytes(key)? else {
            return Ok(None);
        };
        std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::load(format!("metadata key {}: the string is not valid UTF-8", quoted(key))))
    }

    /// A string's bytes, whatever they are.
    pub fn str_bytes(&self, key: &str) -> Result<Option<&[u8]>> {
        match self.scalar(key, "a string")? {
            None => Ok(None),
            Some((Kind::Str, bytes)) => Ok(Some(bytes)),
            Some(_) => Err(self.mismatch(key, "a string")),
        }
    }

    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>> {
        let Some(entry) = self.entry(key) else {
            return Ok(None);
        };
        match &entry.array {
            Some(array) if entry.kind == Kind::Str => {
                Ok(Some(Strings { key: self.key_of(entry), copy: &self.copy, marks: &array.marks, len: array.len }))
            }
            _ => Err(self.mismatch(key, "an array of strings")),
        }
    }

    pub fn u64s(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.array(key, "an array of unsigned integers", |kind, bytes| u64::try_from(kind.integer(bytes)?).ok())
    }

    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.array(key, "an array of unsigned integers of 32 bits", |kind, bytes| {
            u32::try_from(kind.integer(bytes)?).ok()
        })
    }

    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.array(key, "an array of integers of 32 bits", |kind, bytes| i32::try_from(kind.integer(bytes)?).ok())
    }

    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.array(key, "an array of floats", |kind, bytes| narrow(kind.float(bytes)?))
    }

    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.array(key, "an array of bools", |kind, bytes| (kind == Kind::Bool).then_some(bytes == [1]))
    }

    pub fn require_u64(&self, key: &str) -> Result<u64> {
        require(key, self.u64(key)?)
    }

    pub fn require_u32(&self, key: &str) -> Result<u32> {
        require(key, self.u32(key)?)
    }

    pub fn require_f32(&self, key: &str) -> Result<f32> {
        require(key, self.f32(key)?)
    }

    pub fn require_str(&self, key: &str) -> Result<&str> {
        require(key, self.str(key)?)
    }

    pub fn require_strings(&self, key: &str) -> Result<Strings<'_>> {
        require(key, self.strings(key)?)
    }

    fn key_of(&self, entry: &Entry) -> &str {
        std::str::from_utf8(entry.key.of(&self.copy)).unwrap_or_default()
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|e| e.key.of(&self.copy).cmp(key.as_bytes()));
        self.entries.get(found.ok()?)
    }

    /// Type and bytes of a value that is not an array.
    fn scalar(&self, key: &str, expected: &str) -> Result<Option<(Kind, &[u8])>> {
        match self.entry(key) {
            None => Ok(None),
            Some(entry) if entry.array.is_none() => Ok(Some((entry.kind, entry.value.of(&self.copy)))),
            Some(_) => Err(self.mismatch(key, expected)),
        }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        let Some((kind, bytes)) = self.scalar(key, expected)? else {
            return Ok(None);
        };
        let value = kind.integer(bytes).ok_or_else(|| self.mismatch(key, expected))?;
        T::try_from(value).map(Some).map_err(|_| unfit(key, value, expected))
    }

    fn array<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(Kind, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(entry) = self.entry(key) else {
            return Ok(None);
        };
        let (Some(array), Some(width)) = (&entry.array, entry.kind.width()) else {
            return Err(self.mismatch(key, expected));
        };
        let mut values = Vec::new();
        values
            .try_reserve_exact(array.len)
            .map_err(|_| Error::memory(format!("no memory for {} values of {key}", array.len)))?;
        for (index, bytes) in entry.value.of(&self.copy).chunks_exact(width as usize).enumerate() {
            let value = convert(entry.kind, bytes).ok_or_else(|| {
                Error::load(format!(
                    "metadata key {}: element {index} of {} does not fit {expected}",
                    quoted(key),
                    entry.describe()
                ))
            })?;
            values.push(value);
        }
        Ok(Some(values))
    }

    fn mismatch(&self, key: &str, expected: &str) -> Error {
        let found = self.entry(key).map(Entry::describe).unwrap_or_default();
        Error::load(format!("metadata key {} is {found}, expected {expected}", quoted(key)))
    }
}

/// Turns a missing key into an error that names it.
pub fn require<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::load(format!("metadata key {} is missing", quoted(key))))
}

/// A float of 32 bits; `None` for what is finite only in 64.
fn narrow(value: f64) -> Option<f32> {
    let narrowed = value as f32;
    (narrowed.is_finite() || !value.is_finite()).then_some(narrowed)
}

fn unfit(key: &str, value: impl std::fmt::Display, expected: &str) -> Error {
    Error::load(format!("metadata key {} is {value}, expected {expected}", quoted(key)))
}
