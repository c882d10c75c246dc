//! Takes a sound file apart, so that faults can be put into files that another program wrote.

use super::{ARRAY, BOOL, F64, GgufFile, I8, I64, Key, Row, STR, U8, U16, U64, Value};
use worker_orcd::gguf::Gguf;

/// The number of the value type between [`U16`] and `U32`.
const I16: u32 = 3;

/// Reads on in bytes that are known to be sound.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes")) as usize
    }

    fn skip_value(&mut self, kind: u32) {
        match kind {
            STR => {
                let len = self.u64();
                self.take(len);
            }
            ARRAY => {
                let (kind, len) = (self.u32(), self.u64());
                (0..len).for_each(|_| self.skip_value(kind));
            }
            U8 | I8 | BOOL => drop(self.take(1)),
            U16 | I16 => drop(self.take(2)),
            U64 | I64 | F64 => drop(self.take(8)),
            _ => drop(self.take(4)),
        }
    }

    fn key(&mut self) -> Key {
        let len = self.u64();
        let name = self.take(len).to_vec();
        let kind = self.u32();
        let before = self.0;
        self.skip_value(kind);
        let value = Value::new(kind, &before[..before.len() - self.0.len()]);
        Key { name, name_len: None, value }
    }
}

/// The file that has these bytes.
pub fn parse(bytes: &[u8]) -> GgufFile {
    let mut reader = Reader(bytes);
    reader.take(16);
    let keys = reader.u64();
    let keys = (0..keys).map(|_| reader.key()).collect();
    let gguf = Gguf::from_bytes(bytes.to_vec()).expect("a sound file");
    let rows = gguf.tensors().iter().map(|t| Row {
        label: t.name.clone(),
        name: t.name.clone().into_bytes(),
        name_len: None,
        n_dims: None,
        dims: t.dims[..t.n_dims].iter().map(|&d| d as u64).collect(),
        ty: t.ty.ggml(),
        offset: None,
        data: gguf.source().bytes(&t.data).to_vec(),
    });
    GgufFile::new(keys, rows.collect())
}
