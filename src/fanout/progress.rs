//! What each sink has made durable, and what a slot may therefore be told.
//!
//! Workers write, the capture stage and the command line read: `sink` is what they have of one sink, `relation` its way
//! between the streams, and [`Progress`] all sinks as one slot depends on them. A slot is told nothing here.

mod relation;
mod sink;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

pub use self::relation::{Phase, State};
pub use self::sink::{Failure, SinkProgress};
use crate::Lsn;

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
