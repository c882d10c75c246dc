//! Faults of the tensor table and of the data behind it.

use crate::case::{Case, loads, refused};
use crate::forge::GgufFile;

const Q: &str = "blk.0.attn_q.weight";
const LAST: &str = "output_norm.weight";

fn dims(file: &mut GgufFile, dims: &[u64]) {
    file.tensor(Q).dims = dims.to_vec();
}

/// F32 with these dimensions, where a wrapped product would be small.
fn floats(file: &mut GgufFile, dims: &[u64]) {
    let q = file.tensor(Q);
    (q.ty, q.dims) = (0, dims.to_vec());
}

fn offset(file: &mut GgufFile, offset: u64) {
    file.tensor(Q).offset = Some(offset);
}

fn data(file: &mut GgufFile, name: &str, fill: impl Fn(usize) -> u8) {
    for (index, byte) in file.tensor(name).data.iter_mut().enumerate() {
        *byte = fill(index);
    }
}

pub const CASES: &[Case] = &[
    loads("T1 128 bytes, unused", |f| {
        let mut more = f.tensor(LAST).clone();
        more.name = vec![b'a'; 128];
        f.tensors.push(more);
    }),
    refused("T1 another", Q, |f| f.tensor(Q).name = vec![b'a'; 64]),
    refused("T1 129 bytes", "tensor's name", |f| f.tensor(Q).name = vec![b'a'; 129]),
    refused("T1 2^64-1", "tensor's name", |f| f.tensor(Q).name_len = Some(u64::MAX)),
    refused("T1 empty", "tensor's name", |f| f.tensor(Q).name = Vec::new()),
    refused("T2 twice", "\"blk.0.attn_q.weight\" appears twice", |f| f.tensor(LAST).name = Q.into()),
    refused("T2 NUL inside", "tensor's name", |f| f.tensor(Q).name = b"a\0b".to_vec()),
    refused("T2 not UTF-8", "tensor's name", |f| f.tensor(Q).name = b"a\xff".to_vec()),
    refused("T3 5", Q, |f| dims(f, &[64, 1, 1, 1, 64])),
    refused("T3 0", "0 dimensions", |f| floats(f, &[])),
    refused("T3 2^32-1", Q, |f| f.tensor(Q).n_dims = Some(u32::MAX)),
    refused("T4 first", Q, |f| dims(f, &[0, 64])),
    refused("T4 second", Q, |f| dims(f, &[64, 0])),
    refused("T4 zero and huge", Q, |f| floats(f, &[0, i64::MAX as u64])),
    refused("T5 bit 63", Q, |f| dims(f, &[64, 1 << 63])),
    refused("T5 -1", Q, |f| dims(f, &[u64::MAX, 64])),
    refused("T6 2^42+1", Q, |f| floats(f, &[64, (1 << 42) + 1])),
    refused("T6 in the limits of each", Q, |f| floats(f, &[1 << 40, 1 << 22, 5])),
    refused("T7 2^32 twice", Q, |f| floats(f, &[1 << 32, 1 << 32])),
    refused("T7 2^31, 2^31, 4", Q, |f| floats(f, &[1 << 31, 1 << 31, 4])),
    refused("T7 bytes wrap, weights do not", Q, |f| floats(f, &[1 << 40, 1 << 22])),
    refused("T8 sums that wrap", Q, |f| {
        for name in [Q, LAST] {
            let row = f.tensor(name);
            (row.ty, row.dims) = (24, vec![0x7fff_ffff_ffff_ffc0]);
        }
    }),
    refused("T8 sums in the limits of each", Q, |f| {
        for name in [Q, LAST] {
            floats(f, &[1 << 40, 1 << 20]);
            f.tensor(name).dims = vec![1 << 40, 1 << 20];
        }
    }),
    refused("T9 a part of a block", Q, |f| dims(f, &[63, 64])),
    refused("T9 less than a block", Q, |f| dims(f, &[16, 256])),
    refused("T10 removed 4", "type 4 (Q4_2)", |f| f.tensor(Q).ty = 4),
    refused("T10 removed 5", "type 5 (Q4_3)", |f| f.tensor(Q).ty = 5),
    refused("T10 count", Q, |f| f.tensor(Q).ty = 40),
    refused("T10 -1", Q, |f| f.tensor(Q).ty = u32::MAX),
    refused("T10 names what does not run", "type 16 (IQ2_XXS)", |f| f.tensor(Q).ty = 16),
    refused("T10 names what runs", "Q4_K, Q5_K, Q6_K", |f| f.tensor(Q).ty = 16),
    refused("T11 unaligned", Q, |f| offset(f, 33)),
    refused("T11 beyond the end", Q, |f| offset(f, 1 << 40)),
    refused("T11 2^64-32", Q, |f| offset(f, u64::MAX - 31)),
    refused("T11 last beyond the end", LAST, |f| f.tensor(LAST).offset = Some(1 << 62)),
    refused("T12 overlap", Q, |f| offset(f, 0)),
    refused("T12 gap", "a gap", |f| {
        let place = f.bytes().len() as u64;
        f.tensor(LAST).offset = Some(place.next_multiple_of(32));
    }),
    refused("T12 all the same bytes", "an overlap", |f| {
        f.tensors.iter_mut().for_each(|t| t.offset = Some(0));
    }),
    refused("D1 short by a byte", LAST, |f| f.missing = 1),
    refused("D1 no data", "token_embd.weight", |f| f.tensors.iter_mut().for_each(|t| t.data.clear())),
    refused("D1 short in the middle", Q, |f| f.missing = 22_000),
    loads("D2 trailing bytes", |f| f.tail = vec![7; 4_096]),
    loads("D2 another format behind", |f| f.tail = b"PK\x03\x04 and more".to_vec()),
    loads("D3 all 0xff", |f| {
        for name in ["token_embd.weight", Q, "blk.0.ffn_gate.weight", LAST] {
            data(f, name, |_| 0xff);
        }
    }),
    loads("D3 infinite halves", |f| data(f, "token_embd.weight", |i| [0x00, 0x7c][i % 2])),
    loads("D3 denormal norms", |f| data(f, LAST, |i| [1, 0, 0, 0][i % 4])),
];
