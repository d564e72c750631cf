//! What each sink has made durable, and what a slot may therefore be told.
//!
//! Workers write, the capture stage and the command line read. Positions are single atomics: a worker stores its
//! position after the sink committed, so whoever reads it can rely on the commit.
//!
//! **Two kinds of slot.** The main slot holds what any sink lacks, unless a copy of it holds that for the sink. A sink's
//! way from one to the other and back is the [`State`] here, and each of its steps is one method, because whether the
//! main slot may forget what the sink lacks hangs on their order:
//!
//! ```text
//! Attached ──leave──► Left ──stand_apart──► Apart ──take_in──► Joining ──rejoin──► Attached
//!     ▲                │▲  (the copy exists)                      │  (it has all up to where it was taken in)
//!     └───come_back────┘└──────────────────leave──────────────────┘
//! ```
//!
//! A sink that is not open yet is `Left` too, or `Apart` where it has a copy from before: `await_opening` puts it there,
//! and `arrive` says what it has once it is open.
//!
//! The main slot is held for the sink in every state but `Apart`; the copy, from `Apart` until it is dropped some time
//! after `rejoin`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::fill::{Fills, TableFill};
use super::queue::Gauge;
use crate::Lsn;
use crate::error::{Error, Kind};
use crate::telemetry;

/// The sinks as one slot and its stream see them. Clones see the same sinks, also those that come and go.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    sinks: Arc<RwLock<Vec<Arc<SinkProgress>>>>,
    slot: SlotKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum SlotKind {
    #[default]
    Main,
    /// A sink's own.
    Copy,
}

impl Progress {
    /// All sinks, in the configuration's order, as the main slot sees them.
    pub fn new(sinks: Vec<Arc<SinkProgress>>) -> Self {
        Progress { sinks: Arc::new(RwLock::new(sinks)), slot: SlotKind::Main }
    }

    /// One sink, as its own copy of the slot sees it.
    pub fn of_copy(sink: Arc<SinkProgress>) -> Self {
        Progress { sinks: Arc::new(RwLock::new(vec![sink])), slot: SlotKind::Copy }
    }

    /// Every sink that there is now, stopped ones included.
    pub fn sinks(&self) -> Vec<Arc<SinkProgress>> {
        self.sinks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sink of that name.
    pub fn find(&self, name: &str) -> Option<Arc<SinkProgress>> {
        self.sinks().into_iter().find(|sink| sink.name == name)
    }

    /// Depends on these sinks from now on, in this order. What was confirmed before may be beyond a new one.
    pub fn set_sinks(&self, sinks: Vec<Arc<SinkProgress>>) {
        *self.sinks.write().unwrap_or_else(PoisonError::into_inner) = sinks;
    }

    /// The highest position that every sink which depends on the slot has made durable: what may be confirmed. A stopped
    /// sink holds it back, because its rows are not there yet; a detached one does not, because the slot can no longer
    /// help it; one that has a slot of its own does not hold back the main one. Zero until every such sink has a position.
    pub fn confirmable(&self) -> Lsn {
        // The positions first. A sink that is taken in between the two reads is taken in at or behind them, so leaving
        // it out was right; the other way round, the others' positions might lie behind where it was taken in.
        let sinks = self.sinks();
        let positions: Vec<Lsn> = sinks.iter().map(|sink| sink.durable_lsn()).collect();
        let holding = sinks.iter().zip(positions).filter(|(sink, _)| self.depends(sink));
        holding.map(|(_, lsn)| lsn).min().unwrap_or(Lsn::ZERO)
    }

    fn depends(&self, sink: &SinkProgress) -> bool {
        let relation = sink.relation();
        let is_elsewhere = self.slot == SlotKind::Main && relation.has_own_slot;
        !is_elsewhere && !matches!(relation.state, State::Detached(_))
    }

    /// The lowest position of a sink that takes this stream: what was committed before it need not be applied again.
    /// Zero until every such sink has a position.
    pub fn needed_from(&self) -> Lsn {
        let takers = self.sinks().into_iter().filter(|sink| match sink.state() {
            State::Attached | State::CatchingUp(Phase::Joining(_)) => true,
            // It may come back when the stream starts.
            State::CatchingUp(Phase::Left) => true,
            State::CatchingUp(Phase::Apart) => self.slot == SlotKind::Copy,
            State::Stopped(_) | State::Detached(_) => false,
        });
        takers.map(|sink| sink.durable_lsn()).min().unwrap_or(Lsn::ZERO)
    }

    /// A sink that takes this stream and nothing else, and is behind `confirmed`: the slot has lost what it lacks.
    pub fn behind(&self, confirmed: Lsn) -> Option<Arc<SinkProgress>> {
        self.sinks().into_iter().find(|sink| {
            let is_from_here = self.slot == SlotKind::Copy || sink.state() == State::Attached;
            is_from_here && sink.is_running() && sink.durable_lsn() < confirmed
        })
    }

    /// Whether every sink that still runs has reached `target`.
    pub fn has_reached(&self, target: Lsn) -> bool {
        self.running().all(|sink| sink.durable_lsn() >= target)
    }

    /// The sinks that are still applied to.
    pub fn running(&self) -> impl Iterator<Item = Arc<SinkProgress>> + use<> {
        self.sinks().into_iter().filter(|sink| sink.is_running())
    }
}

/// A sink's relation to the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It takes what the main stream brings. Set at the start and by [`SinkProgress::rejoin`]; anything may follow.
    Attached,
    /// It was slower than the others, and the main stream goes on without it. Set by `SinkProgress::leave`, or at the
    /// start for one that was catching up before.
    CatchingUp(Phase),
    /// It waits for an operator, who finds the reason here. Set by its worker or at the start. A slot keeps what it
    /// lacks, so it goes on after a restart.
    Stopped(String),
    /// It lacks changes that no slot has any more, or holds back more WAL than it may; only filling it anew makes it
    /// right. Set like `Stopped`.
    Detached(String),
}

/// How far a sink is with catching up. See the module's head for what may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has left the main stream. The main slot keeps what it lacks until it has a copy.
    Left,
    /// It reads a copy of the slot at its own pace.
    Apart,
    /// It still reads its copy, up to this position; what comes after it in the main stream queues for it already.
    Joining(Lsn),
}

impl State {
    /// The state as one lower-case word.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Attached => "attached",
            State::CatchingUp(_) => "catching-up",
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

/// What decides which slots a sink depends on.
#[derive(Debug, Clone)]
struct Relation {
    state: State,
    /// A copy of the slot keeps what the sink lacks, and the main slot need not. Outlasts `Apart` only in a sink that
    /// stopped there.
    has_own_slot: bool,
    /// Since when it has been in this state.
    since: SystemTime,
    /// What keeps it from catching up.
    obstacle: Option<String>,
    /// Up to where everything was sent to it when it left.
    left_at: Lsn,
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
    relation: Mutex<Relation>,
    failure: Mutex<Option<Failure>>,
    is_paused: AtomicBool,
    /// It has not been opened yet.
    is_away: AtomicBool,
    /// What it wrote to is gone.
    is_lost: AtomicBool,
    /// It was taken out of the configuration.
    is_retired: AtomicBool,
    /// Its queue; a second one while it changes between streams.
    queues: Mutex<Vec<Gauge>>,
    moved: Notify,
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
    pub(super) fn add_queue(&self, queue: Gauge) {
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

    /// The sink's relation to the stream.
    pub fn state(&self) -> State {
        self.relation().state.clone()
    }

    /// Since when it has been attached, catching up, stopped or detached.
    pub fn since(&self) -> SystemTime {
        self.relation().since
    }

    /// What keeps a sink that has left from catching up, and what to do about it.
    pub fn obstacle(&self) -> Option<String> {
        self.relation().obstacle.clone()
    }

    /// Says what keeps the sink from catching up, or that nothing does.
    pub fn set_obstacle(&self, error: Option<&Error>) {
        self.relation().obstacle = error.map(|error| match error.hint_text() {
            Some(hint) => format!("{} ({hint})", error.chain()),
            None => error.chain(),
        });
    }

    /// Whether it is still applied to.
    pub fn is_running(&self) -> bool {
        matches!(self.relation().state, State::Attached | State::CatchingUp(_))
    }

    /// Why its last attempt failed, until one succeeds.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether waiting for it is of no use: it is paused, or has been failing for so long.
    pub(super) fn takes_nothing(&self, patience: Duration) -> bool {
        let has_failed_for =
            |failure: Failure| failure.since.elapsed().is_ok_and(|passed| passed >= patience);
        self.is_paused() || self.failure().is_some_and(has_failed_for)
    }

    fn relation(&self) -> MutexGuard<'_, Relation> {
        self.relation.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub(super) fn set_fill(&self, table: usize, fill: TableFill) {
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

    pub(super) fn count(&self, applied: super::sink::Applied, commit_time_micros: Option<i64>) {
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

    /// The main stream, which has sent everything up to `at`, goes on without the sink. True if it was attached; a
    /// joining one is back where it was.
    pub(super) fn leave(&self, at: Lsn) -> bool {
        let mut relation = self.relation();
        relation.left_at = at;
        let was_attached = relation.state == State::Attached;
        if was_attached || matches!(relation.state, State::CatchingUp(_)) {
            self.enter(&mut relation, State::CatchingUp(Phase::Left));
        }
        was_attached
    }

    /// The sink is not open yet, and lacks everything behind `lsn`, as far as that is known: the main slot waits for it
    /// until [`arrive`](Self::arrive), unless it [stands apart](Self::stand_apart).
    pub fn await_opening(&self, lsn: Lsn) {
        let mut relation = self.relation();
        self.move_to(lsn);
        self.is_away.store(true, Ordering::Release);
        relation.left_at = Lsn(u64::MAX);
        relation.obstacle = Some("it has not been opened yet".to_owned());
        self.enter(&mut relation, State::CatchingUp(Phase::Left));
    }

    /// The sink is open and has everything up to `lsn`. A copy of the slot brings what follows; where it needs none because
    /// the main slot `is_held`, that may also start again for it. False for one that was taken out.
    pub fn arrive(&self, lsn: Lsn, is_held: bool) -> bool {
        let mut relation = self.relation();
        if self.is_retired() {
            return false;
        }
        self.move_to(lsn);
        self.is_away.store(false, Ordering::Release);
        relation.left_at = if is_held { lsn } else { Lsn(u64::MAX) };
        relation.obstacle = None;
        if !matches!(relation.state, State::CatchingUp(Phase::Apart)) {
            relation.has_own_slot = false;
            self.enter(&mut relation, State::CatchingUp(Phase::Left));
        }
        true
    }

    /// Its worker ends because the target is gone, or another one stands in its place: as long as nobody has opened that,
    /// it is [awaited](Self::await_opening) behind what the old one had.
    pub(super) fn lose(&self, error: &Error) {
        if self.is_retired() {
            return;
        }
        self.await_opening(self.durable_lsn());
        self.is_lost.store(true, Ordering::Release);
        self.set_obstacle(Some(error));
    }

    /// Whether its target has to be opened again, as a new one.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// Whether it has not been opened yet.
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// Takes the sink out for good: nothing is applied to it any more, and no slot is held for it.
    pub fn retire(&self) {
        let mut relation = self.relation();
        self.is_retired.store(true, Ordering::Release);
        relation.state = State::Detached("it was taken out of the configuration".to_owned());
        drop(relation);
        self.moved.notify_waiters();
    }

    /// Whether it was taken out.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }

    /// Whether a sink that left, and has no copy of the slot, has applied all that was sent to it.
    pub fn has_drained(&self) -> bool {
        let relation = self.relation();
        relation.state == State::CatchingUp(Phase::Left) && self.durable_lsn() >= relation.left_at
    }

    /// Attaches a sink that left and has no copy of the slot, because the main stream starts again at or before its
    /// checkpoint. False for any other.
    pub(super) fn come_back(&self) -> bool {
        let mut relation = self.relation();
        let has_left = relation.state == State::CatchingUp(Phase::Left);
        if has_left {
            relation.obstacle = None;
            self.enter(&mut relation, State::Attached);
        }
        has_left
    }

    /// A copy of the slot holds what the sink lacks: it exists, and was not confirmed past the sink's checkpoint. A
    /// sink that is stopped stays so.
    pub fn stand_apart(&self) {
        let mut relation = self.relation();
        match relation.state {
            State::Attached | State::CatchingUp(Phase::Left) => {
                relation.has_own_slot = true;
                self.enter(&mut relation, State::CatchingUp(Phase::Apart));
            }
            State::Stopped(_) => relation.has_own_slot = true,
            State::CatchingUp(Phase::Apart | Phase::Joining(_)) | State::Detached(_) => {}
        }
    }

    /// Everything from now on in the main stream goes to the sink again. `at` says up to where the main slot may have
    /// been confirmed without it; it is asked while nobody can leave the sink out any more. False for a sink that does
    /// not wait for that.
    pub(super) fn take_in(&self, at: impl FnOnce() -> Lsn) -> bool {
        let mut relation = self.relation();
        let waits = relation.state == State::CatchingUp(Phase::Apart);
        if waits {
            relation.has_own_slot = false;
            self.enter(&mut relation, State::CatchingUp(Phase::Joining(at())));
        }
        waits
    }

    /// Attaches a sink that has everything up to where it was taken in; false for any other. From here on the main
    /// stream alone feeds it.
    pub fn rejoin(&self) -> bool {
        let mut relation = self.relation();
        let is_there = match relation.state {
            State::CatchingUp(Phase::Joining(at)) => self.durable_lsn() >= at,
            _ => false,
        };
        if is_there {
            self.enter(&mut relation, State::Attached);
        }
        is_there
    }

    /// Takes the sink out of action because of `error`, whose kind says whether a slot can still help it.
    pub fn stop(&self, error: &Error) {
        if self.is_retired() {
            return;
        }
        telemetry::sink_stopped(&self.name, error);
        let reason = error.chain();
        let state = match error.kind() {
            Kind::NeedsBackfill | Kind::Replaced => State::Detached(reason),
            Kind::Transient
            | Kind::Throttled { .. }
            | Kind::Rejected
            | Kind::Replay
            | Kind::Halt
            | Kind::Config
            | Kind::Bug => State::Stopped(reason),
        };
        self.enter(&mut self.relation(), state);
        self.moved.notify_waiters();
    }

    fn enter(&self, relation: &mut Relation, state: State) {
        if relation.state.as_str() != state.as_str() {
            relation.since = SystemTime::now();
            telemetry::state_changed(&self.name, state.as_str());
        }
        relation.state = state;
    }
}

#[cfg(test)]
mod tests;
