//! The tables that are being filled: how each is read, and since when its chunks may be used.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Filler;
use super::gate::Gate;
use super::view::FillView;
use crate::capture::catalog::{Server, read_server};
use crate::capture::chunk::{ChunkReader, ChunkSource, ChunkTable, InDoubt, KeyRange, Selection};
use crate::capture::snapshot::ReadPoint;
use crate::capture::{locks, publication};
use crate::encode::current::CurrentPlan;
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::postgres::session;

/// The first pause of a table whose fill failed, and the longest; each is twice the one before.
const REST: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How often it is looked whether what was in doubt is visible.
const POLL: Duration = Duration::from_millis(50);
/// When it is said that a fill waits for transactions.
const PATIENCE: Duration = Duration::from_secs(5);

/// A table, and the condition on its rows.
type Way = (usize, Option<String>);

pub(super) struct Tables {
    plan: Arc<Plan>,
    current: Arc<CurrentPlan>,
    gate: Arc<Gate>,
    view: Arc<FillView>,
    ready: RefCell<BTreeMap<Way, ChunkTable>>,
    /// Whose touches are remembered: those that are ready, and those that were.
    watched: RefCell<BTreeSet<usize>>,
    resting: RefCell<BTreeMap<usize, (u32, Instant)>>,
}

impl Tables {
    pub(super) fn new(filler: &Filler) -> Self {
        Tables {
            plan: filler.plan.clone(),
            current: filler.current.clone(),
            gate: filler.gate.clone(),
            view: filler.view.clone(),
            ready: RefCell::default(),
            watched: RefCell::default(),
            resting: RefCell::default(),
        }
    }

    /// How the table is read, once whatever was delivered before this was first asked is visible to every read.
    ///
    /// # Errors
    /// A configuration error for a table that has no index to read it by; transient while the server is away.
    pub(super) async fn ready(&self, filler: &Filler, table: usize) -> Result<ChunkTable> {
        let filter = self.view.filter(table);
        if let Some(ready) = self.ready.borrow().get(&(table, filter.clone())) {
            return Ok(ready.clone());
        }
        let plan = self.current.plan();
        let planned = &plan.tables[table];
        let source = ChunkSource {
            oid: planned.oid,
            name: planned.source.clone(),
            is_partitioned: planned.is_partitioned,
            columns: planned.columns.iter().map(|column| column.source.clone()).collect(),
            key: planned.key.clone(),
            filter: filter.clone(),
        };
        let primary = filler.source.connect().await?;
        let publication = &filler.source.config.publication;
        let row_filter = publication::row_filter(&primary, publication, &planned.source).await?;
        let chunk_table = ChunkTable::inspect(&primary, source).await?.published_by(row_filter);
        self.gate.watch(table);
        self.watched.borrow_mut().insert(table);
        if !filler.is_live_anywhere(table) {
            // The publication may have it, or a column of it, only since just now.
            locks::await_writers(&primary, planned.oid).await?;
        }
        let mut generation = self.gate.generation();
        let mut in_doubt = InDoubt::read(&primary).await?;
        let mut reader = ChunkReader::new(filler.source.backfill_info()?, chunk_table.clone());
        let (asked, mut is_said, mut is_checked) = (Instant::now(), false, false);
        let mut seen_less = None;
        loop {
            let limits = super::pace::probe(filler);
            let probe = reader.read(&Selection::Range(KeyRange::default()), &limits).await?;
            if in_doubt.is_settled(&probe.read_point) {
                if !std::mem::replace(&mut is_checked, true) {
                    check_server(filler, &primary, &probe.read_point).await?;
                }
                let Some(horizon) = self.gate.begin(&probe.read_point, generation) else {
                    // The log has begun anew meanwhile.
                    generation = self.gate.generation();
                    in_doubt = InDoubt::read(&primary).await?;
                    continue;
                };
                if horizon.open().saw(&probe.read_point) {
                    break;
                }
                // It lags behind, and will catch up; or it is another one than before, as after a failover.
                let since = *seen_less.get_or_insert_with(Instant::now);
                if !horizon.is_of_the_same_kind(&probe.read_point) || since.elapsed() >= PATIENCE {
                    tracing::warn!(
                        table = %planned.source.plain(),
                        "another server is read than before; what was delivered until now must be visible there"
                    );
                    self.gate.restart();
                    self.forget_all();
                    generation = self.gate.generation();
                    (in_doubt, seen_less) = (InDoubt::read(&primary).await?, None);
                    continue;
                }
            }
            if asked.elapsed() >= PATIENCE && !std::mem::replace(&mut is_said, true) {
                tracing::warn!(
                    table = %planned.source.plain(),
                    xids = ?in_doubt.xids(),
                    "the fill waits for transactions that were running when it began"
                );
            }
            tokio::time::sleep(POLL).await;
        }
        self.ready.borrow_mut().insert((table, filter), chunk_table.clone());
        Ok(chunk_table)
    }

    /// Forgets the tables that are not needed any more.
    pub(super) fn keep(&self, needed: &BTreeSet<usize>) {
        self.ready.borrow_mut().retain(|(table, _), _| needed.contains(table));
        self.watched.borrow_mut().retain(|table| {
            let is_kept = needed.contains(table);
            if !is_kept {
                self.gate.unwatch(*table);
            }
            is_kept
        });
    }

    /// Every table begins with doubt again.
    pub(super) fn forget_all(&self) {
        self.ready.borrow_mut().clear();
    }

    /// Whether the table waits after an error.
    pub(super) fn is_resting(&self, table: usize) -> bool {
        self.resting.borrow().get(&table).is_some_and(|(_, until)| Instant::now() < *until)
    }

    pub(super) fn succeeded(&self, table: usize) {
        if self.resting.borrow_mut().remove(&table).is_some() {
            self.view.set_failure(table, None);
        }
    }

    /// Lets the table rest, and says why.
    pub(super) fn failed(&self, table: usize, error: Error) {
        let mut resting = self.resting.borrow_mut();
        let (failures, until) = resting.entry(table).or_insert((0, Instant::now()));
        *failures += 1;
        let wait = REST.0.saturating_mul(1 << (*failures - 1).min(16)).min(REST.1);
        *until = Instant::now() + wait;
        let name = self.plan.tables[table].source.plain();
        let error = if self.view.filter(table).is_some() && error.hint_text().is_none() {
            error.hint(format!("if it is the condition: walcast backfill --table {name} without one ends it"))
        } else {
            error
        };
        if error.kind() == Kind::Transient {
            tracing::warn!(table = %name, wait_ms = wait.as_millis() as u64, "the fill goes on later: {}", error.chain());
        } else {
            tracing::error!(table = %name, hint = error.hint_text(), "the table cannot be filled: {}", error.chain());
            self.view.set_failure(table, Some(&error));
        }
        // The server may be another one now. What touches the table is remembered on: others may be reading it.
        self.ready.borrow_mut().retain(|(other, _), _| *other != table);
    }
}

/// Refuses a server that was promoted away from the source: its rows are those of another history. A standby follows the
/// source, and cannot.
async fn check_server(filler: &Filler, primary: &Client, read_point: &ReadPoint) -> Result<()> {
    if filler.source.config.backfill_url.is_none() || matches!(read_point, ReadPoint::Standby { .. }) {
        return Ok(());
    }
    let client = session::connect(&filler.source.backfill_info()?, "walcast backfill").await?;
    let (read, source) = (read_server(&client).await?, read_server(primary).await?);
    let of = |server: &Server| (server.system_identifier, server.timeline);
    if of(&read) == of(&source) {
        return Ok(());
    }
    Err(Error::halt(format!(
        "the server at backfill_url is no standby of the source: it is on timeline {} of system {}, and the source on timeline {} of system {}",
        read.timeline, read.system_identifier, source.timeline, source.system_identifier
    ))
    .hint("was it promoted? let backfill_url name a standby of the source, or take it out; the fill then goes on"))
}
