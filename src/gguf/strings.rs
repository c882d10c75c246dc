//! An array of strings, read in place.
//!
//! A vocabulary is hundreds of thousands of strings: they stay where the metadata has them, and a
//! mark at every sixteenth makes random access short without an offset for each. Lengths were
//! checked when the array was parsed; UTF-8 is checked when a string is asked for as text.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

use super::quoted;

/// A mark is kept for every this many strings.
pub(super) const STRIDE: usize = 16;

/// A borrowed array of strings.
#[derive(Clone, Copy)]
pub struct Strings<'a> {
    pub(super) key: &'a str,
    /// The copy of the file's start.
    pub(super) copy: &'a [u8],
    /// Offsets in the copy of strings 0, 16, 32, … (of their lengths).
    pub(super) marks: &'a [u32],
    pub(super) len: usize,
}

impl<'a> Strings<'a> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of string `index`; `None` beyond the end.
    pub fn bytes(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.len {
            return None;
        }
        let mut at = *self.marks.get(index / STRIDE)? as usize;
        for _ in 0..index % STRIDE {
            at += 8 + read(self.copy, at)?.len();
        }
        read(self.copy, at)
    }

    /// String `index` as text.
    pub fn get(&self, index: usize) -> Result<&'a str> {
        let bytes = self.bytes(index).ok_or_else(|| {
            Error::load(format!("metadata key {}: no element {index} in an array of {}", quoted(self.key), self.len))
        })?;
        self.text(index, bytes)
    }

    /// All strings as bytes, in order.
    pub fn iter_bytes(&self) -> StringBytes<'a> {
        StringBytes { copy: self.copy, at: self.marks.first().copied().unwrap_or(0) as usize, left: self.len }
    }

    /// All strings as text, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<&'a str>> + use<'a> {
        let array = *self;
        self.iter_bytes().enumerate().map(move |(index, bytes)| array.text(index, bytes))
    }

    fn text(&self, index: usize, bytes: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(bytes)
            .map_err(|_| Error::load(format!("metadata key {}: element {index} is not valid UTF-8", quoted(self.key))))
    }
}

/// Walks an array of strings.
pub struct StringBytes<'a> {
    copy: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Iterator for StringBytes<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let bytes = read(self.copy, self.at)?;
        self.at += 8 + bytes.len();
        Some(bytes)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for StringBytes<'_> {}

/// The string whose length stands at `at`.
fn read(copy: &[u8], at: usize) -> Option<&[u8]> {
    let rest = copy.get(at..)?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)
}
