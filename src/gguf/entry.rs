//! One key and its value, as they stand in the file.
//!
//! Values stay in the copy of the file's start; an entry says where. Parsing checks everything
//! about the bytes: lengths, types, that a bool is 0 or 1, that arrays do not nest.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};

use super::cursor::{Cursor, Span};
use super::kind::Kind;
use super::strings::STRIDE;
use super::{limits, quoted};

/// A key, and where its value is.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: Span,
    /// The type of the value, or of the elements of an array.
    pub kind: Kind,
    /// The value's bytes; those of all elements for an array, lengths included.
    pub value: Span,
    pub array: Option<Array>,
}

/// What an array has beyond its bytes.
#[derive(Debug)]
pub(super) struct Array {
    pub len: usize,
    /// For strings: where every sixteenth begins.
    pub marks: Vec<u32>,
}

impl Entry {
    pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Self> {
        let key = cursor.name(limits::KEY_BYTES, "a metadata key")?;
        parse_value(cursor, key).map_err(|e| {
            let name = String::from_utf8_lossy(cursor.bytes(key));
            Error::new(e.code(), format!("metadata key {}: {}", quoted(&name), e.reason()))
        })
    }

    /// The type in words.
    pub(super) fn describe(&self) -> String {
        match &self.array {
            Some(array) => format!("an array of {} {}", array.len, self.kind.name()),
            None => self.kind.name().to_string(),
        }
    }
}

fn parse_value(cursor: &mut Cursor<'_>, key: Span) -> Result<Entry> {
    let kind = parse_kind(cursor, "the value's type")?;
    let (kind, value, array) = match kind {
        Kind::Array => parse_array(cursor)?,
        Kind::Str => {
            let value = cursor.string(limits::STRING_BYTES, "the string")?;
            (kind, value, None)
        }
        _ => (kind, fixed(cursor, kind, 1)?, None),
    };
    Ok(Entry { key, kind, value, array })
}

fn parse_kind(cursor: &mut Cursor<'_>, what: &str) -> Result<Kind> {
    let number = cursor.u32(what)?;
    Kind::from_number(number).ok_or_else(|| Error::load(format!("{what} is {number}; types are 0 to 12")))
}

fn parse_array(cursor: &mut Cursor<'_>) -> Result<(Kind, Span, Option<Array>)> {
    let kind = parse_kind(cursor, "the array's type")?;
    if kind == Kind::Array {
        return Err(Error::load("arrays of arrays are not read"));
    }
    let each = kind.width().unwrap_or(8);
    let len = cursor.count(each, limits::ARRAY_LEN, "the array's length")?;
    let mut array = Array { len: len as usize, marks: Vec::new() };
    let value = if kind == Kind::Str { strings(cursor, &mut array)? } else { fixed(cursor, kind, len)? };
    Ok((kind, value, Some(array)))
}

/// `count` values of a type whose values are all of one width.
fn fixed(cursor: &mut Cursor<'_>, kind: Kind, count: u64) -> Result<Span> {
    let width = kind.width().unwrap_or(0);
    let total =
        width.checked_mul(count).ok_or_else(|| Error::load(format!("{count} values of {width} bytes are too many")))?;
    let span = cursor.take(total, "the value")?;
    if kind == Kind::Bool
        && let Some(byte) = cursor.bytes(span).iter().find(|&&b| b > 1)
    {
        return Err(Error::load(format!("a bool is {byte}; it must be 0 or 1")));
    }
    Ok(span)
}

/// The strings of an array: checks each length and marks every sixteenth.
fn strings(cursor: &mut Cursor<'_>, array: &mut Array) -> Result<Span> {
    let marks = array.len.div_ceil(STRIDE);
    array
        .marks
        .try_reserve_exact(marks)
        .map_err(|_| Error::memory(format!("no memory for {marks} marks of an array")))?;
    let start = cursor.position() as u32;
    for index in 0..array.len {
        if index % STRIDE == 0 {
            array.marks.push(cursor.position() as u32);
        }
        cursor
            .string(limits::STRING_BYTES, "an element")
            .map_err(|e| Error::new(e.code(), format!("element {index}: {}", e.reason())))?;
    }
    Ok(Span { start, len: cursor.position() as u32 - start })
}
