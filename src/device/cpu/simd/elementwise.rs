//! What is done element by element, or over one row: sums, activations.

use super::{Isa, portable};
use crate::model::Activation;
use crate::quant::{Q8Mut, quantise_q8};

impl Isa {
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        portable::dot(a, b)
    }

    pub fn sum(self, x: &[f32]) -> f32 {
        portable::sum(x)
    }

    /// The int8 form of activations, to the bit that of `quant::q8`.
    pub fn quantise(self, x: &[f32], out: Q8Mut<'_>) {
        quantise_q8(x, out);
    }

    /// up = activation(gate, up)
    pub fn activate(self, activation: Activation, gate: &[f32], up: &mut [f32]) {
        let pairs = up.iter_mut().zip(gate);
        match activation {
            Activation::Silu => pairs.for_each(|(up, &gate)| *up *= gate * sigmoid(gate)),
            Activation::Gelu => pairs.for_each(|(up, &gate)| *up *= gelu(gate)),
            Activation::ClampedSwiglu { alpha, limit } => pairs.for_each(|(up, &gate)| {
                let gate = at_most(gate, limit);
                *up = gate * sigmoid(alpha * gate) * (-at_most(-at_most(*up, limit), limit) + 1.0);
            }),
        }
    }

    /// up = activation(up), where there is no gate.
    pub fn activate_up(self, activation: Activation, up: &mut [f32]) {
        match activation {
            Activation::Gelu => up.iter_mut().for_each(|up| *up = gelu(*up)),
            Activation::Silu | Activation::ClampedSwiglu { .. } => up.iter_mut().for_each(|up| *up *= sigmoid(*up)),
        }
    }
}

/// The smaller of the two; a NaN stays one, so that the fault shows.
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The tanh form.
fn gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)).tanh())
}
