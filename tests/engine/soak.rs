//! Starting, pulling, abandoning and freeing at random from many threads.
//!
//! `WORKER_ORCD_SOAK_SECONDS` lengthens it.

use crate::goldens::{context, model_path};
use crate::{TURN, load, read, start};
use std::time::{Duration, Instant};
use worker_orcd::cuda::{CudaError, Model};

const THREADS: u64 = 16;
const MOST_OPEN: usize = 6;

fn seconds() -> u64 {
    std::env::var("WORKER_ORCD_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3)
}

fn worker(model: &Model, alone: &[String], thread: u64, end: Instant) {
    let mut state = thread + 1;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n.max(1)
    };
    let mut open = Vec::new();
    while Instant::now() < end {
        let n = random(alone.len());
        match start(model, n as u64) {
            Ok(inference) => open.push((n, inference, String::new())),
            Err(error) => assert!(matches!(error, CudaError::OutOfMemory(_)), "{error}"),
        }
        for (_, inference, text) in &mut open {
            for _ in 0..random(6) {
                let piece = inference.next_token().expect("a text");
                text.extend(piece.map(|p| p.0));
            }
        }
        while open.len() > random(MOST_OPEN) {
            let (n, mut inference, text) = open.swap_remove(random(open.len()));
            // One in three is abandoned.
            if random(3) > 0 {
                let rest = read(&mut inference).expect("a text");
                assert_eq!(text + &rest, alone[n], "{n}");
            }
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    // No other test of this process holds a model meanwhile.
    let _turn = TURN.write();
    let context = context();
    let model = load(&context, &model_path("llama-f32"));
    let before = model.vram_bytes();
    let alone: Vec<String> = (0..40).map(|n| read(&mut start(&model, n).expect("memory")).expect("a text")).collect();
    let end = Instant::now() + Duration::from_secs(seconds());
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let (model, alone) = (&model, &alone);
            s.spawn(move || worker(model, alone, thread, end));
        }
    });
    let pool = model.vram_bytes() - before;
    // The longest inference of the lot has about 230 tokens in 8 pages of 3 layers, 2 heads, 16 elements.
    let most = THREADS * (MOST_OPEN as u64 + 1) * 10 * (3 * 2 * 2 * 16 * 32 * 4);
    assert!(pool <= most, "{pool} bytes in the pool");
    drop(model);
    assert_eq!(context.process_vram_usage(), 0);
}
