//! Plans of one step each, between an embedding that is small beside what the step adds and a head that sees all of it.

use super::check::Made;
use super::weights::Builder;
use std::ops::Range;
use worker_orcd::model::{Activation, Heads, Linear, Norm, NormKind, Rope, RopeId, RopeStyle, WeightId};
use worker_orcd::plan::{Experts, Input, KvGroup, KvLayer, Plan, Qkv, Step};
use worker_orcd::quant::QuantType;

const CONTEXT: usize = 128;
const VOCAB: usize = 211;

fn empty(n_embd: usize, n_vocab: usize) -> Plan {
    Plan {
        weights: Vec::new(),
        ropes: Vec::new(),
        steps: Vec::new(),
        kv_groups: Vec::new(),
        n_embd,
        n_vocab,
        context: CONTEXT,
        q_width: 0,
        kv_width: 0,
        ffn_width: 0,
        experts: 0,
        experts_used: 0,
        never_drawn: Vec::new(),
    }
}

fn made(mut plan: Plan, b: Builder) -> Made {
    let (weights, file) = b.finish();
    plan.weights = weights;
    Made { plan, file }
}

/// The steps between an embedding and a head in F32.
fn between(mut b: Builder, mut plan: Plan, steps: Vec<Step>) -> Made {
    let table = b.table("table", QuantType::F32, plan.n_vocab, plan.n_embd);
    let norm = b.norm("head_norm", plan.n_embd, NormKind::Rms);
    let linear = b.linear("head", QuantType::F32, [1, plan.n_vocab, plan.n_embd], false);
    plan.steps.push(Step::Embed { table, positions: None, scale: 0.1 });
    plan.steps.extend(steps);
    plan.steps.push(Step::Head { norm, linear });
    made(plan, b)
}

/// The table, and learned positions, in `ty`.
pub fn embed(ty: QuantType, n_embd: usize, learned: bool) -> Made {
    let mut b = Builder::new(1);
    let mut plan = empty(n_embd, VOCAB);
    let table = b.table("table", ty, VOCAB, n_embd);
    let positions = learned.then(|| b.table("positions", ty, CONTEXT, n_embd));
    let norm = b.norm("head_norm", n_embd, NormKind::Layer);
    let linear = b.linear("head", QuantType::F32, [1, VOCAB, n_embd], false);
    plan.steps = vec![Step::Embed { table, positions, scale: 3.5 }, Step::Head { norm, linear }];
    made(plan, b)
}

/// The head in `ty`; tied: the embedding's table too, as one weight.
pub fn head(ty: QuantType, [n_vocab, n_embd]: [usize; 2], tied: bool) -> Made {
    let mut b = Builder::new(2);
    let mut plan = empty(n_embd, n_vocab);
    let weight = b.table("head", ty, n_vocab, n_embd);
    let table = if tied { weight } else { b.table("table", QuantType::F32, n_vocab, n_embd) };
    let norm = b.norm("head_norm", n_embd, NormKind::Rms);
    let linear = Linear { weight, rows: 0..n_vocab, bias: None };
    plan.steps = vec![Step::Embed { table, positions: None, scale: 1.0 }, Step::Head { norm, linear }];
    made(plan, b)
}

/// What attention may have.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub ty: QuantType,
    pub n_embd: usize,
    /// (query heads, heads of keys and values, elements)
    pub heads: (usize, usize, usize),
    pub window: Option<usize>,
    pub sinks: bool,
    pub bias: bool,
    pub head_norms: bool,
    pub post_norm: bool,
    pub kind: NormKind,
    /// (style, elements that rotate, factor)
    pub rope: Option<(RopeStyle, usize, f32)>,
    /// q, k and v as rows of one matrix.
    pub fused: bool,
}

impl Attention {
    pub fn plain(ty: QuantType, n_embd: usize, heads: (usize, usize, usize)) -> Self {
        Self {
            ty,
            n_embd,
            heads,
            window: None,
            sinks: false,
            bias: false,
            head_norms: false,
            post_norm: false,
            kind: NormKind::Rms,
            rope: Some((RopeStyle::Halves, heads.2, 1.0)),
            fused: false,
        }
    }

    fn qkv(&self, b: &mut Builder) -> [Linear; 3] {
        let (q, kv, dim) = self.heads;
        if !self.fused {
            let rows = [("q", q * dim), ("k", kv * dim), ("v", kv * dim)];
            return rows.map(|(name, rows)| b.linear(name, self.ty, [1, rows, self.n_embd], self.bias));
        }
        let all = b.linear("qkv", self.ty, [1, (q + 2 * kv) * dim, self.n_embd], self.bias);
        let part = |heads: Range<usize>| Linear { rows: heads.start * dim..heads.end * dim, ..all.clone() };
        [part(0..q), part(q..q + kv), part(q + kv..q + 2 * kv)]
    }

    pub fn made(&self) -> Made {
        let mut b = Builder::new(3);
        let (q_heads, kv_heads, dim) = self.heads;
        let heads = Heads { q: q_heads, kv: kv_heads, dim };
        let mut plan = empty(self.n_embd, VOCAB);
        (plan.q_width, plan.kv_width) = (q_heads * dim, kv_heads * dim);
        plan.kv_groups = vec![KvGroup { heads, window: self.window, layers: 1 }];
        let norm = b.norm("norm", self.n_embd, self.kind);
        let [q, k, v] = self.qkv(&mut b);
        let [q_norm, k_norm] = ["q_norm", "k_norm"].map(|n| self.head_norms.then(|| b.norm(n, dim, NormKind::Rms)));
        let rope = self.rope.map(|(style, elements, magnitude)| {
            let inv_freq = (0..elements / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / elements as f32)).collect();
            plan.ropes.push(Rope { style, inv_freq, magnitude });
            RopeId(0)
        });
        let kv = KvLayer { group: 0, layer: 0 };
        let sinks = self.sinks.then(|| b.vector("sinks", q_heads, (0.5, 1.0)));
        // Scores wide enough that some tokens matter more than others.
        let scale = 1.5 / (dim as f32).sqrt();
        let linear = b.linear("o", self.ty, [1, self.n_embd, q_heads * dim], self.bias);
        let post_norm = self.post_norm.then(|| b.norm("post_norm", self.n_embd, NormKind::Rms));
        let steps = vec![
            Step::Qkv(Box::new(Qkv { norm, heads, q, k, v, q_norm, k_norm, rope, kv })),
            Step::Attend { heads, kv, scale, window: self.window, sinks },
            Step::Project { input: Input::Mixed, linear, post_norm },
        ];
        between(b, plan, steps)
    }
}

/// A feed-forward; `extras`: biases and a norm after it.
pub fn ffn(ty: QuantType, [n_embd, width]: [usize; 2], (activation, gated): (Activation, bool), extras: bool) -> Made {
    let mut b = Builder::new(4);
    let mut plan = empty(n_embd, VOCAB);
    plan.ffn_width = width;
    let norm = b.norm("norm", n_embd, NormKind::Rms);
    let gate = gated.then(|| b.linear("gate", ty, [1, width, n_embd], extras));
    let up = b.linear("up", ty, [1, width, n_embd], extras);
    let linear = b.linear("down", ty, [1, n_embd, width], extras);
    let post_norm = extras.then(|| b.norm("post_norm", n_embd, NormKind::Rms));
    let steps =
        vec![Step::GateUp { norm, gate, up, activation }, Step::Project { input: Input::Ffn, linear, post_norm }];
    between(b, plan, steps)
}

/// A mixture of experts of [n_embd, width], so many of so many; `extras` as above.
pub fn experts(ty: QuantType, [n_embd, width]: [usize; 2], [n, used]: [usize; 2], extras: bool) -> Made {
    let mut b = Builder::new(5);
    let mut plan = empty(n_embd, VOCAB);
    (plan.ffn_width, plan.experts, plan.experts_used) = (width, n, used);
    let norm = b.norm("norm", n_embd, NormKind::Rms);
    let router = b.linear("router", QuantType::F32, [1, n, n_embd], extras);
    let gate = b.linear("gate", ty, [n, width, n_embd], extras);
    let up = b.linear("up", ty, [n, width, n_embd], extras);
    let down = b.linear("down", ty, [n, n_embd, width], extras);
    let activation = if extras { Activation::ClampedSwiglu { alpha: 1.702, limit: 2.0 } } else { Activation::Silu };
    let post_norm: Option<Norm> = extras.then(|| b.norm("post_norm", n_embd, NormKind::Rms));
    let all = Experts { norm, router, gate, up, down, used, activation, post_norm };
    between(b, plan, vec![Step::Experts(Box::new(all))])
}

/// The plan's file with one block of one weight put to zero: what a check must see.
pub fn spoiled(made: &Made, name: &str) -> Vec<u8> {
    let at = made.plan.weights.iter().position(|w| w.name == name).unwrap_or_else(|| panic!("no weight {name}"));
    let weight = made.plan.weight(WeightId(at as u32));
    let start = weight.data.offset as usize;
    let mut file = made.file.clone();
    file[start..start + weight.ty.block_bytes()].fill(0);
    file
}
