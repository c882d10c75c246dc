//! Weights of every type, made of random blocks whose values are of a trained matrix's size, as a file in memory.

use half::{bf16, f16};
use std::sync::Arc;
use worker_orcd::gguf::{Gguf, Source, TensorRef};
use worker_orcd::model::{Linear, Norm, NormKind, Weight, WeightId};
use worker_orcd::quant::{QuantType, dequantise};

/// Numbers that look random, the same each time (splitmix64).
pub struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Between -1 and 1.
    fn even(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Nearly normal, of variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..3).map(|_| self.even()).sum()
    }
}

/// Where a block's scale is, where its minimum is, and the minimum that centres the block's values, in scales.
fn scales(ty: QuantType) -> (usize, Option<(usize, f32)>) {
    match ty {
        QuantType::Q4_1 => (0, Some((2, -7.5))),
        QuantType::Q5_1 => (0, Some((2, -15.5))),
        QuantType::Q2K => (80, Some((82, 1.5))),
        QuantType::Q4K => (0, Some((2, 7.5))),
        QuantType::Q5K => (0, Some((2, 15.5))),
        QuantType::Q3K => (108, None),
        QuantType::Q6K => (208, None),
        _ => (0, None),
    }
}

fn put_scale(ty: QuantType, block: &mut [u8], scale: f32) {
    if ty == QuantType::MXFP4 {
        block[0] = (127 + scale.abs().log2().round() as i32).clamp(1, 254) as u8;
        return;
    }
    let (at, minimum) = scales(ty);
    block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    if let Some((at, factor)) = minimum {
        block[at..at + 2].copy_from_slice(&f16::from_f32(scale * factor).to_le_bytes());
    }
}

fn random_bytes(random: &mut Random, bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(8)).flat_map(|_| random.word().to_le_bytes()).take(bytes).collect()
}

/// The root mean square of blocks whose scale is 1.
fn unit(random: &mut Random, ty: QuantType) -> f32 {
    let mut bytes = random_bytes(random, 64 * ty.block_bytes());
    bytes.chunks_mut(ty.block_bytes()).for_each(|block| put_scale(ty, block, 1.0));
    let mut values = vec![0.0; 64 * ty.block_len()];
    dequantise(ty, &bytes, &mut values);
    (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
}

/// `n` weights of about the size `sigma`.
pub fn random_weights(random: &mut Random, ty: QuantType, n: usize, sigma: f32) -> Vec<u8> {
    let mut plain = || (0..n).map(|_| sigma * random.normal()).collect::<Vec<f32>>();
    match ty {
        QuantType::F32 => plain().iter().flat_map(|v| v.to_le_bytes()).collect(),
        QuantType::F16 => plain().iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        QuantType::BF16 => plain().iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => {
            let scale = sigma / unit(random, ty);
            let mut bytes = random_bytes(random, n / ty.block_len() * ty.block_bytes());
            for block in bytes.chunks_mut(ty.block_bytes()) {
                let factor = 1.0 + 0.4 * random.even();
                let sign = if random.word() & 1 == 0 { 1.0 } else { -1.0 };
                put_scale(ty, block, sign * factor * scale);
            }
            bytes
        }
    }
}

/// Tensors on their way into a file.
pub struct Builder {
    pub random: Random,
    tensors: Vec<(Weight, Vec<u8>)>,
}

impl Builder {
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), tensors: Vec::new() }
    }

    fn add(&mut self, weight: Weight, bytes: Vec<u8>) -> WeightId {
        self.tensors.push((weight, bytes));
        WeightId(self.tensors.len() as u32 - 1)
    }

    /// [experts, rows, cols]; an output of unit inputs is of size 1.
    pub fn matrix(&mut self, name: &str, ty: QuantType, [experts, rows, cols]: [usize; 3]) -> WeightId {
        let bytes = random_weights(&mut self.random, ty, experts * rows * cols, 1.0 / (cols as f32).sqrt());
        let data = TensorRef { part: 0, offset: 0, bytes: bytes.len() as u64 };
        self.add(Weight { name: name.into(), ty, cols, rows, experts, data }, bytes)
    }

    /// Rows to be looked up, of size 1.
    pub fn table(&mut self, name: &str, ty: QuantType, rows: usize, cols: usize) -> WeightId {
        let bytes = random_weights(&mut self.random, ty, rows * cols, 1.0);
        let data = TensorRef { part: 0, offset: 0, bytes: bytes.len() as u64 };
        self.add(Weight { name: name.into(), ty, cols, rows, experts: 1, data }, bytes)
    }

    /// F32 values around `mean`.
    pub fn vector(&mut self, name: &str, len: usize, (mean, sigma): (f32, f32)) -> WeightId {
        let values: Vec<f32> = (0..len).map(|_| mean + sigma * self.random.normal()).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let data = TensorRef { part: 0, offset: 0, bytes: bytes.len() as u64 };
        self.add(Weight { name: name.into(), ty: QuantType::F32, cols: len, rows: 1, experts: 1, data }, bytes)
    }

    pub fn linear(&mut self, name: &str, ty: QuantType, shape: [usize; 3], bias: bool) -> Linear {
        let weight = self.matrix(name, ty, shape);
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), shape[0] * shape[1], (0.0, 0.3)));
        Linear { weight, rows: 0..shape[1], bias }
    }

    pub fn norm(&mut self, name: &str, len: usize, kind: NormKind) -> Norm {
        let weight = self.vector(name, len, (1.0, 0.2));
        let bias = (kind == NormKind::Layer).then(|| self.vector(&format!("{name}.bias"), len, (0.0, 0.2)));
        Norm { kind, weight, bias, eps: 1e-5 }
    }

    /// The weights with their places, and the file that holds them.
    pub fn finish(self) -> (Vec<Weight>, Vec<u8>) {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend(0u64.to_le_bytes());
        let mut offset = 0;
        for (w, bytes) in &self.tensors {
            head.extend((w.name.len() as u64).to_le_bytes());
            head.extend(w.name.as_bytes());
            head.extend(3u32.to_le_bytes());
            [w.cols, w.rows, w.experts].iter().for_each(|&d| head.extend((d as u64).to_le_bytes()));
            head.extend(w.ty.ggml().to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(32);
        }
        let mut file = head;
        let mut weights = Vec::new();
        for (mut w, bytes) in self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            w.data.offset = file.len() as u64;
            file.extend(bytes);
            weights.push(w);
        }
        (weights, file)
    }
}

/// A file as a device reads it.
pub fn source(file: Vec<u8>) -> Arc<Source> {
    Gguf::from_bytes(file).expect("a file of tensors").source().clone()
}
