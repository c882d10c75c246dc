//! The GGUF file.

use crate::quant::QuantType;

/// Where a tensor's bytes are: `bytes` of them at `offset` of the file of this part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorRef {
    pub part: u16,
    pub offset: u64,
    pub bytes: u64,
}

/// The file's parts, mapped.
#[derive(Debug)]
pub struct Source;

/// A tensor of the file's table.
#[derive(Debug)]
pub struct Tensor {
    pub name: String,
    pub ty: QuantType,
    pub dims: [usize; 4],
    pub n_dims: usize,
    pub data: TensorRef,
}
