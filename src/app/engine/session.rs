//! One replication session: from the check of the slot to whatever ends it, for the main stream as for a sink's own. What
//! ends it without an error is an [`Ending`]; it never decides what happens then.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{Setup, Stop};
use crate::Lsn;
use crate::app::fill::gate::Gate;
use crate::app::river::{self, RiverOptions};
use crate::app::source::start_replication;
use crate::capture::frame::FrameRun;
use crate::capture::haste::Haste;
use crate::capture::pace::PaceOptions;
use crate::capture::slot;
use crate::capture::stream::{Stream, StreamOptions};
use crate::encode::mapper::OlderForms;
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::TableState;
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::Progress;
use crate::postgres::socket::Socket;
use crate::telemetry;

/// Frame runs between the socket and the river: enough to keep both busy, few enough to stay small.
const RUNS_QUEUED: usize = 4;
/// How often positions are looked at where there is no event to wait for.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// How often an idle server is asked for its position while a run waits to be caught up.
pub(super) const CATCH_UP_INTERVAL: Duration = Duration::from_millis(50);

/// Why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The operator asked for it, or the time is over.
    Shutdown,
    /// Every sink has reached the target.
    CaughtUp,
    /// A scheduled run is over.
    Rest,
    /// A sink lost its open transaction: start again from the slot.
    Replay,
    /// Nothing could be handed on for the route's `stall_limit`. The connection is gone; another session may start.
    Stalled,
    /// No sink of this stream runs any more.
    Deserted,
    /// The sink takes the main stream again, and has everything from before that.
    Rejoined,
    /// The river is gone; it says why when it is joined.
    River,
}

/// A stream's way: from which slot, to whom, and what of it may be confirmed.
pub(super) struct Route {
    /// The slot's name.
    pub slot: String,
    /// What its river's thread is called.
    pub thread: String,
    /// The queues that it feeds.
    pub outlets: Arc<Outlets>,
    /// The sinks that depend on the slot.
    pub progress: Progress,
    /// How often an idle position is asked for and handed on.
    pub idle_interval: Duration,
    /// How long a session may not be read because there is no room for what comes. Such a session hurts the server: a
    /// walsender that cannot write cannot be ended either, and a checkpoint that wants to invalidate its slot waits for
    /// that for ever. No limit where the slot in use is what keeps a second engine waiting.
    pub stall_limit: Option<Duration>,
    /// Where chunks of fills come in: only in the main stream.
    pub gate: Option<Arc<Gate>>,
}

/// What a session is made of.
pub(super) struct Session<'a> {
    pub setup: &'a Setup,
    pub route: &'a Route,
}

/// A session's river thread.
struct RiverThread {
    /// Where the stream hands its frames on; dropping it ends the river.
    runs: mpsc::Sender<FrameRun>,
    /// What the river ended with.
    done: oneshot::Receiver<Result<()>>,
}

impl Session<'_> {
    /// Streams until an error, a shutdown, a sink that asks for the stream again, or `ending`. `started` is called once
    /// the stream flows. The stream is returned alive, if it started, to confirm what still finishes.
    pub(super) async fn run(
        self,
        stop: &mut Stop,
        started: impl FnOnce(),
        ending: impl Future<Output = Ending>,
    ) -> Result<(Ending, Option<Stream<Socket>>)> {
        let mut stream = tokio::select! {
            stream = self.start_stream() => stream?,
            () = stop.asked() => return Ok((Ending::Shutdown, None)),
        };
        telemetry::session_started(&self.route.slot);
        tracing::info!(slot = self.route.slot, "streaming");
        started();

        let replays_before = self.route.outlets.replays_requested();
        let RiverThread { runs, done } = self.start_river()?;
        let why = Cell::new(Ending::River);
        let ends = async {
            why.set(tokio::select! {
                () = stop.asked() => Ending::Shutdown,
                () = self.replay_requested(replays_before) => Ending::Replay,
                () = self.stalled() => Ending::Stalled,
                ending = ending => ending,
            });
        };
        let streamed = stream.run(&runs, ends).await;
        drop(runs);

        if why.get() == Ending::Deserted {
            self.route.outlets.close();
        }

        // The river finishes what it has; the session stays alive meanwhile.
        let mut flowed = Ok(Ok(()));
        let finished = async {
            let mut done = pin!(done);
            tokio::select! {
                result = &mut done => flowed = result,
                () = stop.asked() => {
                    let deadline = self.setup.start_deadline();
                    tokio::select! {
                        result = &mut done => flowed = result,
                        () = tokio::time::sleep_until(deadline.into()) => {
                            self.route.outlets.close();
                            flowed = done.await;
                        }
                    }
                }
            }
        };
        let mut stream = Some(stream).filter(|_| streamed.is_ok() && why.get() != Ending::Stalled);
        let kept_alive = match &mut stream {
            Some(stream) => stream.idle_until(finished).await,
            None => {
                finished.await;
                Ok(())
            }
        };
        flowed.unwrap_or_else(|_| Err(Error::bug("the river's thread panicked")))?;
        streamed?;
        kept_alive?;
        Ok((why.get(), stream))
    }

    async fn stalled(&self) {
        match self.route.stall_limit {
            None => std::future::pending().await,
            Some(limit) => {
                while self.route.outlets.blocked_for() < limit {
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    async fn replay_requested(&self, before: u64) {
        while self.route.outlets.replays_requested() == before {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Connects, holds the slot against the sinks, starts the stream, and looks at the slot again: an LSN that the server
    /// moved meanwhile must not be behind any sink.
    async fn start_stream(&self) -> Result<Stream<Socket>> {
        let source = &self.setup.source;
        let client = source.connect().await?;
        self.check_slot(&client, "before the start").await?;
        let replication = source.connect_replication().await?;
        let sql = start_replication(
            &self.route.slot,
            &source.config.publication,
            // A transaction with nothing but a message is not sent otherwise.
            self.setup.config.heartbeat.interval.is_some(),
        );
        let (socket, buffer) = replication.start_copy_both(&sql).await?;
        self.check_slot(&client, "after the start").await?;
        let options = StreamOptions {
            status_interval: match self.setup.options.until_caught_up {
                true => source.config.status_interval.min(CATCH_UP_INTERVAL),
                false => source.config.status_interval,
            },
            keepalive_interval: self.route.idle_interval,
            message_bytes_max: source.config.max_message_bytes,
            pace: match socket {
                Socket::Unix(_) => PaceOptions::UNIX,
                Socket::Tcp(_) => PaceOptions::TCP,
                Socket::Tls(_) => PaceOptions::TLS,
            },
        };
        let (progress, slot) = (self.route.progress.clone(), self.route.slot.clone());
        let stream = Stream::new(socket, buffer, options, move || {
            let confirmable = progress.confirmable();
            telemetry::confirmed(&slot, confirmable);
            confirmable
        });
        Ok(stream.with_haste(self.haste()))
    }

    /// Whether somebody waits for more than this stream has brought.
    fn haste(&self) -> Haste {
        let outlets = self.route.outlets.clone();
        Haste::new(self.setup.options.demand.subscribe(), move || outlets.position())
    }

    async fn check_slot(&self, client: &tokio_postgres::Client, when: &str) -> Result<()> {
        let name = &self.route.slot;
        let Some(slot) = slot::read(client, name).await? else {
            return Err(Error::new(Kind::NeedsBackfill, format!("slot {name} is gone ({when})"))
                .hint("walcast status shows the sinks' checkpoints; walcast check says what to do"));
        };
        if let Some(reason) = slot.invalidation() {
            return Err(Error::new(
                Kind::NeedsBackfill,
                format!("slot {name} was invalidated by the server: {reason} ({when})"),
            )
            .hint("walcast status shows the sinks' checkpoints; walcast check says what to do"));
        }
        let confirmed = slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
        match self.route.progress.behind(confirmed) {
            None => Ok(()),
            Some(sink) => Err(Error::new(
                Kind::NeedsBackfill,
                format!(
                    "slot {name} is at {confirmed}, ahead of sink {} at {} ({when}): somebody else moved it",
                    sink.name,
                    sink.durable_lsn()
                ),
            )
            .hint("walcast status shows slot and checkpoints")),
        }
    }

    /// The tables that every sink reads anew, where it is not past the plan.
    fn older_forms(&self) -> OlderForms {
        let until = self.setup.planned_at;
        let is_read_anew = |table: &usize| {
            self.route.progress.sinks().iter().all(|sink| {
                let position = sink.durable_lsn();
                let state = sink.fills().state(*table, position);
                !sink.is_running()
                    || sink.is_away()
                    || position >= until
                    || !matches!(state, TableState::Live)
            })
        };
        OlderForms { tables: (0..self.setup.plan.tables.len()).filter(is_read_anew).collect(), until }
    }

    fn start_river(&self) -> Result<RiverThread> {
        let (runs, frames) = mpsc::channel(RUNS_QUEUED);
        let (finished, done) = oneshot::channel();
        let (plan, outlets) = (self.setup.current.clone(), self.route.outlets.clone());
        let (gate, haste) = (self.route.gate.clone(), self.haste());
        let options = RiverOptions {
            part_bytes_max: self.setup.config.transaction.part_max_bytes,
            idle_interval: match self.setup.options.until_caught_up {
                true => Duration::ZERO,
                false => self.route.idle_interval,
            },
            needed_from: self.route.progress.needed_from(),
            older: self.older_forms(),
        };
        std::thread::Builder::new()
            .name(self.route.thread.clone())
            .spawn(move || {
                let _ = finished.send(river::run(frames, plan, outlets, gate, options, haste));
            })
            .map_err(|error| Error::halt("starting the river's thread").because(error))?;
        Ok(RiverThread { runs, done })
    }
}
