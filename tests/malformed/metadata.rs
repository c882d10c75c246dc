//! Faults of the metadata: keys, types, strings, arrays, and the keys that the reader itself uses.

use crate::case::{Case, loads, refused};
use crate::forge::{ARRAY, BOOL, F32, F64, GgufFile, I8, I32, I64, Key, STR, U8, U16, U32, U64, Value, counted};

/// Puts a value under a key of no meaning, in front of all others.
fn with(file: &mut GgufFile, value: Value) {
    with_key(file, b"probe.key", None, value);
}

fn with_key(file: &mut GgufFile, name: &[u8], name_len: Option<u64>, value: Value) {
    file.keys.insert(0, Key { name: name.to_vec(), name_len, value });
}

fn with_key_len(file: &mut GgufFile, says: u64) {
    with_key(file, b"probe.key", Some(says), Value::bool(1));
}

fn remaining(file: &GgufFile) -> u64 {
    file.bytes().len() as u64
}

pub const CASES: &[Case] = &[
    refused("K1 2^64-1", "metadata key", |f| with_key_len(f, u64::MAX)),
    refused("K1 2^63", "metadata key", |f| with_key_len(f, 1 << 63)),
    refused("K1 2^30+1", "metadata key", |f| with_key_len(f, (1 << 30) + 1)),
    refused("K1 beyond the end", "metadata key", |f| with_key_len(f, remaining(f) + 1)),
    refused("K2 empty", "metadata key", |f| with_key(f, b"", None, Value::bool(1))),
    refused("K3 twice", "\"general.name\" appears twice", |f| with_key(f, b"general.name", None, Value::str("again"))),
    refused("K4 not UTF-8", "metadata key", |f| with_key(f, b"a\xffb", None, Value::bool(1))),
    refused("K4 NUL inside", "metadata key", |f| with_key(f, b"a\0b", None, Value::bool(1))),
    refused("K4 65,536 bytes", "metadata key", |f| with_key(f, &[b'a'; 65_536], None, Value::bool(1))),
    loads("K4 65,535 bytes", |f| with_key(f, &[b'a'; 65_535], None, Value::bool(1))),
    refused("K5 13", "probe.key", |f| with(f, Value::new(13, [0; 8]))),
    refused("K5 2^32-1", "probe.key", |f| with(f, Value::new(u32::MAX, [0; 8]))),
    refused("K5 of elements 13", "probe.key", |f| with(f, Value::array(13, 1, [0; 8]))),
    refused("K5 of elements, 2^60", "probe.key", |f| with(f, Value::array(99, 1 << 60, []))),
    refused("K6 2^64-1", "probe.key", |f| with(f, Value::new(STR, [0xff; 8]))),
    refused("K6 2^63", "probe.key", |f| with(f, Value::new(STR, (1u64 << 63).to_le_bytes()))),
    refused("K6 beyond the end", "probe.key", |f| {
        let len = remaining(f) + 1;
        with(f, Value::new(STR, len.to_le_bytes()));
    }),
    loads("K6 not UTF-8, unused", |f| with(f, Value::str(b"\xff\xfe"))),
    refused("K7 u32, 2^62", "probe.key", |f| with(f, Value::array(U32, 1 << 62, [0; 8]))),
    refused("K7 u64, wraps to 8", "probe.key", |f| with(f, Value::array(U64, (1 << 61) + 1, [0; 8]))),
    refused("K7 u8, 2^64-1", "probe.key", |f| with(f, Value::array(U8, u64::MAX, [0; 8]))),
    refused("K7 strings, 2^61", "probe.key", |f| with(f, Value::array(STR, 1 << 61, [0; 8]))),
    refused("K7 2^30+1", "probe.key", |f| with(f, Value::array(U8, (1 << 30) + 1, [0; 8]))),
    refused("K7 beyond the end", "probe.key", |f| {
        let len = remaining(f) + 1;
        with(f, Value::array(U8, len, []));
    }),
    refused("K7 element beyond the end", "probe.key\": element 1", |f| {
        let mut elements = counted(b"first");
        elements.extend(u64::MAX.to_le_bytes());
        with(f, Value::array(STR, 2, elements));
    }),
    refused("K8 depth 2", "probe.key", |f| with(f, Value::array(ARRAY, 1, Value::array(U8, 1, [7]).bytes))),
    refused("K8 depth 100,000", "probe.key", |f| {
        let level: Vec<u8> = ARRAY.to_le_bytes().into_iter().chain(1u64.to_le_bytes()).collect();
        with(f, Value::new(ARRAY, level.repeat(100_000)));
    }),
    loads("K9 empty arrays", |f| {
        with(f, Value::array(U32, 0, []));
        with_key(f, b"probe.texts", None, Value::array(STR, 0, []));
    }),
    refused("K10 2", "probe.key", |f| with(f, Value::bool(2))),
    refused("K10 255", "probe.key", |f| with(f, Value::bool(0xff))),
    refused("K10 in an array", "probe.key", |f| with(f, Value::array(BOOL, 3, [0, 1, 2]))),
    refused("K11", "general.alignment", |f| f.set("general.alignment", Value::u32(0))),
    refused("K12 13", "general.alignment", |f| f.set("general.alignment", Value::u32(13))),
    refused("K12 1", "general.alignment", |f| f.set("general.alignment", Value::u32(1))),
    refused("K12 2^31", "general.alignment", |f| f.set("general.alignment", Value::u32(1 << 31))),
    refused("K12 2^32-1", "general.alignment", |f| f.set("general.alignment", Value::u32(u32::MAX))),
    loads("K12 64", |f| {
        f.alignment = 64;
        f.set("general.alignment", Value::u32(64));
    }),
    refused("K12 4096, data at 32", "tensor", |f| f.set("general.alignment", Value::u32(4_096))),
    refused("K13 i32", "general.alignment", |f| f.set("general.alignment", Value::new(I32, [32, 0, 0, 0]))),
    refused("K13 u64", "general.alignment", |f| f.set("general.alignment", Value::new(U64, 32u64.to_le_bytes()))),
    refused("K13 f64", "general.alignment", |f| f.set("general.alignment", Value::new(F64, 32f64.to_le_bytes()))),
    refused("K13 string", "general.alignment", |f| f.set("general.alignment", Value::str("32"))),
    refused("K14 missing", "general.architecture", |f| f.remove("general.architecture")),
    refused("K14 number", "general.architecture", |f| f.set("general.architecture", Value::u32(1))),
    refused("K14 empty", "general.architecture", |f| f.set("general.architecture", Value::str(""))),
    refused("K14 not UTF-8", "general.architecture", |f| f.set("general.architecture", Value::str(b"\xff"))),
    refused("K14 1 MiB", "general.architecture", |f| f.set("general.architecture", Value::str(vec![b'a'; 1 << 20]))),
    refused("K16 f32", "split.count", |f| f.set("split.count", Value::new(F32, [0; 4]))),
    refused("K16 negative", "split.count", |f| f.set("split.count", Value::new(I64, [0xff; 8]))),
    refused("K16 65535", "split.count", |f| f.set("split.count", Value::new(U16, [0xff; 2]))),
    refused("K16 string", "split.no", |f| f.set("split.no", Value::str("0"))),
    refused("K16 no = count", "split.no", |f| {
        f.set("split.count", Value::new(U16, [2, 0]));
        f.set("split.no", Value::new(U16, [2, 0]));
    }),
    refused("K16 no without count", "split.no", |f| f.set("split.no", Value::new(I8, [1]))),
    refused("K16 one part of two", "split.count", |f| f.set("split.count", Value::new(U16, [2, 0]))),
    loads("K16 one part of one", |f| {
        f.set("split.count", Value::new(U16, [1, 0]));
        f.set("split.no", Value::new(U16, [0, 0]));
    }),
];
