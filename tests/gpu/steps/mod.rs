//! Every step of a plan, with weights of every type and shapes that are no multiple of anything, on the GPU against the
//! portable CPU. What fails is named by step, type and shape; each test prints the largest errors.

mod check;
mod plans;
mod weights;

use super::gpu;
use check::{Errors, Made, compare};
use plans::Attention;
use worker_orcd::device::Device;
use worker_orcd::model::{Activation, NormKind, RopeStyle};
use worker_orcd::quant::QuantType;

/// Relative error of a row that is allowed: activations go through tensor cores as f16, of eleven bits, once for each product;
/// attention's keys, values and weights too.
const TOLERANCE: f64 = 2e-3;
const ATTENTION_TOLERANCE: f64 = 4e-3;
const CLAMPED: Activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 2.0 };

/// Sizes by the length of a type's block: of the first, the second or the third of these.
fn by_block<T>(ty: QuantType, [one, thirty_two, many]: [T; 3]) -> T {
    match ty.block_len() {
        1 => one,
        32 => thirty_two,
        _ => many,
    }
}

/// The cases of one step that were run, and what went wrong.
struct Report<'a> {
    device: &'a dyn Device,
    step: &'static str,
    tolerance: f64,
    wrong: Vec<String>,
}

impl<'a> Report<'a> {
    fn new(device: &'a dyn Device, step: &'static str) -> Self {
        let tolerance = if step == "attention" { ATTENTION_TOLERANCE } else { TOLERANCE };
        Self { device, step, tolerance, wrong: Vec::new() }
    }

    fn try_case(&mut self, ty: QuantType, shape: &str, made: &Made) -> Errors {
        let (errors, wrong) = compare(self.device, made, made.file.clone());
        let name = format!("{} {} {shape}", self.step, ty.name());
        self.wrong.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
        for (phase, error) in [("prompt", errors.prompt), ("decoding", errors.decode)] {
            // Written so that NaN is over the limit.
            let fine = error <= self.tolerance;
            if !fine {
                self.wrong.push(format!("{name}: error of {phase} {error:.1e}, over {:.0e}", self.tolerance));
            }
        }
        errors
    }

    fn say(&self, what: &str, errors: Errors) {
        println!("{:14} {what:8} prompt {:.1e} decoding {:.1e}", self.step, errors.prompt, errors.decode);
    }

    fn end(self) {
        assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
    }
}

/// Runs the cases that `cases` makes for each type.
fn for_each_type(step: &'static str, cases: impl Fn(QuantType) -> Vec<(String, Made)>) {
    let Some(device) = gpu() else { return };
    let mut report = Report::new(device.as_ref(), step);
    for ty in QuantType::ALL {
        let mut worst = Errors::default();
        for (shape, made) in cases(ty) {
            worst = worst.worst(report.try_case(ty, &shape, &made));
        }
        report.say(ty.name(), worst);
    }
    report.end();
}

#[test]
fn steps_embed() {
    for_each_type("embed", |ty| {
        let widths = by_block(ty, [[40, 1000], [96, 896], [256, 768]]);
        let case = |n_embd, learned| (format!("{n_embd}, positions {learned}"), plans::embed(ty, n_embd, learned));
        vec![case(widths[0], true), case(widths[1], false)]
    });
}

#[test]
fn steps_head() {
    for_each_type("head", |ty| {
        let shapes = by_block(ty, [[[17, 40], [300, 1000]], [[17, 96], [1031, 896]], [[33, 256], [1031, 768]]]);
        let case = |shape, tied| (format!("{shape:?}, tied {tied}"), plans::head(ty, shape, tied));
        vec![case(shapes[0], false), case(shapes[1], true), case(shapes[1], false)]
    });
}

#[test]
fn steps_attention() {
    for_each_type("attention", |ty| {
        let shapes = by_block(
            ty,
            [
                [(40, (3, 1, 40)), (1000, (6, 2, 80)), (200, (2, 1, 256))],
                [(96, (3, 1, 32)), (896, (14, 2, 64)), (320, (4, 4, 80))],
                [(256, (4, 2, 64)), (512, (8, 1, 96)), (768, (2, 2, 128))],
            ],
        );
        shapes
            .map(|(n_embd, heads)| (format!("{n_embd}, heads {heads:?}"), Attention::plain(ty, n_embd, heads).made()))
            .into()
    });
}

/// Head sizes and groups of every family, windows, sinks, norms, ropes, biases, and matrices that hold several.
fn attentions() -> Vec<Attention> {
    let plain = |heads| Attention::plain(QuantType::F16, 264, heads);
    let mut cases: Vec<Attention> =
        [8, 16, 24, 48, 72, 96, 112, 120, 128, 160, 192, 248].map(|dim| plain((2, 1, dim))).into();
    cases.extend([(9, 3, 64), (5, 5, 32), (16, 1, 64), (17, 1, 16), (32, 2, 64), (10, 1, 128), (8, 1, 256)].map(plain));
    let small = plain((6, 2, 64));
    cases.extend([1, 2, 31, 32, 33, 50].map(|window| Attention { window: Some(window), ..small }));
    cases.push(Attention { sinks: true, ..small });
    cases.push(Attention { sinks: true, window: Some(40), bias: true, ..small });
    cases.push(Attention { head_norms: true, post_norm: true, ..small });
    cases.push(Attention { kind: NormKind::Layer, bias: true, rope: None, ..small });
    let ropes = [(RopeStyle::Pairs, 64, 1.0), (RopeStyle::Pairs, 24, 1.0), (RopeStyle::Halves, 32, 1.3)];
    cases.extend(ropes.map(|rope| Attention { rope: Some(rope), ..small }));
    for ty in [QuantType::F32, QuantType::Q8_0, QuantType::Q4K] {
        let typed = |heads| Attention { fused: true, bias: true, ..Attention::plain(ty, 512, heads) };
        // Rows that begin at a multiple of 128, and rows that do not.
        cases.extend([typed((4, 2, 64)), typed((12, 4, 64)), typed((8, 1, 96))]);
        cases.push(Attention { window: Some(33), sinks: true, bias: true, head_norms: true, ..typed((4, 2, 64)) });
    }
    cases
}

#[test]
fn steps_attention_variants() {
    let Some(device) = gpu() else { return };
    let mut report = Report::new(device.as_ref(), "attention");
    let mut worst = Errors::default();
    for case in attentions() {
        worst = worst.worst(report.try_case(case.ty, &format!("{case:?}"), &case.made()));
    }
    report.say("variants", worst);
    report.end();
}

#[test]
fn steps_feed_forward() {
    for_each_type("feed-forward", |ty| {
        let shapes = by_block(ty, [[[40, 72], [200, 1000]], [[96, 160], [896, 608]], [[256, 512], [512, 768]]]);
        let case = |i: usize, activation, gated, extras| {
            let shape = shapes[i];
            let name = format!("{shape:?}, {activation:?}, gated {gated}, extras {extras}");
            (name, plans::ffn(ty, shape, (activation, gated), extras))
        };
        vec![
            case(0, Activation::Silu, true, false),
            case(1, Activation::Silu, true, true),
            case(0, Activation::Gelu, true, true),
            case(1, Activation::Gelu, false, true),
            case(0, Activation::Gelu, false, false),
            case(1, CLAMPED, true, false),
        ]
    });
}

#[test]
fn steps_experts() {
    for_each_type("experts", |ty| {
        let shapes = by_block(ty, [[[40, 72], [96, 200]], [[96, 64], [288, 160]], [[256, 256], [256, 512]]]);
        let case = |i: usize, experts: [usize; 2], extras| {
            let shape = shapes[i];
            let name = format!("{shape:?}, {} of {} experts, extras {extras}", experts[1], experts[0]);
            (name, plans::experts(ty, shape, experts, extras))
        };
        vec![case(0, [5, 1], false), case(1, [4, 4], true), case(0, [32, 4], true)]
    });
}

/// The checks above can fail: one block of one weight put to zero is seen in every step.
#[test]
fn steps_see_a_block_that_is_wrong() {
    let Some(device) = gpu() else { return };
    let ty = QuantType::Q4K;
    let attention = || Attention::plain(ty, 512, (8, 1, 96)).made();
    let cases: [(&str, &str, Made); 8] = [
        ("embed", "table", plans::embed(QuantType::Q8_0, 896, false)),
        ("head", "head", plans::head(QuantType::Q8_0, [1031, 896], false)),
        ("attention", "v", attention()),
        ("attention", "o", attention()),
        ("feed-forward", "gate", plans::ffn(ty, [512, 768], (Activation::Silu, true), true)),
        ("feed-forward", "down", plans::ffn(ty, [512, 768], (Activation::Silu, true), false)),
        ("experts", "router", plans::experts(ty, [256, 512], [4, 2], true)),
        ("experts", "down", plans::experts(ty, [256, 512], [4, 2], false)),
    ];
    for (step, name, made) in cases {
        let (errors, _) = compare(device.as_ref(), &made, plans::spoiled(&made, name));
        println!("{step:14} {name:8} prompt {:.1e} decoding {:.1e}", errors.prompt, errors.decode);
        assert!(errors.prompt > TOLERANCE && errors.decode > TOLERANCE, "{step}, {name}: {errors:?} passes");
    }
}
