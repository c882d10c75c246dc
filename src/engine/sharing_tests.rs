//! Pages shared by prompts that begin alike: invisible in the texts, visible in memory and in work.

use super::fake::{Fake, Setup, WEIGHT_BYTES};
use super::tests::{random, read, start, until};
use super::{Inference, Model};
use std::sync::atomic::Ordering;
use std::time::Duration;

const PREFIX: &str = "You are a helpful fox. You jump over lazy dogs, and you answer in rhymes, always, and at once. ";

fn setup() -> Setup {
    Setup { depth: 2, windows: vec![None, None], ..Setup::default() }
}

/// Models that look back over everything, over windows, and both.
fn kinds() -> [Vec<Option<usize>>; 4] {
    [vec![None, None], vec![None, Some(40)], vec![Some(33), None, Some(100)], vec![Some(1)]]
}

fn prefilled(fake: &Fake) -> usize {
    fake.prefilled.load(Ordering::SeqCst) as usize
}

/// The n-th of many prompts with a few beginnings, and its seed.
fn prompt(n: u64) -> (String, u64) {
    let prefix = PREFIX.repeat(n as usize % 3 + 1);
    (format!("{}{}", &prefix[..prefix.len() - n as usize % 50], n % 7), n)
}

fn alone(windows: &[Option<usize>], n: u64) -> String {
    let (prompt, seed) = prompt(n);
    unshared(&Setup { windows: windows.to_vec(), ..setup() }, &prompt, 60, seed)
}

/// What a model says that shares nothing.
fn unshared(setup: &Setup, prompt: &str, tokens: u32, seed: u64) -> String {
    let (model, _) = Setup { shares_prefixes: false, ..setup.clone() }.load();
    read(&start(&model, prompt, tokens, seed).expect("memory")).expect("text")
}

#[test]
fn a_prompt_that_was_computed_is_found() {
    for (depth, windows) in [1, 2].into_iter().flat_map(|depth| kinds().map(|windows| (depth, windows))) {
        let (model, fake) = Setup { depth, windows, ..setup() }.load();
        let long = PREFIX.repeat(4);
        let first = read(&start(&model, &long, 60, 0).expect("memory")).expect("text");
        assert_eq!(prefilled(&fake), long.len());
        let inference = start(&model, &long, 60, 0).expect("memory");
        assert_eq!(read(&inference).expect("text"), first);
        let found = (long.len() - 1) / 32 * 32;
        assert_eq!(inference.reused_tokens(), found);
        assert_eq!(prefilled(&fake), long.len() + long.len() - found);
    }
}

#[test]
fn what_starts_together_is_computed_once() {
    let (model, fake) = Setup { step: Duration::from_millis(1), end_in: u64::MAX, ..setup() }.load();
    let long = PREFIX.repeat(6);
    let open: Vec<Inference> = (0..10).map(|n| start(&model, &format!("{long}{n}"), 20, 0).expect("memory")).collect();
    let pages = (model.held_bytes() - WEIGHT_BYTES) as usize / 2;
    assert!(pages < long.len() / 32 + 10 * 3, "{pages} pages in each group");
    for inference in &open {
        read(inference).expect("text");
    }
    assert!(prefilled(&fake) < long.len() + 10 * 40, "{} rows", prefilled(&fake));
}

#[test]
fn who_waits_goes_along_with_the_end_of_the_first() {
    let (model, fake) = Setup { step: Duration::from_millis(20), batch_tokens: 608, ..setup() }.load();
    let common = letters(3 * 608, 9);
    let open: Vec<Inference> =
        (0..10).map(|n| start(&model, &format!("{common}{}", letters(30, n)), 1, 0).expect("memory")).collect();
    for inference in &open {
        read(inference).expect("text");
    }
    // Three for what they have in common, one for all their ends.
    assert_eq!(fake.steps.load(Ordering::SeqCst), 4);
    assert_eq!(prefilled(&fake), common.len() + 10 * 30);
}

#[test]
fn who_waits_takes_over_from_one_that_is_cancelled() {
    for windows in kinds() {
        let slow = Setup { step: Duration::from_millis(2), batch_tokens: 16, windows, ..setup() };
        let (model, fake) = slow.load();
        let long = PREFIX.repeat(6);
        let first = start(&model, &long, 20, 0).expect("memory");
        let second = start(&model, &long, 20, 0).expect("memory");
        until("the first is under way", || prefilled(&fake) > 100);
        drop(first);
        let text = read(&second).expect("text");
        assert_eq!(text, unshared(&slow, &long, 20, 0));
        assert!(second.reused_tokens() >= 96, "{}", second.reused_tokens());
    }
}

/// `tokens` letters, others for another `seed`.
fn letters(tokens: usize, seed: u64) -> String {
    let mut state = seed;
    (0..tokens).map(|_| (b'a' + (random(&mut state) % 26) as u8) as char).collect()
}

#[test]
fn a_window_keeps_the_beginning_of_a_long_prompt_and_where_prompts_part() {
    let setup = Setup { windows: vec![None, Some(100)], batch_tokens: 500, context: 20_000, ..setup() };
    let (model, _) = setup.load();
    let common = letters(10_000, 1);
    // The first keeps its beginning and its end, and knows of no branch; the second finds one, and keeps what is before it.
    for (n, found) in [(0, 0), (1, 8192), (2, 9984), (2, 11_040)] {
        let prompt = format!("{common}{}", letters(1050, 100 + n));
        let inference = start(&model, &prompt, 20, n).expect("memory");
        assert_eq!(read(&inference).expect("text"), unshared(&setup, &prompt, 20, n), "{n}");
        assert_eq!(inference.reused_tokens(), found, "{n}");
    }
}

#[test]
fn a_window_keeps_no_more_than_there_is_room_for() {
    // Its own five pages would do.
    let setup = Setup { windows: vec![Some(100)], batch_tokens: 24, most_pages: 12, ..setup() };
    let (model, _) = setup.load();
    let prompt = letters(1000, 5);
    let both: Vec<Inference> = (0..2).map(|_| start(&model, &prompt, 20, 0).expect("room for both")).collect();
    for inference in &both {
        assert_eq!(read(inference).expect("text"), unshared(&setup, &prompt, 20, 0));
        assert_eq!(inference.reused_tokens(), 0);
    }
    drop(both);
    let short = letters(100, 6);
    read(&start(&model, &short, 20, 0).expect("room")).expect("text");
    let again = start(&model, &short, 20, 0).expect("room");
    read(&again).expect("text");
    assert_eq!(again.reused_tokens(), 96);
}

#[test]
fn kept_pages_give_way() {
    // 30 pages; each prompt has 9 full ones, which stay when it is over.
    let (model, _) = Setup { most_pages: 30, end_in: u64::MAX, ..setup() }.load();
    for n in 0..8 {
        let text = format!("{n}{}", PREFIX.repeat(3));
        read(&start(&model, &text, 20, 0).expect("room, once others give way")).expect("text");
    }
    assert!(start(&model, "a", 29 * 32, 0).is_ok());
}

#[test]
fn texts_are_the_same_with_shared_pages() {
    for windows in kinds() {
        texts_are_the_same_over(&windows);
    }
}

fn texts_are_the_same_over(windows: &[Option<usize>]) {
    let texts: Vec<String> = (0..150).map(|n| alone(windows, n)).collect();
    for (depth, batch_tokens, most_pages) in [(1, 24, 400), (2, 50, 70), (2, 300, 10_000)] {
        let windows = windows.to_vec();
        let (model, fake) = Setup { depth, batch_tokens, most_pages, windows, ..setup() }.load();
        std::thread::scope(|s| {
            for thread in 0..6 {
                let (model, texts) = (&model, &texts);
                s.spawn(move || many(model, texts, thread));
            }
        });
        let asked: usize = 6 * 100 * 150;
        assert!(prefilled(&fake) < asked / 2, "{} of about {asked} rows", prefilled(&fake));
    }
}

/// Starts, reads and abandons at random.
fn many(model: &Model, texts: &[String], thread: u64) {
    let mut state = thread + 1;
    let mut open: Vec<(u64, Inference)> = Vec::new();
    for _ in 0..100 {
        let n = random(&mut state) % texts.len() as u64;
        let (prompt, seed) = prompt(n);
        open.extend(start(model, &prompt, 60, seed).ok().map(|i| (n, i)));
        if open.len() as u64 > random(&mut state) % 6 {
            let (n, inference) = open.swap_remove(random(&mut state) as usize % open.len());
            if !random(&mut state).is_multiple_of(4) {
                assert_eq!(read(&inference).expect("text"), texts[n as usize], "{n}");
            }
        }
    }
}
