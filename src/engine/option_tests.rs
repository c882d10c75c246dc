//! Answers with options: what ends them, what is known of them, and that an option left alone changes nothing.

use super::fake::{POISON, Setup};
use super::tests::{read, start, until};
use super::{Finish, Inference, Model, Options, Prompt, Request, Sampling};
use crate::error::{ErrorCode, Result};
use std::time::Duration;

fn begin(model: &Model, prompt: &str, options: Options) -> Result<Inference> {
    model.start(&Request::with(Prompt::Text(prompt.into()), options)?)
}

fn greedy(max_tokens: u32) -> Options {
    Options { max_tokens, ..Options::default() }
}

fn logprobs(max_tokens: u32) -> Options {
    Options { logprobs: true, ..greedy(max_tokens) }
}

#[test]
fn what_the_host_draws_is_what_the_device_draws() {
    for (depth, logit_rows) in [(1, 1), (2, 3), (3, 100)] {
        let (model, _) = Setup { depth, logit_rows, ..Setup::default() }.load();
        let plain: Vec<_> = (0..12).map(|n| start(&model, &format!("prompt {n}"), 90, 0).expect("memory")).collect();
        let hosted: Vec<_> =
            (0..12).map(|n| begin(&model, &format!("prompt {n}"), logprobs(90)).expect("memory")).collect();
        for (plain, hosted) in plain.iter().zip(&hosted) {
            assert_eq!(read(hosted).expect("text"), read(plain).expect("text"));
            let (ids, known) = hosted.tokens(0, |t| (t.len(), t.iter().all(|t| t.logprob.is_some_and(|l| l <= 0.0))));
            assert!(known && ids == plain.tokens(0, <[_]>::len));
            assert!(plain.tokens(0, |t| t.iter().all(|t| t.logprob.is_none())));
            assert_eq!(hosted.finish(), plain.finish());
        }
    }
}

#[test]
fn poison_is_heard_of_by_the_host_too() {
    let (model, _) = Setup::default().load();
    let poisoned = begin(&model, &POISON.to_string(), logprobs(5)).expect("memory");
    assert_eq!(poisoned.next_piece().map_err(|e| e.code()), Err(ErrorCode::InferenceFailed));
    assert!(matches!(poisoned.finish(), Some(Err(_))));
}

#[test]
fn a_stop_string_ends_the_answer_before_it() {
    let (model, _) = Setup { depth: 2, end_in: u64::MAX, ..Setup::default() }.load();
    let whole = read(&start(&model, "abc", 300, 0).expect("memory")).expect("text");
    let mut between = 0;
    for at in (0..whole.len() - 8).filter(|&at| whole.is_char_boundary(at) && whole.is_char_boundary(at + 5)) {
        let stop = &whole[at..at + 5];
        let options = Options { stops: vec!["no such text".into(), stop.into()], ..greedy(300) };
        let inference = begin(&model, "abc", options).expect("memory");
        assert_eq!(read(&inference).expect("text"), whole[..whole.find(stop).expect("it is there")]);
        assert_eq!(inference.finish(), Some(Ok(Finish::StopString)));
        between += usize::from(stop.contains('\u{FFFD}'));
    }
    assert!(between > 0, "stops with characters of more than one byte");
    // One that does not come holds nothing back for good.
    let end = &whole[whole.len() - 3..];
    let options = Options { stops: vec![format!("{end} and more")], ..greedy(300) };
    let inference = begin(&model, "abc", options).expect("memory");
    assert_eq!(read(&inference).expect("text"), whole);
    assert_eq!(inference.finish(), Some(Ok(Finish::MaxTokens)));
}

#[test]
fn a_stopped_answer_gives_its_memory_back() {
    let setup = Setup { most_pages: 64, windows: vec![None], end_in: u64::MAX, ..Setup::default() };
    let (model, _) = setup.load();
    let text = read(&start(&model, "a", 20, 0).expect("memory")).expect("text");
    for _ in 0..5 {
        let inference =
            begin(&model, "a", Options { stops: vec![text[..4].into()], ..greedy(2000) }).expect("memory for one");
        assert_eq!(read(&inference).expect("text"), "");
        // Still open, as the next one starts.
        let next = start(&model, "b", 2000, 0).expect("memory of the one that was stopped");
        assert_eq!(inference.finish(), Some(Ok(Finish::StopString)));
        drop(next);
    }
}

#[test]
fn an_answer_may_be_as_long_as_the_context() {
    let (model, _) = Setup { end_in: u64::MAX, context: 3000, ..Setup::default() }.load();
    for max_tokens in [0, 2999, u32::MAX] {
        let inference = begin(&model, "abc", greedy(max_tokens)).expect("memory");
        read(&inference).expect("text");
        assert_eq!((inference.statistics().tokens, inference.finish()), (2997, Some(Ok(Finish::Context))));
    }
    let inference = begin(&model, "abc", greedy(2500)).expect("memory");
    read(&inference).expect("text");
    assert_eq!((inference.statistics().tokens, inference.finish()), (2500, Some(Ok(Finish::MaxTokens))));
}

#[test]
fn tokens_as_a_prompt() {
    let (model, _) = Setup::default().load();
    let ids = Prompt::Ids("once upon".bytes().map(u32::from).collect());
    let inference = model.start(&Request::with(ids, greedy(50)).expect("in range")).expect("memory");
    let text = read(&start(&model, "once upon", 50, 0).expect("memory")).expect("text");
    assert_eq!(read(&inference).expect("text"), text);
    for wrong in [vec![], vec![1, 257], vec![u32::MAX]] {
        let refused = model.start(&Request::with(Prompt::Ids(wrong), greedy(5)).expect("in range"));
        assert_eq!(refused.err().map(|e| e.code()), Some(ErrorCode::InvalidParameter));
    }
}

#[test]
fn statistics_add_up() {
    let (step, windows) = (Duration::from_millis(1), vec![None, None]);
    let (model, _) = Setup { step, windows, end_in: u64::MAX, ..Setup::default() }.load();
    let prompt = "word ".repeat(40);
    for round in 0..2 {
        let inference = start(&model, &prompt, 30, 0).expect("memory");
        assert!(inference.finish().is_none() && inference.statistics().tokens == 0);
        read(&inference).expect("text");
        let s = inference.statistics();
        assert_eq!((s.prompt_tokens, s.tokens), (200, 30));
        assert_eq!(s.reused_tokens > 100, round == 1, "{s:?}");
        assert!(s.until_first > Some(Duration::from_millis(1)) && s.until_last > s.until_first, "{s:?}");
    }
}

#[test]
fn interrupting_ends_a_pull_on_another_thread_and_keeps_the_handle() {
    let (model, _) = Setup { step: Duration::from_millis(2), end_in: u64::MAX, ..Setup::default() }.load();
    let inference = start(&model, "a", 2000, 0).expect("memory");
    std::thread::scope(|s| {
        let puller = s.spawn(|| while inference.next_piece().expect("no error").is_some() {});
        until("text comes", || inference.statistics().tokens > 3);
        inference.interrupt();
        puller.join().expect("no panic");
    });
    assert_eq!((inference.next_piece(), inference.finish()), (Ok(None), Some(Ok(Finish::Cancelled))));
    assert!(inference.statistics().tokens < 2000);
    let done = start(&model, "a", 3, 0).expect("memory");
    read(&done).expect("text");
    done.interrupt();
    assert_eq!((done.next_piece(), done.finish()), (Ok(None), Some(Ok(Finish::MaxTokens))));
}

#[test]
fn penalties_change_what_is_said_and_repeat_themselves() {
    let (model, _) = Setup::default().load();
    let sampling = Sampling { presence: 10.0, frequency: 10.0, repetition: 100.0, ..Sampling::default() };
    let say = || {
        let options = Options { sampling, temperature: 0.8, seed: 4, ..greedy(80) };
        read(&begin(&model, "abc", options).expect("memory")).expect("text")
    };
    assert_eq!(say(), say());
    assert_ne!(say(), read(&begin(&model, "abc", greedy(80)).expect("memory")).expect("text"));
}
