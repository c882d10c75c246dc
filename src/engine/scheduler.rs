//! The one thread that runs a model: it gathers the sequences that have work, builds a batch, runs it, hands out the tokens.
//!
//! As many batches are kept under way as the executor takes, so that a device which draws for itself never waits for the host.
//! The thread sleeps when nothing can go on. However it ends, by an unload or by a panic, every sequence hears of it and
//! every lease comes back, so that no caller waits for ever.

use super::outbox::Outbox;
use super::pace::Pace;
use super::pages::{Lease, Pages, unloaded};
use super::roster::{Budget, Place, Roster, count_rows};
use super::sequence::Sequence;
use super::sync::{lock, wait};
use super::vocabulary::Vocabulary;
use crate::device::{Device, Executor};
use crate::error::{Error, Result};
use crate::plan::{Batch, Limits, Output};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// What the scheduler shares with the threads of the host.
pub struct Shared {
    pub pages: Pages,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct Inbox {
    arrivals: Vec<Sequence>,
    /// Something has changed for a sequence: it was cancelled, or has room again.
    nudged: bool,
    closing: bool,
    /// Why nothing can be started any more.
    refusal: Option<Error>,
}

impl Shared {
    pub fn new(pages: Pages) -> Self {
        Self { pages, inbox: Mutex::default(), wake: Condvar::new(), closed: AtomicBool::new(false) }
    }

    /// Hands a sequence to the scheduler, or its lease back to the pool.
    pub fn enter(&self, sequence: Sequence) -> Result<()> {
        let mut inbox = lock(&self.inbox);
        if let Some(refusal) = inbox.refusal.clone() {
            drop(inbox);
            self.pages.give_back(sequence.lease);
            return Err(refusal);
        }
        inbox.arrivals.push(sequence);
        self.wake.notify_one();
        Ok(())
    }

    pub fn nudge(&self) {
        lock(&self.inbox).nudged = true;
        self.wake.notify_one();
    }

    /// Asks the scheduler to end after the steps in flight.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut inbox = lock(&self.inbox);
        inbox.closing = true;
        inbox.refusal.get_or_insert_with(unloaded);
        self.wake.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn release(&self, lease: Lease, outbox: &Outbox) {
        self.pages.give_back(lease);
        outbox.release();
    }
}

/// Rows of prompts from which on a batch takes so long that the next one need not be ready when it ends.
const LONG_ROWS: usize = 512;

/// A batch under way.
struct Flight {
    number: u64,
    places: Vec<Place>,
    rows: (usize, usize),
    submitted: Instant,
}

pub struct Scheduler {
    shared: Arc<Shared>,
    executor: Box<dyn Executor>,
    device: Arc<dyn Device>,
    vocabulary: Arc<dyn Vocabulary>,
    limits: Limits,
    roster: Roster,
    flights: VecDeque<Flight>,
    /// Of the last batch submitted; the first one is 1.
    number: u64,
    pace: Pace,
    collected: Instant,
    /// A batch was refused: what is left may still go on.
    again: bool,
}

impl Scheduler {
    pub fn new(
        shared: Arc<Shared>,
        executor: Box<dyn Executor>,
        device: Arc<dyn Device>,
        vocabulary: Arc<dyn Vocabulary>,
        limits: Limits,
    ) -> Self {
        Self {
            shared,
            executor,
            device,
            vocabulary,
            limits,
            roster: Roster::new(&limits),
            flights: VecDeque::new(),
            number: 0,
            pace: Pace::default(),
            collected: Instant::now(),
            again: false,
        }
    }

    /// Runs until [`Shared::close`].
    pub fn run(mut self) {
        let mut idle = true;
        while self.take_arrivals(idle) {
            self.reap();
            self.again = false;
            let depth = self.executor.depth().max(1);
            while self.flights.len() < depth && !self.holds_back() && self.submit() {}
            idle = self.flights.is_empty() && !self.again;
            self.collect();
        }
        while !self.flights.is_empty() {
            self.collect();
        }
    }

    /// Sleeps while there is nothing to do. False when the model is to be unloaded.
    fn take_arrivals(&mut self, idle: bool) -> bool {
        let mut inbox = lock(&self.shared.inbox);
        while idle && inbox.arrivals.is_empty() && !inbox.nudged && !inbox.closing {
            inbox = wait(&self.shared.wake, inbox);
        }
        inbox.nudged = false;
        for sequence in inbox.arrivals.drain(..) {
            self.roster.add(sequence);
        }
        !inbox.closing
    }

    fn reap(&mut self) {
        let shared = &self.shared;
        self.roster.reap(false, |lease, outbox| shared.release(lease, &outbox));
    }

    /// Whether the next batch is better made when the one under way is back: that one takes long, and what could be queued behind it
    /// is little. Until then more may arrive, and who waits for pages that are being computed can go along.
    fn holds_back(&self) -> bool {
        let long = self.flights.back().is_some_and(|flight| flight.rows.0 >= LONG_ROWS && flight.rows.1 == 0);
        long && !self.roster.fills(self.limits.batch_tokens, self.number)
    }

    /// Queues the next batch. False if nothing can go on, or the device would not take it.
    fn submit(&mut self) -> bool {
        let (prompts, answers) = self.roster.crowd();
        let budget = Budget::new(&self.limits, self.pace.chunk(prompts, answers));
        let (batch, places) = self.roster.compose(budget, self.number + 1, self.number);
        if batch.segments.is_empty() {
            return false;
        }
        let flight = Flight { number: self.number + 1, places, rows: count_rows(&batch), submitted: Instant::now() };
        self.launch(&batch, flight)
    }

    fn launch(&mut self, batch: &Batch, flight: Flight) -> bool {
        match self.executor.submit(batch) {
            Ok(()) => {
                self.number = flight.number;
                self.flights.push_back(flight);
                true
            }
            Err(error) => {
                self.fail(&flight.places, &error);
                self.again = true;
                false
            }
        }
    }

    /// Waits for the oldest batch and hands out what it gave.
    fn collect(&mut self) {
        let Some(flight) = self.flights.pop_front() else { return };
        match self.executor.collect().and_then(|outputs| same_count(outputs, flight.places.len())) {
            Ok(outputs) => {
                let vocabulary = &self.vocabulary;
                self.roster.accept(&flight.places, outputs, flight.number, &|id| vocabulary.ends(id));
                let now = Instant::now();
                let seconds = (now - flight.submitted.max(self.collected)).as_secs_f64();
                let (prefill, decode) = flight.rows;
                log::debug!("{prefill} rows of prompts and {decode} of answers took {:.3} ms", 1e3 * seconds);
                self.pace.observe(prefill, decode, seconds);
                self.collected = now;
            }
            Err(error) => self.fail(&flight.places, &error),
        }
        self.reap();
    }

    /// Ends the sequences of a batch that failed; all, and all to come, if the device is lost.
    fn fail(&mut self, places: &[Place], error: &Error) {
        log::error!("a step of {} inferences failed: {error}", places.len());
        self.roster.fail(places, error);
        if let Err(lost) = self.device.check_health() {
            lock(&self.shared.inbox).refusal.get_or_insert(lost.clone());
            self.roster.end_all(Err(lost));
        }
    }
}

fn same_count(outputs: Vec<Output>, segments: usize) -> Result<Vec<Output>> {
    match outputs.len() == segments {
        true => Ok(outputs),
        false => Err(Error::inference(format!("{} outputs of {segments} segments", outputs.len()))),
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let error = match std::thread::panicking() {
            true => Error::unknown("the model's scheduler has stopped after a fault of its own"),
            false => unloaded(),
        };
        let mut inbox = lock(&self.shared.inbox);
        inbox.refusal.get_or_insert(error.clone());
        for sequence in inbox.arrivals.drain(..) {
            self.roster.add(sequence);
        }
        drop(inbox);
        self.roster.end_all(Err(error));
        let shared = &self.shared;
        self.roster.reap(true, |lease, outbox| shared.release(lease, &outbox));
    }
}
