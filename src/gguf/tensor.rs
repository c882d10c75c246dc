//! The tensor table: names, types, shapes, and where the data lies.
//!
//! Invariant of every [`Tensor`] that leaves this file: its dimensions are at least 1, a row is a
//! whole number of blocks, and its extent lies inside its part, aligned, right behind the tensor
//! before it. Writers of the format leave no gaps, so a gap or an overlap means a damaged table.

#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::quant::{QuantType, foreign_name};

use super::cursor::Cursor;
use super::source::TensorRef;
use super::{limits, quoted};

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub ty: QuantType,
    /// Fastest dimension first, as in the file; unused ones are 1.
    pub dims: [usize; 4],
    pub n_dims: usize,
    pub data: TensorRef,
}

impl Tensor {
    /// Weights in the tensor.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Reads `count` rows of part `part`. Offsets still count from the start of the data.
pub(super) fn parse_table(cursor: &mut Cursor<'_>, count: u64, part: u16) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    tensors.try_reserve_exact(count as usize).map_err(|_| Error::memory(format!("no memory for {count} tensors")))?;
    for _ in 0..count {
        tensors.push(parse_row(cursor, part)?);
    }
    Ok(tensors)
}

fn parse_row(cursor: &mut Cursor<'_>, part: u16) -> Result<Tensor> {
    let span = cursor.name(limits::NAME_BYTES, "a tensor's name")?;
    let name = String::from_utf8_lossy(cursor.bytes(span)).into_owned();
    let (ty, dims, n_dims, data) = parse_shape(cursor, part)
        .map_err(|e| Error::new(e.code(), format!("tensor {}: {}", quoted(&name), e.reason())))?;
    Ok(Tensor { name, ty, dims, n_dims, data })
}

type Shape = (QuantType, [usize; 4], usize, TensorRef);

fn parse_shape(cursor: &mut Cursor<'_>, part: u16) -> Result<Shape> {
    let n_dims = cursor.u32("the number of dimensions")?;
    if n_dims == 0 || n_dims > limits::DIMS {
        return Err(Error::load(format!("{n_dims} dimensions; there are 1 to {}", limits::DIMS)));
    }
    let mut dims = [1; 4];
    for (index, dim) in dims.iter_mut().take(n_dims as usize).enumerate() {
        let found = cursor.u64("a dimension")?;
        *dim = usize::try_from(found)
            .ok()
            .filter(|_| (1..=limits::DIM).contains(&found))
            .ok_or_else(|| Error::load(format!("dimension {index} is {found}; it must be 1 to {}", limits::DIM)))?;
    }
    let number = cursor.u32("the type")?;
    let ty = QuantType::from_ggml(number).ok_or_else(|| unknown_type(number))?;
    let bytes = data_bytes(ty, dims)?;
    let offset = cursor.u64("the offset")?;
    let data = TensorRef { part, offset, bytes };
    Ok((ty, dims, n_dims as usize, data))
}

fn unknown_type(number: u32) -> Error {
    let known: Vec<&str> = QuantType::ALL.iter().map(|t| t.name()).collect();
    let name = foreign_name(number).unwrap_or("unknown");
    Error::load(format!("type {number} ({name}) does not run; what runs: {}", known.join(", ")))
}

fn data_bytes(ty: QuantType, dims: [usize; 4]) -> Result<u64> {
    if !dims[0].is_multiple_of(ty.block_len()) {
        return Err(Error::load(format!(
            "rows of {} weights are no whole number of {} blocks of {}",
            dims[0],
            ty.name(),
            ty.block_len()
        )));
    }
    let bytes = ty.row_bytes(dims[0]).and_then(|row| dims[1..].iter().try_fold(row, |n, &d| n.checked_mul(d)));
    bytes
        .map(|bytes| bytes as u64)
        .ok_or_else(|| Error::load(format!("dimensions {dims:?} of {} are more than memory can address", ty.name())))
}

/// Makes offsets absolute and checks every extent; gives the end of the last.
pub(super) fn place(tensors: &mut [Tensor], data_start: u64, alignment: u64, file_len: u64) -> Result<u64> {
    let mut expected = 0u64;
    let mut end = data_start.min(file_len);
    for tensor in tensors {
        let TensorRef { offset, bytes, .. } = tensor.data;
        let fail = |why: String| Error::load(format!("tensor {}: {why}", quoted(&tensor.name)));
        if !offset.is_multiple_of(alignment) {
            return Err(fail(format!("offset {offset} is no multiple of the alignment {alignment}")));
        }
        if offset != expected {
            let fault = if offset < expected { "an overlap" } else { "a gap" };
            return Err(fail(format!("offset {offset} where {expected} is next: {fault}")));
        }
        let start = data_start.saturating_add(offset);
        let stop = start
            .checked_add(bytes)
            .filter(|&stop| stop <= file_len)
            .ok_or_else(|| fail(format!("the file is truncated: {bytes} bytes at {start} end after its {file_len}")))?;
        tensor.data.offset = start;
        end = stop;
        expected = (offset + bytes).next_multiple_of(alignment);
    }
    Ok(end)
}
