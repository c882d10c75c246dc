//! Speeds of the models in the folder that WORKER_ORCD_SPEED_MODELS names: load, prompt, and steps. With
//! WORKER_ORCD_SPEED_STEPS=n nothing but n steps of WORKER_ORCD_SPEED_SLOTS sequences, or of one, and with
//! WORKER_ORCD_SPEED_PROMPT=n nothing but a prompt of n tokens, twice: for a profiler.

use super::gpu;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use worker_orcd::device::{Device, LoadedModel};
use worker_orcd::gguf::Gguf;
use worker_orcd::model;
use worker_orcd::plan::{Batch, Draw, PageTable, Phase, Plan, Segment, Tokens, Want, lower};

const CONTEXT: usize = 8192;

struct Bench {
    plan: Arc<Plan>,
    model: LoadedModel,
    chunk: usize,
}

impl Bench {
    /// Opens the sequence `slot` with room for `tokens`.
    fn pages(&self, slots: usize, tokens: usize) -> Vec<Arc<PageTable>> {
        let mut pages = vec![PageTable::default(); slots];
        for (g, group) in self.plan.kv_groups.iter().enumerate() {
            let each = group.pages_for(tokens, self.chunk) as u32;
            self.model.kv.resize(g, each * slots as u32).expect("memory for the KV cache");
            for (i, table) in pages.iter_mut().enumerate() {
                table.groups.push((0..each).map(|p| p + i as u32 * each).collect());
            }
        }
        pages.into_iter().map(Arc::new).collect()
    }

    fn submit(&mut self, segments: Vec<Segment>) {
        self.model.executor.submit(&Batch { segments }).expect("a batch");
    }

    fn collect(&mut self) {
        self.model.executor.collect().expect("its outputs");
    }

    /// Seconds for a prompt of `n` tokens in slot 0.
    fn prompt(&mut self, n: usize, pages: &Arc<PageTable>) -> f64 {
        let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % self.plan.n_vocab) as u32).collect();
        let start = Instant::now();
        for (i, chunk) in ids.chunks(self.chunk).enumerate() {
            let last = (i + 1) * self.chunk >= n;
            self.submit(vec![Segment {
                slot: 0,
                phase: Phase::Prefill,
                position: i * self.chunk,
                tokens: Tokens::Known(chunk.to_vec()),
                pages: pages.clone(),
                want: if last { Want::Token(Draw { temperature: 0.0, seed: 0 }) } else { Want::Nothing },
            }]);
            if i > 0 {
                self.collect();
            }
        }
        self.collect();
        start.elapsed().as_secs_f64()
    }

    /// Tokens per second in all of `slots` sequences over `steps` steps from `position` on.
    fn steps(&mut self, pages: &[Arc<PageTable>], position: usize, steps: usize) -> f64 {
        let start = Instant::now();
        for step in 0..steps {
            let segments = pages.iter().enumerate().map(|(i, pages)| Segment {
                slot: i as u32,
                phase: Phase::Decode,
                position: position + step,
                tokens: if step == 0 { Tokens::Known(vec![i as u32 + 5]) } else { Tokens::Sampled },
                pages: pages.clone(),
                want: Want::Token(Draw { temperature: 0.0, seed: 0 }),
            });
            let segments = segments.collect();
            self.submit(segments);
            if step > 0 {
                self.collect();
            }
        }
        self.collect();
        (pages.len() * steps) as f64 / start.elapsed().as_secs_f64()
    }
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

fn bench(device: &dyn Device, path: &Path) {
    let gguf = Gguf::open(path).expect("a model");
    let spec = model::build(&gguf, Some(CONTEXT)).expect("a model");
    let plan = Arc::new(lower(&spec, Vec::new()));
    let limits = device.limits(&plan);
    let start = Instant::now();
    let model = device.load(plan.clone(), gguf.source().clone(), limits, &mut |_, _| true).expect("memory");
    let load = start.elapsed().as_secs_f64();
    let mut b = Bench { plan, model, chunk: limits.batch_tokens.min(1024) };
    let context = b.plan.context;
    let one = b.pages(1, context.min(4608));
    if let Some(steps) = number("WORKER_ORCD_SPEED_STEPS") {
        let pages = b.pages(number("WORKER_ORCD_SPEED_SLOTS").unwrap_or(1), 256);
        b.steps(&pages, 200, 4);
        let best = (0..3).map(|_| b.steps(&pages, 200, steps)).fold(0.0, f64::max);
        println!("{}: {best:.0} tokens/s over {steps} steps", path.display());
        return;
    }
    if let Some(tokens) = number("WORKER_ORCD_SPEED_PROMPT") {
        println!("{:.6} s, {:.6} s", b.prompt(tokens, &one[0]), b.prompt(tokens, &one[0]));
        return;
    }
    let mut line = format!("{:28} load {load:.3} s", path.file_stem().unwrap_or_default().to_string_lossy());
    for n in [64, 512, 4096] {
        if n < context {
            let first = b.prompt(n, &one[0]);
            if n == 64 {
                line += &format!("  first prompt {:.1} ms", first * 1e3);
            }
            let seconds = b.prompt(n, &one[0]);
            line += &format!("  pp{n} {:.0} t/s ({:.1} ms)", n as f64 / seconds, seconds * 1e3);
        }
    }
    b.steps(&one, 64, 8);
    let best = (0..3).map(|_| b.steps(&one, 64, 128)).fold(0.0, f64::max);
    line += &format!("  tg {best:.0}");
    if context > 4300 {
        b.steps(&one, 4096, 8);
        line += &format!("  tg@4096 {:.0}", b.steps(&one, 4096, 64));
    }
    for slots in [8, 32, 64] {
        let pages = b.pages(slots, 256);
        b.steps(&pages, 64, 4);
        line += &format!("  x{slots} {:.0}", b.steps(&pages, 64, 64));
    }
    println!("{line}");
}

/// Prints what the library has to say of a load.
struct Printer;

impl log::Log for Printer {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::Level::Debug
    }

    fn log(&self, record: &log::Record) {
        println!("    {}", record.args());
    }

    fn flush(&self) {}
}

#[test]
fn speeds() {
    let Some(folder) = std::env::var_os("WORKER_ORCD_SPEED_MODELS") else {
        println!("skipped: WORKER_ORCD_SPEED_MODELS names no folder");
        return;
    };
    let Some(device) = gpu() else { return };
    println!("{}", device.name());
    log::set_logger(&Printer).expect("no other logger");
    log::set_max_level(log::LevelFilter::Debug);
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|x| x == "gguf")) {
        bench(device.as_ref(), path);
    }
}
