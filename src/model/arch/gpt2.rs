//! gpt2: layer norms, learned positions instead of a rope, one matrix for q, k and v, GELU without a gate, biases everywhere.

use super::parts::Parts;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::model::builder::Size;
use crate::model::{Activation, Attention, Ffn, Layer, ModelSpec, NormKind};

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let mut parts = Parts::new(gguf, "gpt2", NormKind::Layer, context)?;
    let (rows, cols) = (parts.base.context, parts.base.embd);
    let positions = parts.builder.table("position_embd.weight", Size { rows, cols })?;
    let mut spec = parts.finish(Vec::new(), |p, i| {
        let attention = Attention { rope: None, ..p.attention(i)? };
        let (embd, width) = (p.base.embd, p.base.ffn[i]);
        let ffn = Ffn::Dense {
            gate: None,
            up: p.builder.linear(&format!("blk.{i}.ffn_up"), Size { rows: width, cols: embd })?,
            down: p.builder.linear(&format!("blk.{i}.ffn_down"), Size { rows: embd, cols: width })?,
        };
        Ok(Layer { attention, feed_forward: p.feed_forward(i, Activation::Gelu, ffn)? })
    })?;
    spec.embedding.positions = Some(positions);
    Ok(spec)
}
