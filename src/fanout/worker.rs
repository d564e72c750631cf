//! A sink's worker: takes what has queued for its sink, applies it, retries it, and says how far the sink is.
//!
//! Group commit: a sink that is idle takes everything queued, up to its own limits; while it is busy the queue grows.
//! [`Worker::step`] is one such round without any waiting of its own, so that a simulation can drive it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::Chain;
use super::progress::SinkProgress;
use super::queue::Received;
use super::retry::{self, Backoff, Decision};
use super::sink::{Applied, Batch, Sink};
use crate::Lsn;
use crate::encode::run::Run;
use crate::error::{Error, Kind, Result};
use crate::telemetry::{self, BatchApplied};

/// What a river sends to a sink.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Changes, in commit order.
    Run(Arc<Run>),
    /// Nothing else was committed up to this position.
    Idle(Lsn),
    /// The stream starts again at or before the sink's checkpoint, or goes on in another queue between two transactions:
    /// forget one that has not ended.
    Restart,
}

impl Delivery {
    /// How much room it takes in the queue.
    pub fn bytes(&self) -> usize {
        match self {
            Delivery::Run(run) => run.bytes(),
            Delivery::Idle(_) | Delivery::Restart => 0,
        }
    }

    /// The position up to which everything was sent once this was; `None` inside a transaction, and at a restart.
    pub fn end_lsn(&self) -> Option<Lsn> {
        match self {
            Delivery::Run(run) => run.spans().last()?.end_lsn,
            Delivery::Idle(lsn) => Some(*lsn),
            Delivery::Restart => None,
        }
    }
}

/// How much one batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Row changes; a single run may exceed it.
    pub rows_max: usize,
    /// Bytes in memory; a single run may exceed it.
    pub bytes_max: usize,
}

/// One sink with its queues.
pub struct Worker<S> {
    sink: S,
    queue: Chain,
    progress: Arc<SinkProgress>,
    limits: BatchLimits,
    backoff: Backoff,
    rng: fastrand::Rng,
    /// The sink's checkpoint as far as we know; what lies before it is left out.
    position: Lsn,
    /// What was taken from the queue and is not applied yet.
    taken: Taken,
    /// Failed attempts at what is taken.
    attempt: u32,
    /// The sink lost its open transaction: everything is dropped until the stream starts again.
    awaits_restart: bool,
}

#[derive(Default)]
struct Taken {
    runs: Vec<Arc<Run>>,
    idle: Option<Lsn>,
    bytes: usize,
    rows: usize,
    /// A restart stood behind the runs; it is handled once they are applied.
    is_restart_next: bool,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.idle.is_none() && !self.is_restart_next
    }
}

/// What one round of a worker came to.
#[derive(Debug)]
pub enum Step {
    /// Something was done, or there was nothing to do.
    Done,
    /// The attempt failed; try again after this.
    Wait(Duration),
    /// The last queue is closed and empty.
    Closed,
    /// The sink cannot go on.
    Stopped(Error),
}

impl<S: Sink> Worker<S> {
    /// A worker for an opened sink whose checkpoint is `position`.
    pub fn new(
        sink: S,
        queue: Chain,
        progress: Arc<SinkProgress>,
        position: Lsn,
        limits: BatchLimits,
        backoff: Backoff,
        rng: fastrand::Rng,
    ) -> Self {
        progress.set_durable(position);
        Worker {
            sink,
            queue,
            progress,
            limits,
            backoff,
            rng,
            position,
            taken: Taken::default(),
            attempt: 0,
            awaits_restart: false,
        }
    }

    /// Runs until the last queue is closed and empty, the sink stops or is stopped, or `deadline` says that the engine no longer waits.
    pub fn run(mut self, deadline: impl Fn() -> Option<Instant>) {
        while self.progress.is_running() {
            match self.step(true) {
                Step::Done => {}
                Step::Closed => return,
                Step::Stopped(error) => {
                    tracing::error!(
                        sink = self.progress.name,
                        kind = error.kind().as_str(),
                        hint = error.hint_text(),
                        "sink stopped: {}",
                        error.chain()
                    );
                    self.progress.stop(&error);
                    return;
                }
                Step::Wait(wait) => {
                    if !sleep_until(Instant::now() + wait, &deadline) {
                        return;
                    }
                }
            }
        }
    }

    /// One round: take what is there, try it once. `may_wait` says whether to wait for the queue's next item.
    pub fn step(&mut self, may_wait: bool) -> Step {
        if self.taken.is_empty() && !self.take(may_wait) {
            return Step::Closed;
        }
        match self.attempt() {
            Ok(()) => {
                if self.attempt > 0 {
                    self.progress.recover();
                }
                self.attempt = 0;
                let taken = std::mem::take(&mut self.taken);
                drop(taken.runs);
                self.queue.release(taken.bytes);
                if taken.is_restart_next { self.restart() } else { Step::Done }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Takes what has queued, up to the limits. False once the last queue is closed and empty.
    fn take(&mut self, may_wait: bool) -> bool {
        let mut next = if may_wait {
            match self.queue.receive() {
                Some(delivery) => Some(delivery),
                None => return false,
            }
        } else {
            match self.queue.try_receive() {
                Received::Item(delivery) => Some(delivery),
                Received::Empty => None,
                Received::Closed => return false,
            }
        };
        while let Some(delivery) = next {
            self.taken.bytes += delivery.bytes();
            match delivery {
                Delivery::Run(run) => {
                    self.taken.rows += run.all_changes().len();
                    self.taken.idle = None;
                    self.taken.runs.push(run);
                }
                Delivery::Idle(lsn) => self.taken.idle = Some(lsn),
                Delivery::Restart => {
                    self.taken.is_restart_next = true;
                    break;
                }
            }
            if self.taken.rows >= self.limits.rows_max || self.taken.bytes >= self.limits.bytes_max {
                break;
            }
            next = match self.queue.try_receive() {
                Received::Item(delivery) => Some(delivery),
                Received::Empty | Received::Closed => None,
            };
        }
        true
    }

    fn attempt(&mut self) -> Result<()> {
        if self.awaits_restart {
            return Ok(());
        }
        let batch = Batch::new(&self.taken.runs, self.position, self.taken.idle);
        let Some(last) = batch.spans().last().map(|(_, span)| span.commit_time_micros).or_else(|| {
            // Nothing new but perhaps a position to keep.
            batch.idle().map(|_| 0)
        }) else {
            return Ok(());
        };
        let started = Instant::now();
        let applied = self.sink.apply(&batch)?;
        let Applied { changes, transactions, dead_letters } = applied;
        let (bytes, took) = (self.taken.bytes, started.elapsed());
        let batch_applied = BatchApplied { changes, transactions, dead_letters, bytes, took };
        telemetry::batch_applied(&self.progress.name, &batch_applied);
        if let Some(end_lsn) = batch.end_lsn() {
            self.position = end_lsn;
            self.progress.count(applied, Some(last).filter(|&micros| micros != 0));
            self.progress.set_durable(end_lsn);
        } else {
            self.progress.count(applied, None);
        }
        Ok(())
    }

    /// Learns from the target where it is, and decides by the error's kind.
    fn failed(&mut self, error: Error) -> Step {
        let decision = match retry::decide(error.kind(), self.attempt, self.backoff, &mut self.rng) {
            Decision::Stop => return Step::Stopped(error),
            decision => decision,
        };
        self.attempt += 1;
        self.progress.count_retry(&error);
        telemetry::retried(&self.progress.name, error.kind());
        tracing::warn!(
            sink = self.progress.name,
            kind = error.kind().as_str(),
            attempt = self.attempt,
            "applying a batch failed: {}",
            error.chain()
        );
        if let Err(error) = self.relearn() {
            return match retry::decide(error.kind(), self.attempt, self.backoff, &mut self.rng) {
                Decision::Retry(wait) => Step::Wait(wait),
                Decision::Replay | Decision::Stop => Step::Stopped(error),
            };
        }
        let batch = Batch::new(&self.taken.runs, self.position, None);
        let lost_its_start = batch.spans().next().is_some_and(|(_, span)| !span.is_start);
        match decision {
            Decision::Retry(wait) if !lost_its_start => Step::Wait(wait),
            _ => {
                self.awaits_restart = true;
                self.queue.request_replay();
                Step::Done
            }
        }
    }

    fn relearn(&mut self) -> Result<()> {
        let checkpoint = self.sink.checkpoint()?;
        if checkpoint.lsn < self.progress.durable_lsn() {
            return Err(Error::new(
                Kind::NeedsBackfill,
                format!(
                    "the checkpoint of sink {} went back from {} to {}: it was restored or replaced",
                    self.progress.name,
                    self.progress.durable_lsn(),
                    checkpoint.lsn
                ),
            )
            .hint("walcast status shows slot and checkpoints"));
        }
        self.position = checkpoint.lsn;
        Ok(())
    }

    fn restart(&mut self) -> Step {
        match self.relearn() {
            Ok(()) => {
                self.awaits_restart = false;
                Step::Done
            }
            Err(error) => {
                self.taken.is_restart_next = true;
                self.failed(error)
            }
        }
    }
}

/// Sleeps until `wake`, in short naps so that a shutdown is noticed. False once the deadline has passed.
fn sleep_until(wake: Instant, deadline: &impl Fn() -> Option<Instant>) -> bool {
    loop {
        let now = Instant::now();
        match deadline() {
            Some(deadline) if now >= deadline => return false,
            _ if now >= wake => return true,
            _ => std::thread::sleep((wake - now).min(Duration::from_millis(50))),
        }
    }
}
