//! qwen2: llama's block with biases on q, k and v, and halves rotated.

use super::parts::Parts;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::model::{Activation, Layer, ModelSpec, NormKind, RopeStyle};

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let parts = Parts::new(gguf, "qwen2", NormKind::Rms, context)?;
    let rope = parts.rope(RopeStyle::Halves)?;
    parts.finish(vec![rope], |p, i| {
        let attention = p.attention(i)?;
        let ffn = p.gated(i)?;
        Ok(Layer { attention, feed_forward: p.feed_forward(i, Activation::Silu, ffn)? })
    })
}
