//! What each sink has made durable, and what the slot may therefore be told.
//!
//! Workers write, the capture stage and the command line read. Positions are single atomics: a worker stores its
//! position after the sink committed, so whoever reads it can rely on the commit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::Lsn;
use crate::error::{Error, Kind};
use crate::telemetry;

/// All sinks of one slot.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    sinks: Vec<Arc<SinkProgress>>,
}

impl Progress {
    /// The progress of these sinks, in the configuration's order.
    pub fn new(sinks: Vec<Arc<SinkProgress>>) -> Self {
        Progress { sinks }
    }

    /// Every sink, stopped ones included.
    pub fn sinks(&self) -> &[Arc<SinkProgress>] {
        &self.sinks
    }

    /// The highest position that every sink has made durable: what may be confirmed. A stopped sink holds it back,
    /// because its rows are not there yet; a detached one does not, because the slot can no longer help it. Zero until
    /// every sink has a position.
    pub fn confirmable(&self) -> Lsn {
        let holding = self.sinks.iter().filter(|sink| !matches!(sink.state(), State::Detached(_)));
        holding.map(|sink| sink.durable_lsn()).min().unwrap_or(Lsn::ZERO)
    }

    /// The lowest position of a sink that still runs: what was committed before it need not be applied again. Zero
    /// until every such sink has a position.
    pub fn needed_from(&self) -> Lsn {
        self.running().map(|sink| sink.durable_lsn()).min().unwrap_or(Lsn::ZERO)
    }

    /// Whether every sink that still runs has reached `target`.
    pub fn has_reached(&self, target: Lsn) -> bool {
        self.running().all(|sink| sink.durable_lsn() >= target)
    }

    /// How often a sink has lost its open transaction and asked for the stream again. Grows by one each time; each
    /// sink asks once until the stream has started again.
    pub fn replays_requested(&self) -> u64 {
        self.running().map(|sink| sink.replays_requested.load(Ordering::Acquire)).sum()
    }

    /// The sinks that are still applied to.
    pub fn running(&self) -> impl Iterator<Item = &Arc<SinkProgress>> {
        self.sinks.iter().filter(|sink| sink.state() == State::Attached)
    }
}

/// A sink's relation to the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It takes what the stream brings. Set at the start; `Stopped` or `Detached` may follow.
    Attached,
    /// It waits for an operator, who finds the reason here. Set by its worker or at the start. The slot keeps what it
    /// lacks, so it goes on after a restart.
    Stopped(String),
    /// It lacks changes that no slot has any more; only filling it anew makes it right. Set like `Stopped`.
    Detached(String),
}

impl State {
    /// The state as one lower-case word.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Attached => "attached",
            State::Stopped(_) => "stopped",
            State::Detached(_) => "detached",
        }
    }
}

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
    replays_requested: AtomicU64,
    state: Mutex<State>,
    failure: Mutex<Option<Failure>>,
    is_paused: AtomicBool,
    moved: Notify,
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
            replays_requested: AtomicU64::new(0),
            state: Mutex::new(State::Attached),
            failure: Mutex::new(None),
            is_paused: AtomicBool::new(false),
            moved: Notify::new(),
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

    /// The sink's relation to the stream.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why its last attempt failed, until one succeeds.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether its worker leaves what has queued where it is.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// Pauses or resumes the sink. While it is paused, it is applied nothing, and so holds the slot back. A batch that
    /// is being applied is finished. Lasts as long as the process.
    pub fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
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

    /// Says that the sink's checkpoint is `lsn` now. Never goes back.
    pub fn set_durable(&self, lsn: Lsn) {
        self.durable_lsn.fetch_max(lsn.0, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(super) fn count(&self, applied: super::sink::Applied, commit_time_micros: Option<i64>) {
        self.changes.fetch_add(applied.changes, Ordering::Relaxed);
        self.transactions.fetch_add(applied.transactions, Ordering::Relaxed);
        self.dead_letters.fetch_add(applied.dead_letters, Ordering::Relaxed);
        if let Some(micros) = commit_time_micros {
            self.commit_time_micros.store(micros as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn count_retry(&self, error: &Error) {
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

    pub(super) fn recover(&self) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn request_replay(&self) {
        self.replays_requested.fetch_add(1, Ordering::Release);
    }

    /// Takes the sink out of action because of `error`, whose kind says whether the slot can still help it.
    pub fn stop(&self, error: &Error) {
        telemetry::sink_stopped(&self.name, error);
        let reason = error.chain();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = match error.kind() {
            Kind::NeedsBackfill => State::Detached(reason),
            Kind::Transient
            | Kind::Throttled { .. }
            | Kind::Rejected
            | Kind::Replay
            | Kind::Halt
            | Kind::Config
            | Kind::Bug => State::Stopped(reason),
        };
        self.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_sink_decides_and_a_stopped_one_still_counts_but_a_detached_one_does_not() {
        let (eu, na) = (SinkProgress::new("eu"), SinkProgress::new("na"));
        let progress = Progress::new(vec![eu.clone(), na.clone()]);
        assert_eq!(progress.confirmable(), Lsn::ZERO);
        eu.set_durable(Lsn(10));
        assert_eq!(progress.confirmable(), Lsn::ZERO);
        na.set_durable(Lsn(7));
        assert_eq!(progress.confirmable(), Lsn(7));
        na.stop(&Error::halt("wrong file"));
        eu.set_durable(Lsn(20));
        assert_eq!(progress.confirmable(), Lsn(7));
        assert!(progress.has_reached(Lsn(20)));
        na.stop(&Error::new(Kind::NeedsBackfill, "the slot is past it"));
        assert_eq!(progress.confirmable(), Lsn(20));
    }

    #[tokio::test]
    async fn whoever_waits_for_a_position_learns_that_it_was_reached_or_never_will_be() {
        let eu = SinkProgress::new("eu");
        assert!(eu.reach(Lsn::ZERO).await);
        let waiting = tokio::spawn({
            let eu = eu.clone();
            async move { eu.reach(Lsn(10)).await }
        });
        eu.set_durable(Lsn(9));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        eu.set_durable(Lsn(10));
        assert!(waiting.await.unwrap());
        let waiting = tokio::spawn({
            let eu = eu.clone();
            async move { eu.reach(Lsn(11)).await }
        });
        tokio::task::yield_now().await;
        eu.stop(&Error::halt("wrong file"));
        assert!(!waiting.await.unwrap());
    }

    #[test]
    fn a_failure_is_kept_until_an_attempt_succeeds() {
        let eu = SinkProgress::new("eu");
        assert!(eu.failure().is_none());
        eu.count_retry(&Error::transient("away"));
        eu.count_retry(&Error::transient("still away").hint("look there"));
        let failure = eu.failure().unwrap();
        assert_eq!((failure.attempts, failure.problem.as_str()), (2, "still away"));
        assert_eq!(failure.hint.as_deref(), Some("look there"));
        eu.recover();
        assert!(eu.failure().is_none());
        assert_eq!(eu.retries(), 2);
    }

    #[test]
    fn a_position_never_goes_back() {
        let eu = SinkProgress::new("eu");
        eu.set_durable(Lsn(10));
        eu.set_durable(Lsn(3));
        assert_eq!(eu.durable_lsn(), Lsn(10));
    }
}
