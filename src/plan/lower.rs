//! `lower()`: a spec becomes a plan, once, at load.

use super::{Experts, Input, KvGroup, KvLayer, Plan, Qkv, Step};
use crate::model::{Attention, FeedForward, Ffn, ModelSpec};

/// The steps of `spec`; `never_drawn` are the padding ids of its vocabulary, ascending.
pub fn lower(spec: &ModelSpec, never_drawn: Vec<u32>) -> Plan {
    let mut plan = Plan {
        weights: spec.weights.clone(),
        ropes: spec.ropes.clone(),
        steps: Vec::with_capacity(2 + 5 * spec.layers.len()),
        kv_groups: Vec::new(),
        n_embd: spec.n_embd,
        n_vocab: spec.n_vocab,
        context: spec.context,
        q_width: 0,
        kv_width: 0,
        ffn_width: 0,
        experts: 0,
        experts_used: 0,
        never_drawn,
    };
    let e = &spec.embedding;
    plan.steps.push(Step::Embed { table: e.table, positions: e.positions, scale: e.scale });
    for layer in &spec.layers {
        attention(&mut plan, &layer.attention);
        feed_forward(&mut plan, &layer.feed_forward);
    }
    plan.steps.push(Step::Head { norm: spec.head.norm, linear: spec.head.output.clone() });
    plan
}

fn attention(plan: &mut Plan, a: &Attention) {
    let kv = kv_layer(plan, a);
    plan.q_width = plan.q_width.max(a.heads.q * a.heads.dim);
    plan.kv_width = plan.kv_width.max(a.heads.kv * a.heads.dim);
    plan.steps.push(Step::Qkv(Box::new(Qkv {
        norm: a.norm,
        heads: a.heads,
        q: a.q.clone(),
        k: a.k.clone(),
        v: a.v.clone(),
        q_norm: a.q_norm,
        k_norm: a.k_norm,
        rope: a.rope,
        kv,
    })));
    plan.steps.push(Step::Attend { heads: a.heads, kv, scale: a.scale, window: a.window, sinks: a.sinks });
    plan.steps.push(Step::Project { input: Input::Mixed, linear: a.o.clone(), post_norm: a.post_norm });
}

fn kv_layer(plan: &mut Plan, a: &Attention) -> KvLayer {
    let alike = |g: &KvGroup| g.heads.kv == a.heads.kv && g.heads.dim == a.heads.dim && g.window == a.window;
    let group = plan.kv_groups.iter().position(alike).unwrap_or_else(|| {
        plan.kv_groups.push(KvGroup { heads: a.heads, window: a.window, layers: 0 });
        plan.kv_groups.len() - 1
    });
    let layer = plan.kv_groups[group].layers;
    plan.kv_groups[group].layers += 1;
    KvLayer { group, layer }
}

fn feed_forward(plan: &mut Plan, f: &FeedForward) {
    match &f.ffn {
        Ffn::Dense { gate, up, down } => {
            plan.ffn_width = plan.ffn_width.max(up.rows.len());
            plan.steps.push(Step::GateUp {
                norm: f.norm,
                gate: gate.clone(),
                up: up.clone(),
                activation: f.activation,
            });
            plan.steps.push(Step::Project { input: Input::Ffn, linear: down.clone(), post_norm: f.post_norm });
        }
        Ffn::Experts { router, gate, up, down, used } => {
            plan.ffn_width = plan.ffn_width.max(up.rows.len());
            plan.experts = plan.experts.max(router.rows.len());
            plan.experts_used = plan.experts_used.max(*used);
            plan.steps.push(Step::Experts(Box::new(Experts {
                norm: f.norm,
                router: router.clone(),
                gate: gate.clone(),
                up: up.clone(),
                down: down.clone(),
                used: *used,
                activation: f.activation,
                post_norm: f.post_norm,
            })));
        }
    }
}
