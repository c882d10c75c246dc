//! Each kind of scaling by metadata, whatever the family, against what its paper says.

use super::builder::Builder;
use super::keys::Keys;
use super::rope::{RopeShape, rope};
use super::{NormKind, Rope, RopeStyle};
use crate::gguf::Gguf;

const BASE: f32 = 10_000.0;
const DIMS: usize = 8;

/// A file of keys and F32 tensors.
#[derive(Default)]
struct File {
    keys: Vec<Vec<u8>>,
    tensors: Vec<(&'static str, Vec<f32>)>,
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl File {
    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push([&counted(&format!("any.rope.{key}"))[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn scaling(self, kind: &str) -> Self {
        self.key("scaling.type", 8, &counted(kind))
    }

    fn float(self, key: &str, value: f32) -> Self {
        self.key(key, 6, &value.to_le_bytes())
    }

    fn count(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    fn tensor(mut self, name: &'static str, values: &[f32]) -> Self {
        self.tensors.push((name, values.to_vec()));
        self
    }

    /// The rope of a file of 4,096 tokens that is opened for so many.
    fn rope(&self, context: usize) -> crate::error::Result<Rope> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        bytes.extend(self.keys.concat());
        let mut data = Vec::new();
        for (name, values) in &self.tensors {
            let offset = data.len() as u64;
            bytes.extend([&counted(name)[..], &1u32.to_le_bytes(), &(values.len() as u64).to_le_bytes()].concat());
            bytes.extend([&0u32.to_le_bytes()[..], &offset.to_le_bytes()].concat());
            data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        let gguf = Gguf::from_bytes(bytes).expect("a sound file");
        let (keys, builder) = (Keys::new(gguf.metadata(), "any"), Builder::new(&gguf, NormKind::Rms, 1e-5));
        rope(&keys, &builder, &RopeShape { style: RopeStyle::Halves, dims: DIMS, file_context: 4096, context })
    }
}

fn file() -> File {
    File::default().float("freq_base", BASE)
}

/// Pair i turns by 1 / 10^i a token.
fn close(rope: &Rope, want: [f32; 4]) {
    let near = |(found, want): (&f32, &f32)| (found / want - 1.0).abs() < 1e-5;
    assert!(rope.inv_freq.iter().zip(&want).all(near), "{:?}, not {want:?}", rope.inv_freq);
}

const PLAIN: [f32; 4] = [1.0, 0.1, 0.01, 0.001];

#[test]
fn none_scales_nothing() {
    close(&File::default().rope(4096).unwrap(), PLAIN);
    for file in [file(), file().scaling("none"), file().scaling("none").float("scaling.factor", 8.0)] {
        let rope = file.rope(4096).unwrap();
        close(&rope, PLAIN);
        assert_eq!(rope.magnitude, 1.0);
    }
}

#[test]
fn linear_divides_every_frequency() {
    let linear = file().scaling("linear").float("scaling.factor", 4.0);
    for file in [linear, file().float("scaling.factor", 4.0), file().float("scale_linear", 4.0)] {
        let rope = file.rope(4096).unwrap();
        close(&rope, PLAIN.map(|f| f / 4.0));
        assert_eq!(rope.magnitude, 1.0);
    }
}

/// Over 4,096 tokens the pairs turn 652, 65, 6.5 and 0.65 times. The dimension of 32 turns lies at 1.3 and that of one at 2.8, so
/// that the ramp goes from pair 1 to pair 3.
#[test]
fn yarn_scales_what_turns_seldom() {
    let yarn = file().scaling("yarn").float("scaling.factor", 8.0);
    for file in
        [yarn.count("scaling.original_context_length", 4096), file().scaling("yarn").float("scaling.factor", 8.0)]
    {
        let rope = file.rope(4096).unwrap();
        close(&rope, [1.0, 0.1, 0.01 * (0.5 + 0.5 / 8.0), 0.001 / 8.0]);
        assert!((rope.magnitude - (1.0 + 0.1 * 8f32.ln())).abs() < 1e-6);
        let doubled = file.float("scaling.attn_factor", 2.0).rope(4096).unwrap();
        assert_eq!(doubled.magnitude, 2.0 * rope.magnitude);
    }
}

#[test]
fn llama3_divides_by_its_tensor() {
    let rope = file().tensor("rope_freqs.weight", &[1.0, 1.0, 2.0, 8.0]).rope(4096).unwrap();
    close(&rope, [1.0, 0.1, 0.01 / 2.0, 0.001 / 8.0]);
    assert_eq!(rope.magnitude, 1.0);
}

#[test]
fn longrope_has_factors_for_short_and_for_long() {
    let file = file()
        .scaling("longrope")
        .count("scaling.original_context_length", 1024)
        .tensor("rope_factors_short.weight", &[1.0, 1.0, 1.0, 2.0])
        .tensor("rope_factors_long.weight", &[1.0, 2.0, 4.0, 8.0]);
    let (short, long) = (file.rope(1024).unwrap(), file.rope(1025).unwrap());
    close(&short, [1.0, 0.1, 0.01, 0.001 / 2.0]);
    close(&long, [1.0, 0.1 / 2.0, 0.01 / 4.0, 0.001 / 8.0]);
    // By the file's context, whatever the host asks for: sqrt(1 + ln(4096 / 1024) / ln(1024)).
    for rope in [short, long] {
        assert!((rope.magnitude - 1.2f32.sqrt()).abs() < 1e-6, "{}", rope.magnitude);
    }
    assert_eq!(file.float("scaling.attn_factor", 1.5).rope(4096).unwrap().magnitude, 1.5);
}
