//! The shapes of tables: as they are in a file, and as a definition makes them.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::{failure, fills, state};
use crate::error::Result;
use crate::sink::definition::BESIDE;
use crate::sink::shape::{Column, Kept, Shape};

/// A table as it is; `None` where there is none of this name.
fn read_shape(connection: &Connection, table: &str) -> Result<Option<Shape>> {
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
    let has = |table: &str| state::has_table(connection, table).map_err(reading);
    let mut definitions: BTreeMap<String, String> = BTreeMap::new();
    let read = |sql: &str, take: &mut dyn FnMut(String, String)| -> rusqlite::Result<()> {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(row.get(0)?, row.get(1)?);
        }
        Ok(())
    };
    let mut note = |target, definition| drop(definitions.insert(target, definition));
    read("SELECT target, definition FROM _walcast_tables", &mut note).map_err(reading)?;
    let mut left: Vec<(String, String)> = Vec::new();
    // A file that an older walcast made has neither of them.
    if has("_walcast_left")? {
        let mut note = |target, column| left.push((target, column));
        read("SELECT target, column FROM _walcast_left ORDER BY column", &mut note).map_err(reading)?;
    }
    let mut fills = if has("_walcast_fills")? { fills::read_all(connection)? } else { BTreeMap::new() };
    let mut kept = BTreeMap::new();
    for (target, definition) in definitions.iter().filter(|(target, _)| !target.starts_with(BESIDE)) {
        let there = read_shape(connection, target)?;
        let is_there = |column: &String| there.as_ref().is_some_and(|shape| shape.column(column).is_some());
        let of_table = left.iter().filter(|(of, _)| of == target).map(|(_, column)| column);
        let table = Kept {
            made_for: of_definition(definition)?,
            definition: definition.clone(),
            beside: definitions.get(&format!("{BESIDE}{target}")).cloned(),
            fill: fills.remove(target),
            left: of_table.filter(|column| is_there(column)).cloned().collect(),
            there,
        };
        kept.insert(target.clone(), table);
    }
    Ok(kept)
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
