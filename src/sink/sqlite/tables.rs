//! The replicated tables of a SQLite file: created from the plan, never altered behind the operator's back.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{failure, fills};
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::Result;
use crate::fanout::fill::TableFill;
use crate::postgres::quote_identifier as quote;
use crate::sink::definition::Definition;
use crate::sink::replica::other_definition;

/// Creates the tables and indexes that are missing.
///
/// # Errors
/// A table whose definition is not the plan's needs a backfill; one that we did not make halts.
pub(super) fn create(transaction: &Transaction<'_>, plan: &Plan, path: &Path) -> Result<()> {
    for table in &plan.tables {
        let definition = Definition::of(table).text();
        let preparing =
            |error| failure(error, format!("creating table {} in {}", table.target, path.display()));
        let known: Option<String> = transaction
            .query_row("SELECT definition FROM _walcast_tables WHERE target = ?1", [&table.target], |row| {
                row.get(0)
            })
            .optional()
            .map_err(preparing)?;
        match known {
            Some(known) if known == definition => continue,
            Some(_) => {
                return Err(other_definition(&table.target, &path.display()));
            }
            None => {}
        }
        transaction.execute_batch(&definition).map_err(preparing)?;
        transaction
            .execute(
                "INSERT INTO _walcast_tables (target, source, definition) VALUES (?1, ?2, ?3)",
                params![table.target, table.source.plain(), definition],
            )
            .map_err(preparing)?;
        let rows_estimated = table.estimated_rows.max(0).unsigned_abs();
        fills::put(transaction, &table.target, &TableFill::waiting(rows_estimated))?;
    }
    Ok(())
}

/// Drops a table and makes it anew, without rows and without dead letters.
pub(super) fn recreate(connection: &Connection, table: &PlannedTable) -> Result<()> {
    let anew = || -> rusqlite::Result<()> {
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", quote(&table.target)))?;
        connection.execute_batch(&Definition::of(table).text())?;
        connection.execute("DELETE FROM _walcast_dead_letters WHERE target = ?1", [&table.target])?;
        Ok(())
    };
    anew().map_err(|error| failure(error, format!("making table {} anew", table.target)))
}
