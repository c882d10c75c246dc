//! Long sequences: a row decoded after thousands of others, against the same row at the end of a prompt.

use super::{gpu, support};
use std::sync::Arc;
use support::golden::{Golden, relative_l2};
use worker_orcd::device::LoadedModel;
use worker_orcd::gguf::Gguf;
use worker_orcd::model;
use worker_orcd::plan::{Batch, Output, PageTable, Phase, Segment, Tokens, Want, lower};

const CONTEXT: usize = 20_000;
const CHUNK: usize = 512;

/// The file with a longer context written into it.
fn lengthened(golden: &Golden, bytes: Vec<u8>) -> Gguf {
    let mut bytes = bytes;
    let key = b".context_length";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap_or_else(|| panic!("{}", golden.name));
    // The key is followed by the type's number and the value.
    let value = at + key.len() + 4;
    bytes[value..value + 4].copy_from_slice(&(CONTEXT as u32).to_le_bytes());
    Gguf::from_bytes(bytes).expect("a model")
}

fn submit(model: &mut LoadedModel, pages: &Arc<PageTable>, phase: Phase, position: usize, ids: &[u32]) -> Vec<f32> {
    let tokens = Tokens::Known(ids.to_vec());
    let segment = Segment { slot: 0, phase, position, tokens, pages: pages.clone(), want: Want::Logits };
    model.executor.submit(&Batch { segments: vec![segment] }).expect("a batch");
    match model.executor.collect().expect("its outputs").pop() {
        Some(Output::Logits(logits)) => logits,
        other => panic!("asked for logits, got {other:?}"),
    }
}

#[test]
fn far_rows_are_the_same_in_decoding_as_in_a_prompt() {
    let Some(device) = gpu() else { return };
    let names = ["llama-f32", "llama-256-q8_0", "gptoss-256-mxfp4_moe", "qwen3-256-iq4_xs", "gemma3-256-q4_0"];
    for golden in Golden::all(&support::goldens(), &names) {
        let path = support::goldens().join(format!("{}.gguf", golden.name));
        let gguf = lengthened(&golden, std::fs::read(path).expect("a readable file"));
        let plan = Arc::new(lower(&model::build(&gguf, Some(CONTEXT)).expect("a model"), Vec::new()));
        let mut limits = device.limits(&plan);
        limits.batch_tokens = CHUNK;
        let mut model = device.load(plan.clone(), gguf.source().clone(), limits, &mut |_, _| true).expect("memory");
        let mut table = PageTable::default();
        for (g, group) in plan.kv_groups.iter().enumerate() {
            let pages = group.pages_for(CONTEXT, CHUNK) as u32;
            model.kv.resize(g, pages).expect("memory");
            table.groups.push((0..pages).rev().collect());
        }
        let pages = Arc::new(table);
        let ids: Vec<u32> = (0..CONTEXT as u32).map(|i| (i * 7919 + i / 13) % 300).collect();
        let mut done = 0;
        for rows in [250, 600, 4100, 9000, 17_000] {
            while done + 1 < rows {
                let n = CHUNK.min(rows - 1 - done);
                submit(&mut model, &pages, Phase::Prefill, done, &ids[done..done + n]);
                done += n;
            }
            let decoded = submit(&mut model, &pages, Phase::Decode, done, &ids[done..done + 1]);
            let prompt = submit(&mut model, &pages, Phase::Prefill, done, &ids[done..done + 1]);
            let error = relative_l2(&decoded, &prompt);
            assert!(error < 5e-3, "{}: row {rows}: {error:.1e}", golden.name);
            done += 1;
        }
    }
}
