//! Bringing the weights to the device: threads read the file into pinned buffers while one stream copies them on.
//!
//! A buffer goes round: free -> filled by a reader -> being copied -> free. Readers never wait for the device while a buffer
//! is free, and the copy engine never waits for a reader while one is filled.

use super::gpu::Gpu;
use super::memory::{Event, Pinned, Stream};
use crate::error::{Error, Result};
use crate::gguf::Source;
use crate::plan::Plan;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const BUFFER_BYTES: usize = 8 << 20;
const BUFFERS: usize = 8;
const READERS: usize = 8;

/// Part of a weight, and its place in a buffer and on the device.
struct Piece {
    weight: usize,
    offset: u64,
    bytes: usize,
    at: usize,
    to: u64,
}

/// Pieces that fill one buffer at the most.
type Job = Vec<Piece>;

struct Filled {
    buffer: Pinned,
    job: usize,
    read: Result<()>,
}

/// Cuts all weights into jobs, in the file's order.
fn jobs(plan: &Plan, places: &[u64], base: u64) -> Vec<Job> {
    let mut order: Vec<usize> = (0..plan.weights.len()).collect();
    order.sort_by_key(|&i| (plan.weights[i].data.part, plan.weights[i].data.offset));
    let mut jobs = vec![Vec::new()];
    let mut used = 0;
    for weight in order {
        let all = plan.weights[weight].data.bytes;
        let mut offset = 0;
        while offset < all {
            if used == BUFFER_BYTES {
                jobs.push(Vec::new());
                used = 0;
            }
            let bytes = (BUFFER_BYTES - used).min((all - offset) as usize);
            let piece = Piece { weight, offset, bytes, at: used, to: base + places[weight] + offset };
            if let Some(job) = jobs.last_mut() {
                job.push(piece);
            }
            used += bytes;
            offset += bytes as u64;
        }
    }
    jobs
}

/// What the readers share.
struct Shared<'a> {
    jobs: &'a [Job],
    next: AtomicUsize,
    free: Mutex<Receiver<Pinned>>,
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

/// Copies every weight to its place after `base`. The context must be current.
pub(super) fn upload(
    gpu: &Arc<Gpu>,
    plan: &Plan,
    source: &Source,
    (places, base): (&[u64], u64),
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let jobs = jobs(plan, places, base);
    let stream = Stream::new(gpu)?;
    let (give, free) = channel();
    let (send, filled) = channel();
    let shared = Shared { jobs: &jobs, next: AtomicUsize::new(0), free: Mutex::new(free), source, plan };
    thread::scope(|scope| {
        // Owned here, so that leaving early lets the readers go.
        let give = give;
        for _ in 0..READERS.min(jobs.len()) {
            let send = send.clone();
            let shared = &shared;
            scope.spawn(move || read(shared, send));
        }
        drop(send);
        for _ in 0..BUFFERS.min(jobs.len()) {
            let _ = give.send(Pinned::new(gpu, BUFFER_BYTES)?);
        }
        let copying = Copying { gpu, stream: &stream, jobs: &jobs, give, in_flight: VecDeque::new() };
        copying.run(filled, plan.weight_bytes(), progress)
    })
}

struct Copying<'a> {
    gpu: &'a Arc<Gpu>,
    stream: &'a Stream,
    jobs: &'a [Job],
    /// Dropped on return, which ends the readers.
    give: Sender<Pinned>,
    in_flight: VecDeque<(Pinned, usize, Event)>,
}

impl Copying<'_> {
    fn run(mut self, filled: Receiver<Filled>, all: u64, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        let mut done = 0;
        let mut left = self.jobs.len();
        while left > 0 || !self.in_flight.is_empty() {
            let next = if left == 0 || self.in_flight.len() >= BUFFERS / 2 { None } else { filled.recv().ok() };
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
                        self.stream.synchronize()?;
                        return Err(Error::load("the load was given up"));
                    }
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, filled: Filled) -> Result<()> {
        let event = Event::new(self.gpu)?;
        for p in &self.jobs[filled.job] {
            // SAFETY: the place was allocated for this weight; the buffer is kept until the event has passed.
            unsafe { self.stream.upload(p.to, &filled.buffer.bytes()[p.at..p.at + p.bytes])? };
        }
        event.record(self.stream)?;
        self.in_flight.push_back((filled.buffer, filled.job, event));
        Ok(())
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
            let _ = self.stream.synchronize();
        }
    }
}
