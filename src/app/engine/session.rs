//! One replication session: from the check of the slot to whatever ends it. What ends it without an error is an
//! [`Ending`]; it never decides what happens then.

use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Engine, asked_to_stop};
use crate::Lsn;
use crate::app::notify;
use crate::app::river::{self, RiverOptions};
use crate::app::source::start_replication;
use crate::app::view::Phase;
use crate::capture::frame::FrameRun;
use crate::capture::pace::PaceOptions;
use crate::capture::publication;
use crate::capture::slot;
use crate::capture::stream::{Stream, StreamOptions};
use crate::error::{Error, Kind, Result};
use crate::postgres::socket::Socket;
use crate::telemetry;

/// Frame runs between the socket and the river: enough to keep both busy, few enough to stay small.
const RUNS_QUEUED: usize = 4;
/// How often positions are looked at where there is no event to wait for.
const POLL: Duration = Duration::from_millis(10);
/// How often an idle server is asked for its position while a run waits to be caught up.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(50);

/// Why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The operator asked for it, or the time is over.
    Shutdown,
    /// Every sink has reached the target.
    CaughtUp,
    /// A sink lost its open transaction: start again from the slot.
    Replay,
    /// A table left the publication; it is this one of `Engine::published`.
    Unpublished(usize),
    /// The river is gone; it says why when it is joined.
    River,
}

/// A session's river thread.
struct RiverThread {
    /// Where the stream hands its frames on; dropping it ends the river.
    runs: mpsc::Sender<FrameRun>,
    /// What the river ended with.
    done: oneshot::Receiver<Result<()>>,
}

impl Engine {
    /// One replication session, until something ends it. Its stream is returned alive, if it started, to confirm what
    /// still finishes.
    pub(super) async fn session(
        &self,
        shutdown: &mut watch::Receiver<bool>,
        ends: Option<Instant>,
    ) -> Result<(Ending, Option<Stream<Socket>>)> {
        let mut stream = tokio::select! {
            stream = self.start_stream() => stream?,
            () = asked_to_stop(shutdown, ends) => return Ok((Ending::Shutdown, None)),
        };
        telemetry::session_started();
        tracing::info!(slot = self.source.config.slot, "streaming");
        notify::ready();
        self.options.view.set_phase(Phase::Streaming);

        let RiverThread { runs, done } = self.start_river()?;
        let why = Cell::new(Ending::River);
        let streamed = stream.run(&runs, async { why.set(self.ending(shutdown, ends).await) }).await;
        drop(runs);

        // The river finishes what it has; the session stays alive meanwhile.
        let mut flowed = Ok(Ok(()));
        let finished = async {
            let mut done = pin!(done);
            tokio::select! {
                result = &mut done => flowed = result,
                () = asked_to_stop(shutdown, ends) => {
                    self.start_deadline();
                    flowed = done.await;
                }
            }
        };
        let kept_alive = match streamed {
            Ok(()) => stream.idle_until(finished).await,
            Err(_) => {
                finished.await;
                Ok(())
            }
        };
        flowed.unwrap_or_else(|_| Err(Error::bug("the river's thread panicked")))?;
        streamed?;
        kept_alive?;
        Ok((why.get(), Some(stream)))
    }

    /// Resolves when something other than an error ends the session.
    async fn ending(&self, shutdown: &mut watch::Receiver<bool>, ends: Option<Instant>) -> Ending {
        let progress = &self.fanout.progress;
        let replays_before = progress.replays_requested();
        let noticed = async {
            loop {
                if self.options.until_caught_up && progress.has_reached(self.target) {
                    return Ending::CaughtUp;
                }
                if progress.replays_requested() > replays_before {
                    return Ending::Replay;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            () = asked_to_stop(shutdown, ends) => Ending::Shutdown,
            ending = noticed => ending,
            index = self.leaves_publication() => Ending::Unpublished(index),
        }
    }

    /// Resolves when a table is no longer published. The stream does not say so, it only falls silent: after DROP
    /// TABLE, ALTER PUBLICATION, or DROP COLUMN … CASCADE of a column that the publication names.
    async fn leaves_publication(&self) -> usize {
        let mut client = None;
        loop {
            tokio::time::sleep(self.source.config.idle_checkpoint_interval).await;
            // A failure here is the session's matter; this only looks again.
            let Ok(connected) = (match client.take() {
                Some(connected) => Ok(connected),
                None => self.source.connect().await,
            }) else {
                continue;
            };
            // A publication that is gone as a whole ends the stream by itself.
            if let Ok(described) = publication::describe(&connected, &self.source.config.publication).await {
                let gone = described.and_then(|now| {
                    self.published
                        .iter()
                        .position(|(oid, _)| now.tables.iter().all(|member| member.oid != *oid))
                });
                if let Some(index) = gone {
                    return index;
                }
                client = Some(connected);
            }
        }
    }

    pub(super) fn unpublished(&self, index: usize) -> Error {
        Error::halt(format!(
            "table {} is no longer in publication {}: what changed in it since then is not in the replicas",
            self.published[index].1, self.source.config.publication
        ))
        .hint("walcast check says how to publish it again; rows that changed meanwhile must be written once more")
    }

    /// Connects, holds the slot against the sinks, starts the stream, and looks at the slot again: an LSN that the server
    /// moved meanwhile must not be behind any sink.
    async fn start_stream(&self) -> Result<Stream<Socket>> {
        let client = self.source.connect().await?;
        self.check_slot(&client, "before the start").await?;
        let replication = self.source.connect_replication().await?;
        let sql = start_replication(&self.source.config.slot, &self.source.config.publication);
        let (socket, buffer) = replication.start_copy_both(&sql).await?;
        self.check_slot(&client, "after the start").await?;
        let config = &self.source.config;
        let options = StreamOptions {
            status_interval: match self.options.until_caught_up {
                true => config.status_interval.min(CATCH_UP_INTERVAL),
                false => config.status_interval,
            },
            keepalive_interval: self.idle_interval(),
            message_bytes_max: config.max_message_bytes,
            pace: match socket {
                Socket::Unix(_) => PaceOptions::UNIX,
                Socket::Tcp(_) => PaceOptions::TCP,
                Socket::Tls(_) => PaceOptions::TLS,
            },
        };
        let progress = self.fanout.progress.clone();
        Ok(Stream::new(socket, buffer, options, move || progress.confirmable()))
    }

    async fn check_slot(&self, client: &tokio_postgres::Client, when: &str) -> Result<()> {
        let name = &self.source.config.slot;
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
        match self.fanout.progress.running().find(|sink| sink.durable_lsn() < confirmed) {
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

    fn start_river(&self) -> Result<RiverThread> {
        let (runs, frames) = mpsc::channel(RUNS_QUEUED);
        let (finished, done) = oneshot::channel();
        let (plan, outlets) = (self.plan.clone(), self.fanout.outlets.clone());
        let options = RiverOptions {
            part_bytes_max: self.config.transaction.part_max_bytes,
            idle_interval: match self.options.until_caught_up {
                true => Duration::ZERO,
                false => self.idle_interval(),
            },
            needed_from: self.fanout.progress.needed_from(),
        };
        std::thread::Builder::new()
            .name("river".to_owned())
            .spawn(move || {
                let result = river::run(frames, plan, &outlets, options);
                drop(outlets);
                let _ = finished.send(result);
            })
            .map_err(|error| Error::halt("starting the river's thread").because(error))?;
        Ok(RiverThread { runs, done })
    }

    fn idle_interval(&self) -> Duration {
        match self.options.until_caught_up {
            true => CATCH_UP_INTERVAL,
            false => self.source.config.idle_checkpoint_interval,
        }
    }
}
