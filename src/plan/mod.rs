//! A model lowered to a straight list of fused steps, and what running it takes.
//!
//! Memory is a pure function of the plan and the [`Limits`], so what does not fit is refused at load or at the start of an
//! inference, and no step allocates.

#![forbid(unsafe_code)]

mod batch;
mod footprint;
mod lower;
mod sample;
mod step;

pub use batch::*;
pub use footprint::*;
pub use lower::lower;
pub use sample::*;
pub use step::*;

use crate::model::{Heads, Rope, Weight, WeightId};

/// Layers whose keys and values are kept alike: one page of a group holds [`PAGE_TOKENS`] tokens of all its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroup {
    pub heads: Heads,
    pub window: Option<usize>,
    pub layers: usize,
}

/// A model as a device takes it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub weights: Vec<Weight>,
    pub ropes: Vec<Rope>,
    pub steps: Vec<Step>,
    pub kv_groups: Vec<KvGroup>,
    pub n_embd: usize,
    pub n_vocab: usize,
    pub context: usize,
    /// The widest q of any layer, in elements.
    pub q_width: usize,
    /// The widest k or v row of any layer.
    pub kv_width: usize,
    /// The widest feed-forward (of one expert, where there are experts).
    pub ffn_width: usize,
    /// The most experts, and the most used for a token; 0 without.
    pub experts: usize,
    pub experts_used: usize,
    /// Ids that must never be drawn (padding rows of the vocabulary), ascending.
    pub never_drawn: Vec<u32>,
}

impl Plan {
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }
}
