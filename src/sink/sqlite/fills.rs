//! How far the tables of a SQLite file are filled: `_walcast_fills`.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::{failure, state};
use crate::encode::plan::Plan;
use crate::error::Result;
use crate::fanout::fill::{Fills, TableFill};
use crate::sink::alter::{PUT_FILL, fill_text};
use crate::sink::replica::StoredTable;

/// Keeps how far a table is, in the transaction that holds its rows.
pub(super) fn put(connection: &Connection, target: &str, fill: &TableFill) -> Result<()> {
    let text = fill_text(fill)?;
    connection
        .prepare_cached(PUT_FILL)
        .and_then(|mut statement| statement.execute(params![target, text]))
        .map_err(|error| failure(error, format!("keeping how far table {target} is filled")))?;
    Ok(())
}

/// How far every table of the plan is.
pub(super) fn read(connection: &Connection, plan: &Plan) -> Result<Fills> {
    let mut fills = Fills::default();
    for (target, fill) in read_all(connection)? {
        let Some(table) = plan.tables.iter().position(|table| table.target == target) else { continue };
        fills.set(table, fill);
    }
    Ok(fills)
}

/// How far every table is that is kept, by name. None is in a file that an older walcast made.
pub(super) fn read_all(connection: &Connection) -> Result<BTreeMap<String, TableFill>> {
    let reading = |error| failure(error, "reading how far the tables are filled".to_owned());
    if !state::has_table(connection, "_walcast_fills").map_err(reading)? {
        return Ok(BTreeMap::new());
    }
    let mut statement =
        connection.prepare_cached("SELECT target, fill FROM _walcast_fills").map_err(reading)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(reading)?;
    let mut fills = BTreeMap::new();
    for row in rows {
        let (target, text) = row.map_err(reading)?;
        let fill = StoredTable::parse_fill(&target, &text)?;
        fills.insert(target, fill);
    }
    Ok(fills)
}
