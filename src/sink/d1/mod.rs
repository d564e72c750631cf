//! A regional replica in a Cloudflare D1 database, through its REST API or through the Worker that walcast ships.
//!
//! While a request is in flight, the next one is composed, if enough has queued for it: one at most, so beside the batch
//! a sink holds two bodies, each of the size of a request.
//!
//! A batch becomes requests, each one call of a [`Transport`] and one transaction at D1: first the checkpoint, which is
//! its own fence, then the rows, folded by key. D1 keeps no transaction open between calls, so a source transaction that
//! alone has more than a request takes is made durable in parts; every other one is there entirely or not at all.
//!
//! In reading order: `request` cuts batches, `compose` and `tables` write the statements, `bound` those of very long
//! rows, `limits` says how large they
//! may be, `state` is the checkpoint and its fence, `open` prepares a database, `send` sends and learns from `failures`,
//! `isolate` finds a row that the database refuses, `dead_letters` and `cost` keep account, `inspect` and `reading`
//! look in from beside. Below them, `transport` is
//! what they ask of a way to the database, in the form that `body` gives it: `rest`, which shares a `budget` of requests, and `worker`, both over `http`.
//! `verdict` says what a failed call means.

pub mod body;
mod bound;
pub mod budget;
mod compose;
mod contents;
pub mod cost;
mod dead_letters;
mod failures;
mod fills;
pub mod http;
mod inspect;
mod isolate;
pub mod limits;
mod open;
mod prune;
mod reading;
mod request;
pub mod rest;
mod send;
mod state;
mod swap;
mod tables;
pub mod transport;
pub mod verdict;
pub mod worker;

use std::sync::Arc;

pub use inspect::{Inspected, inspect};
pub use prune::prune;
pub use reading::{dead_letters, drop_dead_letters, row};

use self::cost::Usage;
use self::limits::RequestLimits;
use self::send::Session;
use self::transport::Transport;
use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::fill::{FillWrite, Fills, OwedKey};
use crate::fanout::sink::{Applied, Batch, Checkpoint, Reached, Sink, Whole};
use crate::sink::replica::OnRejected;

/// How a D1 sink writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// What happens to a row that the database does not take.
    pub on_rejected: OnRejected,
    /// Whether a row is left alone that is there already as it comes. Saves writes where updates often change nothing
    /// that is mapped, and costs a comparison of every column.
    pub skip_unchanged: bool,
    /// How large requests are.
    pub request: RequestLimits,
    /// Whether an operator wants to say when tables of a database that is fed already are changed.
    pub awaits_operator: bool,
}

/// The D1 sink.
pub struct D1Sink {
    /// What errors call the database.
    place: String,
    options: Options,
    transport: Box<dyn Transport>,
    session: Option<Session>,
}

impl D1Sink {
    /// A sink that reaches its database through `transport`; errors call it `place`. Nothing is sent yet.
    pub fn new(place: impl Into<String>, transport: Box<dyn Transport>, options: Options) -> Self {
        D1Sink { place: place.into(), options, transport, session: None }
    }

    /// What has been written and paid for, as far as it is known; `None` before the first checkpoint.
    pub fn usage(&self) -> Option<&Usage> {
        self.session.as_ref()?.usage()
    }

    /// The session, and what it sends through.
    fn opened(&mut self) -> Result<(&mut Session, &mut dyn Transport)> {
        let session = self.session.as_mut().ok_or_else(|| Error::bug("D1 sink used before it was opened"))?;
        Ok((session, &mut *self.transport))
    }
}

impl Sink for D1Sink {
    fn open(&mut self, plan: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>> {
        let opened = open::open(&mut *self.transport, plan, source, &self.place, self.options);
        let session = opened.map_err(|error| error.context(format!("opening {}", self.place)))?;
        let checkpoint = session.known_checkpoint();
        self.session = Some(session);
        Ok(checkpoint)
    }

    fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        let (session, transport) = self.opened()?;
        session.start_at(transport, lsn).map_err(|error| error.context(&self.place))
    }

    fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        let (session, transport) = self.opened()?;
        session.begin_anew(transport, lsn).map_err(|error| error.context(&self.place))
    }

    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        let (session, transport) = self.opened()?;
        session.fill(transport, write).map_err(|error| error.context(&self.place))
    }

    fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        self.session.as_mut().map(Session::take_missing).unwrap_or_default()
    }

    fn fills(&mut self) -> Result<Fills> {
        let (session, transport) = self.opened()?;
        session.fills(transport).map_err(|error| error.context(&self.place))
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        let mut applied = Applied::default();
        loop {
            let (step, reached) = self.apply_some(batch)?;
            applied.add(step);
            if reached == Reached::All {
                return Ok(applied);
            }
        }
    }

    fn apply_some(&mut self, batch: &Batch<'_>) -> Result<(Applied, Reached)> {
        let (session, transport) = self.opened()?;
        session.apply(transport, batch).map_err(|error| error.context(&self.place))
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let (session, transport) = self.opened()?;
        session.checkpoint(transport).map_err(|error| error.context(&self.place))
    }

    fn end(&mut self) {
        if let Ok((session, transport)) = self.opened() {
            session.end(transport);
        }
    }

    fn whole(&self) -> Whole {
        self.options.request.whole()
    }
}
