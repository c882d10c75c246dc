//! gpt-oss: attention with a sink per head and biases everywhere, a window on every other layer beginning with the first, YaRN,
//! and experts with biases, a biased router and a clamped SwiGLU.

use super::parts::Parts;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Activation, Attention, FeedForward, Layer, ModelSpec, NormKind, RopeStyle};

const ACTIVATION: Activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
const PERIOD: usize = 2;

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let parts = Parts::new(gguf, "gpt-oss", NormKind::Rms, context)?;
    let rope = parts.rope(RopeStyle::Halves)?;
    let window = parts.keys.window()?;
    let windowed = parts.keys.windowed_layers(parts.base.layers, PERIOD)?;
    let experts = parts.keys.experts()?.ok_or_else(|| Error::load("the key gpt-oss.expert_count is missing or 0"))?;
    parts.finish(vec![rope], |p, i| {
        let (embd, heads) = (p.base.embd, p.base.heads[i]);
        let attention = Attention {
            window: window.filter(|_| windowed[i]),
            sinks: Some(p.builder.vector(&format!("blk.{i}.attn_sinks.weight"), heads)?),
            ..p.attention(i)?
        };
        // The norm between the branches goes by this name here.
        let norm = p.builder.norm(&format!("blk.{i}.post_attention_norm"), embd)?;
        let ffn = p.experts(i, experts)?;
        let feed_forward = FeedForward { norm, activation: ACTIVATION, ffn, post_norm: None };
        Ok(Layer { attention, feed_forward })
    })
}
