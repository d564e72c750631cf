//! A sink's worker: takes what has queued for its sink, applies it, retries it, and says how far the sink is.
//!
//! Group commit: a sink that is idle takes everything queued, up to its own limits; while it is busy the queue grows.
//! [`Worker::step`] is one such round without any waiting of its own, so that a simulation can drive it: it takes
//! (`batching`), attempts (`applying`), and where that fails finds out what became of it (`recovering`).

mod applying;
mod batching;
mod recovering;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::batching::Taken;
use super::chain::Chain;
use super::fill::{Fills, OwedKey};
use super::progress::SinkProgress;
use super::retry::Backoff;
use super::sink::{OpenTransaction, Reached, Sink};
use crate::Lsn;
use crate::encode::plan::Plan;
use crate::error::{Error, Kind};

/// How often a paused sink's worker looks whether it may go on.
const PAUSE_NAP: Duration = Duration::from_millis(20);

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
    /// What the sink had of the transaction behind it, when that was last asked.
    open: Option<OpenTransaction>,
    /// How far the sink's fills are.
    fills: Fills,
    /// Rows that updates did not find, until the sink says that they are owed.
    missing: Vec<(usize, OwedKey)>,
    /// What was taken from the queue and is not applied yet.
    taken: Taken,
    /// Failed attempts at what is taken.
    attempt: u32,
    /// An attempt failed, and the target has not been asked yet what became of it.
    is_unsure: bool,
    /// The sink lost its open transaction: everything is dropped until the stream starts again.
    awaits_restart: bool,
    /// What the runs' tables are, for the sync log.
    plan: Arc<Plan>,
    /// What they are called.
    tables: Vec<String>,
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
    /// A worker for an opened sink whose checkpoint is `position`, and whose fills `progress` knows.
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
        let fills = progress.fills();
        Worker {
            sink,
            queue,
            progress,
            limits,
            backoff,
            rng,
            position,
            open: None,
            fills,
            missing: Vec::new(),
            taken: Taken::default(),
            attempt: 0,
            is_unsure: false,
            awaits_restart: false,
            plan: Arc::default(),
            tables: Vec::new(),
        }
    }

    /// With the plan that the runs were mapped by, for the sync log: without it, no table is named there.
    pub fn with_plan(self, plan: Arc<Plan>) -> Self {
        let tables = plan.tables.iter().map(|table| table.source.plain()).collect();
        Worker { plan, tables, ..self }
    }

    /// Runs until the last queue is closed and empty, the sink stops or is stopped, or `deadline` says that the engine no longer waits.
    pub fn run(mut self, deadline: impl Fn() -> Option<Instant>) {
        while self.progress.is_running() {
            match self.step(true) {
                Step::Done => {}
                Step::Closed => {
                    if deadline().is_none_or(|deadline| Instant::now() < deadline) {
                        self.sink.end();
                    }
                    return;
                }
                Step::Stopped(_) if self.progress.is_retired() => return,
                Step::Stopped(error) if error.kind() == Kind::Replaced => {
                    tracing::warn!(sink = self.progress.name, "{}", error.chain());
                    self.progress.lose(&error);
                    return;
                }
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
                // What it holds is sent again at the next start.
                Step::Wait(_) if self.progress.is_paused() && deadline().is_some() => return,
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
        if self.taken.is_empty() || self.taken.awaits_end {
            if !self.take(may_wait) {
                return Step::Closed;
            }
            if self.taken.awaits_end {
                return Step::Done;
            }
        }
        if self.progress.is_paused() {
            return Step::Wait(PAUSE_NAP);
        }
        if self.is_unsure && !self.awaits_restart {
            if let Err(error) = self.relearn() {
                self.attempt += 1;
                self.progress.count_retry(&error);
                return self.wait_after(error);
            }
            if self.has_lost_the_start() {
                return self.ask_for_replay();
            }
        }
        match self.attempt() {
            Ok(reached) => {
                if self.attempt > 0 {
                    self.progress.recover();
                }
                self.attempt = 0;
                // A sink that goes on without the rows that updates do not find says so afterwards.
                self.missing.extend(self.sink.take_missing());
                if !self.missing.is_empty()
                    && let Err(error) = self.keep_missing(self.missing.clone())
                {
                    return self.failed(error);
                }
                self.missing.clear();
                if reached != Reached::All {
                    let bytes = self.taken.let_go(reached);
                    self.queue.release(bytes);
                    self.top_up(may_wait);
                    return Step::Done;
                }
                let taken = std::mem::take(&mut self.taken);
                drop(taken.runs);
                if taken.fill.is_some() {
                    self.progress.fill_step_done();
                }
                self.queue.release(taken.bytes - taken.released_bytes);
                if taken.is_restart_next { self.restart() } else { Step::Done }
            }
            Err(error) => self.failed(error),
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
