//! The detour of a sink that was left behind: its own stream, and when it is back. What streams, and from which slot, is
//! the engine's matter; here are the decisions, each taken by looking at where everybody is.
//!
//! **Order.** Each step makes the next one safe, and a crash between any two loses nothing:
//!
//! 1. The copy of the slot is made while the main slot still waits for the sink, so it begins at or before the sink's
//!    checkpoint. Only then does the main slot forget the sink ([`SinkProgress::stand_apart`]).
//! 2. The sink is taken in by the main river: from then on what comes there queues for it, and the main slot waits for it
//!    again. Its own stream goes on until the sink has everything up to that point: only then does it get the queue.
//! 3. The copy is dropped once the sink is where the main slot is, or beyond ([`may_drop`]): until then only the copy has
//!    what the sink would lack after a crash.
//!
//! Whoever starts after a crash sees the same: a sink behind the main slot goes on on its copy, any other needs none.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::chain::Inlet;
use super::outlets::Outlets;
use super::progress::{Phase, SinkProgress, State};
use crate::Lsn;

/// A sink that takes a stream of its own.
pub struct Detour {
    sink: Arc<SinkProgress>,
    main: Arc<Outlets>,
    own: Arc<Outlets>,
    /// Behind which its worker's queues come.
    inlets: Sender<Inlet>,
    bytes_max: usize,
    /// Its queue in the main stream, once it has asked to be taken in.
    next: Option<Inlet>,
}

/// Where a sink on a detour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progressed {
    /// On its way.
    On,
    /// It has everything up to where the main river took it in, and is attached: [`Detour::arrive`] follows.
    Back,
    /// It stopped or was detached: its own stream has nobody to go to.
    Over,
}

impl Detour {
    /// Begins the detour of a sink for which a copy of the slot exists: it stands apart from here on, and its worker gets
    /// a queue of up to `bytes_max` for its own stream.
    pub fn begin(
        sink: &Arc<SinkProgress>,
        main: &Arc<Outlets>,
        inlets: Sender<Inlet>,
        bytes_max: usize,
    ) -> Detour {
        sink.stand_apart();
        // A sink alone is never left behind, whatever the patience.
        let (own, _) = Outlets::new(Duration::MAX);
        let (outlet, inlet) = own.queue(sink, bytes_max);
        own.attach(outlet);
        // A worker that is gone has said why.
        let _ = inlets.send(inlet);
        Detour { sink: sink.clone(), main: main.clone(), own: Arc::new(own), inlets, bytes_max, next: None }
    }

    /// Where the sink's own river sends.
    pub fn outlets(&self) -> &Arc<Outlets> {
        &self.own
    }

    /// One look at where everybody is, and what follows from it. Never blocks.
    pub fn step(&mut self) -> Progressed {
        match self.sink.state() {
            State::CatchingUp(Phase::Apart) if self.next.is_some() => self.main.take_in_now(),
            State::CatchingUp(Phase::Apart) => {
                if self.is_near() {
                    let (outlet, inlet) = self.main.queue(&self.sink, self.bytes_max);
                    self.next = Some(inlet);
                    self.main.join(outlet);
                }
            }
            State::CatchingUp(Phase::Joining(_)) => {
                if self.sink.rejoin() {
                    return Progressed::Back;
                }
            }
            State::CatchingUp(Phase::Left) => {
                // Left behind again before it was there. The copy is still its own.
                self.next = None;
                self.sink.stand_apart();
            }
            State::Attached => return Progressed::Back,
            State::Stopped(_) | State::Detached(_) => return Progressed::Over,
        }
        Progressed::On
    }

    /// Whether what the sink still lacks is little enough to be applied before its queue in the main stream is full.
    fn is_near(&self) -> bool {
        let near = self.bytes_max / 2;
        let is_drained = self.own.used_bytes_max().is_some_and(|bytes| bytes <= near);
        is_drained && self.own.position().0.saturating_add(near as u64) >= self.main.position().0
    }

    /// Gives the worker its queue in the main stream, behind what is left of its own.
    pub fn arrive(self) {
        if let Some(inlet) = self.next {
            let _ = self.inlets.send(inlet);
        }
        self.own.close();
    }

    /// Ends the sink's own stream where it is. The worker applies what is queued, and ends where nobody else has a queue
    /// for it.
    pub fn end(self) {
        drop(self.inlets);
        self.own.close();
    }
}

/// Whether a sink's copy of the slot may be dropped, where the main slot was last seen confirmed to `confirmed`.
pub fn may_drop(sink: &SinkProgress, confirmed: Lsn) -> bool {
    match sink.state() {
        // It will never read any slot again.
        State::Detached(_) => true,
        State::Attached | State::CatchingUp(Phase::Left) => confirmed <= sink.durable_lsn(),
        // After the next start it goes on from the copy.
        State::CatchingUp(Phase::Apart | Phase::Joining(_)) | State::Stopped(_) => false,
    }
}
