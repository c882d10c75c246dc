//! Help for tests of kernels: random numbers, and random blocks with scales of a sensible size.

use super::{QuantType, dequantise};

/// A small generator (xorshift with 64 bits of state): the same numbers on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        self.next_u32() as i32 as f32 / 2_147_483_648.0
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next_u32() >> 24) as u8).collect()
    }
}

/// Where the half floats of a block are.
fn halves(ty: QuantType) -> &'static [usize] {
    match ty {
        QuantType::F32 | QuantType::F16 | QuantType::BF16 | QuantType::MXFP4 => &[],
        QuantType::Q4_0 | QuantType::Q5_0 | QuantType::Q8_0 => &[0],
        QuantType::IQ4NL | QuantType::IQ4XS => &[0],
        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4K | QuantType::Q5K => &[0, 2],
        QuantType::Q2K => &[80, 82],
        QuantType::Q3K => &[108],
        QuantType::Q6K => &[208],
    }
}

/// A row of random blocks, every bit of which is used; the weights are finite and not far from 1.
pub fn random_row(ty: QuantType, cols: usize, rng: &mut Rng) -> Vec<u8> {
    let blocks = cols / ty.block_len();
    let mut row = rng.bytes(blocks * ty.block_bytes());
    for block in row.chunks_exact_mut(ty.block_bytes()) {
        for &at in halves(ty) {
            let half = half::f16::from_f32(rng.float() / 16.0);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        match ty {
            QuantType::MXFP4 => block[0] = 120 + block[0] % 10,
            QuantType::F32 => block.copy_from_slice(&rng.float().to_le_bytes()),
            QuantType::F16 => block.copy_from_slice(&half::f16::from_f32(rng.float()).to_le_bytes()),
            QuantType::BF16 => block[1] = block[1] & 0x80 | 0x3f,
            _ => {}
        }
    }
    row
}

/// The weights of whole blocks.
pub fn dequantised(ty: QuantType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / ty.block_bytes() * ty.block_len()];
    dequantise(ty, bytes, &mut out);
    out
}
