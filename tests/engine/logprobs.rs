//! Log-probabilities of drawn tokens against the log-softmax of the reference's logits, and options on real models.

use crate::goldens::{self, Golden, model_path};
use worker_orcd::device::cpu;
use worker_orcd::engine::{Context, Finish, Inference, Model, Options, Prompt, Request, Sampling};

fn portable(golden: &Golden, context: usize) -> Model {
    let device = Context::on(cpu::device_with(cpu::Isa::Portable).expect("the portable code"));
    let options = worker_orcd::engine::LoadOptions { context: Some(context), ..Default::default() };
    Model::load_with(&device, &model_path(&golden.name), options, &mut |_, _| true).expect("a model")
}

fn finished(model: &Model, prompt: Prompt, options: Options) -> (Inference, String) {
    let inference = model.start(&Request::with(prompt, options).expect("in range")).expect("memory");
    let mut text = String::new();
    while let Some((piece, _)) = inference.next_piece().expect("a piece") {
        text.push_str(&piece);
    }
    (inference, text)
}

fn log_softmax(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().fold(f64::NEG_INFINITY, |m, &l| m.max(f64::from(l)));
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - most).exp()).sum();
    f64::from(logits[id as usize]) - most - sum.ln()
}

#[test]
fn log_probabilities_are_those_of_the_goldens() {
    let mut compared = 0;
    let float = |g: &Golden| g.name.ends_with("-f32");
    for golden in goldens::all().filter(float) {
        let (mut loaded, n_vocab) = (None, golden.n_vocab());
        for (ids, context, first, logits) in golden.logits() {
            let model = match loaded.take() {
                Some((of, model)) if of == context => model,
                _ => portable(&golden, context),
            };
            for (row, end) in logits.chunks_exact(n_vocab).zip(first + 1..).step_by(7) {
                let sampling = Sampling { top_k: 50, repetition: 1.2, ..Sampling::default() };
                for (temperature, sampling) in [(0.0, Sampling::default()), (1.0, Sampling::default()), (2.0, sampling)]
                {
                    let how =
                        Options { max_tokens: 1, temperature, seed: end as u64, logprobs: true, ..Options::default() };
                    let (answer, _) = finished(&model, Prompt::Ids(ids[..end].to_vec()), Options { sampling, ..how });
                    // An end token is no part of the answer.
                    let Some(drawn) = answer.tokens(0, |t| t.first().copied()) else { continue };
                    let got = f64::from(drawn.logprob.expect("asked for"));
                    let want = log_softmax(row, drawn.id);
                    assert!((got - want).abs() < 1e-4, "{}: {got} for {want} after {end} tokens", golden.name);
                    compared += 1;
                }
            }
            loaded = Some((context, model));
        }
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn options_that_are_off_change_no_text_and_stops_cut_it() {
    let name = "llama-f32";
    let golden = goldens::all().find(|g| g.name == name).expect("a golden");
    let model = portable(&golden, 512);
    let prompt = || Prompt::Text("Hello, world! ".into());
    for (n, temperature) in [0.0, 0.7, 1.0, 2.0].into_iter().enumerate() {
        let how = |logprobs| Options { max_tokens: 60, temperature, seed: n as u64, logprobs, ..Options::default() };
        let (plain, text) = finished(&model, prompt(), how(false));
        let (hosted, same) = finished(&model, prompt(), how(true));
        assert_eq!((&text, plain.finish()), (&same, hosted.finish()));
        let chars: Vec<char> = text.chars().collect();
        for at in (0..chars.len().saturating_sub(3)).step_by(5) {
            let stop: String = chars[at..at + 3].iter().collect();
            let want = &text[..text.find(&stop).expect("a part of it")];
            let (stopped, cut) = finished(&model, prompt(), Options { stops: vec![stop], ..how(false) });
            assert_eq!((cut.as_str(), stopped.finish()), (want, Some(Ok(Finish::StopString))));
        }
    }
}
