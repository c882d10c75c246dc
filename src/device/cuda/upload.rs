//! Bringing the weights to the device: threads read the file into pinned buffers while two streams copy them on.
//!
//! A buffer goes round: free -> filled by a reader -> being copied -> free. Readers never wait for the device while a buffer
//! is free, and the copy engine never waits for a reader while one is filled. What is repacked is copied to a staging area
//! first, in whole blocks of rows, and a kernel of the same stream takes it to its place.

use super::driver::Ptr;
use super::gpu::Gpu;
use super::kernels::Launch;
use super::memory::{DeviceMemory, Event, Stream};
use super::packed::{BLOCK_ROWS, Packed, TILE_ROWS, records, tiles};
use super::params::Repack;
use super::ring::{BUFFER_BYTES, BUFFERS, Buffer, MOST_BUFFER_BYTES};
use crate::error::{Error, Result};
use crate::gguf::Source;
use crate::model::Weight;
use crate::plan::Plan;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};

const FIRST_BUFFERS: usize = 4;
const READERS: usize = 12;
/// Streams that take jobs in turn, each with a staging area: one copies while others repack.
const LANES: usize = 4;

/// Part of a weight, and its place in a buffer and on the device.
struct Piece {
    weight: usize,
    offset: u64,
    bytes: usize,
    at: usize,
    to: Ptr,
    /// Rows to repack; 0: the bytes go as they are.
    rows: usize,
}

/// Where the weights go.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub base: Ptr,
    pub places: &'a [u64],
    pub stored: &'a [Option<Packed>],
}

/// Pieces that fill one buffer at the most.
type Job = Vec<Piece>;

struct Filled {
    buffer: Buffer,
    job: usize,
    read: Result<()>,
}

/// Jobs being filled.
struct Cutter {
    jobs: Vec<Job>,
    buffer_bytes: usize,
    used: usize,
}

impl Cutter {
    fn room(&self) -> usize {
        self.buffer_bytes - self.used
    }

    fn next_job(&mut self) {
        self.jobs.push(Vec::new());
        self.used = 0;
    }

    fn put(&mut self, piece: Piece) {
        self.used = piece.at + piece.bytes;
        if let Some(job) = self.jobs.last_mut() {
            job.push(piece);
        }
    }

    fn plain(&mut self, weight: usize, all: u64, to: Ptr) {
        let mut offset = 0;
        while offset < all {
            if self.room() == 0 {
                self.next_job();
            }
            let bytes = self.room().min((all - offset) as usize);
            self.put(Piece { weight, offset, bytes, at: self.used, to: to + offset, rows: 0 });
            offset += bytes as u64;
        }
    }

    /// Whole blocks of tiles, matrix by matrix.
    fn tiles(&mut self, index: usize, weight: &Weight, packed: &Packed, to: Ptr) {
        let row_bytes = weight.row_bytes();
        for expert in 0..weight.experts {
            let to = to + expert as u64 * packed.matrix_bytes(weight.rows);
            let mut row = 0;
            while row < weight.rows {
                let fit = self.room() / row_bytes / BLOCK_ROWS * BLOCK_ROWS;
                let left = weight.rows - row;
                if fit == 0 && left * row_bytes > self.room() {
                    self.next_job();
                    continue;
                }
                let rows = if left * row_bytes <= self.room() { left } else { fit };
                let offset = ((expert * weight.rows + row) * row_bytes) as u64;
                let to = to + (row / TILE_ROWS * packed.tile_bytes) as u64;
                self.put(Piece { weight: index, offset, bytes: rows * row_bytes, at: self.used, to, rows });
                row += rows;
            }
        }
    }
}

/// Bytes of a buffer that holds a block of rows of every weight that is repacked.
fn buffer_bytes(plan: &Plan, target: &Target) -> usize {
    let packed = plan.weights.iter().zip(target.stored).filter(|(_, stored)| stored.is_some());
    packed.map(|(w, _)| w.row_bytes() * BLOCK_ROWS).fold(BUFFER_BYTES, usize::max)
}

/// Cuts all weights into jobs for buffers of so many bytes, in the file's order.
fn jobs(plan: &Plan, target: &Target, buffer_bytes: usize) -> Vec<Job> {
    let mut order: Vec<usize> = (0..plan.weights.len()).collect();
    order.sort_by_key(|&i| (plan.weights[i].data.part, plan.weights[i].data.offset));
    let mut cutter = Cutter { jobs: vec![Vec::new()], buffer_bytes, used: 0 };
    for i in order {
        let (weight, to) = (&plan.weights[i], target.base + target.places[i]);
        match &target.stored[i] {
            None => cutter.plain(i, weight.data.bytes, to),
            Some(packed) => cutter.tiles(i, weight, packed, to),
        }
    }
    cutter.jobs
}

/// What the readers share.
struct Shared<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    free: Mutex<Receiver<Buffer>>,
    source: &'a Source,
    plan: &'a Plan,
}

fn read(shared: &Shared, filled: Sender<Filled>) {
    loop {
        let buffer = shared.free.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut buffer) = buffer else {
            return;
        };
        let job = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(pieces) = shared.jobs.get(job) else {
            return;
        };
        let read = pieces.iter().try_for_each(|p| {
            let data = &shared.plan.weights[p.weight].data;
            shared.source.read_at(data, p.offset, &mut buffer.bytes_mut()[p.at..p.at + p.bytes])
        });
        if filled.send(Filled { buffer, job, read }).is_err() {
            return;
        }
    }
}

/// Threads that read: no more than there are processors, lest they keep the copying thread from its work.
fn readers() -> usize {
    thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, READERS)
}

/// Bytes that an upload takes on the device while it runs.
pub(super) const STAGING_BYTES: u64 = (LANES * MOST_BUFFER_BYTES) as u64;

/// Whether a block of this weight fits a buffer; if not, it must stay as it is.
pub(super) fn fits_a_buffer(weight: &Weight) -> bool {
    weight.row_bytes() <= MOST_BUFFER_BYTES / BLOCK_ROWS
}

/// Gives `count` more buffers, or as many as there can be: the load only takes longer with fewer.
fn give_more(gpu: &Arc<Gpu>, (count, bytes): (usize, usize), give: Sender<Buffer>) {
    let Ok(_entered) = gpu.enter() else {
        return;
    };
    for buffer in (0..count).map(|_| Buffer::take(gpu, bytes)) {
        match buffer {
            Ok(buffer) => drop(give.send(buffer)),
            Err(e) => return log::debug!("fewer buffers for the load: {}", e.reason()),
        }
    }
}

/// Copies every weight to its place. The context must be current.
pub(super) fn upload(
    gpu: &Arc<Gpu>,
    plan: &Plan,
    source: &Source,
    target: Target,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let buffer_bytes = buffer_bytes(plan, &target);
    let jobs = jobs(plan, &target, buffer_bytes);
    let staging = DeviceMemory::new(gpu, (LANES * buffer_bytes) as u64, "the upload")?;
    let streams = (0..LANES).map(|_| Stream::new(gpu)).collect::<Result<Vec<_>>>()?;
    let (give, free) = channel();
    let (send, filled) = channel();
    let shared = Shared { jobs: &jobs, next: AtomicUsize::new(0), free: Mutex::new(free), source, plan };
    thread::scope(|scope| {
        // Owned here, so that leaving early lets the readers go.
        let give = give;
        start_readers(scope, &shared, send)?;
        // Pinning takes longer than copying: all but the first buffers are pinned while these are at work.
        for _ in 0..FIRST_BUFFERS.min(jobs.len()) {
            let _ = give.send(Buffer::take(gpu, buffer_bytes)?);
        }
        let (more, count) = (give.clone(), BUFFERS.min(jobs.len()).saturating_sub(FIRST_BUFFERS));
        let more = move || give_more(gpu, (count, buffer_bytes), more);
        // Without a thread for it, the load goes on with the buffers that there are.
        let _ = thread::Builder::new().name("orcd-pin".into()).spawn_scoped(scope, more);
        let in_flight = VecDeque::new();
        let lanes = Lanes { streams: &streams, staging: &staging, buffer_bytes };
        let copying = Copying { gpu, plan, lanes, jobs: &jobs, give, in_flight, lane: 0 };
        copying.run(filled, plan.weight_bytes(), progress)
    })
}

/// As many readers as there can be, at least one.
fn start_readers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared<'scope>,
    send: Sender<Filled>,
) -> Result<()> {
    for i in 0..readers().min(shared.jobs.len()) {
        let send = send.clone();
        let reader = thread::Builder::new().name("orcd-read".into()).spawn_scoped(scope, move || read(shared, send));
        match reader {
            Ok(_) => {}
            Err(e) if i == 0 => return Err(Error::memory(format!("no thread to read the file: {e}"))),
            Err(_) => break,
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Lanes<'a> {
    streams: &'a [Stream],
    staging: &'a DeviceMemory,
    buffer_bytes: usize,
}

struct Copying<'a> {
    gpu: &'a Arc<Gpu>,
    plan: &'a Plan,
    lanes: Lanes<'a>,
    jobs: &'a [Job],
    /// Dropped on return, which ends the readers.
    give: Sender<Buffer>,
    in_flight: VecDeque<(Buffer, usize, Event)>,
    /// Whose turn it is.
    lane: usize,
}

impl Copying<'_> {
    fn run(mut self, filled: Receiver<Filled>, all: u64, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let mut done = 0;
        let mut left = self.jobs.len();
        while left > 0 || !self.in_flight.is_empty() {
            let next = if left == 0 || self.in_flight.len() >= LANES { None } else { filled.recv().ok() };
            match next {
                Some(f) => {
                    left -= 1;
                    f.read.clone()?;
                    self.copy(f)?;
                }
                None if self.in_flight.is_empty() => return Err(Error::load("a thread that reads the file has died")),
                None => {
                    done += self.retire()?;
                    if !progress(done.min(all), all) {
                        return Err(Error::load("the load was given up"));
                    }
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, filled: Filled) -> Result<()> {
        let event = Event::new(self.gpu)?;
        let stream = &self.lanes.streams[self.lane];
        let staging = self.lanes.staging.ptr + (self.lane * self.lanes.buffer_bytes) as u64;
        let pieces = &self.jobs[filled.job];
        let bytes = filled.buffer.bytes();
        let end = pieces.last().map_or(0, |p| p.at + p.bytes);
        if pieces.iter().any(|p| p.rows > 0) {
            // SAFETY: the staging area is as large as a buffer, which is kept until the event has passed; the stream reads
            // what was there before it is overwritten.
            unsafe { stream.upload(staging, &bytes[..end])? };
        }
        for p in pieces {
            match p.rows {
                // SAFETY: the place was allocated for this weight; the buffer is kept until the event has passed.
                0 => unsafe { stream.upload(p.to, &bytes[p.at..p.at + p.bytes])? },
                rows => self.repack(stream, staging, p, rows)?,
            }
        }
        event.record(stream)?;
        self.lane = (self.lane + 1) % LANES;
        self.in_flight.push_back((filled.buffer, filled.job, event));
        Ok(())
    }

    fn repack(&self, stream: &Stream, staging: Ptr, piece: &Piece, rows: usize) -> Result<()> {
        let weight = &self.plan.weights[piece.weight];
        let args = Repack {
            source: staging + piece.at as u64,
            target: piece.to,
            row_bytes: weight.row_bytes() as u64,
            ty: weight.ty.ggml(),
            rows: rows as u32,
            cols: weight.cols as u32,
        };
        let blocks = (tiles(rows) * records(weight.cols)).div_ceil(4);
        let launch = Launch { file: "repack", name: "repack", grid: [blocks, 1, 1], threads: 128, ..Launch::default() };
        // SAFETY: the kernel's own parameters; whole tiles of the weight, staged before in this stream, and room for them.
        unsafe { self.gpu.kernels()?.launch_in_order(self.gpu, stream.handle, &launch, &args) }
    }

    /// Waits for the oldest copy; returns its bytes.
    fn retire(&mut self) -> Result<u64> {
        let Some((buffer, job, event)) = self.in_flight.pop_front() else {
            return Ok(0);
        };
        event.wait()?;
        let _ = self.give.send(buffer);
        Ok(self.jobs[job].iter().map(|p| p.bytes as u64).sum())
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        if !self.in_flight.is_empty() {
            // The buffers go next: nothing may still be copied from them. An error was reported already.
            self.lanes.streams.iter().for_each(|s| drop(s.synchronize()));
        }
    }
}
