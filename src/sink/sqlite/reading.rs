//! Looks into a file beside the engine: one row, its dead letters. Every look is one short transaction of its own.

use std::path::Path;

use rusqlite::types::{ToSql, Value as SqlValue, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params_from_iter};
use serde_json::Value;

use super::{BUSY_TIMEOUT, failure, fills, state};
use crate::encode::cell::Cell;
use crate::encode::plan::PlannedTable;
use crate::error::Result;
use crate::postgres::quote_identifier as quote;
use crate::sink::reading::{self, DeadLetter, FoundRow, Letters};

/// The row that has this key, whose cells lie in `arena`, and the checkpoint that it belongs to.
///
/// # Errors
/// The file is not ours, or cannot be read.
pub fn row(path: &Path, table: &PlannedTable, key: &[Cell], arena: &[u8]) -> Result<FoundRow> {
    let Some(mut connection) = state::open_ours(path)? else {
        return Ok(FoundRow { checkpoint: None, values: None, fill: None });
    };
    let reading = |error| failure(error, format!("reading table {} of {}", table.target, path.display()));
    // One transaction, so that row and checkpoint belong together.
    let transaction = connection.transaction().map_err(reading)?;
    let checkpoint = state::read(&transaction)?;
    let fill = fills::read_all(&transaction)?.remove(&table.target);
    if fill.as_ref().is_some_and(|fill| fill.is_beside) {
        return Ok(FoundRow { checkpoint, values: None, fill });
    }
    let columns = table.columns.iter().map(|column| &column.target).chain(&table.soft_delete);
    let columns: Vec<String> = columns.map(|name| quote(name)).collect();
    let matches: Vec<String> =
        table.key_columns().map(|column| format!("{} = ?", quote(&column.target))).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        columns.join(", "),
        quote(&table.target),
        matches.join(" AND ")
    );
    let key = key.iter().map(|cell| match *cell {
        Cell::Absent | Cell::Null => SqlValue::Null,
        Cell::Integer(integer) => SqlValue::Integer(integer),
        Cell::Real(real) => SqlValue::Real(real),
        Cell::Text(slice) => SqlValue::Text(String::from_utf8_lossy(slice.of(arena)).into_owned()),
        Cell::Blob(slice) => SqlValue::Blob(slice.of(arena).to_vec()),
    });
    let values = transaction
        .query_row(&sql, params_from_iter(key), |row| {
            (0..columns.len())
                .map(|index| row.get_ref(index).map(json))
                .collect::<rusqlite::Result<Vec<Value>>>()
        })
        .optional()
        .map_err(reading)?;
    Ok(FoundRow { checkpoint, values, fill })
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::from(integer),
        ValueRef::Real(real) => reading::real(real),
        ValueRef::Text(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => reading::bytes(blob),
    }
}

/// Up to `limit` dead letters in the order in which they were kept.
///
/// # Errors
/// The file is not ours, or cannot be read.
pub fn dead_letters(path: &Path, which: &Letters, limit: usize) -> Result<Vec<DeadLetter>> {
    let Some(connection) = state::open_ours(path)? else { return Ok(Vec::new()) };
    let (condition, mut parameters) = condition(which);
    parameters.push(Box::new(limit as i64));
    let sql = format!(
        "SELECT id, recorded, target, operation, key, reason, commit_lsn, xid
           FROM _walcast_dead_letters WHERE {condition} ORDER BY id LIMIT ?"
    );
    let read = || -> rusqlite::Result<Vec<DeadLetter>> {
        let mut statement = connection.prepare(&sql)?;
        let letters = statement.query_map(params_from_iter(parameters), |row| {
            Ok(DeadLetter {
                id: row.get(0)?,
                recorded: row.get(1)?,
                target: row.get(2)?,
                operation: row.get(3)?,
                key: row.get(4)?,
                reason: row.get(5)?,
                commit_lsn: row.get(6)?,
                xid: row.get(7)?,
            })
        })?;
        letters.collect()
    };
    read().map_err(|error| failure(error, format!("reading the dead letters of {}", path.display())))
}

/// Forgets dead letters, and returns how many. The engine may write the file meanwhile.
///
/// # Errors
/// The file is not ours, or is locked for too long.
pub fn drop_dead_letters(path: &Path, which: &Letters) -> Result<usize> {
    if state::open_ours(path)?.is_none() {
        return Ok(0);
    }
    let (condition, parameters) = condition(which);
    let drop = || -> rusqlite::Result<usize> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute(
            &format!("DELETE FROM _walcast_dead_letters WHERE {condition}"),
            params_from_iter(parameters),
        )
    };
    drop().map_err(|error| failure(error, format!("dropping dead letters of {}", path.display())))
}

/// The condition on `_walcast_dead_letters`, and its parameters.
fn condition(which: &Letters) -> (String, Vec<Box<dyn ToSql>>) {
    let mut conditions = vec!["id > ?".to_owned()];
    let mut parameters: Vec<Box<dyn ToSql>> = vec![Box::new(which.after)];
    if let Some(target) = &which.target {
        conditions.push("target = ?".to_owned());
        parameters.push(Box::new(target.clone()));
    }
    let marks = |count: usize| vec!["?"; count].join(", ");
    if !which.keys.is_empty() {
        conditions.push(format!("key IN ({})", marks(which.keys.len())));
        parameters.extend(which.keys.iter().map(|key| Box::new(key.clone()) as Box<dyn ToSql>));
    }
    if !which.ids.is_empty() {
        conditions.push(format!("id IN ({})", marks(which.ids.len())));
        parameters.extend(which.ids.iter().map(|&id| Box::new(id) as Box<dyn ToSql>));
    }
    (conditions.join(" AND "), parameters)
}
