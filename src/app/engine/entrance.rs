//! How one sink comes into a running engine: opened, held against the slot, and given to the crew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Pauses;
use super::crew::Crew;
use crate::Lsn;
use crate::app::fill::settled::settled;
use crate::app::sinks::{self, OpenedSink};
use crate::app::source::Judged;
use crate::capture::catalog;
use crate::capture::slot::SinkVerdict;
use crate::config::BackfillMode;
use crate::error::{Error, Result};
use crate::fanout::fill::TableFill;
use crate::fanout::progress::{Progress, SinkProgress};
use crate::fanout::sink::Checkpoint;

/// How long what was confirmed before the slot waited for a sink may take to arrive at the server.
const SETTLE: Duration = Duration::from_secs(1);

/// A sink on its way in.
pub(super) struct Entrance {
    pub crew: Arc<Crew>,
    pub progress: Arc<SinkProgress>,
    /// The main slot has waited for it since before anything was confirmed. If not, it may have been confirmed past its
    /// checkpoint just before.
    pub is_held: bool,
}

/// What is to be written to a sink before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// It goes on from its checkpoint.
    Resume(Lsn),
    /// The same, on the copy of the slot that it has.
    Apart(Lsn),
    /// It was never fed.
    Fresh(Lsn),
    /// What it lacks no slot has any more.
    Anew(Lsn),
}

impl Entrance {
    /// Waits until the sink is open, and brings it in, however often that takes.
    pub(super) async fn run(self, opened: oneshot::Receiver<Result<OpenedSink>>) {
        let opened = opened.await.unwrap_or_else(|_| Err(Error::bug("opening the sink panicked")));
        let mut sink = match opened {
            Ok(sink) => sink,
            Err(error) => return sinks::stop(&self.progress, &error),
        };
        let checkpoint = sink.checkpoint.clone();
        let mut pauses = Pauses::new(&self.crew.setup.config);
        let start = loop {
            // One that was taken out meanwhile is not touched.
            if self.progress.is_retired() {
                return;
            }
            let started = Instant::now();
            let error = match self.judge(checkpoint.as_ref()).await {
                Ok(start) => break start,
                Err(error) => error,
            };
            if !super::is_passing(&error) {
                return sinks::stop(&self.progress, &error);
            }
            let wait = pauses.after(started);
            self.progress.set_obstacle(Some(&error));
            tracing::warn!(
                sink = self.progress.name,
                wait_ms = wait.as_millis() as u64,
                "the sink cannot be held against the slot yet: {}",
                error.chain()
            );
            tokio::time::sleep(wait).await;
        };
        if self.progress.is_retired() {
            return;
        }
        // A sink that hangs must not hold up this thread.
        let (answer, written) = oneshot::channel();
        let setup = self.crew.setup.clone();
        let thread = std::thread::Builder::new().name(format!("start-{}", self.progress.name));
        let spawned = thread.spawn(move || {
            let kept = |table: usize, fill: Option<&TableFill>, position| {
                settled(&setup.plan.tables[table], fill, position, setup.came[table])
            };
            let done = start
                .write(&mut sink)
                .and_then(|()| sink.settle_tables(kept))
                .and_then(|()| sink.forgo(|table| !setup.wanted[table]));
            let _ = answer.send(done.map(|()| sink));
        });
        if let Err(error) = spawned {
            let error = Error::halt("starting the thread that starts a sink").because(error);
            return sinks::stop(&self.progress, &error);
        }
        match written.await.unwrap_or_else(|_| Err(Error::bug("starting the sink panicked"))) {
            Ok(sink) => self.enter(sink, start),
            Err(error) => sinks::stop(&self.progress, &error),
        }
    }

    fn enter(self, sink: OpenedSink, start: Start) {
        let at = match start {
            Start::Resume(at) | Start::Apart(at) | Start::Fresh(at) | Start::Anew(at) => at,
        };
        if matches!(start, Start::Apart(_)) {
            self.progress.stand_apart();
        }
        tracing::info!(sink = self.progress.name, lsn = %at, "the sink is open and joins the others");
        let is_held = self.is_held || matches!(start, Start::Fresh(_) | Start::Anew(_));
        self.crew.admit(sink, at, is_held);
    }

    /// Holds the sink against the slot and its own copy of it.
    async fn judge(&self, checkpoint: Option<&Checkpoint>) -> Result<Start> {
        let (setup, name) = (&self.crew.setup, self.progress.name.clone());
        if !self.is_held {
            tokio::time::sleep(SETTLE).await;
        }
        let source = &setup.source;
        let client = source.connect().await?;
        let server = catalog::read_server(&client).await?;
        let slots = source.slots(&client, &server).await?;
        let found = [(name.clone(), checkpoint.cloned())];
        let judged = source.judge(&client, &server, slots, &found).await?;
        let Judged { slot, copies, judgement, .. } = judged;
        let identity = source.identity(&server);
        if let Some(error) = judgement.slot.error(&identity) {
            // The main stream says so too, and what is to be done.
            return Err(Error::transient("the slot is of no use").because(error));
        }
        let confirmed = slot.and_then(|slot| slot.confirmed_flush_lsn).unwrap_or(Lsn::ZERO);
        // Nothing beyond it can have been confirmed without this sink.
        let others =
            self.crew.progress.sinks().into_iter().filter(|other| !Arc::ptr_eq(other, &self.progress));
        let start = confirmed.max(Progress::new(others.collect()).confirmable());
        let is_filled = setup.config.backfill.mode == BackfillMode::Initial;
        let Some((_, verdict)) = judgement.sinks.into_iter().next() else {
            return Err(Error::bug("a slot that can be used has no verdict on a sink"));
        };
        let copy = source.copy_of(&name, &copies).filter(|copy| copy.invalidation().is_none());
        let copied = copy.and_then(|copy| copy.confirmed_flush_lsn);
        match (&verdict, checkpoint) {
            (SinkVerdict::Resume | SinkVerdict::CatchUp { .. }, Some(checkpoint)) => {
                // The main slot need not have waited for one that had a copy.
                Ok(match copied.is_some_and(|copied| copied <= checkpoint.lsn) {
                    true => Start::Apart(checkpoint.lsn),
                    false => Start::Resume(checkpoint.lsn),
                })
            }
            (SinkVerdict::Fresh | SinkVerdict::NoCheckpoint, _)
                if is_filled || setup.options.start_at_slot.contains(&name) =>
            {
                Ok(Start::Fresh(start))
            }
            // Others go on from the slot, so it is not the slot that was moved.
            (SinkVerdict::SlotAhead { .. }, _) if is_filled => Ok(Start::Anew(start)),
            (SinkVerdict::Fresh, _) => Err(never_fed(&name, &identity)),
            (verdict, _) => Err(verdict
                .error(&name, &identity)
                .unwrap_or_else(|| Error::bug("a verdict without an error"))),
        }
    }
}

fn never_fed(name: &str, identity: &crate::capture::slot::SourceIdentity) -> Error {
    SinkVerdict::NoCheckpoint
        .error(name, identity)
        .unwrap_or_else(|| Error::bug("a sink that was never fed can go on"))
}

impl Start {
    fn write(self, sink: &mut OpenedSink) -> Result<()> {
        match self {
            Start::Resume(_) | Start::Apart(_) => Ok(()),
            Start::Fresh(lsn) => {
                tracing::info!(sink = sink.progress.name, %lsn, "new replica: it begins here and is filled");
                sink.start_at(lsn)
            }
            Start::Anew(lsn) => {
                tracing::warn!(sink = sink.progress.name, %lsn, "the slot is ahead of the replica: it is filled anew");
                sink.begin_anew(lsn)
            }
        }
    }
}
