//! A table takes the place of another one: dropped, renamed and noted in one transaction, so that a reader sees the one
//! or the other, whole. Rows that are marked as deleted go over before.

use rusqlite::{Connection, params};

use super::{Open, execute, failure, fills, shapes, state, tables};
use crate::encode::plan::PlannedTable;
use crate::error::Result;
use crate::fanout::fill::FillWrite;
use crate::sink::alter::{self, Other};
use crate::sink::marked::Marked;

/// Puts the table that was built beside the one that readers see in its place, in a transaction of its own unless one is
/// open.
pub(super) fn swap(open: &mut Open, write: &FillWrite<'_>) -> Result<()> {
    let table = &open.plan.tables[write.table];
    let is_alone = !open.is_in_transaction;
    if is_alone {
        execute(&open.connection, "BEGIN IMMEDIATE")?;
    }
    state::check_epoch(&open.connection, open.epoch)?;
    let swapping = |error| failure(error, format!("putting the new table {} in its place", table.target));
    if let Some(take_over) = marked(&open.connection, table)?.take_over(table) {
        tables::run(&open.connection, &[take_over]).map_err(swapping)?;
    }
    replace(&open.connection, table).map_err(swapping)?;
    fills::put(&open.connection, &table.target, write.fill)?;
    if is_alone {
        execute(&open.connection, "COMMIT")?;
    }
    let mut written = open.written.clone();
    written.tables[write.table] = table.clone();
    open.write_to(written);
    Ok(())
}

/// What becomes of the rows of the table that readers see and that are marked as deleted.
fn marked(connection: &Connection, table: &PlannedTable) -> Result<Marked> {
    let Some(there) = shapes::read_shape(connection, &table.target)? else { return Ok(Marked::None) };
    let source = connection.query_row(
        "SELECT source FROM _walcast_tables WHERE target = ?1",
        [&table.target],
        |row| row.get(0),
    );
    let source: String = source
        .map_err(|error| failure(error, format!("reading where the rows of {} are from", table.target)))?;
    Ok(Marked::of(table, &source, &there))
}

fn replace(connection: &Connection, table: &PlannedTable) -> rusqlite::Result<()> {
    let others = others(connection, &table.target)?;
    tables::run(connection, &alter::swap(table))?;
    for Other { name, sql, .. } in others {
        if !has(connection, &name)?
            && let Err(error) = connection.execute_batch(&sql)
        {
            tracing::warn!(table = table.target, name, "does not fit the new table, and is gone: {error}");
        }
    }
    Ok(())
}

/// What others have made on the table, and would lose with it: indexes and triggers that are not of the form of ours.
fn others(connection: &Connection, target: &str) -> rusqlite::Result<Vec<Other>> {
    let sql = "SELECT type, name, sql FROM sqlite_schema
                WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('index', 'trigger') AND sql IS NOT NULL
                  AND NOT (type = 'index' AND substr(name, 1, length(?2)) = ?2)";
    let mut statement = connection.prepare(sql)?;
    let ours = format!("idx_{target}_");
    let other =
        |row: &rusqlite::Row<'_>| Ok(Other { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? });
    statement.query_map(params![target, ours], other)?.collect()
}

fn has(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) > 0 FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
}
