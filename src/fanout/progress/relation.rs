//! A sink's relation to the stream, and each way from one to the next.
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
//! after `rejoin`. Slots are made and dropped elsewhere, and queues too.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use super::SinkProgress;
use crate::Lsn;
use crate::error::{Error, Kind};
use crate::telemetry;

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

/// What decides which slots a sink depends on.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) state: State,
    /// A copy of the slot keeps what the sink lacks, and the main slot need not. Outlasts `Apart` only in a sink that
    /// stopped there.
    pub(super) has_own_slot: bool,
    /// Since when it has been in this state.
    pub(super) since: SystemTime,
    /// What keeps it from catching up.
    pub(super) obstacle: Option<String>,
    /// Up to where everything was sent to it when it left.
    pub(super) left_at: Lsn,
}

impl SinkProgress {
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

    pub(super) fn relation(&self) -> MutexGuard<'_, Relation> {
        self.relation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main stream, which has sent everything up to `at`, goes on without the sink. True if it was attached; a
    /// joining one is back where it was.
    pub(in crate::fanout) fn leave(&self, at: Lsn) -> bool {
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
    pub(in crate::fanout) fn lose(&self, error: &Error) {
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
    pub(in crate::fanout) fn come_back(&self) -> bool {
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
    pub(in crate::fanout) fn take_in(&self, at: impl FnOnce() -> Lsn) -> bool {
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
