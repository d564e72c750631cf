//! How far the tables of a SQLite file are filled: `_walcast_fills`.

use rusqlite::{Connection, params};

use super::failure;
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::fill::{Fills, TableFill};
use crate::sink::replica::StoredTable;

/// Keeps how far a table is, in the transaction that holds its rows.
pub(super) fn put(connection: &Connection, target: &str, fill: &TableFill) -> Result<()> {
    let text = serde_json::to_string(fill).map_err(|error| Error::bug("writing a fill").because(error))?;
    connection
        .prepare_cached(
            "INSERT INTO _walcast_fills (target, fill) VALUES (?1, ?2)
             ON CONFLICT (target) DO UPDATE SET fill = excluded.fill",
        )
        .and_then(|mut statement| statement.execute(params![target, text]))
        .map_err(|error| failure(error, format!("keeping how far table {target} is filled")))?;
    Ok(())
}

/// How far every table of the plan is.
pub(super) fn read(connection: &Connection, plan: &Plan) -> Result<Fills> {
    let reading = |error| failure(error, "reading how far the tables are filled".to_owned());
    let mut statement =
        connection.prepare_cached("SELECT target, fill FROM _walcast_fills").map_err(reading)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(reading)?;
    let mut fills = Fills::default();
    for row in rows {
        let (target, text) = row.map_err(reading)?;
        let Some(table) = plan.tables.iter().position(|table| table.target == target) else { continue };
        fills.set(table, StoredTable::parse_fill(&target, &text)?);
    }
    Ok(fills)
}
