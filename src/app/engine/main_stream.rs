//! The main stream: what it reads, and what ends one of its sessions besides errors and shutdown.

use std::convert::Infallible;
use std::sync::Arc;

use bytesize::ByteSize;
use tokio_postgres::Client;

use super::schedule::{Schedule, ScheduledRun};
use super::session::{CATCH_UP_INTERVAL, Ending, POLL, Route, Session};
use super::tables::Tables;
use super::{FINISH_TIMEOUT, Setup, Stop};
use crate::Lsn;
use crate::app::fill::gate::Gate;
use crate::app::fill::resume::goes_on_by_itself;
use crate::app::view::Phase as EnginePhase;
use crate::app::{notify, sinks};
use crate::capture::catalog::{self, Server};
use crate::capture::slot;
use crate::capture::stream::Stream;
use crate::error::{Error, Kind, Result};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Phase, Progress, SinkProgress, State};
use crate::postgres::socket::Socket;

/// The stream of all sinks that keep up with each other.
pub(super) struct MainStream {
    pub setup: Arc<Setup>,
    pub route: Route,
    /// Where `until_caught_up` ends.
    target: Lsn,
    /// What the catalog says of the planned tables.
    tables: Tables,
}

impl MainStream {
    pub(super) fn new(
        setup: Arc<Setup>,
        outlets: Arc<Outlets>,
        gate: Arc<Gate>,
        progress: Progress,
        target: Lsn,
        tables: Tables,
    ) -> Self {
        let source = &setup.source.config;
        let route = Route {
            slot: source.slot.clone(),
            thread: "river".to_owned(),
            outlets,
            progress,
            idle_interval: match setup.options.until_caught_up {
                true => CATCH_UP_INTERVAL,
                false => source.idle_checkpoint_interval,
            },
            stall_limit: None,
            gate: Some(gate),
        };
        MainStream { setup, route, target, tables }
    }

    /// One session, of the run that is due if there is a schedule. See [`Session::run`].
    pub(super) async fn session(
        &self,
        stop: &mut Stop,
        schedule: Option<&mut Schedule>,
    ) -> Result<(Ending, Option<Stream<Socket>>)> {
        if self.route.progress.running().next().is_none() {
            return Ok((Ending::Deserted, None));
        }
        let run = match schedule {
            Some(schedule) => Some(schedule.begin(&self.setup, &self.route.outlets).await?),
            None => None,
        };
        let session = Session { setup: &self.setup, route: &self.route };
        let started = || {
            notify::ready();
            self.setup.options.view.set_phase(EnginePhase::Streaming);
        };
        session.run(stop, started, self.ending(run)).await
    }

    /// Resolves when something other than an error or a shutdown ends the session.
    async fn ending(&self, run: Option<ScheduledRun>) -> Ending {
        let progress = &self.route.progress;
        let noticed = async {
            loop {
                let has_all = || progress.running().all(|sink| self.has_all(&sink));
                if self.setup.options.until_caught_up && progress.has_reached(self.target) && has_all() {
                    return Ending::CaughtUp;
                }
                if progress.running().next().is_none() {
                    return Ending::Deserted;
                }
                let wanted = self.setup.options.demand.wanted();
                if run.is_some_and(|run| run.is_over(wanted, progress, &self.route.outlets)) {
                    return Ending::Rest;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            ending = noticed => ending,
            never = self.watch() => match never {},
        }
    }

    /// Whether the sink has everything that comes without anybody's doing.
    fn has_all(&self, sink: &SinkProgress) -> bool {
        let Setup { plan, planned_at, fills, .. } = &*self.setup;
        fills.has_all(sink, |table, stopped| goes_on_by_itself(plan, *planned_at, table, stopped))
    }

    /// Looks at the source now and then: which tables are gone, which the stream does not say, it only falls silent, after
    /// DROP TABLE, ALTER PUBLICATION, or DROP COLUMN … CASCADE of a column that the publication names; and which sinks
    /// cannot be helped.
    async fn watch(&self) -> Infallible {
        let source = &self.setup.source;
        let mut client = None;
        loop {
            tokio::time::sleep(source.config.idle_checkpoint_interval).await;
            // A failure here is the session's matter; this only looks again.
            let Ok(connected) = (match client.take() {
                Some(connected) => Ok(connected),
                None => source.connect().await,
            }) else {
                continue;
            };
            if let Ok(server) = catalog::read_server(&connected).await {
                self.detach_beyond_help(&connected, &server).await;
            }
            if self.tables.look(&self.setup, &connected).await.is_ok() {
                client = Some(connected);
            }
        }
    }

    /// Takes the sinks out of action that hold back more WAL than they may, and those whose own slot the server has given
    /// up, which their streams may not notice while they are stuck.
    async fn detach_beyond_help(&self, client: &Client, server: &Server) {
        let source = &self.setup.source;
        let needs_backfill = |message| Error::new(Kind::NeedsBackfill, message).hint(slot::ANEW);
        let running = || self.route.progress.running();
        for sink in running() {
            let behind = server.current_wal_lsn.0.saturating_sub(sink.durable_lsn().0);
            if let Some(max) = self.setup.config.catch_up.max_wal.filter(|max| behind > *max) {
                let message = format!(
                    "sink {} is {} behind the server, more than catch_up.max_wal ({}): no slot is held for it any more",
                    sink.name,
                    ByteSize(behind),
                    ByteSize(max)
                );
                sinks::stop(&sink, &needs_backfill(message));
            }
        }
        if !running().any(|sink| matches!(sink.state(), State::CatchingUp(_))) {
            return;
        }
        let Ok(copies) = slot::read_copies(client, &source.config.slot, &server.database).await else {
            return;
        };
        for sink in running().filter(|sink| sink.state() == State::CatchingUp(Phase::Apart)) {
            let copy = source.copy_of(&sink.name, &copies);
            if let Some((copy, reason)) = copy.and_then(|copy| Some((copy, copy.invalidation()?))) {
                let message = format!("slot {} was invalidated by the server: {reason}", copy.name);
                sinks::stop(&sink, &needs_backfill(message));
            }
        }
    }

    /// Confirms what every sink has, and ends the session, so that the slot is in use no more.
    pub(super) async fn let_go(&self, stream: Option<Stream<Socket>>) {
        if let Some(stream) = stream
            && let Err(error) = stream.finish(FINISH_TIMEOUT).await
        {
            // The next run begins a little earlier, and skips what is there.
            tracing::warn!("the position of the run may not be confirmed: {}", error.chain());
        }
    }
}
