//! The hyperparameters of a file, checked.
//!
//! Every key is read through [`Keys`], which puts the architecture's name before it and refuses what no sane model says, with the
//! key, the value and the limit in the reason. The limits keep later products of sizes far from overflow.

use crate::error::{Error, Result};
use crate::gguf::Metadata;

const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEADS: usize = 4096;
const MAX_HEAD_DIM: usize = 1024;
const MAX_CONTEXT: usize = 1 << 28;
const MAX_EXPERTS: usize = 1024;

/// Metadata under one architecture's prefix.
pub struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
}

/// What nearly every architecture says; vectors have an entry per layer.
pub struct Base {
    pub layers: usize,
    pub embd: usize,
    /// Tokens that the file allows.
    pub context: usize,
    pub heads: Vec<usize>,
    pub kv_heads: Vec<usize>,
    pub head_dim: usize,
    pub ffn: Vec<usize>,
    /// The norms' epsilon.
    pub eps: f32,
}

impl<'a> Keys<'a> {
    pub fn new(metadata: &'a Metadata, arch: &'a str) -> Self {
        Self { metadata, arch }
    }

    /// The whole name of a key of this architecture.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn missing(&self, key: &str) -> Error {
        Error::load(format!("the key {} is missing", self.name(key)))
    }

    /// A count in `1..=max`; `None` if the key is missing.
    pub fn count_or_none(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let name = self.name(key);
        self.metadata.u64(&name)?.map(|v| in_range(&name, v, 1, max)).transpose()
    }

    /// A count in `1..=max`.
    pub fn count(&self, key: &str, max: usize) -> Result<usize> {
        self.count_or_none(key, max)?.ok_or_else(|| self.missing(key))
    }

    /// A count in `1..=max` for each layer: one number for all, or an array of them.
    pub fn counts(&self, key: &str, layers: usize, max: usize) -> Result<Option<Vec<usize>>> {
        let name = self.name(key);
        if !self.metadata.is_array(&name) {
            return Ok(self.count_or_none(key, max)?.map(|v| vec![v; layers]));
        }
        let Some(values) = self.metadata.u64s(&name)? else { return Ok(None) };
        if values.len() != layers {
            let n = values.len();
            return Err(Error::load(format!("{name} has {n} entries, but the model has {layers} layers")));
        }
        values.into_iter().map(|v| in_range(&name, v, 1, max)).collect::<Result<_>>().map(Some)
    }

    /// A finite number above `above`; `None` if the key is missing.
    pub fn positive_or_none(&self, key: &str) -> Result<Option<f32>> {
        let name = self.name(key);
        match self.metadata.f32(&name)? {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(Error::load(format!("{name} is {v}, but must be finite and above 0")))
            }
            v => Ok(v),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.metadata.str(&self.name(key))
    }

    /// A window in tokens; 0 and a missing key mean none.
    pub fn window(&self) -> Result<Option<usize>> {
        let name = self.name("attention.sliding_window");
        match self.metadata.u64(&name)? {
            None | Some(0) => Ok(None),
            Some(v) => in_range(&name, v, 1, u32::MAX as usize).map(Some),
        }
    }

    /// Which layers look over a window only: `attention.sliding_window_pattern` as a period (every period-th layer is
    /// global) or an array of booleans, one per layer; `period` where the file says nothing.
    pub fn windowed_layers(&self, layers: usize, period: usize) -> Result<Vec<bool>> {
        let key = "attention.sliding_window_pattern";
        let name = self.name(key);
        if self.metadata.is_array(&name) {
            let pattern = self.metadata.bools(&name)?.unwrap_or_default();
            if pattern.len() != layers {
                let n = pattern.len();
                return Err(Error::load(format!("{name} has {n} entries, but the model has {layers} layers")));
            }
            return Ok(pattern);
        }
        let period = self.count_or_none(key, MAX_LAYERS)?.unwrap_or(period);
        Ok((0..layers).map(|i| i % period < period - 1).collect())
    }

    /// (experts, experts used for a token); `None` for a model without.
    pub fn experts(&self) -> Result<Option<(usize, usize)>> {
        let name = self.name("expert_count");
        let experts = match self.metadata.u64(&name)? {
            None | Some(0) => return Ok(None),
            Some(v) => in_range(&name, v, 1, MAX_EXPERTS)?,
        };
        Ok(Some((experts, self.count("expert_used_count", experts)?)))
    }

    /// The feed-forward width of one expert.
    pub fn expert_width(&self, base: &Base) -> Result<usize> {
        Ok(self.count_or_none("expert_feed_forward_length", MAX_WIDTH)?.unwrap_or(base.ffn[0]))
    }

    /// The elements of a head that rotate: even, and no more than the head has.
    pub fn rope_dims(&self, head_dim: usize) -> Result<usize> {
        let dims = self.count_or_none("rope.dimension_count", MAX_HEAD_DIM)?.unwrap_or(head_dim);
        if dims % 2 != 0 || dims > head_dim {
            let name = self.name("rope.dimension_count");
            return Err(Error::load(format!("{name} is {dims}, but must be even and at most the head's {head_dim}")));
        }
        Ok(dims)
    }

    /// What nearly every architecture says, with `eps` the key of the norms' epsilon.
    pub fn base(&self, eps: &str) -> Result<Base> {
        let layers = self.count("block_count", MAX_LAYERS)?;
        let embd = self.count("embedding_length", MAX_WIDTH)?;
        let context = self.count("context_length", MAX_CONTEXT)?;
        let heads = self
            .counts("attention.head_count", layers, MAX_HEADS)?
            .ok_or_else(|| self.missing("attention.head_count"))?;
        let kv_heads = self.counts("attention.head_count_kv", layers, MAX_HEADS)?.unwrap_or_else(|| heads.clone());
        if let Some((q, kv)) = heads.iter().zip(&kv_heads).find(|(q, kv)| *q % *kv != 0) {
            let name = self.name("attention.head_count_kv");
            return Err(Error::load(format!("{name} is {kv}, but must divide the {q} heads")));
        }
        let head_dim = match self.count_or_none("attention.key_length", MAX_HEAD_DIM)? {
            Some(dim) => dim,
            None if embd % heads[0] == 0 => embd / heads[0],
            None => {
                let name = self.name("embedding_length");
                return Err(Error::load(format!("{name} is {embd}, no multiple of the {} heads", heads[0])));
            }
        };
        if head_dim > MAX_HEAD_DIM {
            return Err(Error::load(format!("heads of {head_dim} elements; the limit is {MAX_HEAD_DIM}")));
        }
        let value_dim = self.count_or_none("attention.value_length", MAX_HEAD_DIM)?.unwrap_or(head_dim);
        if value_dim != head_dim {
            let name = self.name("attention.value_length");
            return Err(Error::load(format!("{name} is {value_dim}; only the key's length, {head_dim}, runs")));
        }
        let ffn = self
            .counts("feed_forward_length", layers, MAX_WIDTH)?
            .ok_or_else(|| self.missing("feed_forward_length"))?;
        let eps = self.epsilon(eps)?;
        Ok(Base { layers, embd, context, heads, kv_heads, head_dim, ffn, eps })
    }

    fn epsilon(&self, key: &str) -> Result<f32> {
        let name = self.name(key);
        let eps = self.metadata.f32(&name)?.ok_or_else(|| self.missing(key))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(Error::load(format!("{name} is {eps}, but must be at least 0 and below 1")));
        }
        Ok(eps)
    }
}

fn in_range(name: &str, value: u64, min: usize, max: usize) -> Result<usize> {
    usize::try_from(value)
        .ok()
        .filter(|v| (min..=max).contains(v))
        .ok_or_else(|| Error::load(format!("{name} is {value}, but must be in {min}..={max}")))
}
