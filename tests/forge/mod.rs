//! Writes GGUF files, sound ones and any kind of unsound one.
//!
//! A file is plain data: what a field says is apart from what follows it, so that a count, length,
//! type or offset can lie. Writing also lists every integer field with its place, for the tests that
//! try all of them.

pub mod llama;
pub mod parse;

/// The numbers of the value types.
pub const U8: u32 = 0;
pub const I8: u32 = 1;
pub const U16: u32 = 2;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const I64: u32 = 11;
pub const F64: u32 = 12;

/// A file to be written.
#[derive(Clone)]
pub struct GgufFile {
    pub magic: [u8; 4],
    pub version: u32,
    /// What the header says; the truth if `None`.
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    pub keys: Vec<Key>,
    pub tensors: Vec<Row>,
    /// Where the writer puts data, whatever the metadata says.
    pub alignment: usize,
    /// Bytes after the last tensor's.
    pub tail: Vec<u8>,
    /// Bytes to leave out at the end.
    pub missing: usize,
    /// Bytes to keep at most.
    pub kept: usize,
}

/// A key and its value.
#[derive(Clone)]
pub struct Key {
    pub name: Vec<u8>,
    /// What the length field says; the truth if `None`.
    pub name_len: Option<u64>,
    pub value: Value,
}

/// A value as it stands in the file.
#[derive(Clone)]
pub struct Value {
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// A row of the tensor table, and the tensor's data.
#[derive(Clone)]
pub struct Row {
    /// What [`GgufFile::tensor`] finds it by, whatever becomes of its name.
    pub label: String,
    pub name: Vec<u8>,
    pub name_len: Option<u64>,
    pub n_dims: Option<u32>,
    pub dims: Vec<u64>,
    pub ty: u32,
    /// What the table says; where the data is if `None`.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// An integer of the file.
pub struct Field {
    pub offset: usize,
    pub width: usize,
    pub what: String,
}

impl Value {
    pub fn new(kind: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind, bytes: bytes.into() }
    }

    pub fn u32(value: u32) -> Self {
        Self::new(U32, value.to_le_bytes())
    }

    pub fn f32(value: f32) -> Self {
        Self::new(F32, value.to_le_bytes())
    }

    pub fn bool(value: u8) -> Self {
        Self::new(BOOL, [value])
    }

    pub fn str(text: impl AsRef<[u8]>) -> Self {
        Self::new(STR, counted(text.as_ref()))
    }

    /// An array that says it has `len` elements of type `kind`.
    pub fn array(kind: u32, len: u64, elements: impl AsRef<[u8]>) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(elements.as_ref());
        Self::new(ARRAY, bytes)
    }

    pub fn strs(texts: &[impl AsRef<[u8]>]) -> Self {
        let elements: Vec<u8> = texts.iter().flat_map(|t| counted(t.as_ref())).collect();
        Self::array(STR, texts.len() as u64, elements)
    }

    pub fn i32s(values: &[i32]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::array(I32, values.len() as u64, elements)
    }

    pub fn f32s(values: &[f32]) -> Self {
        let elements: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::array(F32, values.len() as u64, elements)
    }

    /// Offsets and widths of the integers at the value's start.
    fn integers(&self) -> Vec<(usize, usize)> {
        match self.kind {
            STR => vec![(0, 8)],
            ARRAY if self.bytes.starts_with(&STR.to_le_bytes()) && self.bytes.len() > 20 => {
                vec![(0, 4), (4, 8), (12, 8)]
            }
            ARRAY => vec![(0, 4), (4, 8)],
            _ => vec![(0, self.bytes.len())],
        }
    }
}

/// A string as the format has it: its length, then its bytes.
pub fn counted(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

/// The file as it grows, and its integers.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Writer {
    fn integer(&mut self, value: &[u8], what: String) {
        self.fields.push(Field { offset: self.bytes.len(), width: value.len(), what });
        self.bytes.extend(value);
    }

    fn name(&mut self, name: &[u8], says: Option<u64>, what: &str) {
        let len = says.unwrap_or(name.len() as u64);
        self.integer(&len.to_le_bytes(), format!("{what}: length of the name"));
        self.bytes.extend(name);
    }

    fn key(&mut self, key: &Key) {
        let what = format!("key {}", String::from_utf8_lossy(&key.name));
        self.name(&key.name, key.name_len, &what);
        self.integer(&key.value.kind.to_le_bytes(), format!("{what}: type"));
        for (offset, width) in key.value.integers() {
            let offset = self.bytes.len() + offset;
            self.fields.push(Field { offset, width, what: format!("{what}: value") });
        }
        self.bytes.extend(&key.value.bytes);
    }

    fn row(&mut self, row: &Row, offset: u64) {
        let what = format!("tensor {}", String::from_utf8_lossy(&row.name));
        self.name(&row.name, row.name_len, &what);
        let n_dims = row.n_dims.unwrap_or(row.dims.len() as u32);
        self.integer(&n_dims.to_le_bytes(), format!("{what}: number of dimensions"));
        for dim in &row.dims {
            self.integer(&dim.to_le_bytes(), format!("{what}: dimension"));
        }
        self.integer(&row.ty.to_le_bytes(), format!("{what}: type"));
        let offset = row.offset.unwrap_or(offset);
        self.integer(&offset.to_le_bytes(), format!("{what}: offset"));
    }

    fn pad(&mut self, alignment: usize) {
        let len = self.bytes.len().next_multiple_of(alignment);
        self.bytes.resize(len, 0);
    }
}

impl GgufFile {
    pub fn new(keys: Vec<Key>, tensors: Vec<Row>) -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys,
            tensors,
            alignment: 32,
            tail: Vec::new(),
            missing: 0,
            kept: usize::MAX,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.write().bytes
    }

    /// Every integer of the header, the metadata and the tensor table.
    pub fn fields(&self) -> Vec<Field> {
        self.write().fields
    }

    /// Bytes of everything before the data.
    pub fn head_bytes(&self) -> usize {
        let mut alone = self.clone();
        alone.tensors.iter_mut().for_each(|t| t.data.clear());
        alone.bytes().len()
    }

    fn write(&self) -> Writer {
        let mut out = Writer::default();
        out.bytes.extend(self.magic);
        out.integer(&self.version.to_le_bytes(), "version".into());
        let tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        out.integer(&tensors.to_le_bytes(), "number of tensors".into());
        let keys = self.key_count.unwrap_or(self.keys.len() as u64);
        out.integer(&keys.to_le_bytes(), "number of keys".into());
        self.keys.iter().for_each(|key| out.key(key));
        let mut offset = 0;
        for row in &self.tensors {
            out.row(row, offset as u64);
            offset += row.data.len().next_multiple_of(self.alignment);
        }
        for row in &self.tensors {
            out.pad(self.alignment);
            out.bytes.extend(&row.data);
        }
        out.bytes.extend(&self.tail);
        out.bytes.truncate(out.bytes.len().saturating_sub(self.missing).min(self.kept));
        out
    }

    /// Sets a key's value; adds the key if it is not there.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.keys.iter_mut().find(|k| k.name == name.as_bytes()) {
            Some(key) => key.value = value,
            None => self.keys.push(Key { name: name.into(), name_len: None, value }),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.keys.retain(|k| k.name != name.as_bytes());
    }

    /// The row of a tensor that the sound file has.
    pub fn tensor(&mut self, name: &str) -> &mut Row {
        let found = self.tensors.iter_mut().find(|t| t.label == name);
        found.unwrap_or_else(|| panic!("the forge made no tensor {name}"))
    }
}
