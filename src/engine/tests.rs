//! The scheduler over the fake device.

use super::fake::{Fake, PANIC, POISON, REFUSED, Setup, WEIGHT_BYTES};
use super::{Finish, Inference, LOOK_AHEAD, Model, Request};
use crate::error::{ErrorCode, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub fn start(model: &Model, prompt: &str, tokens: u32, seed: u64) -> Result<Inference> {
    model.start(&Request::new(prompt, tokens, (seed % 3) as f32 / 2.0, seed)?)
}

pub fn read(inference: &Inference) -> Result<String> {
    let mut text = String::new();
    let mut last = None;
    while let Some((piece, index)) = inference.next_piece()? {
        assert!(!piece.is_empty());
        assert!(last.is_none_or(|last| index == last + 1), "{index} after {last:?}");
        last = Some(index);
        text.push_str(&piece);
    }
    assert_eq!(inference.next_piece()?, None);
    Ok(text)
}

/// Prompt, tokens and seed of the n-th inference of a mixed lot.
fn lot(n: u64) -> (String, u32, u64) {
    let prompt = "once upon a time there was a fox ".repeat(1 + n as usize % 5);
    (format!("{n} {prompt}"), 1 + (n as u32 * 37) % 150, n)
}

fn alone(setup: &Setup, n: u64) -> String {
    let (model, _) = setup.load();
    let (prompt, tokens, seed) = lot(n);
    read(&start(&model, &prompt, tokens, seed).expect("memory")).expect("text")
}

pub fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn code<T>(result: Result<T>) -> Option<ErrorCode> {
    result.err().map(|e| e.code())
}

#[test]
fn together_from_many_threads_as_alone() {
    let texts: Vec<String> = (0..64).map(|n| alone(&Setup::default(), n)).collect();
    assert!(texts.iter().any(|t| t.contains('\u{FFFD}')), "the fake's odd bytes show");
    for (depth, batch_tokens, logit_rows) in [(1, 24, 100), (2, 24, 100), (2, 7, 3), (3, 100, 100), (2, 1, 1)] {
        let setup = Setup { depth, batch_tokens, logit_rows, ..Setup::default() };
        let (model, _) = setup.load();
        std::thread::scope(|s| {
            for thread in 0..8 {
                let (model, texts) = (&model, &texts);
                s.spawn(move || {
                    let lots: Vec<u64> = (0..8).map(|i| (i * 8 + thread * 5) % 64).collect();
                    let open = lots.iter().map(|&n| {
                        let (prompt, tokens, seed) = lot(n);
                        (n, start(model, &prompt, tokens, seed).expect("memory"))
                    });
                    for (n, inference) in open.collect::<Vec<_>>() {
                        assert_eq!(read(&inference).expect("text"), texts[n as usize], "{n} at depth {depth}");
                    }
                });
            }
        });
    }
}

#[test]
fn an_answer_says_why_it_ended() {
    let (model, _) = Setup { context: 50, end_in: u64::MAX, ..Setup::default() }.load();
    let finish = |prompt: &str, tokens| {
        let inference = start(&model, prompt, tokens, 0).expect("memory");
        read(&inference).expect("text");
        inference.finish()
    };
    assert_eq!(finish("abc", 5), Some(Ok(Finish::MaxTokens)));
    assert_eq!(finish(&"a".repeat(49), 5), Some(Ok(Finish::Context)));
    assert_eq!(finish("abc", 2000), Some(Ok(Finish::Context)));
    assert_eq!(code(start(&model, &"a".repeat(50), 5, 0)), Some(ErrorCode::InvalidParameter));
    assert_eq!(code(start(&model, "", 5, 0)), Some(ErrorCode::InvalidParameter));
    let (model, _) = Setup { end_in: 2, ..Setup::default() }.load();
    let inference = start(&model, "abc", 100, 0).expect("memory");
    read(&inference).expect("text");
    assert_eq!(inference.finish(), Some(Ok(Finish::EndToken)));
}

#[test]
fn a_piece_without_room_is_kept() {
    let (model, _) = Setup::default().load();
    let want = read(&start(&model, "abc", 40, 1).expect("memory")).expect("text");
    let inference = start(&model, "abc", 40, 1).expect("memory");
    let mut text = String::new();
    loop {
        match inference.next_piece_within(text.len() % 4) {
            Ok(Some((piece, _))) => text.push_str(&piece),
            Ok(None) => break,
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::InvalidParameter);
                text.push_str(&inference.next_piece().expect("no error").expect("a piece").0);
            }
        }
    }
    assert_eq!(text, want);
}

#[test]
fn pages_run_out_and_come_back() {
    let setup = Setup { most_pages: 10, windows: vec![None], end_in: u64::MAX, ..Setup::default() };
    let (model, _) = setup.load();
    let first = start(&model, "a", 4 * 32, 0).expect("5 pages");
    let second = start(&model, "a", 4 * 32, 0).expect("5 pages");
    assert_eq!(code(start(&model, "a", 1, 0)), Some(ErrorCode::OutOfMemory));
    assert_eq!(read(&first).expect("text").len(), read(&second).expect("text").len());
    drop(first);
    drop(start(&model, "a", 4 * 32, 0).expect("the pages of the first"));
    assert!(model.held_bytes() <= WEIGHT_BYTES + 10);
    assert_eq!(code(start(&model, &"a".repeat(30), 11 * 32, 0)), Some(ErrorCode::OutOfMemory));
}

#[test]
fn growth_of_all_groups_or_none() {
    let (model, fake) = Setup { most_pages: 2, windows: vec![Some(1), None], ..Setup::default() }.load();
    let before = model.held_bytes();
    assert_eq!(code(start(&model, "a", 200, 0)), Some(ErrorCode::OutOfMemory));
    assert_eq!(model.held_bytes(), before);
    fake.most_pages.store(100, Ordering::SeqCst);
    assert!(start(&model, "a", 200, 0).is_ok());
}

#[test]
fn pages_in_a_pool_are_given_back_when_others_need_memory() {
    let (keeps, _) = Setup::default().load();
    read(&start(&keeps, "a", 1000, 0).expect("memory")).expect("text");
    until("the pages are free", || start(&keeps, "a", 1, 0).is_ok());
    // Not asserted: that it holds more than its weights now. Another test may just have asked for relief.
    let (needs, _) = Setup { most_pages: 1, ..Setup::default() }.load();
    assert_eq!(code(start(&needs, "a", 1000, 0)), Some(ErrorCode::OutOfMemory));
    assert_eq!(keeps.held_bytes(), WEIGHT_BYTES);
}

#[test]
fn more_inferences_than_slots_take_turns() {
    for depth in [1, 2] {
        let (model, _) = Setup { depth, sequences: 2, ..Setup::default() }.load();
        let lots: Vec<_> = (0..20).map(lot).collect();
        let open: Vec<_> = lots.iter().map(|(p, t, s)| start(&model, p, *t, *s).expect("memory")).collect();
        for (n, inference) in open.iter().enumerate().rev() {
            assert_eq!(read(inference).expect("text"), alone(&Setup::default(), n as u64), "{n}");
        }
    }
}

#[test]
fn who_does_not_pull_holds_no_compute_and_delays_nobody() {
    for depth in [1, 2] {
        let (model, fake) = Setup { depth, end_in: u64::MAX, ..Setup::default() }.load();
        let idle = start(&model, "idle", 2000, 1).expect("memory");
        until("the look-ahead fills", || fake.steps.load(Ordering::SeqCst) >= LOOK_AHEAD as u64);
        let text = read(&start(&model, "busy", 500, 2).expect("memory")).expect("text");
        assert!(text.len() > 400);
        let steps = fake.steps.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(fake.steps.load(Ordering::SeqCst), steps, "nothing is computed for nobody");
        assert!(read(&idle).expect("text").len() > 1800);
    }
}

#[test]
fn a_cancelled_answer_gives_its_memory_back_at_once() {
    let setup = Setup {
        depth: 2,
        most_pages: 64,
        windows: vec![None],
        end_in: u64::MAX,
        step: Duration::from_millis(1),
        ..Setup::default()
    };
    let (model, _) = setup.load();
    for round in 0..20 {
        let inference = start(&model, "a", 2000, round).expect("memory for one");
        for _ in 0..round % 4 {
            inference.next_piece().expect("text");
        }
        let begin = Instant::now();
        drop(inference);
        assert!(begin.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn cancelling_ends_a_pull_on_another_thread() {
    let (model, _) = Setup { step: Duration::from_millis(5), end_in: u64::MAX, ..Setup::default() }.load();
    let inference = start(&model, "a", 2000, 0).expect("memory");
    std::thread::scope(|s| {
        let puller = s.spawn(|| {
            loop {
                if let Err(error) = inference.next_piece() {
                    return error.code();
                }
            }
        });
        std::thread::sleep(Duration::from_millis(12));
        inference.cancel();
        assert_eq!(puller.join().expect("no panic"), ErrorCode::InvalidParameter);
    });
}

#[test]
fn an_unload_ends_all_and_frees_all() {
    for depth in [1, 2] {
        let (model, fake) = Setup { depth, step: Duration::from_millis(1), ..Setup::default() }.load();
        let done = start(&model, "done", 3, 0).expect("memory");
        read(&done).expect("text");
        let open: Vec<_> = (0..20).map(|n| start(&model, "open", 2000, n).expect("memory")).collect();
        std::thread::scope(|s| {
            let waiting = s.spawn(|| open.iter().map(|i| code(read(i))).collect::<Vec<_>>());
            std::thread::sleep(Duration::from_millis(5));
            model.unload();
            assert_eq!(model.held_bytes(), 0);
            let codes = waiting.join().expect("no panic");
            let gone = codes.iter().filter(|c| **c == Some(ErrorCode::InvalidParameter)).count();
            assert!(gone > 0 && codes.iter().all(|c| c.is_none_or(|c| c == ErrorCode::InvalidParameter)));
        });
        assert_eq!(Arc::strong_count(&fake), 1, "nothing of the device is left");
        assert_eq!(done.next_piece(), Ok(None));
        assert_eq!(code(start(&model, "late", 3, 0)), Some(ErrorCode::InvalidParameter));
        model.unload();
    }
}

#[test]
fn a_model_dropped_before_its_inferences() {
    let (model, _) = Setup::default().load();
    let inference = start(&model, "a", 2000, 0).expect("memory");
    drop(model);
    assert_eq!(code(inference.next_piece()), Some(ErrorCode::InvalidParameter));
}

#[test]
fn a_fault_of_one_is_not_a_fault_of_all() {
    for depth in [1, 2] {
        // One prompt per batch, so that nobody shares the refused one.
        let (model, _) = Setup { depth, batch_tokens: 4, ..Setup::default() }.load();
        let good = start(&model, "good", 100, 1).expect("memory");
        let poisoned = start(&model, &POISON.to_string(), 100, 1).expect("memory");
        for _ in 0..2 {
            assert_eq!(code(poisoned.next_piece()), Some(ErrorCode::InferenceFailed));
        }
        assert!(read(&good).is_ok());
        let refused = start(&model, &format!("{REFUSED}bad"), 100, 1).expect("memory");
        assert_eq!(code(read(&refused)), Some(ErrorCode::KernelLaunchFailed));
        assert!(read(&start(&model, "good", 100, 1).expect("memory")).is_ok());
    }
}

#[test]
fn a_lost_device_ends_all_and_refuses_all() {
    for depth in [1, 2] {
        let (model, fake) =
            Setup { depth, step: Duration::from_millis(1), end_in: u64::MAX, ..Setup::default() }.load();
        let open: Vec<_> = (0..5).map(|n| start(&model, "open", 2000, n).expect("memory")).collect();
        fake.lost.store(true, Ordering::SeqCst);
        for inference in &open {
            assert!(read(inference).is_err());
        }
        assert_eq!(code(start(&model, "late", 3, 0)), Some(ErrorCode::InvalidDevice));
    }
}

#[test]
fn a_panic_of_the_device_ends_all_without_hanging() {
    let (model, _) = Setup::default().load();
    let open = start(&model, "open", 2000, 1).expect("memory");
    let fatal = start(&model, &PANIC.to_string(), 5, 1).expect("memory");
    assert_eq!(code(read(&fatal)), Some(ErrorCode::Unknown));
    assert_eq!(code(read(&open)), Some(ErrorCode::Unknown));
    assert_eq!(code(start(&model, "late", 5, 1)), Some(ErrorCode::Unknown));
    drop((open, fatal));
    model.unload();
}

#[test]
fn a_long_prompt_does_not_stall_running_answers() {
    let (step, row) = (Duration::from_millis(1), Duration::from_micros(50));
    let (model, fake) = Setup { depth: 2, batch_tokens: 512, end_in: u64::MAX, step, row, ..Setup::default() }.load();
    let running = start(&model, "running", 2000, 1).expect("memory");
    std::thread::scope(|s| {
        let puller = s.spawn(|| while running.next_piece().is_ok() {});
        until("the answer runs", || fake.steps.load(Ordering::SeqCst) > 20);
        let long = start(&model, &"long ".repeat(400), 1, 1).expect("memory");
        read(&long).expect("text");
        running.cancel();
        puller.join().expect("no panic");
    });
    // At once it would be 512; a step's worth is about 30.
    let most = fake.most_beside.load(Ordering::SeqCst);
    assert!((1..=256).contains(&most), "{most} rows beside an answer");
}

pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *state >> 33
}

#[test]
fn starting_pulling_abandoning_and_freeing_at_random() {
    let setup = Setup { depth: 2, sequences: 20, most_pages: 60, ..Setup::default() };
    let (model, fake): (Model, Arc<Fake>) = setup.load();
    std::thread::scope(|s| {
        for thread in 0..8u64 {
            let model = &model;
            s.spawn(move || {
                let mut state = thread + 1;
                let mut open = Vec::new();
                for _ in 0..300 {
                    let (prompt, tokens, seed) = lot(random(&mut state) % 64);
                    match start(model, &prompt, tokens, seed) {
                        Ok(inference) => open.push(inference),
                        Err(error) => assert_eq!(error.code(), ErrorCode::OutOfMemory),
                    }
                    for inference in &open {
                        for _ in 0..random(&mut state) % 9 {
                            inference.next_piece().expect("text");
                        }
                    }
                    if !open.is_empty() && random(&mut state).is_multiple_of(3) {
                        open.swap_remove(random(&mut state) as usize % open.len());
                    }
                }
            });
        }
    });
    let (prompt, tokens, seed) = lot(5);
    let text = read(&start(&model, &prompt, tokens, seed).expect("all is free again")).expect("text");
    assert_eq!(text, alone(&Setup::default(), 5));
    model.unload();
    assert_eq!(Arc::strong_count(&fake), 1);
}
