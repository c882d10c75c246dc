//! A cursor over the start of a part: the one place that reads lengths and moves on.
//!
//! Invariant: `position <= copied <= length of the part`, and nothing is copied or allocated before
//! its length was compared with what remains. The cursor reads the file once, in chunks, into a
//! private copy, so what was checked is what is used even if the file changes meanwhile.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

use super::limits;
use super::source::Part;

const FIRST_CHUNK_BYTES: usize = 16 << 10;
const CHUNK_BYTES: usize = 1 << 20;

/// An extent of the private copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        bytes.get(start..start + self.len as usize).unwrap_or_default()
    }
}

pub(super) struct Cursor<'a> {
    part: &'a Part,
    copy: Vec<u8>,
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(part: &'a Part) -> Self {
        Self { part, copy: Vec::new(), position: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    pub(super) fn remaining(&self) -> u64 {
        self.part.len() - self.position as u64
    }

    /// The copy of everything before `end`, to be kept.
    pub(super) fn into_copy(mut self, end: u64) -> Vec<u8> {
        self.copy.truncate(end as usize);
        self.copy
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<Span> {
        if count > self.remaining() {
            return Err(Error::load(format!(
                "the file is truncated: {what} takes {count} bytes at offset {}, and {} remain",
                self.position,
                self.remaining()
            )));
        }
        let end = self.position as u64 + count;
        if end > limits::METADATA_BYTES {
            return Err(Error::load(format!(
                "{what} ends at offset {end}, beyond the limit of {} bytes before the data",
                limits::METADATA_BYTES
            )));
        }
        let end = end as usize;
        if end > self.copy.len() {
            self.fill(end)?;
        }
        let span = Span { start: self.position as u32, len: count as u32 };
        self.position = end;
        Ok(span)
    }

    /// Makes the copy at least `end` bytes long, which the part is.
    fn fill(&mut self, end: usize) -> Result<()> {
        let have = self.copy.len();
        let chunk = have.clamp(FIRST_CHUNK_BYTES, CHUNK_BYTES);
        let limit = usize::try_from(self.part.len()).unwrap_or(usize::MAX);
        let target = end.max(have.saturating_add(chunk).min(limit));
        self.copy
            .try_reserve_exact(target - have)
            .map_err(|_| Error::memory(format!("no memory for {target} bytes of the file's start")))?;
        self.copy.resize(target, 0);
        self.part.read_at(have as u64, &mut self.copy[have..])
    }

    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.copy)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let span = self.take(N as u64, what)?;
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(span));
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things of at least `each` bytes: within `limit`, and within what remains.
    pub(super) fn count(&mut self, each: u64, limit: u64, what: &str) -> Result<u64> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(Error::load(format!("{what} is {count}, more than the limit of {limit}")));
        }
        if count > self.remaining() / each {
            return Err(Error::load(format!(
                "{what} is {count}, more than the {} remaining bytes can hold",
                self.remaining()
            )));
        }
        Ok(count)
    }

    /// A length of 64 bits, and as many bytes.
    pub(super) fn string(&mut self, limit: u64, what: &str) -> Result<Span> {
        let len = self.u64(what)?;
        if len > limit {
            return Err(Error::load(format!(
                "{what} is {len} bytes long at offset {}, more than the limit of {limit}",
                self.position
            )));
        }
        self.take(len, what)
    }

    /// A string that names something: UTF-8, not empty, no control characters.
    pub(super) fn name(&mut self, limit: u64, what: &str) -> Result<Span> {
        let span = self.string(limit, what)?;
        let at = span.start;
        let text = std::str::from_utf8(self.bytes(span))
            .map_err(|_| Error::load(format!("{what} at offset {at} is not valid UTF-8")))?;
        if text.is_empty() {
            return Err(Error::load(format!("{what} at offset {at} is empty")));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::load(format!(
                "{what} at offset {at} holds a control character: {}",
                super::quoted(text)
            )));
        }
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: &[u8]) -> Part {
        Part::Memory(bytes.to_vec())
    }

    #[test]
    fn numbers_are_little_endian() {
        let part = part(&[1, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1]);
        let mut cursor = Cursor::new(&part);
        assert_eq!(cursor.u32("a").unwrap(), 0x201);
        assert_eq!(cursor.u64("b").unwrap(), 0x0100_0000_0000_0003);
        assert_eq!(cursor.remaining(), 0);
        let error = cursor.u32("the last number").unwrap_err();
        assert!(error.reason().contains("the last number"), "{error}");
    }

    #[test]
    fn a_long_part_is_copied_chunk_by_chunk() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let part = part(&bytes);
        let mut cursor = Cursor::new(&part);
        let mut at = 0;
        for step in (1..2_000).cycle() {
            if at + step > bytes.len() {
                break;
            }
            let span = cursor.take(step as u64, "bytes").unwrap();
            assert_eq!(cursor.bytes(span), &bytes[at..at + step]);
            at += step;
        }
        assert_eq!(cursor.into_copy(at as u64), &bytes[..at]);
    }

    #[test]
    fn a_length_beyond_the_end_allocates_nothing() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend(b"abc");
        let part = part(&bytes);
        let mut cursor = Cursor::new(&part);
        assert!(cursor.string(u64::MAX, "text").is_err());
        assert!(cursor.copy.capacity() < 1 << 20);
    }

    #[test]
    fn a_count_is_held_against_what_remains() {
        let mut bytes = 3u64.to_le_bytes().to_vec();
        bytes.extend([0; 11]);
        let part = part(&bytes);
        assert!(Cursor::new(&part).count(4, 10, "n").is_err());
        assert!(Cursor::new(&part).count(3, 2, "n").is_err());
        assert_eq!(Cursor::new(&part).count(3, 3, "n").unwrap(), 3);
    }
}
