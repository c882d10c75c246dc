//! Each sampling option against the plainest reading of what it says, on known logits.

use super::sampler::{Sampler, Sampling};
use crate::plan::{Draw, Plan, draw};
use std::collections::HashSet;
use std::sync::Arc;

const VOCAB: usize = 1000;

fn plan(never_drawn: Vec<u32>) -> Arc<Plan> {
    Arc::new(Plan { never_drawn, n_vocab: VOCAB, ..super::fake::plan(vec![], 4096) })
}

/// Logits of a wide range, some of them equal, one of them impossible.
fn logits(seed: u64) -> Vec<f32> {
    let mut state = seed + 1;
    let mut all: Vec<f32> = (0..VOCAB).map(|_| (super::tests::random(&mut state) % 400) as f32 / 25.0 - 8.0).collect();
    all[seed as usize % VOCAB] = f32::NEG_INFINITY;
    all
}

fn softmax(logits: &[f32], ids: &[u32]) -> Vec<f64> {
    let most = ids.iter().map(|&id| f64::from(logits[id as usize])).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = ids.iter().map(|&id| (f64::from(logits[id as usize]) - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// The ids that the options leave, likeliest first: everything sorted, everything summed.
fn survivors(logits: &[f32], sampling: &Sampling, never: &[u32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..VOCAB as u32).filter(|id| !never.contains(id)).collect();
    ids.retain(|&id| logits[id as usize] > f32::NEG_INFINITY);
    ids.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).expect("numbers").then(a.cmp(&b)));
    if sampling.top_k > 0 {
        ids.truncate(sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        let mut sum = 0.0;
        let probabilities = softmax(logits, &ids);
        let last = probabilities.iter().position(|p| {
            sum += p;
            sum >= f64::from(sampling.top_p)
        });
        ids.truncate(last.map_or(ids.len(), |last| last + 1));
    }
    let probabilities = softmax(logits, &ids);
    let least = probabilities[0] * f64::from(sampling.min_p);
    // A logit's distance to the best decides, which a product of probabilities rounds.
    ids.into_iter().zip(probabilities).filter(|(_, p)| *p >= least * (1.0 - 1e-12)).map(|(id, _)| id).collect()
}

fn settings() -> Vec<Sampling> {
    let off = Sampling::default();
    let mut all = vec![off];
    all.extend([1, 2, 40, 999, 5000].map(|top_k| Sampling { top_k, ..off }));
    all.extend([1e-30, 0.1, 0.5, 0.9, 0.99999].map(|top_p| Sampling { top_p, ..off }));
    all.extend([1e-6, 0.01, 0.3, 1.0].map(|min_p| Sampling { min_p, ..off }));
    all.push(Sampling { top_k: 50, top_p: 0.8, min_p: 0.05, ..off });
    all
}

#[test]
fn what_is_drawn_is_drawn_among_the_survivors() {
    let never = [3, 500, 999];
    let plan = plan(never.to_vec());
    for (n, sampling) in settings().into_iter().enumerate() {
        for position in 0..40 {
            let logits = logits(position as u64 * 31 + n as u64);
            let keep = survivors(&logits, &sampling, &never);
            let mut masked = vec![f32::NEG_INFINITY; VOCAB];
            keep.iter().for_each(|&id| masked[id as usize] = logits[id as usize]);
            for temperature in [0.0, 0.7, 2.0] {
                let how = Draw { temperature, seed: 5 };
                let mut sampler = Sampler::new(plan.clone(), sampling, how, false, &[]);
                let drawn = sampler.draw(&mut logits.clone(), position).expect("a token");
                assert_eq!(Some(drawn.id), draw(&masked, &never, how, position), "{sampling:?} {temperature}");
                assert!(drawn.logprob.is_none() && keep.contains(&drawn.id));
            }
        }
    }
}

#[test]
fn every_survivor_is_drawn_now_and_then() {
    let sampling = Sampling { top_k: 5, ..Sampling::default() };
    let mut flat = vec![0.0; VOCAB];
    flat[..5].fill(0.5);
    let how = Draw { temperature: 1.0, seed: 9 };
    let mut sampler = Sampler::new(plan(vec![]), sampling, how, false, &[]);
    let ids: HashSet<u32> = (0..200).map(|p| sampler.draw(&mut flat.clone(), p).expect("a token").id).collect();
    assert_eq!(ids, (0..5).collect());
}

#[test]
fn penalties_follow_their_formulas() {
    let prompt = [7, 7, 8];
    let kinds = [(1.3, 0.0, 0.0), (1.0, 0.4, 0.0), (1.0, 0.0, 0.9), (0.8, -0.3, 0.2), (1.1, 0.7, 1.5)];
    for (repetition, frequency, presence) in kinds {
        let sampling = Sampling { repetition, frequency, presence, ..Sampling::default() };
        let how = Draw { temperature: 0.9, seed: 3 };
        let mut sampler = Sampler::new(plan(vec![]), sampling, how, false, &prompt);
        let mut answer: Vec<u32> = Vec::new();
        // The same logits again and again, few of them high: tokens repeat.
        let mut base = vec![-20.0; VOCAB];
        base[5..12].copy_from_slice(&[2.0, 1.5, 3.0, -1.0, 2.5, 0.0, 1.0]);
        for position in 0..60 {
            let mut expected = base.clone();
            for (id, logit) in (0u32..).zip(&mut expected) {
                let count = answer.iter().filter(|a| **a == id).count() as f32;
                if prompt.contains(&id) || count > 0.0 {
                    *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
                }
                *logit -= if count > 0.0 { frequency * count + presence } else { 0.0 };
            }
            let drawn = sampler.draw(&mut base.clone(), position).expect("a token").id;
            assert_eq!(Some(drawn), draw(&expected, &[], how, position), "{sampling:?} at {position}");
            answer.push(drawn);
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let never = [3, 500];
    for sampling in [Sampling { top_k: 3, repetition: 1.5, presence: 2.0, ..Sampling::default() }, Sampling::default()]
    {
        let mut sampler = Sampler::new(plan(never.to_vec()), sampling, Draw { temperature: 1.5, seed: 1 }, true, &[1]);
        for position in 0..50 {
            let logits = logits(position as u64);
            let drawn = sampler.draw(&mut logits.clone(), position).expect("a token");
            let ids: Vec<u32> = (0..VOCAB as u32).collect();
            let exact = softmax(&logits, &ids)[drawn.id as usize].ln();
            assert!((f64::from(drawn.logprob.expect("asked for")) - exact).abs() < 1e-5, "{sampling:?}");
        }
    }
}

#[test]
fn poison_is_seen_whatever_is_cut_off() {
    let sampling = Sampling { top_k: 1, top_p: 0.5, min_p: 0.5, ..Sampling::default() };
    let mut sampler = Sampler::new(plan(vec![2]), sampling, Draw { temperature: 0.0, seed: 0 }, true, &[]);
    let with = |at: usize, value: f32| {
        let mut all = vec![1.0; VOCAB];
        all[at] = value;
        all
    };
    assert!(sampler.draw(&mut with(5, f32::NAN), 0).is_none());
    assert!(sampler.draw(&mut with(2, f32::NAN), 0).is_some(), "what is never drawn may be anything");
    assert!(sampler.draw(&mut [f32::NEG_INFINITY; VOCAB], 0).is_none());
    assert!(sampler.draw(&mut [], 0).is_none());
}

#[test]
fn ranges_are_checked() {
    let off = Sampling::default();
    assert!(off.check().is_ok() && off.is_off());
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-11.0, "low"), (101.0, "high")] {
        let wrong = [
            Sampling { top_p: value, ..off },
            Sampling { min_p: value, ..off },
            Sampling { repetition: value, ..off },
            Sampling { frequency: value, ..off },
            Sampling { presence: value, ..off },
        ];
        assert!(wrong.iter().all(|s| s.check().is_err()), "{name}");
    }
    assert!(Sampling { top_p: 0.0, ..off }.check().is_err());
    assert!(Sampling { repetition: 0.0, ..off }.check().is_err());
}
