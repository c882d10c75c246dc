//! Small models with random weights, one for each way in which layers differ.

use crate::gguf::{Source, TensorRef};
use crate::model::*;
use crate::quant::QuantType;
use crate::quant::testing::{Rng, random_row};
use std::sync::Arc;

/// A model and the bytes of its weights.
pub struct Fixture {
    pub spec: ModelSpec,
    pub source: Arc<Source>,
}

/// What a layer of a fixture has.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub ty: QuantType,
    pub n_embd: usize,
    pub ffn: usize,
    pub heads: Heads,
    pub norm: NormKind,
    pub rope: Option<(RopeStyle, usize)>,
    pub activation: Activation,
    pub gated: bool,
    pub bias: bool,
    pub head_norms: bool,
    pub post_norms: bool,
    pub sinks: bool,
    pub window: Option<usize>,
    pub positions: bool,
    pub experts: Option<(usize, usize)>,
}

pub const N_VOCAB: usize = 83;
pub const CONTEXT: usize = 300;

/// A plain llama: what the others differ from.
pub fn llama(ty: QuantType) -> Shape {
    Shape {
        ty,
        n_embd: 256,
        ffn: 512,
        heads: Heads { q: 8, kv: 2, dim: 64 },
        norm: NormKind::Rms,
        rope: Some((RopeStyle::Pairs, 32)),
        activation: Activation::Silu,
        gated: true,
        bias: false,
        head_norms: false,
        post_norms: false,
        sinks: false,
        window: None,
        positions: false,
        experts: None,
    }
}

/// Odd sizes, norms wherever they can be, a window shorter than a page.
pub fn gemma(ty: QuantType) -> Shape {
    Shape {
        n_embd: 160,
        ffn: 96,
        heads: Heads { q: 3, kv: 1, dim: 32 },
        rope: Some((RopeStyle::Halves, 12)),
        activation: Activation::Gelu,
        head_norms: true,
        post_norms: true,
        window: Some(21),
        ..llama(ty)
    }
}

/// Layer norms, biases, learned positions, no rope, no gate.
pub fn gpt2(ty: QuantType) -> Shape {
    Shape {
        n_embd: 96,
        ffn: 224,
        heads: Heads { q: 4, kv: 4, dim: 24 },
        norm: NormKind::Layer,
        rope: None,
        activation: Activation::Gelu,
        gated: false,
        bias: true,
        positions: true,
        ..llama(ty)
    }
}

/// Experts with biases, sinks, a window over more than a page.
pub fn oss(ty: QuantType) -> Shape {
    Shape {
        n_embd: 64,
        ffn: 32,
        heads: Heads { q: 4, kv: 2, dim: 16 },
        activation: Activation::ClampedSwiglu { alpha: 1.702, limit: 0.7 },
        rope: Some((RopeStyle::Halves, 8)),
        bias: true,
        sinks: true,
        window: Some(40),
        experts: Some((7, 3)),
        ..llama(ty)
    }
}

struct Maker {
    rng: Rng,
    bytes: Vec<u8>,
    weights: Vec<Weight>,
    shape: Shape,
}

impl Maker {
    /// Random rows; F32 ones are scaled so that a product is about as large as its input.
    fn weight(&mut self, ty: QuantType, experts: usize, rows: usize, cols: usize) -> WeightId {
        let offset = self.bytes.len() as u64;
        for _ in 0..experts * rows {
            if ty == QuantType::F32 {
                let scale = 2.0 / (cols as f32).sqrt();
                self.rng.floats(cols).iter().for_each(|x| self.bytes.extend((x * scale).to_le_bytes()));
            } else {
                self.bytes.extend(random_row(ty, cols, &mut self.rng));
            }
        }
        let data = TensorRef { part: 0, offset, bytes: self.bytes.len() as u64 - offset };
        let name = format!("weight {}", self.weights.len());
        self.weights.push(Weight { name, ty, cols, rows, experts, data });
        WeightId(self.weights.len() as u32 - 1)
    }

    /// A vector around `centre`.
    fn vector(&mut self, len: usize, centre: f32) -> WeightId {
        let offset = self.bytes.len() as u64;
        self.rng.floats(len).iter().for_each(|x| self.bytes.extend((centre + 0.3 * x).to_le_bytes()));
        let data = TensorRef { part: 0, offset, bytes: 4 * len as u64 };
        let name = format!("vector {}", self.weights.len());
        self.weights.push(Weight { name, ty: QuantType::F32, cols: len, rows: 1, experts: 1, data });
        WeightId(self.weights.len() as u32 - 1)
    }

    fn norm(&mut self, len: usize) -> Norm {
        let kind = self.shape.norm;
        let weight = self.vector(len, 1.0);
        Norm { kind, weight, bias: (kind == NormKind::Layer).then(|| self.vector(len, 0.0)), eps: 1e-5 }
    }

    fn linear(&mut self, experts: usize, rows: usize, cols: usize) -> Linear {
        let weight = self.weight(self.shape.ty, experts, rows, cols);
        let bias = self.shape.bias.then(|| self.vector(experts * rows, 0.0));
        Linear { weight, rows: 0..rows, bias }
    }

    fn attention(&mut self) -> Attention {
        let s = self.shape;
        let Heads { q, kv, dim } = s.heads;
        // One fused tensor, as some files have it, of which each takes its rows.
        let fused = self.linear(1, (q + 2 * kv) * dim, s.n_embd);
        let rows = |from: usize, to: usize| Linear { rows: from * dim..to * dim, ..fused.clone() };
        Attention {
            norm: self.norm(s.n_embd),
            heads: s.heads,
            q: rows(0, q),
            k: rows(q, q + kv),
            v: rows(q + kv, q + 2 * kv),
            q_norm: s.head_norms.then(|| self.norm(dim)),
            k_norm: s.head_norms.then(|| self.norm(dim)),
            rope: s.rope.map(|_| RopeId(0)),
            // Random weights of other types are large numbers: this keeps the softmax from choosing one token alone.
            scale: if s.ty != QuantType::F32 { 1e-3 } else { 1.0 / (dim as f32).sqrt() },
            window: s.window,
            sinks: s.sinks.then(|| self.vector(q, 1.0)),
            o: self.linear(1, s.n_embd, q * dim),
            post_norm: s.post_norms.then(|| self.norm(s.n_embd)),
        }
    }

    fn feed_forward(&mut self) -> FeedForward {
        let s = self.shape;
        let norm = self.norm(s.n_embd);
        let ffn = match s.experts {
            None => Ffn::Dense {
                gate: s.gated.then(|| self.linear(1, s.ffn, s.n_embd)),
                up: self.linear(1, s.ffn, s.n_embd),
                down: self.linear(1, s.n_embd, s.ffn),
            },
            Some((experts, used)) => Ffn::Experts {
                router: Linear {
                    weight: self.weight(QuantType::F32, 1, experts, s.n_embd),
                    rows: 0..experts,
                    bias: None,
                },
                gate: self.linear(experts, s.ffn, s.n_embd),
                up: self.linear(experts, s.ffn, s.n_embd),
                down: self.linear(experts, s.n_embd, s.ffn),
                used,
            },
        };
        FeedForward { norm, activation: s.activation, ffn, post_norm: s.post_norms.then(|| self.norm(s.n_embd)) }
    }
}

impl Fixture {
    /// Two layers of `shape`; where it has a window, the second layer looks back over everything.
    pub fn new(shape: Shape) -> Self {
        let mut m = Maker { rng: Rng::new(5), bytes: Vec::new(), weights: Vec::new(), shape };
        let table = m.weight(shape.ty, 1, N_VOCAB, shape.n_embd);
        let positions = shape.positions.then(|| m.weight(QuantType::F32, 1, CONTEXT, shape.n_embd));
        let mut layers = Vec::new();
        for i in 0..2 {
            let mut attention = m.attention();
            attention.window = attention.window.filter(|_| i == 0);
            layers.push(Layer { attention, feed_forward: m.feed_forward() });
        }
        let ropes = shape.rope.map(|(style, pairs)| Rope {
            style,
            inv_freq: (0..pairs).map(|i| 100f32.powf(-(i as f32) / pairs as f32)).collect(),
            magnitude: 1.1,
        });
        let head = Head { norm: m.norm(shape.n_embd), output: m.linear(1, N_VOCAB, shape.n_embd) };
        let spec = ModelSpec {
            family: "test",
            n_embd: shape.n_embd,
            n_vocab: N_VOCAB,
            context: CONTEXT,
            weights: m.weights,
            embedding: Embedding { table, positions, scale: 1.5 },
            ropes: ropes.into_iter().collect(),
            layers,
            head,
        };
        Self { spec, source: Arc::new(Source::from_bytes(m.bytes)) }
    }
}
