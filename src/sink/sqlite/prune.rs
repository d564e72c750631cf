//! Drops what walcast has made in a file and `schema.json` does not name any more. Never anything else: what is to be
//! dropped is held against what the file itself says was left.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{BUSY_TIMEOUT, failure, shapes, state, tables};
use crate::error::{Error, Result};
use crate::postgres::quote_identifier as quote;

/// Something to be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// The table.
    pub table: String,
    /// The column; the whole table without one.
    pub column: Option<String>,
}

/// Drops it, all or nothing, while no engine writes the file.
///
/// # Errors
/// The file is not ours or cannot be written, or does not say that this was left; nothing was dropped then.
pub fn prune(path: &Path, prunes: &[Prune]) -> Result<()> {
    if state::open_ours(path)?.is_none() {
        return Ok(());
    }
    let pruning = |error| failure(error, format!("pruning {}", path.display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(pruning)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(pruning)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(pruning)?;
    let kept = shapes::kept(&transaction)?;
    for Prune { table, column } in prunes {
        let kept = kept.get(table);
        let is_left = match column {
            Some(column) => kept.is_some_and(|kept| kept.left.contains(column)),
            None => kept.is_some_and(|kept| kept.fill.as_ref().is_some_and(|fill| fill.is_left)),
        };
        if !is_left {
            let of = column.as_ref().map(|column| format!("column {column} of ")).unwrap_or_default();
            return Err(Error::halt(format!(
                "{} does not say that {of}table {table} was left; nothing was dropped",
                path.display()
            ))
            .hint("see `walcast schema plan`"));
        }
        match column {
            Some(column) => {
                let sql = format!("ALTER TABLE {} DROP COLUMN {}", quote(table), quote(column));
                transaction.execute_batch(&sql).map_err(pruning)?;
                let sql = "DELETE FROM _walcast_left WHERE target = ?1 AND column = ?2";
                transaction.execute(sql, [table, column]).map_err(pruning)?;
            }
            None => {
                tables::drop_table(&transaction, table).map_err(pruning)?;
                for of in ["_walcast_fills", "_walcast_left", "_walcast_dead_letters"] {
                    let sql = format!("DELETE FROM {of} WHERE target = ?1");
                    transaction.execute(&sql, [table]).map_err(pruning)?;
                }
            }
        }
    }
    transaction.commit().map_err(pruning)
}
