//! How far one sink is: its position, its counts, its fills, and why its last attempt failed.
//!
//! Positions are single atomics: a worker stores its position after the sink committed, so whoever reads it can rely on
//! the commit. What hangs on more than one of them is in `relation`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::State;
use super::relation::Relation;
use crate::Lsn;
use crate::error::{Error, Kind};
use crate::fanout::fill::{Fills, TableFill};
use crate::fanout::queue::Gauge;
use crate::fanout::sink::Applied;

/// Why a sink's last attempt failed; its worker tries again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When the first attempt in a row failed.
    pub since: SystemTime,
    /// How many failed in a row.
    pub attempts: u32,
    /// The last error's kind.
    pub kind: Kind,
    /// The last error with its causes.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// One sink's progress.
#[derive(Debug)]
pub struct SinkProgress {
    /// The sink's name in the configuration.
    pub name: String,
    durable_lsn: AtomicU64,
    commit_time_micros: AtomicU64,
    changes: AtomicU64,
    transactions: AtomicU64,
    dead_letters: AtomicU64,
    retries: AtomicU64,
    pub(super) relation: Mutex<Relation>,
    failure: Mutex<Option<Failure>>,
    is_paused: AtomicBool,
    /// It has not been opened yet.
    pub(super) is_away: AtomicBool,
    /// What it wrote to is gone.
    pub(super) is_lost: AtomicBool,
    /// It was taken out of the configuration.
    pub(super) is_retired: AtomicBool,
    /// Its queue; a second one while it changes between streams.
    queues: Mutex<Vec<Gauge>>,
    pub(super) moved: Notify,
    fills: Mutex<Fills>,
    fill_steps_sent: AtomicU64,
    fill_steps_done: AtomicU64,
}

impl SinkProgress {
    /// A sink that has confirmed nothing yet.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(SinkProgress {
            name: name.to_owned(),
            durable_lsn: AtomicU64::new(0),
            commit_time_micros: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            relation: Mutex::new(Relation {
                state: State::Attached,
                has_own_slot: false,
                since: SystemTime::now(),
                obstacle: None,
                left_at: Lsn::ZERO,
            }),
            failure: Mutex::new(None),
            is_paused: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            queues: Mutex::default(),
            moved: Notify::new(),
            fills: Mutex::default(),
            fill_steps_sent: AtomicU64::new(0),
            fill_steps_done: AtomicU64::new(0),
        })
    }

    /// The sink's checkpoint.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable_lsn.load(Ordering::Acquire))
    }

    /// When the last applied transaction was committed at the source, in microseconds since 1970-01-01 UTC.
    pub fn commit_time_micros(&self) -> Option<i64> {
        Some(self.commit_time_micros.load(Ordering::Relaxed) as i64).filter(|&micros| micros != 0)
    }

    /// Row changes written since the start.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Transactions applied since the start.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Dead letters written since the start.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// Failed attempts since the start.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Bytes that wait in its queues or are being applied.
    pub fn queued_bytes(&self) -> usize {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().filter_map(Gauge::used_bytes).sum()
    }

    /// It is fed through this queue too. Those that are gone are forgotten.
    pub(in crate::fanout) fn add_queue(&self, queue: Gauge) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|queue| queue.used_bytes().is_some());
        queues.push(queue);
    }

    /// How many steps of fills were put into its queues, less those that only say what is owed.
    pub fn fill_steps_sent(&self) -> u64 {
        self.fill_steps_sent.load(Ordering::Acquire)
    }

    /// How many of them it is done with.
    pub fn fill_steps_done(&self) -> u64 {
        self.fill_steps_done.load(Ordering::Acquire)
    }

    /// One more is in its queue.
    pub fn fill_step_sent(&self) {
        self.fill_steps_sent.fetch_add(1, Ordering::AcqRel);
    }

    /// It is done with one more, whatever came of it.
    pub fn fill_step_done(&self) {
        self.fill_steps_done.fetch_add(1, Ordering::AcqRel);
    }

    /// Why its last attempt failed, until one succeeds.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether its worker leaves what has queued where it is.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// Pauses or resumes the sink. While it is paused, it is applied nothing: a slot keeps what it lacks, a copy of its own
    /// once its queue is full. A batch that is being applied is finished. Lasts as long as the process.
    pub fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Whether waiting for it is of no use: it is paused, or has been failing for so long.
    pub(in crate::fanout) fn takes_nothing(&self, patience: Duration) -> bool {
        let has_failed_for =
            |failure: Failure| failure.since.elapsed().is_ok_and(|passed| passed >= patience);
        self.is_paused() || self.failure().is_some_and(has_failed_for)
    }

    /// Waits until the sink's checkpoint is at `target`, or it is taken out of action; returns whether it is there.
    pub async fn reach(&self, target: Lsn) -> bool {
        loop {
            // Enabled before the look, so that nothing that comes after it is missed.
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if self.durable_lsn() >= target {
                return true;
            }
            if matches!(self.state(), State::Stopped(_) | State::Detached(_)) {
                return false;
            }
            moved.await;
        }
    }

    /// How far each of its tables is.
    pub fn fills(&self) -> Fills {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at how far each of its tables is.
    pub fn look_at_fills<T>(&self, look: impl FnOnce(&Fills) -> T) -> T {
        look(&self.fills.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says how far all tables are, as the sink has it.
    pub fn set_fills(&self, fills: Fills) {
        *self.fills.lock().unwrap_or_else(PoisonError::into_inner) = fills;
    }

    /// Says how far a table is now.
    pub(in crate::fanout) fn set_fill(&self, table: usize, fill: TableFill) {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner).set(table, fill);
    }

    /// The sink begins anew at `lsn`, before or behind where it was.
    pub fn move_to(&self, lsn: Lsn) {
        self.durable_lsn.store(lsn.0, Ordering::Release);
    }

    /// Says that the sink's checkpoint is `lsn` now. Never goes back.
    pub fn set_durable(&self, lsn: Lsn) {
        self.durable_lsn.fetch_max(lsn.0, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(in crate::fanout) fn count(&self, applied: Applied, commit_time_micros: Option<i64>) {
        self.changes.fetch_add(applied.changes, Ordering::Relaxed);
        self.transactions.fetch_add(applied.transactions, Ordering::Relaxed);
        self.dead_letters.fetch_add(applied.dead_letters, Ordering::Relaxed);
        if let Some(micros) = commit_time_micros {
            self.commit_time_micros.store(micros as u64, Ordering::Relaxed);
        }
    }

    /// Counts a failed attempt, and keeps why.
    pub fn count_retry(&self, error: &Error) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, attempts) =
            failure.as_ref().map_or((SystemTime::now(), 0), |before| (before.since, before.attempts));
        *failure = Some(Failure {
            since,
            attempts: attempts.saturating_add(1),
            kind: error.kind(),
            problem: error.chain(),
            hint: error.hint_text().map(str::to_owned),
        });
    }

    /// Says that an attempt succeeded.
    pub fn recover(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
