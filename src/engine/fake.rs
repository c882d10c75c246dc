//! A device for the engine's tests: its "model" is a hash of what the KV pages hold.
//!
//! Each row writes a stamp of (position, token) into its page and then reads back all that its sequence may look at, so a
//! page that is shared, overwritten or given away too early changes the text. It also checks what the engine promises of a
//! batch, and panics where a promise is broken.

use super::facts::Facts;
use super::model::{Model, Parts};
use super::sync::lock;
use super::vocabulary::Vocabulary;
use crate::device::{Device, Executor, KvMemory, LoadedModel, Weights};
use crate::error::{Error, Result};
use crate::gguf::Source;
use crate::model::Heads;
use crate::plan::{
    Batch, Draw, KvGroup, KvType, Limits, Output, PAGE_TOKENS, PageTable, Phase, Plan, Segment, Tokens, Want,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const END: u32 = 256;
const N_VOCAB: u32 = END + 1;
/// In a prompt: the logits are not numbers.
pub const POISON: char = '!';
/// In a prompt: the device refuses the batch.
pub const REFUSED: char = '?';
/// In a prompt: the device panics.
pub const PANIC: char = '#';
pub const WEIGHT_BYTES: u64 = 1000;

#[derive(Clone)]
pub struct Setup {
    pub depth: usize,
    pub batch_tokens: usize,
    pub sequences: usize,
    pub logit_rows: usize,
    pub windows: Vec<Option<usize>>,
    pub context: usize,
    /// Pages that a group can have.
    pub most_pages: u32,
    pub step: Duration,
    /// On top of the step, for each row.
    pub row: Duration,
    /// One draw in so many ends the answer.
    pub end_in: u64,
    pub shares_prefixes: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            depth: 1,
            batch_tokens: 24,
            sequences: 100,
            logit_rows: 100,
            windows: vec![None, Some(40)],
            context: 4096,
            most_pages: 10_000,
            step: Duration::ZERO,
            row: Duration::ZERO,
            end_in: 200,
            shares_prefixes: true,
        }
    }
}

/// What the test and the device share.
#[derive(Default)]
pub struct Fake {
    pages: Mutex<Vec<Vec<[u64; PAGE_TOKENS]>>>,
    pub lost: AtomicBool,
    pub steps: AtomicU64,
    /// Rows of prompts that were computed.
    pub prefilled: AtomicU64,
    /// The most rows of prompts in a batch that also decodes.
    pub most_beside: AtomicU64,
    pub most_pages: AtomicU64,
}

impl Setup {
    pub fn load(&self) -> (Model, Arc<Fake>) {
        let fake = Arc::new(Fake::default());
        fake.most_pages.store(self.most_pages.into(), Ordering::SeqCst);
        lock(&fake.pages).resize(self.windows.len(), Vec::new());
        let heads = Heads { q: 1, kv: 1, dim: 1 };
        let groups = self.windows.iter().map(|&window| KvGroup { heads, window, layers: 1 }).collect();
        let limits = Limits {
            batch_tokens: self.batch_tokens,
            sequences: self.sequences,
            logit_rows: self.logit_rows,
            kv_type: KvType::F32,
        };
        let executor = Hash { fake: fake.clone(), setup: self.clone(), ..Hash::default() };
        let parts = Parts {
            device: fake.clone(),
            plan: Arc::new(plan(groups, self.context)),
            limits,
            loaded: LoadedModel { executor: Box::new(executor), kv: fake.clone(), weights: fake.clone() },
            vocabulary: Arc::new(Letters),
            facts: Facts::default(),
            shares_prefixes: self.shares_prefixes,
        };
        (Model::assemble(parts).expect("a thread"), fake)
    }
}

pub fn plan(kv_groups: Vec<KvGroup>, context: usize) -> Plan {
    Plan {
        weights: vec![],
        ropes: vec![],
        steps: vec![],
        kv_groups,
        n_embd: 1,
        n_vocab: N_VOCAB as usize,
        context,
        q_width: 1,
        kv_width: 1,
        ffn_width: 1,
        experts: 0,
        experts_used: 0,
        never_drawn: vec![],
    }
}

impl Device for Fake {
    fn name(&self) -> String {
        "fake".into()
    }

    fn limits(&self, _: &Plan) -> Limits {
        Limits { batch_tokens: 1, sequences: 1, logit_rows: 1, kv_type: KvType::F32 }
    }

    fn load(
        &self,
        _: Arc<Plan>,
        _: Arc<Source>,
        _: Limits,
        _: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<LoadedModel> {
        Err(Error::load("the fake device loads no files"))
    }

    fn held_bytes(&self) -> u64 {
        KvMemory::held_bytes(self) + WEIGHT_BYTES
    }

    fn check_health(&self) -> Result<()> {
        match self.lost.load(Ordering::SeqCst) {
            true => Err(Error::device("the device is lost")),
            false => Ok(()),
        }
    }
}

impl Weights for Fake {
    fn held_bytes(&self) -> u64 {
        WEIGHT_BYTES
    }

    fn check_residency(&self) -> Result<()> {
        Ok(())
    }
}

impl KvMemory for Fake {
    fn resize(&self, group: usize, pages: u32) -> Result<()> {
        if u64::from(pages) > self.most_pages.load(Ordering::SeqCst) {
            return Err(Error::memory(format!("{pages} pages are too many")));
        }
        lock(&self.pages)[group].resize(pages as usize, [0; PAGE_TOKENS]);
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        lock(&self.pages).iter().map(|group| group.len() as u64).sum()
    }
}

#[derive(Default)]
struct Hash {
    fake: Arc<Fake>,
    setup: Setup,
    /// By slot, of the last batch submitted.
    sampled: HashMap<u32, u32>,
    queue: VecDeque<(Duration, Vec<Output>)>,
    /// The page tables seen, each with the next position of its sequence.
    tables: Vec<(Arc<PageTable>, usize)>,
}

impl Executor for Hash {
    fn depth(&self) -> usize {
        self.setup.depth
    }

    fn submit(&mut self, batch: &Batch) -> Result<()> {
        self.check(batch);
        if self.fake.lost.load(Ordering::SeqCst) || batch.segments.iter().any(|s| has(s, REFUSED)) {
            return Err(Error::launch("refused"));
        }
        assert!(!batch.segments.iter().any(|s| has(s, PANIC)), "asked to panic");
        let outputs: Vec<Output> = batch.segments.iter().map(|s| self.run(s)).collect();
        self.sampled.clear();
        for (segment, output) in batch.segments.iter().zip(&outputs) {
            match output {
                Output::Token(id) => self.sampled.insert(segment.slot, *id),
                Output::Logits(_) | Output::Poisoned => self.sampled.insert(segment.slot, 0),
                _ => None,
            };
        }
        let time = self.setup.step + self.setup.row * batch.rows() as u32;
        self.queue.push_back((time, outputs));
        Ok(())
    }

    fn collect(&mut self) -> Result<Vec<Output>> {
        let (time, outputs) = self.queue.pop_front().expect("a batch was submitted");
        std::thread::sleep(time);
        self.fake.steps.fetch_add(1, Ordering::SeqCst);
        if self.fake.lost.load(Ordering::SeqCst) {
            return Err(Error::launch("lost in flight"));
        }
        Ok(outputs)
    }
}

/// The pages (group, page) that a segment writes.
fn written(segment: &Segment) -> impl Iterator<Item = (usize, u32)> {
    let pages = segment.position / PAGE_TOKENS..=(segment.position + segment.tokens.len() - 1) / PAGE_TOKENS;
    let groups = 0..segment.pages.groups.len();
    pages.flat_map(move |p| groups.clone().map(move |g| (g, segment.pages.page(g, p * PAGE_TOKENS))))
}

fn holds(segment: &Segment, (group, page): (usize, u32)) -> bool {
    segment.pages.groups[group].contains(&page)
}

fn has(segment: &Segment, mark: char) -> bool {
    matches!(&segment.tokens, Tokens::Known(ids) if ids.contains(&(mark as u32)))
}

impl Hash {
    fn check(&mut self, batch: &Batch) {
        assert!(self.queue.len() < self.setup.depth, "too many batches under way");
        assert!((1..=self.setup.batch_tokens).contains(&batch.rows()), "{} rows", batch.rows());
        let draws = batch.segments.iter().filter(|s| s.want != Want::Nothing).count();
        assert!(draws <= self.setup.logit_rows, "{draws} draws");
        let slots: HashSet<u32> = batch.segments.iter().map(|s| s.slot).collect();
        assert_eq!(slots.len(), batch.segments.len(), "one segment per slot");
        for segment in &batch.segments {
            assert!((segment.slot as usize) < self.setup.sequences && !segment.tokens.is_empty());
            let known = self.tables.iter_mut().find(|t| Arc::ptr_eq(&t.0, &segment.pages));
            let next = known.as_ref().map_or(0, |t| t.1);
            // A multiple of the page's length: the first segment, or pages that were found.
            assert!(segment.position == next || segment.position.is_multiple_of(PAGE_TOKENS), "positions follow");
            let end = segment.position + segment.tokens.len();
            match known {
                Some(table) => table.1 = end,
                None => self.tables.push((segment.pages.clone(), end)),
            }
            if segment.phase == Phase::Prefill {
                self.fake.prefilled.fetch_add(segment.tokens.len() as u64, Ordering::SeqCst);
            }
        }
        let rows = |phase| batch.segments.iter().filter(|s| s.phase == phase).map(|s| s.tokens.len() as u64).sum();
        let (prefill, decode): (u64, u64) = (rows(Phase::Prefill), rows(Phase::Decode));
        self.fake.most_beside.fetch_max(if decode > 0 { prefill } else { 0 }, Ordering::SeqCst);
        for (writer, reader) in batch.segments.iter().flat_map(|w| batch.segments.iter().map(move |r| (w, r))) {
            let alone = writer.slot == reader.slot || written(writer).all(|page| !holds(reader, page));
            assert!(alone, "a page is written that another sequence of the batch holds");
        }
    }

    fn run(&mut self, segment: &Segment) -> Output {
        let ids = match &segment.tokens {
            Tokens::Known(ids) => ids.clone(),
            Tokens::Sampled => vec![self.sampled[&segment.slot]],
        };
        let mut pages = lock(&self.fake.pages);
        for (position, &id) in (segment.position..).zip(&ids) {
            for (group, pages) in pages.iter_mut().enumerate() {
                let page = segment.pages.page(group, position) as usize;
                pages[page][position % PAGE_TOKENS] = mix(position as u64, id.into());
            }
        }
        let draw = match segment.want {
            Want::Token(draw) => draw,
            Want::Logits => Draw { temperature: 0.0, seed: 0 },
            Want::Nothing | Want::AllLogits => return Output::Nothing,
        };
        let last = segment.position + ids.len() - 1;
        let mut seen = 0;
        for (group, window) in self.setup.windows.iter().enumerate() {
            for position in window.map_or(0, |w| (last + 1).saturating_sub(w))..=last {
                let page = segment.pages.page(group, position) as usize;
                seen = mix(seen, pages[group][page][position % PAGE_TOKENS]);
            }
        }
        if segment.position == 0 && ids.contains(&(POISON as u32)) {
            return Output::Poisoned;
        }
        let token = token(seen, draw, last + 1, self.setup.end_in);
        if segment.want == Want::Logits {
            return Output::Logits((0..N_VOCAB).map(|id| if id == token { 50.0 } else { 0.0 }).collect());
        }
        Output::Token(token)
    }
}

/// The "model": a letter, now and then a byte that is no text by itself, now and then the end.
fn token(seen: u64, draw: Draw, position: usize, end_in: u64) -> u32 {
    let seed = if draw.temperature == 0.0 { 0 } else { draw.seed };
    let hash = mix(mix(seen, seed), mix(position as u64, draw.temperature.to_bits().into()));
    match hash % 97 {
        _ if hash.is_multiple_of(end_in) => END,
        0 => 0xe2,
        n if n < 5 => 0x80 + n as u32,
        n => u32::from(b'a') + n as u32 % 26,
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (x >> 32)
}

/// Bytes as tokens.
struct Letters;

const BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

impl Vocabulary for Letters {
    fn encode_as(&self, text: &str, _: bool, _: bool) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.bytes(id)).copied().collect()
    }

    fn bytes(&self, id: u32) -> &[u8] {
        BYTES.get(id as usize).map_or(&[], std::slice::from_ref)
    }

    fn ends(&self, id: u32) -> bool {
        id == END
    }
}
