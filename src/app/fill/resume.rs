//! Tables that are stopped, and how they go on: what the source has is held against `schema.json` again, the publication
//! is made to cover it, and the table is filled anew from behind everything that was left out.
//!
//! **No gap.** Sinks leave out every change that was committed before the position read here, and apply every one behind
//! it. So all of the former must be in what is read: the log of the gate begins anew with the step, and no read counts
//! that did not wait for what was running then. And no mapper may have left out one of the latter: the step is not sent
//! where one has, and one that does later says so behind the step, which stops the table again.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio_postgres::Client;

use super::Filler;
use super::gate::Resumed;
use super::tables::Tables;
use crate::Lsn;
use crate::capture::publication::{self, PublicationChange, PublishedTable};
use crate::capture::{catalog, locks};
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::{Error, Result};
use crate::fanout::fill::{Action, FillStep, TableFill};
use crate::fanout::stop::Stopped;

/// How often it is looked whether the river is between two transactions.
const POLL: Duration = Duration::from_millis(5);
/// How long the sinks are awaited.
const TAKEN_PATIENCE: Duration = Duration::from_secs(5);

/// How a table goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    /// What readers see goes at once.
    pub clears: bool,
    /// It stays empty, but for what the stream brings.
    pub is_left_empty: bool,
}

impl Filler {
    /// Lets a table go on in these sinks, if it fits again.
    ///
    /// # Errors
    /// It does not fit, or may not be published: with what to do about it. Transient while the source is away, or writers
    /// have to be awaited.
    pub(super) async fn resume(
        &self,
        tables: &Tables,
        table: usize,
        sinks: Vec<String>,
        how: How,
    ) -> Result<()> {
        let name = &self.plan.tables[table].source;
        let client = self.source.connect().await?;
        let found = self.found(&client, table).await?;
        self.publish(&client, &found.source_table).await?;
        locks::await_writers(&client, found.planned.oid).await?;
        let (relation, estimated) = (found.planned.oid.0, found.planned.estimated_rows);
        self.current.renew(table, found.planned);
        let from = catalog::read_server(&client).await?.current_wal_lsn;
        let fill = TableFill {
            clears: true,
            is_beside: !how.clears,
            is_left_empty: how.is_left_empty,
            from,
            relation: Some(relation),
            ..TableFill::waiting(estimated.max(0).unsigned_abs())
        };
        let taken = loop {
            let gate = self.gate.clone();
            let action = Action::Resume { fill: fill.clone(), sinks: sinks.clone() };
            let (receipt, taken) = oneshot::channel();
            let sending = tokio::task::spawn_blocking(move || {
                let step = FillStep { table, action, sent_at: Lsn::ZERO, receipt: Some(receipt) };
                gate.resume(step, from)
            });
            match sending.await.map_err(|error| Error::bug("letting a table go on").because(error))? {
                Resumed::Sent => break taken,
                Resumed::NotNow => tokio::time::sleep(POLL).await,
                Resumed::Unsound => {
                    return Err(Error::transient(format!(
                        "table {name} changes again in a form that does not fit"
                    )));
                }
            }
        };
        tables.forget_all();
        self.view.set_failure(table, None);
        tracing::info!(
            table = %name.plain(),
            sinks = sinks.join(", "),
            lsn = %from,
            "the table fits schema.json again: it goes on, and is filled anew"
        );
        // One that is stuck takes the step when it goes on.
        let _ = tokio::time::timeout(TAKEN_PATIENCE, taken).await;
        Ok(())
    }

    /// The table as it is at the source now.
    async fn found(&self, client: &Client, table: usize) -> Result<Found> {
        let name = &self.plan.tables[table].source;
        let tables = catalog::read_tables(client, std::slice::from_ref(name)).await?;
        let Some(entry) = self.schema.tables.get(name) else {
            return Err(Error::bug("a planned table is in schema.json"));
        };
        let mut schema = self.schema.as_ref().clone();
        schema.tables.retain(|one, _| one == name);
        let plan = Plan::new(&schema, &tables)?;
        let version = catalog::read_server(client).await?.version;
        let mapped: Vec<String> = entry.columns.keys().cloned().collect();
        let (Some(planned), Some(found)) = (plan.tables.into_iter().next(), tables.first()) else {
            return Err(Error::bug("a plan has the table that it was made for"));
        };
        Ok(Found { planned, source_table: (PublishedTable::new(found, &mapped, version), version) })
    }

    async fn publish(
        &self,
        client: &Client,
        (table, version): &(PublishedTable, catalog::ServerVersion),
    ) -> Result<()> {
        let name = &self.source.config.publication;
        let published = publication::ensure(client, name, std::slice::from_ref(table), *version).await?;
        if let PublicationChange::Altered { reasons } = published {
            tracing::info!(publication = name, "publication altered: {}", reasons.join("; "));
        }
        Ok(())
    }
}

/// Whether a table goes on without being asked for, under a plan that was made when the server was at `planned_at`:
/// another one of its name may come, or the plan is younger than what stopped it.
pub fn goes_on_by_itself(plan: &Plan, planned_at: Lsn, table: usize, stopped: &Stopped) -> bool {
    let fits = plan.tables.get(table).is_some_and(|table| table.problem.is_none());
    stopped.returns || fits && stopped.since <= planned_at
}

/// A table that fits.
struct Found {
    planned: PlannedTable,
    source_table: (PublishedTable, catalog::ServerVersion),
}
