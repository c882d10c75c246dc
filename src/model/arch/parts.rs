//! What the families have in common: the usual names of a layer's tensors, and the frame of a decoder.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::builder::{Builder, Size};
use crate::model::keys::{Base, Keys};
use crate::model::rope::{RopeShape, rope};
use crate::model::{
    Activation, Attention, FeedForward, Ffn, Heads, Layer, Linear, ModelSpec, NormKind, Rope, RopeId, RopeStyle,
};

/// A family's description under way.
pub struct Parts<'a> {
    pub keys: Keys<'a>,
    pub base: Base,
    pub builder: Builder<'a>,
    /// Tokens that the model is opened for.
    pub context: usize,
    family: &'static str,
    n_vocab: usize,
}

impl<'a> Parts<'a> {
    pub fn new(gguf: &'a Gguf, family: &'static str, norm: NormKind, context: Option<usize>) -> Result<Self> {
        let keys = Keys::new(gguf.metadata(), family);
        let eps = match norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let base = keys.base(eps)?;
        let builder = Builder::new(gguf, norm, base.eps);
        let n_vocab = builder.n_vocab()?;
        let context = context.unwrap_or(base.context).min(base.context).max(1);
        Ok(Self { keys, base, builder, context, family, n_vocab })
    }

    fn heads(&self, layer: usize) -> Heads {
        Heads { q: self.base.heads[layer], kv: self.base.kv_heads[layer], dim: self.base.head_dim }
    }

    /// The rope that the file's keys describe.
    pub fn rope(&self, style: RopeStyle) -> Result<Rope> {
        let dims = self.keys.rope_dims(self.base.head_dim)?;
        let shape = RopeShape { style, dims, file_context: self.base.context, context: self.context };
        rope(&self.keys, &self.builder, &shape)
    }

    /// Attention under its usual names, over all positions, with the first rope.
    pub fn attention(&mut self, layer: usize) -> Result<Attention> {
        let [q, k, v] = self.qkv(layer)?;
        Ok(Attention {
            norm: self.builder.norm(&format!("blk.{layer}.attn_norm"), self.base.embd)?,
            heads: self.heads(layer),
            q,
            k,
            v,
            q_norm: None,
            k_norm: None,
            rope: Some(RopeId(0)),
            scale: 1.0 / (self.base.head_dim as f32).sqrt(),
            window: None,
            sinks: None,
            o: self.output(layer)?,
            post_norm: None,
        })
    }

    /// A feed-forward behind its usual norm.
    pub fn feed_forward(&mut self, layer: usize, activation: Activation, ffn: Ffn) -> Result<FeedForward> {
        let norm = self.builder.norm(&format!("blk.{layer}.ffn_norm"), self.base.embd)?;
        Ok(FeedForward { norm, activation, ffn, post_norm: None })
    }

    /// attn_q, attn_k and attn_v, or the one matrix that holds all three.
    fn qkv(&mut self, layer: usize) -> Result<[Linear; 3]> {
        let h = self.heads(layer);
        let (q, kv, cols) = (h.q * h.dim, h.kv * h.dim, self.base.embd);
        if self.builder.has(&format!("blk.{layer}.attn_qkv.weight")) {
            return self.builder.fused(&format!("blk.{layer}.attn_qkv"), [q, kv, kv], cols);
        }
        let mut part = |name, rows| self.builder.linear(&format!("blk.{layer}.{name}"), Size { rows, cols });
        Ok([part("attn_q", q)?, part("attn_k", kv)?, part("attn_v", kv)?])
    }

    fn output(&mut self, layer: usize) -> Result<Linear> {
        let h = self.heads(layer);
        let size = Size { rows: self.base.embd, cols: h.q * h.dim };
        self.builder.linear(&format!("blk.{layer}.attn_output"), size)
    }

    /// ffn_gate, ffn_up and ffn_down.
    pub fn gated(&mut self, layer: usize) -> Result<Ffn> {
        let (embd, width) = (self.base.embd, self.base.ffn[layer]);
        let b = &mut self.builder;
        Ok(Ffn::Dense {
            gate: Some(b.linear(&format!("blk.{layer}.ffn_gate"), Size { rows: width, cols: embd })?),
            up: b.linear(&format!("blk.{layer}.ffn_up"), Size { rows: width, cols: embd })?,
            down: b.linear(&format!("blk.{layer}.ffn_down"), Size { rows: embd, cols: width })?,
        })
    }

    /// The router ffn_gate_inp, and the stacks ffn_gate_exps, ffn_up_exps and ffn_down_exps.
    pub fn experts(&mut self, layer: usize, (experts, used): (usize, usize)) -> Result<Ffn> {
        let (embd, width) = (self.base.embd, self.keys.expert_width(&self.base)?);
        let b = &mut self.builder;
        Ok(Ffn::Experts {
            router: b.linear(&format!("blk.{layer}.ffn_gate_inp"), Size { rows: experts, cols: embd })?,
            gate: b.stack(&format!("blk.{layer}.ffn_gate_exps"), experts, Size { rows: width, cols: embd })?,
            up: b.stack(&format!("blk.{layer}.ffn_up_exps"), experts, Size { rows: width, cols: embd })?,
            down: b.stack(&format!("blk.{layer}.ffn_down_exps"), experts, Size { rows: embd, cols: width })?,
            used,
        })
    }

    /// The whole model: `layer` describes one, with `ropes[0]`, .. as the ropes that it names.
    pub fn finish(
        mut self,
        ropes: Vec<Rope>,
        mut layer: impl FnMut(&mut Self, usize) -> Result<Layer>,
    ) -> Result<ModelSpec> {
        let (n_vocab, n_embd) = (self.n_vocab, self.base.embd);
        let embedding = self.builder.embedding(n_vocab, n_embd)?;
        let mut layers = Vec::new();
        layers.try_reserve(self.base.layers).map_err(|e| Error::memory(e.to_string()))?;
        for i in 0..self.base.layers {
            layers.push(layer(&mut self, i)?);
        }
        let head = self.builder.head(n_vocab, n_embd)?;
        let weights = self.builder.finish();
        Ok(ModelSpec {
            family: self.family,
            n_embd,
            n_vocab,
            context: self.context,
            weights,
            embedding,
            ropes,
            layers,
            head,
        })
    }
}
