//! llama: RMS norms, rotated pairs, SwiGLU; with experts it is Mixtral. Llama 3's rope divisors come as a tensor.

use super::parts::Parts;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::model::{Activation, Layer, ModelSpec, NormKind, RopeStyle};

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let parts = Parts::new(gguf, "llama", NormKind::Rms, context)?;
    let rope = parts.rope(RopeStyle::Pairs)?;
    let experts = parts.keys.experts()?;
    parts.finish(vec![rope], |p, i| {
        let attention = p.attention(i)?;
        let ffn = match experts {
            Some(experts) => p.experts(i, experts)?,
            None => p.gated(i)?,
        };
        Ok(Layer { attention, feed_forward: p.feed_forward(i, Activation::Silu, ffn)? })
    })
}
