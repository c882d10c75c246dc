//! gemma3: scaled embeddings, a norm before and after each branch, GELU, norms over the heads of q and k. Five of six layers look over a
//! window only and rotate with a base of their own, unscaled; the sixth sees everything.
//!
//! The norms' weights are as used: the converter has added the 1 that the paper's formula adds.

use super::parts::Parts;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::model::rope::{check_speed, frequencies};
use crate::model::{Activation, Attention, FeedForward, Layer, ModelSpec, NormKind, Rope, RopeId, RopeStyle};

/// Published files name neither the pattern of the layers nor the base of the local ones.
const PERIOD: usize = 6;
const LOCAL_BASE: f32 = 10_000.0;
/// The one size (27B) whose query scale is not that of its head dimension, known by its layers.
const LARGEST_LAYERS: usize = 62;

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let parts = Parts::new(gguf, "gemma3", NormKind::Rms, context)?;
    let global = parts.rope(RopeStyle::Halves)?;
    let base = parts.keys.positive_or_none("rope.freq_base_swa")?.unwrap_or(LOCAL_BASE);
    let inv_freq = frequencies(base, 2 * global.inv_freq.len());
    check_speed(&parts.keys, "rope.freq_base_swa", &inv_freq)?;
    let local = Rope { style: RopeStyle::Halves, inv_freq, magnitude: 1.0 };
    let window = parts.keys.window()?;
    let windowed = parts.keys.windowed_layers(parts.base.layers, PERIOD)?;
    let mut spec = parts.finish(vec![global, local], |p, i| {
        let (embd, dim) = (p.base.embd, p.base.head_dim);
        let usual = p.attention(i)?;
        let scale = match p.base.layers {
            LARGEST_LAYERS => 1.0 / (embd as f32 / p.base.heads[i] as f32).sqrt(),
            _ => usual.scale,
        };
        let attention = Attention {
            q_norm: Some(p.builder.norm(&format!("blk.{i}.attn_q_norm"), dim)?),
            k_norm: Some(p.builder.norm(&format!("blk.{i}.attn_k_norm"), dim)?),
            rope: Some(RopeId(u32::from(windowed[i]))),
            window: window.filter(|_| windowed[i]),
            scale,
            post_norm: Some(p.builder.norm(&format!("blk.{i}.post_attention_norm"), embd)?),
            ..usual
        };
        let ffn = p.gated(i)?;
        let feed_forward = FeedForward {
            post_norm: Some(p.builder.norm(&format!("blk.{i}.post_ffw_norm"), embd)?),
            ..p.feed_forward(i, Activation::Gelu, ffn)?
        };
        Ok(Layer { attention, feed_forward })
    })?;
    spec.embedding.scale = (spec.n_embd as f32).sqrt();
    Ok(spec)
}
