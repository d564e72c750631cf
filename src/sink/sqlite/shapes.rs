//! The shapes of tables: as they are in a file, and as a definition makes them.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{failure, fills, state};
use crate::error::Result;
use crate::sink::replica::StoredTable;
use crate::sink::shape::{Column, Kept, Shape, assemble};

/// A table as it is; `None` where there is none of this name.
pub(super) fn read_shape(connection: &Connection, table: &str) -> Result<Option<Shape>> {
    let read = || -> rusqlite::Result<Shape> {
        let mut shape = Shape::default();
        let mut key = Vec::new();
        let mut columns = connection
            .prepare_cached("SELECT name, type, pk, dflt_value FROM pragma_table_info(?1) ORDER BY cid")?;
        let mut rows = columns.query([table])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let part: i64 = row.get(2)?;
            if part > 0 {
                key.push((part, name.clone()));
            }
            let default: Option<String> = row.get(3)?;
            shape.columns.push(Column {
                name,
                type_name: row.get(1)?,
                // No other column of ours has a default.
                is_soft_delete: default.as_deref() == Some("NULL"),
            });
        }
        key.sort();
        shape.key = key.into_iter().map(|(_, name)| name).collect();
        let mut indexes =
            connection.prepare_cached("SELECT name FROM pragma_index_list(?1) WHERE origin = 'c'")?;
        shape.indexes = indexes.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(shape)
    };
    let shape = read().map_err(|error| failure(error, format!("reading the columns of table {table}")))?;
    Ok(Some(shape).filter(|shape| !shape.columns.is_empty()))
}

/// What is kept of every table, by its name.
pub(super) fn kept(connection: &Connection) -> Result<BTreeMap<String, Kept>> {
    let reading = |error| failure(error, "reading what the tables were made for".to_owned());
    let mut fills = fills::read_all(connection)?;
    // A file that an older walcast made has none.
    let has_left = state::has_table(connection, "_walcast_left").map_err(reading)?;
    let stored = || -> rusqlite::Result<Vec<StoredTable>> {
        let mut statement = connection.prepare("SELECT target, source, definition FROM _walcast_tables")?;
        let tables = statement.query_map([], |row| {
            let (target, source, definition) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(StoredTable { target, source, definition, fill: None })
        })?;
        tables.collect()
    };
    let left = || -> rusqlite::Result<BTreeMap<String, Vec<String>>> {
        let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut statement = connection.prepare("SELECT target, column FROM _walcast_left ORDER BY column")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            left.entry(row.get(0)?).or_default().push(row.get(1)?);
        }
        Ok(left)
    };
    let mut stored = stored().map_err(reading)?;
    stored.iter_mut().for_each(|table| table.fill = fills.remove(&table.target));
    let left = if has_left { left().map_err(reading)? } else { BTreeMap::new() };
    assemble(stored, left, |table| read_shape(connection, table), of_definition)
}

/// The table that a definition makes. SQLite itself reads it, in memory.
///
/// # Errors
/// It is no definition.
pub fn of_definition(definition: &str) -> Result<Shape> {
    let reading = |error| failure(error, "reading what a table was made for".to_owned());
    let memory = Connection::open_in_memory().map_err(reading)?;
    memory.execute_batch(definition).map_err(reading)?;
    let table: String = memory
        .query_row("SELECT name FROM sqlite_schema WHERE type = 'table' LIMIT 1", [], |row| row.get(0))
        .map_err(reading)?;
    Ok(read_shape(&memory, &table)?.unwrap_or_default())
}
