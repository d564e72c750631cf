//! The replicated tables of a SQLite file: created from the plan, and changed with it.

use std::path::Path;

use rusqlite::{Connection, Transaction, params_from_iter};

use super::{failure, shapes};
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::Result;
use crate::postgres::quote_identifier as quote;
use crate::sink::alter::alterations;
use crate::sink::definition::Definition;
use crate::sink::statement::Statement;

/// Makes the tables the plan's, as far as that can be done at once, and returns what was changed: a sentence for each
/// table.
pub(super) fn prepare(transaction: &Transaction<'_>, plan: &Plan, path: &Path) -> Result<Vec<String>> {
    let preparing = |error| failure(error, format!("preparing the tables of {}", path.display()));
    let (kept, names) = (shapes::kept(transaction)?, names(transaction).map_err(preparing)?);
    let tables = names.iter().map(String::as_str);
    let mut changes = Vec::new();
    for alteration in alterations(plan, &kept, tables, &path.display().to_string())? {
        run(transaction, &alteration.statements).map_err(preparing)?;
        changes.extend(alteration.changes);
        for left in alteration.left {
            tracing::info!(
                replica = %path.display(),
                "{left}: schema.json does not name it any more: it stays as it is (walcast schema apply --prune drops it)"
            );
        }
    }
    Ok(changes)
}

fn names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Runs statements one after the other.
pub(super) fn run(connection: &Connection, statements: &[Statement]) -> rusqlite::Result<()> {
    for Statement { sql, params } in statements {
        connection.execute(sql, params_from_iter(params))?;
    }
    Ok(())
}

/// Drops the table that rows are written to and makes it anew, without rows and without the dead letters of `target`,
/// as readers know it.
pub(super) fn recreate(connection: &Connection, table: &PlannedTable, target: &str) -> Result<()> {
    let anew = || -> rusqlite::Result<()> {
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", quote(&table.target)))?;
        connection.execute_batch(&Definition::of(table).text())?;
        connection.execute("DELETE FROM _walcast_dead_letters WHERE target = ?1", [target])?;
        Ok(())
    };
    anew().map_err(|error| failure(error, format!("making table {target} anew")))
}
