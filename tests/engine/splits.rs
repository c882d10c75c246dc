//! Models split into several files, as published: opened by the first, they answer as the whole file does.

use crate::goldens::{context, model_path};
use crate::{TURN, load, read, start};
use std::path::{Path, PathBuf};
use worker_orcd::cuda::Model;
use worker_orcd::gguf::{Gguf, Tensor};

const ALIGNMENT: usize = 32;
const MAGIC_AND_VERSION: &[u8] = b"GGUF\x03\0\0\0";
/// Magic, version, number of tensors, number of keys.
const HEADER_BYTES: usize = 24;
const U16: u32 = 2;
const I32: u32 = 5;

/// A folder of its own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("worker-orcd-splits-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let removed = std::fs::remove_dir_all(&self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&counted(name)[..], &kind.to_le_bytes(), value].concat()
}

/// A whole file, apart.
struct Whole {
    gguf: Gguf,
    keys: u64,
    /// The keys as they stand in the file.
    metadata: Vec<u8>,
}

impl Whole {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("the model");
        let gguf = Gguf::from_bytes(bytes.clone()).expect("a sound model");
        let first = counted(&gguf.tensors()[0].name);
        let table = bytes.windows(first.len()).position(|w| w == first).expect("the tensor table");
        let keys = u64::from_le_bytes(bytes[16..HEADER_BYTES].try_into().expect("eight bytes"));
        Self { gguf, keys, metadata: bytes[HEADER_BYTES..table].to_vec() }
    }

    /// Part `no` of `count`, with these tensors; the first has the metadata.
    fn part(&self, no: u16, count: u16, tensors: &[Tensor]) -> Vec<u8> {
        let (keys, metadata) = if no == 0 { (self.keys, &self.metadata[..]) } else { (0, &[][..]) };
        let mut bytes = MAGIC_AND_VERSION.to_vec();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((keys + 3).to_le_bytes());
        bytes.extend(metadata);
        bytes.extend(key("split.no", U16, &no.to_le_bytes()));
        bytes.extend(key("split.count", U16, &count.to_le_bytes()));
        bytes.extend(key("split.tensors.count", I32, &(self.gguf.tensors().len() as i32).to_le_bytes()));
        let mut data = Vec::new();
        for tensor in tensors {
            bytes.extend(counted(&tensor.name));
            bytes.extend((tensor.n_dims as u32).to_le_bytes());
            tensor.dims[..tensor.n_dims].iter().for_each(|&dim| bytes.extend((dim as u64).to_le_bytes()));
            bytes.extend(tensor.ty.ggml().to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(self.gguf.source().bytes(&tensor.data));
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        bytes
    }

    /// Writes parts with so many tensors each; the path of the first.
    fn write(&self, folder: &Path, tensors: &[usize]) -> PathBuf {
        let mut rest = self.gguf.tensors();
        let count = tensors.len() as u16;
        let path = |no: u16| folder.join(format!("model-{:05}-of-{count:05}.gguf", no + 1));
        for (no, &n) in (0..).zip(tensors) {
            let (own, others) = rest.split_at(n);
            std::fs::write(path(no), self.part(no, count, own)).expect("a part");
            rest = others;
        }
        assert!(rest.is_empty());
        path(0)
    }
}

fn texts(model: &Model) -> Vec<String> {
    (0..8).map(|n| read(&mut start(model, n).expect("memory")).expect("a text")).collect()
}

#[test]
fn a_model_in_parts_answers_as_the_whole() {
    let _turn = TURN.read();
    let context = context();
    let folder = Folder::new();
    for name in ["llama-256-q4_k", "gptoss-f32", "gemma3-256-q4_0"] {
        let path = model_path(name);
        let model = load(&context, &path);
        let bytes = model.vram_bytes();
        let want = texts(&model);
        assert!(want.iter().all(|text| !text.is_empty()), "{name}");
        let whole = Whole::read(&path);
        let n = whole.gguf.tensors().len();
        // Some publish a first part with nothing but metadata.
        for tensors in [vec![n / 2, n - n / 2], vec![1, n - 3, 2], vec![0, n - 1, 1]] {
            let split = load(&context, &whole.write(&folder.0, &tensors));
            assert_eq!(split.vram_bytes(), bytes, "{name}: {tensors:?}");
            assert_eq!(texts(&split), want, "{name}: {tensors:?}");
        }
    }
}
