//! phi3: q, k and v in one matrix, gate and up in another (gate first), and a sliding window over every layer where the file names
//! one. Some files scale the rope by longrope, with factors for short and for long contexts.

use super::parts::Parts;
use crate::error::Result;
use crate::gguf::Gguf;
use crate::model::builder::Size;
use crate::model::{Activation, Attention, Ffn, Layer, ModelSpec, NormKind, RopeStyle};

pub fn describe(gguf: &Gguf, context: Option<usize>) -> Result<ModelSpec> {
    let parts = Parts::new(gguf, "phi3", NormKind::Rms, context)?;
    let rope = parts.rope(RopeStyle::Halves)?;
    let window = parts.keys.window()?;
    parts.finish(vec![rope], |p, i| {
        let attention = Attention { window, ..p.attention(i)? };
        let (embd, width) = (p.base.embd, p.base.ffn[i]);
        let [gate, up] = p.builder.fused(&format!("blk.{i}.ffn_up"), [width, width], embd)?;
        let down = p.builder.linear(&format!("blk.{i}.ffn_down"), Size { rows: embd, cols: width })?;
        let ffn = Ffn::Dense { gate: Some(gate), up, down };
        Ok(Layer { attention, feed_forward: p.feed_forward(i, Activation::Silu, ffn)? })
    })
}
