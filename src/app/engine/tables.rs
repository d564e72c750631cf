//! What the catalog says of the planned tables while the engine streams, which the stream itself does not: that one is
//! gone, or not published any more, and that columns are new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio_postgres::Client;

use super::Setup;
use crate::Lsn;
use crate::capture::catalog;
use crate::capture::publication::{self, Publication};
use crate::capture::table::{Oid, Table};
use crate::encode::misfit::Why;
use crate::encode::plan::PlannedTable;
use crate::error::Result;
use crate::fanout::stop::Stopped;

/// The columns that tables had when they were last looked at, and that were spoken of.
pub(super) type KnownColumns = BTreeMap<Oid, BTreeSet<String>>;

/// The planned tables at the source.
pub(super) struct Tables {
    /// By table: whether the publication had it.
    published: Mutex<Vec<bool>>,
    columns: Mutex<KnownColumns>,
}

/// The columns of tables, as they were found.
pub(super) fn known_columns(tables: &[Table]) -> KnownColumns {
    let of = |table: &Table| (table.oid, table.columns.iter().map(|column| column.name.clone()).collect());
    tables.iter().map(of).collect()
}

impl Tables {
    pub(super) fn new(published: Vec<bool>, columns: KnownColumns) -> Self {
        Tables { published: Mutex::new(published), columns: Mutex::new(columns) }
    }

    /// Looks at the source once.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) async fn look(&self, setup: &Setup, client: &Client) -> Result<()> {
        let (generation, plan) = (setup.current.generation(), setup.current.plan());
        let name = &setup.source.config.publication;
        // One that is gone as a whole ends the stream by itself.
        let Some(publication) = publication::describe(client, name).await? else { return Ok(()) };
        let oids: Vec<Oid> = plan.tables.iter().map(|table| table.oid).filter(|oid| oid.0 != 0).collect();
        let found = catalog::read_by_oid(client, &oids).await?;
        let at = catalog::read_server(client).await?.current_wal_lsn;
        if setup.current.generation() != generation {
            // What was asked for may be another table by now.
            return Ok(());
        }
        self.note_new_columns(&found, &plan.tables);
        let mut published = lock(&self.published);
        for (index, (table, was_published)) in plan.tables.iter().zip(published.iter_mut()).enumerate() {
            if table.problem.is_some() {
                continue;
            }
            match missing(table, &publication, &found, at) {
                None => {
                    *was_published = true;
                    setup.fills.set_there(index);
                }
                Some(stopped) if *was_published => setup.fills.set_gone(index, stopped),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Says once which columns are new and not mapped.
    fn note_new_columns(&self, found: &[Table], planned: &[PlannedTable]) {
        let mut known = lock(&self.columns);
        for table in found {
            let Some(planned) = planned.iter().find(|planned| planned.oid == table.oid) else { continue };
            let now: BTreeSet<String> = table.columns.iter().map(|column| column.name.clone()).collect();
            let before = known.entry(table.oid).or_insert_with(|| now.clone());
            let is_mapped = |name: &&String| planned.columns.iter().any(|column| column.source == **name);
            let new: Vec<&str> =
                now.difference(before).filter(|name| !is_mapped(name)).map(String::as_str).collect();
            if !new.is_empty() {
                tracing::info!(
                    table = %planned.source.plain(),
                    columns = new.join(", "),
                    "the table has new columns, which schema.json does not map: they are ignored"
                );
                before.extend(now);
            }
        }
    }
}

/// Why the changes of a table do not come any more.
fn missing(table: &PlannedTable, publication: &Publication, found: &[Table], at: Lsn) -> Option<Stopped> {
    let there = found.iter().find(|there| there.oid == table.oid);
    let is_member = publication.tables.iter().any(|member| member.oid == table.oid);
    let why = match there {
        None => Why::dropped(table),
        Some(there) if there.name != table.source => Why::renamed(table, &there.name),
        Some(_) if !is_member => Why::unpublished(table, &publication.name),
        Some(_) => return None,
    };
    let Why { reason, hint, returns } = why;
    Some(Stopped { reason, hint, since: at, returns })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
