//! The door to the row functions: each is compiled once per instruction set.

use super::Isa;
use super::lanes::Plain;
use super::rows;
use crate::model::Activation;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// A method of [`Isa`] for a function of `rows`.
macro_rules! doors {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => {
        impl Isa {
            $($(#[$doc])*
            pub fn $name(self, $($arg: $ty),*) $(-> $out)? {
                match self {
                    // SAFETY: plain code.
                    Isa::Portable => unsafe { rows::$name::<Plain>($($arg),*) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: an Isa is only made where the CPU has it.
                    Isa::Avx2 => unsafe { avx2::$name($($arg),*) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: an Isa is only made where the CPU has it.
                    Isa::Avx512 => unsafe { avx512::$name($($arg),*) },
                    #[cfg(not(target_arch = "x86_64"))]
                    // SAFETY: plain code.
                    Isa::Avx2 | Isa::Avx512 => unsafe { rows::$name::<Plain>($($arg),*) },
                }
            })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            use super::*;

            $(#[target_feature(enable = "avx2,fma,f16c")]
            pub unsafe fn $name($($arg: $ty),*) $(-> $out)? {
                // SAFETY: the attribute's promise.
                unsafe { rows::$name::<__m256>($($arg),*) }
            })*
        }

        #[cfg(target_arch = "x86_64")]
        mod avx512 {
            use super::*;

            $(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            pub unsafe fn $name($($arg: $ty),*) $(-> $out)? {
                // SAFETY: the attribute's promise.
                unsafe { rows::$name::<__m512>($($arg),*) }
            })*
        }
    };
}

doors! {
    /// The sum of the products; of the shorter length.
    dot(a: &[f32], b: &[f32]) -> f32;
    sum(x: &[f32]) -> f32;
    /// x = x * scale * weight
    scale(x: &mut [f32], scale: f32, weight: &[f32]);
    /// up = activation(gate, up)
    activate(activation: Activation, gate: &[f32], up: &mut [f32]);
    /// up = activation(up), where there is no gate.
    activate_up(activation: Activation, up: &mut [f32]);
    /// to += from
    add(to: &mut [f32], from: &[f32]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::testing::Rng;

    fn sets() -> impl Iterator<Item = Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.present().is_ok())
    }

    #[test]
    fn products_and_sums_of_any_length() {
        let mut rng = Rng::new(1);
        for len in (0..40).chain([63, 64, 65, 127, 600]) {
            let (a, b) = (rng.floats(len), rng.floats(len));
            let want: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let total: f64 = a.iter().map(|a| f64::from(*a)).sum();
            for isa in sets() {
                assert!((f64::from(isa.dot(&a, &b)) - want).abs() < 1e-5, "{isa}, {len}");
                assert!((f64::from(isa.sum(&a)) - total).abs() < 1e-5, "{isa}, {len}");
                let (mut added, mut scaled) = (a.clone(), a.clone());
                isa.add(&mut added, &b);
                isa.scale(&mut scaled, 2.0, &b);
                assert!(added.iter().zip(&a).zip(&b).all(|((s, a), b)| *s == a + b), "{isa}, {len}");
                assert!(scaled.iter().zip(&a).zip(&b).all(|((s, a), b)| *s == a * 2.0 * b), "{isa}, {len}");
            }
        }
    }

    fn want(activation: Activation, gate: f64, up: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Silu => gate * sigmoid(gate) * up,
            Activation::Gelu => {
                gate * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3))) * up
            }
            Activation::ClampedSwiglu { alpha, limit } => {
                let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                let gate = gate.min(limit);
                gate * sigmoid(alpha * gate) * (up.clamp(-limit, limit) + 1.0)
            }
        }
    }

    #[test]
    fn activations_are_exact_and_keep_what_is_no_number() {
        let mut rng = Rng::new(2);
        let clamped = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
        for activation in [Activation::Silu, Activation::Gelu, clamped] {
            for len in [1, 7, 16, 37] {
                let gate: Vec<f32> = rng.floats(len).iter().map(|x| x * 12.0).collect();
                let up: Vec<f32> = rng.floats(len).iter().map(|x| x * 12.0).collect();
                for isa in sets() {
                    let (mut joined, mut alone) = (up.clone(), gate.clone());
                    isa.activate(activation, &gate, &mut joined);
                    isa.activate_up(activation, &mut alone);
                    for i in 0..len {
                        let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
                        let close = |y: f32, want: f64| (f64::from(y) - want).abs() <= 1e-6 * want.abs().max(1e-3);
                        assert!(
                            close(joined[i], want(activation, g, u)),
                            "{isa} {activation:?}({g}, {u}) = {}",
                            joined[i]
                        );
                        let single = if activation == Activation::Gelu { activation } else { Activation::Silu };
                        assert!(close(alone[i], want(single, g, 1.0)), "{isa} {activation:?}({g}) = {}", alone[i]);
                    }
                }
            }
            for isa in sets() {
                for (gate, up) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
                    let mut joined = [up; 3];
                    isa.activate(activation, &[gate; 3], &mut joined);
                    assert!(joined.iter().all(|x| x.is_nan()), "{isa} {activation:?}");
                }
            }
        }
    }
}
