//! Rotary embeddings: from the scaling that a file names to one frequency per pair.
//!
//! Every kind of scaling ends as a list of frequencies and a factor on sine and cosine, so that no device knows of
//! any. Sources: the YaRN paper (arXiv 2309.00071) with its ramp rounded to whole dimensions; LongRoPE (arXiv 2402.13753);
//! Llama 3's and other divisors come as a tensor.

use super::builder::Builder;
use super::keys::Keys;
use super::{Rope, RopeStyle};
use crate::error::{Error, Result};
use std::f32::consts::PI;

/// Turns over the original context above which a pair keeps its frequency, and below which it is scaled in full.
const YARN_BETA: (f32, f32) = (32.0, 1.0);

/// Radians a token above which a rope is refused; a base above 1 gives at most 1.
const FASTEST: f32 = 1e6;

/// The rope of a model: `dims` elements of each head rotate.
pub struct RopeShape {
    pub style: RopeStyle,
    pub dims: usize,
    /// Tokens that the file allows, and that the host opens the model for.
    pub file_context: usize,
    pub context: usize,
}

/// The rope that the file's keys and tensors describe.
pub fn rope(keys: &Keys, builder: &Builder, shape: &RopeShape) -> Result<Rope> {
    let base = keys.positive_or_none("rope.freq_base")?.unwrap_or(10_000.0);
    let mut inv_freq = frequencies(base, shape.dims);
    check_speed(keys, "rope.freq_base", &inv_freq)?;
    let mut magnitude = 1.0;
    let attn_factor = keys.positive_or_none("rope.scaling.attn_factor")?;
    // Files before the key existed name a linear scale by itself.
    let factor = match keys.positive_or_none("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.positive_or_none("rope.scale_linear")?.unwrap_or(1.0),
    };
    match keys.text("rope.scaling.type")? {
        Some("none") => {}
        // Files before the key existed scale linearly.
        None | Some("linear") => inv_freq.iter_mut().for_each(|f| *f /= factor),
        Some("yarn") => {
            yarn(keys, shape, (base, factor), &mut inv_freq)?;
            magnitude = (1.0 + 0.1 * factor.max(1.0).ln()) * attn_factor.unwrap_or(1.0);
        }
        Some("longrope") => magnitude = longrope(keys, builder, shape, &mut inv_freq)?,
        Some(other) => {
            let name = keys.name("rope.scaling.type");
            return Err(Error::load(format!("{name} is {other}; none, linear, yarn and longrope run")));
        }
    }
    if let Some(divisors) = builder.values("rope_freqs.weight", shape.dims / 2)? {
        inv_freq.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d);
    }
    check_speed(keys, "rope.scaling.factor", &inv_freq)?;
    Ok(Rope { style: shape.style, inv_freq, magnitude })
}

/// Refuses frequencies that no model has, which `key` has led to: at such a speed a position says nothing, or is no number.
pub fn check_speed(keys: &Keys, key: &str, inv_freq: &[f32]) -> Result<()> {
    match inv_freq.iter().find(|f| !f.is_finite() || **f > FASTEST) {
        None => Ok(()),
        Some(f) => {
            let name = keys.name(key);
            Err(Error::load(format!("{name} gives a rotation of {f} radians a token; the limit is {FASTEST}")))
        }
    }
}

/// 1 / base^(2i / dims)
pub fn frequencies(base: f32, dims: usize) -> Vec<f32> {
    (0..dims / 2).map(|i| 1.0 / base.powf(2.0 * i as f32 / dims as f32)).collect()
}

fn original_context(keys: &Keys, shape: &RopeShape) -> Result<usize> {
    Ok(keys.count_or_none("rope.scaling.original_context_length", u32::MAX as usize)?.unwrap_or(shape.file_context))
}

fn yarn(keys: &Keys, shape: &RopeShape, (base, factor): (f32, f32), inv_freq: &mut [f32]) -> Result<()> {
    let original = original_context(keys, shape)? as f32;
    let fast = keys.positive_or_none("rope.scaling.yarn_beta_fast")?.unwrap_or(YARN_BETA.0);
    let slow = keys.positive_or_none("rope.scaling.yarn_beta_slow")?.unwrap_or(YARN_BETA.1);
    if base <= 1.0 {
        let name = keys.name("rope.freq_base");
        return Err(Error::load(format!("{name} is {base}, but YaRN needs more than 1")));
    }
    // The dimension that turns `turns` times over the original context.
    let dim = |turns: f32| shape.dims as f32 * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
    let low = dim(fast).floor().max(0.0);
    let high = dim(slow).ceil().min(shape.dims as f32 - 1.0);
    let span = (high - low).max(0.001);
    for (i, f) in inv_freq.iter_mut().enumerate() {
        let ramp = ((i as f32 - low) / span).clamp(0.0, 1.0);
        *f = *f / factor * ramp + *f * (1.0 - ramp);
    }
    Ok(())
}

/// Divides by the short factors, or by the long ones where the model is opened for more than its original context.
fn longrope(keys: &Keys, builder: &Builder, shape: &RopeShape, inv_freq: &mut [f32]) -> Result<f32> {
    let original = original_context(keys, shape)?;
    let name = if shape.context > original { "rope_factors_long.weight" } else { "rope_factors_short.weight" };
    let factors = builder
        .values(name, shape.dims / 2)?
        .ok_or_else(|| Error::load(format!("the tensor {name} is missing, which longrope needs")))?;
    inv_freq.iter_mut().zip(factors).for_each(|(f, d)| *f /= d);
    let scale = shape.file_context as f32 / original as f32;
    let computed = if scale <= 1.0 { 1.0 } else { (1.0 + scale.ln() / (original as f32).ln()).sqrt() };
    Ok(keys.positive_or_none("rope.scaling.attn_factor")?.unwrap_or(computed))
}
