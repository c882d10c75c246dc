//! Runs batches: checks one against the limits, splits it into passes, queues them, and hands back what was drawn.
//!
//! A batch's decode rows and its prefill rows go through passes of their own. Two batches may be on their way: each has its
//! own pinned memory, and the stream keeps their order.

use super::driver::Ptr;
use super::graph::Graph;
use super::inputs::{Block, Filling};
use super::kv::KvPool;
use super::memory::{Event, Pinned, Stream};
use super::pass::{Extent, Run};
use super::scratch::{Scratch, Sizes, TILE_ROWS, splits};
use super::staging::Staging;
use super::wants::{LogitsWanted, Pending, fill_row, pending_of, segments_of, want};
use super::weights::LoadedWeights;
use crate::device::Executor;
use crate::error::{Error, ErrorCode, Result};
use crate::plan::{Batch, KvGroup, Output, PAGE_TOKENS, PageTable, Phase, Tokens, Want};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

const DEPTH: usize = 2;

/// A batch's place in the ring.
pub(super) struct Place {
    /// Blocks of the passes, one after the other.
    blocks: Pinned,
    /// Page tables of slots that are new.
    tables: Pinned,
    outputs: Pinned,
    logits: Staging,
    done: Event,
}

pub(super) struct CudaExecutor {
    // Dropped first to last: what is queued ends before what it uses goes.
    stream: Stream,
    graphs: HashMap<(usize, usize), Graph>,
    places: Vec<Place>,
    in_flight: VecDeque<(usize, Vec<Pending>)>,
    next: usize,
    weights: Arc<LoadedWeights>,
    kv: Arc<KvPool>,
    sizes: Sizes,
    scratch: Scratch,
    ropes: Vec<Ptr>,
    decode: Block,
    prefill: Block,
    /// The page table that each slot has on the device.
    tables: Vec<Option<Arc<PageTable>>>,
    broken: Option<Error>,
}

impl CudaExecutor {
    /// The context must be current.
    pub(super) fn new(
        weights: Arc<LoadedWeights>,
        kv: Arc<KvPool>,
        (sizes, scratch, ropes): (Sizes, Scratch, Vec<Ptr>),
        (decode, prefill): (Block, Block),
    ) -> Result<Self> {
        let gpu = weights.gpu.clone();
        let place = || {
            Ok(Place {
                blocks: Pinned::new(&gpu, prefill.bytes() + decode.bytes() * sizes.sequences.max(2))?,
                tables: Pinned::new(&gpu, sizes.sequences * sizes.table_stride * 4)?,
                outputs: Pinned::new(&gpu, sizes.sequences * 4)?,
                logits: Staging::new(weights.plan.n_vocab),
                done: Event::new(&gpu)?,
            })
        };
        Ok(Self {
            stream: Stream::new(&gpu)?,
            graphs: HashMap::new(),
            places: (0..DEPTH).map(|_| place()).collect::<Result<_>>()?,
            in_flight: VecDeque::with_capacity(DEPTH),
            next: 0,
            tables: vec![None; sizes.sequences],
            broken: None,
            weights,
            kv,
            sizes,
            scratch,
            ropes,
            decode,
            prefill,
        })
    }

    /// Everything that could make a kernel reach outside its memory is refused here.
    fn check(&self, batch: &Batch) -> Result<()> {
        let plan = &self.weights.plan;
        let fail = |what: String| Err(Error::inference(format!("a batch with {what}")));
        if batch.rows() > self.sizes.batch_tokens {
            return fail(format!("{} rows, more than {}", batch.rows(), self.sizes.batch_tokens));
        }
        let mut seen = vec![false; self.sizes.sequences];
        let mut heads = 0;
        for s in &batch.segments {
            match seen.get_mut(s.slot as usize) {
                None => return fail(format!("slot {} of {}", s.slot, self.sizes.sequences)),
                Some(seen) if *seen => return fail(format!("slot {} twice", s.slot)),
                Some(seen) => *seen = true,
            }
            if s.tokens.is_empty() || s.position.saturating_add(s.tokens.len()) > plan.context {
                return fail(format!("{} tokens at {} of {}", s.tokens.len(), s.position, plan.context));
            }
            if let Tokens::Known(ids) = &s.tokens
                && let Some(id) = ids.iter().find(|&&id| id as usize >= plan.n_vocab)
            {
                return fail(format!("token {id} of {}", plan.n_vocab));
            }
            let groups = &s.pages.groups;
            let fits = |g: &Vec<u32>| !g.is_empty() && g.len() <= self.sizes.pages_per_group();
            if groups.len() != plan.kv_groups.len() || !groups.iter().all(fits) {
                return fail("a page table that is not the plan's".to_string());
            }
            // Only a window's pages are used in turn.
            let end = s.position + s.tokens.len();
            let short = |(g, pages): (&KvGroup, &Vec<u32>)| g.window.is_none() && pages.len() * PAGE_TOKENS < end;
            if plan.kv_groups.iter().zip(groups).any(short) {
                return fail(format!("pages for fewer than {end} tokens"));
            }
            heads += match s.want {
                Want::Nothing => 0,
                Want::AllLogits => s.tokens.len(),
                Want::Token(_) | Want::Logits => 1,
            };
        }
        if heads > self.sizes.logit_rows {
            return fail(format!("{heads} rows of logits, more than {}", self.sizes.logit_rows));
        }
        Ok(())
    }

    /// Queues the page tables of slots that have a new one.
    fn send_tables(&mut self, place: &mut Place, batch: &Batch) -> Result<()> {
        let stride = self.sizes.table_stride;
        for s in &batch.segments {
            let slot = s.slot as usize;
            if self.tables[slot].as_ref().is_some_and(|t| Arc::ptr_eq(t, &s.pages)) {
                continue;
            }
            let words = &mut place.tables.bytes_mut()[slot * stride * 4..(slot + 1) * stride * 4];
            let mut put = |at: usize, value: u32| words[at * 4..at * 4 + 4].copy_from_slice(&value.to_le_bytes());
            let mut end = s.pages.groups.len();
            for (g, pages) in s.pages.groups.iter().enumerate() {
                put(g, pages.len() as u32);
                for (i, &page) in pages.iter().enumerate() {
                    put(self.sizes.table_offsets[g] + i, page);
                }
                end = self.sizes.table_offsets[g] + pages.len();
            }
            let to = self.scratch.tables + (slot * stride * 4) as u64;
            // SAFETY: the slot's own row of the tables; the pinned copy stays until this place's event has passed.
            unsafe { self.stream.upload(to, &place.tables.bytes()[slot * stride * 4..(slot * stride + end) * 4])? };
            self.tables[slot] = Some(s.pages.clone());
        }
        Ok(())
    }

    fn queue(&mut self, place: &mut Place, batch: &Batch) -> Result<Vec<Pending>> {
        self.send_tables(place, batch)?;
        let (mut pending, rows) = pending_of(batch);
        place.logits.reserve(&self.weights.gpu, rows)?;
        let used = self.queue_decode(place, batch, &mut pending)?;
        self.queue_prefill(place, used, batch, &mut pending)?;
        let bytes = batch.segments.len() * 4;
        // SAFETY: as many outputs as slots at the most; read after the event.
        unsafe { self.stream.download(&mut place.outputs.bytes_mut()[..bytes], self.scratch.outputs)? };
        place.done.record(&self.stream)?;
        Ok(pending)
    }

    /// Returns the bytes of the place's blocks that are taken. A pass has one row of a sequence at the most: a row's key is
    /// in the cache only when its pass has ended.
    fn queue_decode(&mut self, place: &mut Place, batch: &Batch, pending: &mut [Pending]) -> Result<usize> {
        let bytes = self.decode.bytes();
        let longest = segments_of(batch, Phase::Decode).map(|(_, s)| s.tokens.len()).max().unwrap_or(0);
        let mut used = 0;
        for row in 0..longest {
            let segments: Vec<_> = segments_of(batch, Phase::Decode).filter(|(_, s)| row < s.tokens.len()).collect();
            for segments in segments.chunks(self.sizes.decode_rows) {
                let blocks = place.blocks.bytes_mut();
                let room = blocks.get_mut(used..used + bytes);
                let room = room.ok_or_else(|| Error::inference("too many decode passes in one batch"))?;
                let mut filling = Filling::new(self.decode, room);
                let mut logits = Vec::new();
                for (at, &(i, s)) in segments.iter().enumerate() {
                    fill_row(&mut filling, s, row);
                    let head = filling.head(at);
                    want(&mut filling, &mut logits, (i, s), (row, head));
                }
                let splits = splits(filling.reach + 1);
                // SAFETY: the block's place on the device; the pinned copy stays until this place's event has passed.
                unsafe { self.stream.upload(self.scratch.decode_block, &place.blocks.bytes()[used..used + bytes])? };
                self.replay(segments.len().next_power_of_two().min(self.sizes.decode_rows), splits)?;
                self.fetch_logits(place, &logits, pending)?;
                used += bytes;
            }
        }
        Ok(used)
    }

    /// Queues a pass as a graph, recorded at the first of its size; as single kernels where there is no memory for a graph now.
    fn replay(&mut self, rows: usize, splits: usize) -> Result<()> {
        let extent = Extent { phase: Phase::Decode, rows, tiles: 0, splits, heads: rows };
        match self.replay_graph(extent) {
            Err(e) if e.code() == ErrorCode::OutOfMemory => self.run(extent).steps(),
            queued => queued,
        }
    }

    fn replay_graph(&mut self, extent: Extent) -> Result<()> {
        let size = (extent.rows, extent.splits);
        if !self.graphs.contains_key(&size) {
            let gpu = self.weights.gpu.clone();
            let run = self.run(extent);
            let graph = Graph::record(&gpu, &self.stream, || run.steps())?;
            self.graphs.insert(size, graph);
        }
        match self.graphs.get(&size) {
            Some(graph) => graph.launch(&self.stream),
            None => Err(Error::launch("a graph is missing")),
        }
    }

    fn run(&self, extent: Extent) -> Run<'_> {
        let (block, at) = match extent.phase {
            Phase::Decode => (&self.decode, self.scratch.decode_block),
            Phase::Prefill => (&self.prefill, self.scratch.prefill_block),
        };
        Run {
            weights: &self.weights,
            sizes: &self.sizes,
            scratch: &self.scratch,
            kv: &self.kv.places,
            ropes: &self.ropes,
            stream: self.stream.handle,
            block: block.at(at),
            extent,
        }
    }

    fn queue_prefill(&mut self, place: &mut Place, used: usize, batch: &Batch, pending: &mut [Pending]) -> Result<()> {
        let bytes = self.prefill.bytes();
        let blocks = place.blocks.bytes_mut();
        let room = blocks.get_mut(used..used + bytes).ok_or_else(|| Error::inference("too many decode passes"))?;
        let mut filling = Filling::new(self.prefill, room);
        let mut logits = Vec::new();
        for (i, s) in segments_of(batch, Phase::Prefill) {
            let first = filling.n_rows;
            for row in 0..s.tokens.len() {
                fill_row(&mut filling, s, row);
                let last = row + 1 == s.tokens.len();
                if s.want == Want::AllLogits || (last && s.want != Want::Nothing) {
                    let head = filling.head(first + row);
                    want(&mut filling, &mut logits, (i, s), (row, head));
                }
            }
            for start in (0..s.tokens.len()).step_by(TILE_ROWS) {
                let n = (s.tokens.len() - start).min(TILE_ROWS);
                filling.tile(first + start, n, s.slot, s.position + start);
            }
        }
        let (rows, tiles, heads) = (filling.n_rows, filling.n_tiles, filling.n_heads);
        if rows == 0 {
            return Ok(());
        }
        // SAFETY: the block's place on the device; the pinned copy stays until this place's event has passed.
        unsafe { self.stream.upload(self.scratch.prefill_block, &place.blocks.bytes()[used..used + bytes])? };
        self.run(Extent { phase: Phase::Prefill, rows, tiles, splits: 1, heads }).steps()?;
        self.fetch_logits(place, &logits, pending)
    }

    /// Queues copies of the logits that were asked for.
    fn fetch_logits(&self, place: &mut Place, wanted: &LogitsWanted, pending: &mut [Pending]) -> Result<()> {
        for &(segment, head, n) in wanted {
            if let Some(Pending::Logits { first, rows }) = pending.get_mut(segment) {
                let from = self.scratch.logits + (head * self.weights.plan.n_vocab * 4) as u64;
                // SAFETY: rows of logits that the pass makes; they are read after this place's event.
                unsafe { place.logits.fetch(&self.stream, *first + *rows, n, from)? };
                *rows += n;
            }
        }
        Ok(())
    }
}

impl Executor for CudaExecutor {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn submit(&mut self, batch: &Batch) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.in_flight.len() >= DEPTH {
            return Err(Error::inference("more batches submitted than the device takes at once"));
        }
        self.check(batch)?;
        let gpu = self.weights.gpu.clone();
        let _entered = gpu.enter().map_err(|e| Error::launch(e.reason()))?;
        let at = self.next;
        // The place is not in flight, so it can be taken out while `self` is in use.
        let mut place = self.places.swap_remove(at);
        let queued = self.queue(&mut place, batch);
        self.places.push(place);
        let last = self.places.len() - 1;
        self.places.swap(at, last);
        match queued {
            Ok(pending) => {
                self.in_flight.push_back((at, pending));
                self.next = (at + 1) % DEPTH;
                Ok(())
            }
            Err(e) => {
                // Part of the batch may have been queued: nothing that follows could be trusted.
                let error = Error::launch(e.reason());
                self.broken = Some(error.clone());
                Err(error)
            }
        }
    }

    fn collect(&mut self) -> Result<Vec<Output>> {
        let Some((at, pending)) = self.in_flight.pop_front() else {
            return Err(Error::inference("no batch was submitted"));
        };
        let gpu = self.weights.gpu.clone();
        let place = &self.places[at];
        let waited = gpu.enter().and_then(|_entered| place.done.wait());
        waited.map_err(|e| Error::inference(e.reason()))?;
        let drawn = place.outputs.bytes().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let output = |(pending, id)| match pending {
            Pending::Nothing => Output::Nothing,
            Pending::Logits { first, rows } => Output::Logits(place.logits.rows(first, rows)),
            Pending::Token if id == u32::MAX => Output::Poisoned,
            Pending::Token => Output::Token(id),
        };
        Ok(pending.into_iter().zip(drawn).map(output).collect())
    }
}
