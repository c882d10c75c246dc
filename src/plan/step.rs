//! The steps of a plan: the whole list of what a device must be able to do.
//!
//! A step reads and writes the device's activation buffers, each [rows of the batch, width]:
//! `hidden` (the residual, n_embd), `q` (heads.q * head dim), `mixed` (attention's output, as wide as q) and `ffn` (the
//! widest feed-forward). Each step is what a device does best in one go; five make a dense layer.

use crate::model::{Activation, Heads, Linear, Norm, RopeId, WeightId};

/// Where a layer's keys and values are: which group of [`super::Plan::kv_groups`], and which layer of that group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    pub group: usize,
    pub layer: usize,
}

/// The input of a [`Step::Project`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Mixed,
    Ffn,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// `hidden = table[token] * scale (+ positions[position])`
    Embed { table: WeightId, positions: Option<WeightId>, scale: f32 },
    /// x = norm(hidden); q, k, v = linear(x); q and k normed per head and rotated; q kept, k and v written to the cache at
    /// the row's position.
    Qkv(Box<Qkv>),
    /// mixed = softmax(q K^T * scale [, sink]) V over the row's own sequence, positions max(0, p - window + 1)..=p
    Attend { heads: Heads, kv: KvLayer, scale: f32, window: Option<usize>, sinks: Option<WeightId> },
    /// hidden += post_norm(linear(input))
    Project { input: Input, linear: Linear, post_norm: Option<Norm> },
    /// x = norm(hidden); ffn = activation(gate(x), up(x))
    GateUp { norm: Norm, gate: Option<Linear>, up: Linear, activation: Activation },
    /// x = norm(hidden); hidden += post_norm(sum over the chosen experts e, best first, of w_e * down_e(activation(gate_e(x), up_e(x))))
    Experts(Box<Experts>),
    /// logits = linear(norm(hidden)), for the rows that want them; then sampling. Always the last step.
    Head { norm: Norm, linear: Linear },
}

#[derive(Clone, Debug)]
pub struct Qkv {
    pub norm: Norm,
    pub heads: Heads,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub rope: Option<RopeId>,
    pub kv: KvLayer,
}

#[derive(Clone, Debug)]
pub struct Experts {
    pub norm: Norm,
    pub router: Linear,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    pub used: usize,
    pub activation: Activation,
    pub post_norm: Option<Norm>,
}
