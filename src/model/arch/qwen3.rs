//! qwen3 and qwen3moe: a norm over each head of q and k before the rope; the latter with experts in every layer.

use super::parts::Parts;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Activation, Attention, Layer, ModelSpec, NormKind, RopeStyle};

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let family = if gguf.architecture()? == "qwen3moe" { "qwen3moe" } else { "qwen3" };
    let parts = Parts::new(gguf, family, NormKind::Rms, context)?;
    let rope = parts.rope(RopeStyle::Halves)?;
    let experts = if family == "qwen3moe" { parts.keys.experts()? } else { None };
    if family == "qwen3moe" && experts.is_none() {
        return Err(Error::load("the key qwen3moe.expert_count is missing or 0"));
    }
    parts.finish(vec![rope], |p, i| {
        let dim = p.base.head_dim;
        let attention = Attention {
            q_norm: Some(p.builder.norm(&format!("blk.{i}.attn_q_norm"), dim)?),
            k_norm: Some(p.builder.norm(&format!("blk.{i}.attn_k_norm"), dim)?),
            ..p.attention(i)?
        };
        let ffn = match experts {
            Some(experts) => p.experts(i, experts)?,
            None => p.gated(i)?,
        };
        Ok(Layer { attention, feed_forward: p.feed_forward(i, Activation::Silu, ffn)? })
    })
}
