//! What a file may ask for at most.
//!
//! A length is compared with these and with the bytes that remain before anything is allocated, so
//! a few bytes never cost more than the file is worth. The limits lie an order of magnitude above
//! the largest published models of the families that run; they are not limits of the format.

#![forbid(unsafe_code)]

/// Bytes of everything before the tensors' data: what is copied. A vocabulary of 262,144 tokens with
/// its merges takes a tenth of it. Offsets into it fit 32 bits.
pub const METADATA_BYTES: u64 = 64 << 20;
/// Keys in a part; models have some fifty.
pub const KEYS: u64 = 16_384;
/// Bytes of a key, as the format has it.
pub const KEY_BYTES: u64 = 65_535;
/// Bytes of a string value.
pub const STRING_BYTES: u64 = 16 << 20;
/// Elements of an array.
pub const ARRAY_LEN: u64 = 16 << 20;
/// Tensors in all parts together; models have some thousand.
pub const TENSORS: u64 = 16_384;
/// Bytes of a tensor's name; the format has 64.
pub const NAME_BYTES: u64 = 128;
/// Dimensions of a tensor.
pub const DIMS: u32 = 4;
/// One dimension of a tensor.
pub const DIM: u64 = 1 << 40;
/// Where data begins when the file does not say.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// `general.alignment`, a power of two.
pub const MIN_ALIGNMENT: u64 = 8;
pub const MAX_ALIGNMENT: u64 = 4_096;
/// Parts of a split model; each holds a file descriptor and a mapping.
pub const PARTS: u64 = 512;
/// Bytes of `general.architecture`.
pub const ARCHITECTURE_BYTES: usize = 64;

/// The fewest bytes that a key and its value take: two lengths' worth, a letter, a type, a byte.
pub const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;
/// The fewest bytes that a row of the tensor table takes: name, one dimension, type, offset.
pub const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;
