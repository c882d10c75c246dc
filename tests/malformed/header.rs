//! Faults of the header: magic, version, the two counts.

use crate::case::{Case, loads, refused};

pub const CASES: &[Case] = &[
    loads("H0 sound", |_| {}),
    refused("H1 0 bytes", "magic", |f| f.kept = 0),
    refused("H1 1 byte", "magic", |f| f.kept = 1),
    refused("H1 3 bytes", "magic", |f| f.kept = 3),
    refused("H1 magic only", "version", |f| f.kept = 4),
    refused("H2 reversed", "FUGG", |f| f.magic = *b"FUGG"),
    refused("H2 ggml", "lmgg", |f| f.magic = *b"lmgg"),
    refused("H2 ggjt", "tjgg", |f| f.magic = *b"tjgg"),
    refused("H2 zero", "magic", |f| f.magic = [0; 4]),
    refused("H3 version 0", "version is 0", |f| f.version = 0),
    refused("H3 version 1", "version is 1", |f| f.version = 1),
    loads("H3 version 2", |f| f.version = 2),
    refused("H3 version 4", "version is 4", |f| f.version = 4),
    refused("H3 version -1", "version is 4294967295", |f| f.version = u32::MAX),
    refused("H3 big-endian", "big-endian", |f| f.version = 3u32.swap_bytes()),
    refused("H4 2^64-1", "number of tensors", |f| f.tensor_count = Some(u64::MAX)),
    refused("H4 2^63", "number of tensors", |f| f.tensor_count = Some(1 << 63)),
    refused("H4 2^60", "number of tensors", |f| f.tensor_count = Some(1 << 60)),
    refused("H4 wraps times 96", "number of tensors", |f| f.tensor_count = Some(u64::MAX / 96 + 1)),
    refused("H4 one more", "tensor", |f| f.tensor_count = Some(f.tensors.len() as u64 + 1)),
    // The data may begin in the row that is left out: nothing tells, and its weights are not read.
    loads("H4 one fewer", |f| f.tensor_count = Some(f.tensors.len() as u64 - 1)),
    refused("H5 2^64-1", "number of metadata keys", |f| f.key_count = Some(u64::MAX)),
    refused("H5 2^32-1", "number of metadata keys", |f| f.key_count = Some(u32::MAX.into())),
    refused("H5 2^31-1", "number of metadata keys", |f| f.key_count = Some(i32::MAX as u64)),
    refused("H5 one more", "tensor", |f| f.key_count = Some(f.keys.len() as u64 + 1)),
    refused("H5 one fewer", "tensor", |f| f.key_count = Some(f.keys.len() as u64 - 1)),
    refused("H6 header only", "number of", |f| f.kept = 24),
    refused("H6 tensors beyond the end", "number of tensors", |f| f.tensor_count = Some(16_000)),
    refused("H6 keys beyond the end", "number of metadata keys", |f| f.key_count = Some(16_000)),
];
