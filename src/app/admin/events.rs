//! `GET /events`: what the page shows, as it changes. Enters: the status, health and the sync log, looked at once a
//! second for all subscribers together, and not at all while there is none. Leaves: server-sent events. A subscriber that
//! reads slowly misses some, and holds up nobody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, watch};
use utoipa::ToSchema;

use super::Shared;
use super::health::{Liveness, Readiness};
use super::problem::Problem;
use super::status;
use crate::app::commands::status::Status;
use crate::encode::plan::PlannedTable;
use crate::error::{Error, Result};
use crate::telemetry::sync_log::{self, Filter};

/// Subscribers at a time: fewer than there may be connections, so that probes still get in.
const SUBSCRIBERS_MAX: usize = 64;
/// The pause between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A connection on which nothing is sent for so long gets a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Entries of the sync log that are sent at once; of more, the newest.
const ENTRIES_MAX: usize = 200;
/// Lists of entries that a slow subscriber may be behind before it misses some.
const LISTS_KEPT: usize = 16;

/// Tells all subscribers the same.
pub(super) struct Events {
    state: watch::Sender<Option<Event>>,
    entries: broadcast::Sender<Event>,
    places: Arc<Semaphore>,
    /// Somebody has subscribed.
    wanted: Notify,
}

/// Everything at a moment: the data of an event `state`.
#[derive(Serialize, ToSchema)]
pub(super) struct Snapshot {
    /// When, in RFC 3339.
    at: String,
    /// walcast's version.
    version: &'static str,
    /// What `/livez` says.
    liveness: Liveness,
    /// What `/readyz` says.
    readiness: Readiness,
    /// What `/status` says.
    status: Status,
    /// Whether `/logs` has anything to show, and events `entries` come.
    keeps_log: bool,
    /// What is replicated, in the order of `schema.json`; empty until the engine is prepared.
    tables: Vec<Replicated>,
}

/// A table that is replicated.
#[derive(Serialize, ToSchema)]
struct Replicated {
    /// Its name, as `/status/{table}/{key}` takes it.
    name: String,
    /// Its name in the regions.
    target: String,
    /// The columns of its key at the source, in key order.
    key: Vec<String>,
    /// How many columns are replicated.
    columns: usize,
    /// The planner's estimate of its rows when the engine was prepared; null when there is none.
    estimated_rows: Option<u64>,
}

impl Replicated {
    fn new(table: &PlannedTable) -> Self {
        Replicated {
            name: table.source.plain(),
            target: table.target.clone(),
            key: table.key_columns().map(|column| column.source.clone()).collect(),
            columns: table.columns.len(),
            estimated_rows: u64::try_from(table.estimated_rows).ok(),
        }
    }
}

impl Snapshot {
    async fn take(shared: &Shared) -> Self {
        let status = status::current(shared).await;
        let prepared = shared.view.prepared();
        let tables = prepared.iter().flat_map(|prepared| &prepared.plan.tables);
        Snapshot {
            at: Timestamp::now().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            liveness: Liveness::of(shared),
            readiness: Readiness::of(shared).await,
            status,
            keeps_log: shared.config().log.sync_file.is_some(),
            tables: tables.map(Replicated::new).collect(),
        }
    }
}

impl Events {
    pub(super) fn new() -> Self {
        Events {
            state: watch::Sender::new(None),
            entries: broadcast::Sender::new(LISTS_KEPT),
            places: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            wanted: Notify::new(),
        }
    }

    /// Looks and tells, as long as anybody listens, until it is dropped.
    pub(super) async fn run(&self, shared: &Shared) {
        let mut told = None;
        loop {
            if self.state.receiver_count() == 0 {
                // The next who comes sees nothing old.
                self.state.send_replace(None);
                told = None;
                self.wanted.notified().await;
                continue;
            }
            match self.tell_entries(shared, told).await {
                Ok(last) => told = last,
                Err(error) => tracing::debug!("the sync log could not be told: {}", error.chain()),
            }
            let snapshot = Snapshot::take(shared).await;
            if let Ok(event) = Event::default().event("state").json_data(&snapshot) {
                self.state.send_replace(Some(event));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Tells the entries behind `told`, and returns the last one's number. The first time, nothing: `/logs` has what was.
    async fn tell_entries(&self, shared: &Shared, told: Option<i64>) -> Result<Option<i64>> {
        let Some(path) = shared.config().log.sync_file.clone() else { return Ok(None) };
        let limit = if told.is_some() { ENTRIES_MAX } else { 1 };
        let filter = Filter { after: told, ..Filter::default() };
        let read = tokio::task::spawn_blocking(move || sync_log::read(&path, &filter, limit));
        let found = read.await.map_err(|error| Error::bug("reading the sync log").because(error))??;
        let mut entries = found.entries;
        let last = entries.first().map(|newest| newest.id).or(told);
        if told.is_some() && !entries.is_empty() {
            entries.reverse();
            if let Ok(event) = Event::default().event("entries").json_data(&entries) {
                // Nobody may be there any more.
                let _ = self.entries.send(event);
            }
        }
        Ok(last.or(Some(0)))
    }
}

/// What one subscriber holds.
struct Subscriber {
    state: watch::Receiver<Option<Event>>,
    entries: broadcast::Receiver<Event>,
    stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Subscriber {
    /// The next event; `None` once the API stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                _ = self.stopping.wait_for(|stop| *stop) => return None,
                changed = self.state.changed() => {
                    changed.ok()?;
                    if let Some(event) = self.state.borrow_and_update().clone() {
                        return Some(event);
                    }
                }
                entries = self.entries.recv() => match entries {
                    Ok(event) => return Some(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
            }
        }
    }
}

/// What changes, as it changes
///
/// Server-sent events. `state` comes once a second, with the status, health and tables as one JSON document; what the
/// source and the targets show in it is as old as in `/status`. `entries` comes with a JSON array of what is new in the
/// sync log, the oldest first. Who reads too slowly misses events.
#[utoipa::path(
    get,
    path = "/events",
    tag = "status",
    responses(
        (status = 200, description = "Events without end; the data of `state`", body = Snapshot, content_type = "text/event-stream"),
        (status = 429, description = "Too many listen already", body = Problem),
    )
)]
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
) -> std::result::Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>, Problem> {
    let events = &shared.events;
    let place = events.places.clone().try_acquire_owned().map_err(|_| {
        Problem::too_many(format!("{SUBSCRIBERS_MAX} listen already"), Duration::from_secs(5))
    })?;
    let mut state = events.state.subscribe();
    // What is known already comes at once.
    state.mark_changed();
    let entries = events.entries.subscribe();
    events.wanted.notify_one();
    let stopping = shared.stopping.clone();
    let subscriber = Subscriber { state, entries, stopping, _place: place };
    let told = unfold(subscriber, |mut subscriber| async move {
        let event = subscriber.next().await?;
        Some((Ok(event), subscriber))
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
