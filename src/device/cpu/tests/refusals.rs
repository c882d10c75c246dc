//! What the device says no to: batches that point outside, memory that is not there.

use super::*;
use crate::error::ErrorCode;

fn refused(loaded: &mut Loaded, segments: Vec<Segment>, word: &str) {
    let error = loaded.model.executor.submit(&Batch { segments }).expect_err(word);
    assert_eq!(error.code(), ErrorCode::InferenceFailed);
    assert!(error.reason().contains(word), "{} without {word}", error.reason());
}

#[test]
fn batches_that_point_outside_are_refused_and_do_no_harm() {
    let fixture = Fixture::new(fixture::gemma(QuantType::F32));
    let mut l = Loaded::new(&fixture, Isa::Portable, 2);
    let sound = l.segment(1, 0, &[1, 2], Want::Logits);
    let with = |change: fn(&mut Segment)| {
        let mut segment = sound.clone();
        change(&mut segment);
        vec![segment]
    };
    let context = l.plan.context;
    refused(&mut l, with(|s| s.slot = 4), "slot 4");
    refused(&mut l, with(|s| s.tokens = Tokens::Known(vec![83])), "83");
    refused(&mut l, with(|s| s.tokens = Tokens::Known(vec![])), "without tokens");
    refused(&mut l, with(|s| s.tokens = Tokens::Sampled), "told");
    refused(&mut l, with(|s| s.tokens = Tokens::Known(vec![0; 65])), "65");
    refused(&mut l, with(|s| s.position = usize::MAX), "context");
    refused(&mut l, vec![Segment { position: context - 1, ..sound.clone() }], "context");
    refused(&mut l, with(|s| s.pages = Arc::default()), "KV groups");
    refused(&mut l, with(|s| s.pages = Arc::new(PageTable { groups: vec![vec![0], vec![]] })), "needed");
    refused(&mut l, with(|s| s.pages = Arc::new(PageTable { groups: vec![vec![0], vec![999]] })), "999");
    refused(&mut l, vec![sound.clone(), sound.clone()], "two segments");
    l.limits.logit_rows = 0;
    assert!(matches!(l.run(vec![sound])[..], [Output::Logits(_)]));
    assert!(l.model.executor.collect().is_err());
    assert!(l.run(vec![]).is_empty());
}

#[test]
fn a_sequence_that_met_a_nan_is_poisoned_and_no_other() {
    let fixture = Fixture::new(fixture::llama(QuantType::F32));
    let mut l = Loaded::new(&fixture, Isa::detect(), 2);
    let greedy = Want::Token(Draw { temperature: 0.0, seed: 0 });
    let sound = l.segment(1, 0, &[3, 4], greedy);
    let want = l.run(vec![sound.clone()]).remove(0);
    let mut bytes: Vec<u8> = fixture.spec.weights.iter().flat_map(|w| fixture.source.bytes(&w.data)).copied().collect();
    bytes[9 * 256 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = Fixture { spec: fixture.spec.clone(), source: Arc::new(Source::from_bytes(bytes)) };
    let mut l = Loaded::new(&bad, Isa::detect(), 2);
    let poisoned = l.segment(0, 0, &[9], greedy);
    assert_eq!(l.run(vec![poisoned, sound]), [Output::Poisoned, want]);
}

#[test]
fn memory_is_counted_and_comes_back_as_zeros() {
    let fixture = Fixture::new(fixture::llama(QuantType::F32));
    let l = Loaded::new(&fixture, Isa::Portable, 1);
    let bytes = l.plan.kv_groups[0].page_bytes(l.limits.kv_type) as u64;
    let kv = &l.model.kv;
    kv.resize(0, 3).expect("less");
    assert_eq!(kv.held_bytes(), 3 * bytes);
    kv.resize(0, 0).expect("nothing");
    assert_eq!(kv.held_bytes(), 0);
    assert_eq!(kv.resize(0, u32::MAX).expect_err("too much").code(), ErrorCode::OutOfMemory);
    assert_eq!(kv.resize(1, 1).expect_err("no group").code(), ErrorCode::OutOfMemory);
    assert!(l.model.weights.held_bytes() > l.plan.weight_bytes());
    assert!(l.model.weights.check_residency().is_ok());
}

#[test]
fn a_model_that_does_not_fit_is_refused_and_holds_nothing() {
    let fixture = Fixture::new(fixture::llama(QuantType::F32));
    let device = device_with(Isa::Portable).expect("portable");
    let plan = Arc::new(lower(&fixture.spec, vec![]));
    let huge = Limits { batch_tokens: 1 << 34, ..device.limits(&plan) };
    let refused = device.load(plan, fixture.source, huge, &mut |_, _| true);
    assert_eq!(refused.map(|_| ()).expect_err("too much").code(), ErrorCode::OutOfMemory);
}
