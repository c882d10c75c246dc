//! Faults by the thousand: every truncation, every bit, every integer, every pair of named cases,
//! and random damage.

use crate::all_cases;
use crate::check::{Outcome, check};
use crate::forge::llama;
use crate::meter::alone;
use crate::whole::{Engine, Patient};
use crate::{families, goldens};

const FLIPPED_BYTES: usize = 4_096;

fn foreign() -> Vec<u8> {
    goldens::golden("llama-256-q2_k")
}

/// A reason says where to look: a key, a tensor, or a part of the header.
fn names_a_culprit(what: &str, outcome: &Outcome) {
    const HEADER: [&str; 3] = ["magic", "version", "number of"];
    const KEYS: [&str; 5] = ["metadata key", "tensor", "general.", "tokenizer.", "heads"];
    const FAMILIES: [&str; 8] = ["llama.", "qwen2.", "qwen3.", "qwen3moe.", "phi3.", "gemma3.", "gpt-oss.", "gpt2."];
    let known = HEADER.iter().chain(&KEYS).chain(&FAMILIES);
    if let Outcome::Refused(reason) = outcome {
        assert!(known.clone().any(|c| reason.contains(c)), "{what}: {reason}");
    }
}

#[test]
fn every_truncation() {
    let _alone = alone();
    for (name, bytes, end) in [
        ("forged", llama::model().bytes(), llama::model().bytes().len()),
        // Its end lies in no padding: every cut takes bytes of a tensor.
        ("foreign", foreign(), foreign().len()),
    ] {
        for len in 0..end {
            let what = format!("{name} cut to {len} bytes");
            let outcome = check(&what, &bytes[..len]);
            assert!(matches!(outcome, Outcome::Refused(_)), "{what}: loaded");
            names_a_culprit(&what, &outcome);
        }
    }
}

#[test]
fn every_bit_flip() {
    let _alone = alone();
    let forged = llama::model();
    for (name, mut bytes, end) in
        [("forged", forged.bytes(), forged.head_bytes()), ("foreign", foreign(), FLIPPED_BYTES)]
    {
        let mut loaded = 0;
        for bit in 0..end * 8 {
            let what = format!("{name} with bit {} of byte {} flipped", bit % 8, bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outcome = check(&what, &bytes);
            names_a_culprit(&what, &outcome);
            loaded += usize::from(matches!(outcome, Outcome::Loaded));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        // Most bits are those of texts and numbers that the reader passes on.
        assert!(loaded > end && loaded < end * 8, "{loaded} of {} loaded", end * 8);
    }
}

#[test]
fn every_bit_flip_through_the_engine() {
    let _alone = alone();
    let engine = Engine::new();
    let sound = llama::model().bytes();
    let patient = Patient::new("flips", sound.clone());
    for bit in 0..FLIPPED_BYTES * 8 {
        let what = format!("bit {} of byte {} flipped", bit % 8, bit / 8);
        let flipped = sound[bit / 8] ^ (1 << (bit % 8));
        names_a_culprit(&what, &patient.check_with(&engine, &what, bit / 8, &[flipped]));
    }
}

/// A model of the family, and where its own keys end and the tokenizer's begin.
fn family(name: &str) -> (Vec<u8>, usize) {
    let bytes = goldens::golden(&format!("{name}-f32"));
    let mark = b"tokenizer.ggml.model";
    let end = bytes.windows(mark.len()).position(|w| w == mark).expect("a tokenizer");
    (bytes, end)
}

#[test]
fn every_bit_flip_of_every_family() {
    let _alone = alone();
    for name in families::ALL {
        let (mut bytes, end) = family(name);
        for bit in 0..end * 8 {
            let what = format!("{name} with bit {} of byte {} flipped", bit % 8, bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            names_a_culprit(&what, &check(&what, &bytes));
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Bits a prime apart: all places of a byte and of a number come up.
#[test]
fn bit_flips_of_every_family_through_the_engine() {
    let _alone = alone();
    let engine = Engine::new();
    for name in families::ALL {
        let (bytes, end) = family(name);
        let patient = Patient::new("families", bytes.clone());
        for bit in (0..end * 8).step_by(11) {
            let what = format!("{name} with bit {} of byte {} flipped", bit % 8, bit / 8);
            let flipped = bytes[bit / 8] ^ (1 << (bit % 8));
            names_a_culprit(&what, &patient.check_with(&engine, &what, bit / 8, &[flipped]));
        }
    }
}

/// Weights of any bits: infinite, NaN, denormal. The file is sound, so it must load.
#[test]
fn random_weights_through_the_engine() {
    let _alone = alone();
    let engine = Engine::new();
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let file = llama::model();
    let (sound, head) = (file.bytes(), file.head_bytes());
    let patient = Patient::new("weights", sound.clone());
    for round in 0..500 {
        let offset = head + noise.below(sound.len() - head - 4_096);
        let bytes: Vec<u8> = (0..1 + noise.below(4_096)).map(|_| noise.next() as u8).collect();
        let what = format!("random weights {round}");
        let outcome = patient.check_with(&engine, &what, offset, &bytes);
        assert!(matches!(outcome, Outcome::Loaded), "{what}: {outcome:?}");
    }
}

#[test]
fn every_integer_with_every_awkward_value() {
    let _alone = alone();
    let file = llama::model();
    let sound = file.bytes();
    for field in file.fields() {
        let here = field.offset..field.offset + field.width;
        let remaining = (sound.len() - here.end) as u64;
        let mut value = [0; 8];
        value[..field.width].copy_from_slice(&sound[here.clone()]);
        let value = u64::from_le_bytes(value);
        let near = [value.wrapping_add(1), value.wrapping_sub(1), remaining, remaining + 1];
        let powers = [0, 1, 7, 8, 15, 16, 31, 32, 53, 62, 63].map(|p| 1u64 << p);
        let below = powers.map(|p| p - 1);
        for awkward in near.into_iter().chain(powers).chain(below).chain([u64::MAX]) {
            let what = format!("{} = {awkward}", field.what);
            let mut bytes = sound.clone();
            bytes[here.clone()].copy_from_slice(&awkward.to_le_bytes()[..field.width]);
            names_a_culprit(&what, &check(&what, &bytes));
        }
    }
}

#[test]
fn every_pair_of_named_faults() {
    let _alone = alone();
    let cases: Vec<_> = all_cases().collect();
    let sound = llama::model();
    for (i, one) in cases.iter().enumerate() {
        for other in &cases[i + 1..] {
            let what = format!("{} and {}", one.id, other.id);
            let mut file = sound.clone();
            (one.fault)(&mut file);
            (other.fault)(&mut file);
            names_a_culprit(&what, &check(&what, &file.bytes()));
        }
    }
}

/// Xorshift: the same damage in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// One damage of a kind that finds bugs in readers.
fn damage(bytes: &mut Vec<u8>, head: usize, noise: &mut Noise) {
    let at = noise.below(head.min(bytes.len() - 8));
    let run = 1 + noise.below(16).min(bytes.len() - at - 1);
    match noise.below(6) {
        0 => bytes[at] = noise.next() as u8,
        1 => bytes[at..at + 8].copy_from_slice(&noise.next().to_le_bytes()),
        2 => bytes[at..at + 8].copy_from_slice(&(u64::MAX >> noise.below(64)).to_le_bytes()),
        3 => drop(bytes.drain(at..at + run)),
        4 => {
            let copy = bytes[at..at + run].to_vec();
            bytes.splice(at..at, copy);
        }
        _ => bytes.truncate(bytes.len() - noise.below(bytes.len() / 2)),
    }
}

#[test]
fn random_damage() {
    let _alone = alone();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let file = llama::model();
    let (sound, head) = (file.bytes(), file.head_bytes());
    for round in 0..50_000 {
        let mut bytes = sound.clone();
        for _ in 0..1 + noise.below(4) {
            damage(&mut bytes, head, &mut noise);
        }
        let what = format!("random damage {round}");
        names_a_culprit(&what, &check(&what, &bytes));
    }
}
