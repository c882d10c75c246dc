//! What a model is, as data: the weights it has and how they are put together.
//!
//! An architecture file turns GGUF metadata into one [`ModelSpec`]; from here on nobody asks which
//! family it was. A matrix is [rows, cols]: `rows` outputs, `cols` inputs, row by row, as GGUF stores
//! it (dims[0] = cols). A matrix per expert is [experts, rows, cols].

use crate::gguf::TensorRef;
use crate::quant::QuantType;
use std::ops::Range;

/// A weight's place in [`ModelSpec::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub u32);

/// A tensor of the file that the model uses: a matrix, a stack of them, or a vector (one row).
#[derive(Clone, Debug)]
pub struct Weight {
    pub name: String,
    pub ty: QuantType,
    /// Inputs: the length of a row.
    pub cols: usize,
    /// Outputs; 1 for a vector.
    pub rows: usize,
    /// Matrices in the stack; 1 but for experts.
    pub experts: usize,
    pub data: TensorRef,
}

impl Weight {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.ty.block_len() * self.ty.block_bytes()
    }
}

/// `y = W[rows] x + b[rows]`. A range of rows lets one fused tensor serve as q, k and v. `bias` is F32 and is indexed by the
/// same rows; with experts it is [experts, rows].
#[derive(Clone, Debug)]
pub struct Linear {
    pub weight: WeightId,
    pub rows: Range<usize>,
    pub bias: Option<WeightId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / rms(x) * w
    Rms,
    /// (x - mean) / sd * w + b
    Layer,
}

/// A norm over the last dimension; weights are F32.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub kind: NormKind,
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub eps: f32,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// (0, 1), (2, 3), ..: the llama files.
    Pairs,
    /// (0, n/2), (1, n/2 + 1), ..: all others.
    Halves,
}

/// A rotary embedding with its scaling already worked into the frequencies.
#[derive(Clone, Debug)]
pub struct Rope {
    pub style: RopeStyle,
    /// Radians per position of each pair: half as many as the elements of a head that rotate (the first ones).
    pub inv_freq: Vec<f32>,
    /// Factor on sine and cosine.
    pub magnitude: f32,
}

/// A rope's place in [`ModelSpec::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub u32);

/// Sizes of an attention layer's heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heads {
    pub q: usize,
    pub kv: usize,
    pub dim: usize,
}

#[derive(Clone, Debug)]
pub struct Attention {
    pub norm: Norm,
    pub heads: Heads,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    /// Norms over each head of q and of k, before the rope.
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub rope: Option<RopeId>,
    /// Factor on q·k.
    pub scale: f32,
    /// A token sees itself and the `window - 1` before it.
    pub window: Option<usize>,
    /// F32 [heads.q]: a logit per head that takes part in the softmax and gives nothing.
    pub sinks: Option<WeightId>,
    pub o: Linear,
    /// A norm on the branch's output before it is added to the residual.
    pub post_norm: Option<Norm>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// silu(gate) * up
    Silu,
    /// gelu(gate) * up, or gelu(up) where there is no gate; the tanh form.
    Gelu,
    /// gate = min(gate, limit), up = clamp(up, -limit, limit); gate * sigmoid(alpha * gate) * (up + 1)
    ClampedSwiglu { alpha: f32, limit: f32 },
}

#[derive(Clone, Debug)]
pub enum Ffn {
    Dense {
        gate: Option<Linear>,
        up: Linear,
        down: Linear,
    },
    /// Router logits `[experts]`; the `used` largest take part, weighted by the softmax over those chosen.
    /// gate, up and down are stacks: their `rows` are those of one expert.
    Experts {
        router: Linear,
        gate: Linear,
        up: Linear,
        down: Linear,
        used: usize,
    },
}

#[derive(Clone, Debug)]
pub struct FeedForward {
    pub norm: Norm,
    pub activation: Activation,
    pub ffn: Ffn,
    pub post_norm: Option<Norm>,
}

#[derive(Clone, Debug)]
pub struct Layer {
    pub attention: Attention,
    pub feed_forward: FeedForward,
}

#[derive(Clone, Debug)]
pub struct Embedding {
    /// [n_vocab, n_embd]
    pub table: WeightId,
    /// [context, n_embd], learned positions, added.
    pub positions: Option<WeightId>,
    pub scale: f32,
}

#[derive(Clone, Debug)]
pub struct Head {
    pub norm: Norm,
    /// [n_vocab, n_embd]; the embedding's table where the two are tied.
    pub output: Linear,
}

/// A model, checked against the tensor table: every weight exists with the shape said here.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// The row of the families' table: `llama`, `qwen2`, ..
    pub family: &'static str,
    pub n_embd: usize,
    pub n_vocab: usize,
    /// Tokens that a sequence may hold: the file's figure, or less where the host asked for less.
    pub context: usize,
    pub weights: Vec<Weight>,
    pub embedding: Embedding,
    pub ropes: Vec<Rope>,
    pub layers: Vec<Layer>,
    pub head: Head,
}

impl ModelSpec {
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }
}
