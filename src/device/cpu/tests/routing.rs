//! Which experts a token goes to: those of the golden models. Their routers leave no doubt: the closest lead of all is above any error
//! that rounding makes.
//!
//! A golden says by how much the last chosen expert led the first one left out, at least, but not which were chosen. So plain
//! arithmetic chooses; that it meets exactly the golden's lead shows that it chooses as the golden did.

use super::reference::Row;
use super::*;
use crate::device::{Executor, KvMemory};
use crate::gguf::Gguf;
use crate::model::build;
use crate::plan::Step;
use serde_json::Value;
use std::path::PathBuf;

/// Families with experts, by the beginning of their goldens' names.
const FAMILIES: [&str; 3] = ["gptoss-", "mixtral-", "qwen3moe-"];
/// Tokens of a prompt at once.
const CHUNK: usize = 64;

struct Golden {
    name: String,
    fixture: Fixture,
    /// Prompts, and their greedy answers but for the last token, which is never fed.
    texts: Vec<(Vec<u32>, Vec<u32>)>,
    gap: f64,
}

impl Golden {
    fn all() -> Vec<Self> {
        let folder = std::env::var_os("WORKER_ORCD_GOLDENS")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/models/tiny"), PathBuf::from);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let names = names.filter_map(|name| name.strip_suffix(".golden.json").map(String::from));
        let moe = names.filter(|name| FAMILIES.iter().any(|family| name.starts_with(family)));
        moe.map(|name| Self::read(folder.join(&name), name)).collect()
    }

    fn read(path: PathBuf, name: String) -> Self {
        let text = std::fs::read(path.with_extension("golden.json")).expect("the golden");
        let json: Value = serde_json::from_slice(&text).expect("JSON");
        let gguf = Gguf::open(&path.with_extension("gguf")).expect("the model");
        let fixture = Fixture { spec: build(&gguf, None).expect("a known family"), source: gguf.source().clone() };
        let ids = |v: &Value| -> Vec<u32> {
            v.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
        };
        let prompts = json["prompts"].as_array().expect("prompts").iter();
        let texts = prompts.map(|p| {
            let mut answer = ids(&p["greedy"]);
            answer.pop();
            (ids(&p["ids"]), answer)
        });
        Self { name, fixture, texts: texts.collect(), gap: json["router_gap"].as_f64().expect("a gap") }
    }
}

/// The experts that win, ascending, and the lead of the last of them.
fn winners(logits: &Row, used: usize) -> (Vec<usize>, f64) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let lead = logits[order[used - 1]] - logits[order[used]];
    order.truncate(used);
    order.sort_unstable();
    (order, lead)
}

/// The plan up to its `nth` layer of experts, and a head.
fn cut(plan: &Plan, nth: usize) -> Option<Plan> {
    let experts = |(i, step): (usize, &Step)| matches!(step, Step::Experts(_)).then_some(i);
    let last = plan.steps.iter().enumerate().filter_map(experts).nth(nth)?;
    let mut cut = plan.clone();
    cut.steps.truncate(last + 1);
    cut.steps.extend(plan.steps.last().cloned());
    Some(cut)
}

/// What the device chooses at the plan's last layer of experts, for each token: ascending.
fn chosen(isa: Isa, plan: &Plan, source: &Arc<Source>, text: &(Vec<u32>, Vec<u32>)) -> Vec<Vec<usize>> {
    let plan = Arc::new(plan.clone());
    let cpu = Cpu { isa: Some(isa), threads: Some(2) };
    let limits = Limits { batch_tokens: CHUNK, sequences: 1, ..cpu.limits(&plan) };
    let (mut interpreter, kv, _) = cpu.interpreter(plan.clone(), source.clone(), limits).expect("loads");
    let mut pages = PageTable::default();
    for (i, group) in plan.kv_groups.iter().enumerate() {
        let n = group.pages_for(text.0.len() + text.1.len(), CHUNK) as u32;
        kv.resize(i, n).expect("memory");
        pages.groups.push((0..n).collect());
    }
    let pages = Arc::new(pages);
    let mut position = 0;
    let mut all = Vec::new();
    let prompt = text.0.chunks(CHUNK).map(|part| (part, Phase::Prefill));
    for (part, phase) in prompt.chain(text.1.chunks(1).map(|part| (part, Phase::Decode))) {
        let tokens = Tokens::Known(part.to_vec());
        let segment = Segment { slot: 0, phase, position, tokens, pages: pages.clone(), want: Want::Nothing };
        position += part.len();
        interpreter.submit(&Batch { segments: vec![segment] }).expect("a sound batch");
        interpreter.collect().expect("nothing");
        all.extend(interpreter.chosen().chunks(plan.experts_used).map(<[usize]>::to_vec));
    }
    all.iter_mut().for_each(|experts| experts.sort_unstable());
    all
}

/// Checks one text at each layer; the smallest lead.
fn check(golden: &Golden, text: &(Vec<u32>, Vec<u32>)) -> f64 {
    let plan = lower(&golden.fixture.spec, vec![]);
    let whole = [&text.0[..], &text.1].concat();
    let reference = Reference::new(&golden.fixture);
    reference.logits(&whole);
    let routers = reference.routers();
    let (wanted, leads): (Vec<_>, Vec<_>) = routers.iter().map(|logits| winners(logits, plan.experts_used)).unzip();
    for (nth, wanted) in wanted.chunks(whole.len()).enumerate() {
        let plan = cut(&plan, nth).expect("a layer for each router");
        for isa in sets() {
            let found = chosen(isa, &plan, &golden.fixture.source, text);
            assert_eq!(found, wanted, "{}, {isa}, layer {nth} of experts", golden.name);
        }
    }
    leads.into_iter().fold(f64::INFINITY, f64::min)
}

#[test]
fn tokens_go_to_the_goldens_experts() {
    let goldens = Golden::all();
    for family in FAMILIES {
        assert!(goldens.iter().any(|g| g.name.starts_with(family)), "no golden of {family}");
    }
    for golden in &goldens {
        let lead = golden.texts.iter().map(|text| check(golden, text)).fold(f64::INFINITY, f64::min);
        let error = (lead - golden.gap).abs();
        assert!(error < golden.gap / 100.0, "{}: the least lead is {lead}, not {}", golden.name, golden.gap);
    }
}
