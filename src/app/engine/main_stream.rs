//! The main stream: what it reads, and what ends one of its sessions besides errors and shutdown.

use std::sync::Arc;

use super::session::{CATCH_UP_INTERVAL, Ending, POLL, Route, Session};
use super::{Setup, Stop};
use crate::Lsn;
use crate::app::notify;
use crate::capture::publication;
use crate::capture::stream::Stream;
use crate::capture::table::{Oid, TableName};
use crate::error::{Error, Result};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, State};
use crate::postgres::socket::Socket;

/// The stream of all sinks that keep up with each other.
pub(super) struct MainStream {
    pub setup: Arc<Setup>,
    pub route: Route,
    /// Where `until_caught_up` ends.
    target: Lsn,
    /// The planned tables that the publication has.
    published: Vec<(Oid, TableName)>,
}

impl MainStream {
    pub(super) fn new(
        setup: Arc<Setup>,
        outlets: Arc<Outlets>,
        progress: Progress,
        target: Lsn,
        published: Vec<(Oid, TableName)>,
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
        };
        MainStream { setup, route, target, published }
    }

    /// One session. See [`Session::run`].
    pub(super) async fn session(&self, stop: &mut Stop) -> Result<(Ending, Option<Stream<Socket>>)> {
        if self.route.progress.running().next().is_none() {
            return Ok((Ending::Deserted, None));
        }
        let session = Session { setup: &self.setup, route: &self.route };
        session.run(stop, notify::ready, self.ending()).await
    }

    /// Resolves when something other than an error or a shutdown ends the session.
    async fn ending(&self) -> Ending {
        let progress = &self.route.progress;
        let noticed = async {
            loop {
                if self.setup.options.until_caught_up && progress.has_reached(self.target) {
                    return Ending::CaughtUp;
                }
                if progress.running().next().is_none() {
                    return Ending::Deserted;
                }
                let position = self.route.outlets.position();
                for sink in progress.sinks().iter().filter(|sink| sink.state() == State::Attached) {
                    self.setup.enforce_limit(sink, position);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            ending = noticed => ending,
            index = self.leaves_publication() => Ending::Unpublished(index),
        }
    }

    /// Resolves when a table is no longer published. The stream does not say so, it only falls silent: after DROP
    /// TABLE, ALTER PUBLICATION, or DROP COLUMN … CASCADE of a column that the publication names.
    async fn leaves_publication(&self) -> usize {
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
            // A publication that is gone as a whole ends the stream by itself.
            if let Ok(described) = publication::describe(&connected, &source.config.publication).await {
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
            self.published[index].1, self.setup.source.config.publication
        ))
        .hint("walcast check says how to publish it again; rows that changed meanwhile must be written once more")
    }
}
