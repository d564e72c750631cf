//! The replicated tables of a SQLite file: created from the plan, never altered behind the operator's back.

use std::path::Path;

use rusqlite::{OptionalExtension, Transaction, params};

use super::failure;
use crate::encode::column_type::ColumnType;
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::{Error, Kind, Result};
use crate::postgres::quote_identifier as quote;

/// Creates the tables and indexes that are missing.
///
/// # Errors
/// A table whose definition is not the plan's needs a backfill; one that we did not make halts.
pub(super) fn create(transaction: &Transaction<'_>, plan: &Plan, path: &Path) -> Result<()> {
    for table in &plan.tables {
        let definition = definition(table);
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
                return Err(Error::new(
                    Kind::NeedsBackfill,
                    format!(
                        "table {} in {} was made for another schema.json: its columns, types, key or indexes differ",
                        table.target,
                        path.display()
                    ),
                )
                .hint("see `walcast schema diff`; take the change back, or give the sink a new path and fill it anew"));
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
    }
    Ok(())
}

/// The table's DDL: what is executed, and what a later start compares with.
pub fn definition(table: &PlannedTable) -> String {
    let mut lines: Vec<String> = table
        .columns
        .iter()
        .map(|column| format!("  {} {}", quote(&column.target), column.column_type.sqlite()))
        .collect();
    if let Some(column) = &table.soft_delete {
        lines.push(format!("  {} TEXT", quote(column)));
    }
    let key: Vec<String> = table.key_columns().map(|column| quote(&column.target)).collect();
    lines.push(format!("  PRIMARY KEY ({})", key.join(", ")));

    // One integer key is the rowid itself; any other key would be stored twice in a rowid table.
    let has_rowid = match &table.key[..] {
        [only] => table.columns[*only].column_type == ColumnType::Integer,
        _ => false,
    };
    let options = if has_rowid { "STRICT" } else { "STRICT, WITHOUT ROWID" };
    let mut sql = format!("CREATE TABLE {} (\n{}\n) {options};", quote(&table.target), lines.join(",\n"));
    for index in &table.indexes {
        let names: Vec<&str> = index.iter().map(|&column| table.columns[column].target.as_str()).collect();
        let columns: Vec<String> = names.iter().map(|name| quote(name)).collect();
        let name = format!("idx_{}_{}", table.target, names.join("_"));
        sql.push_str(&format!(
            "\nCREATE INDEX {} ON {} ({});",
            quote(&name),
            quote(&table.target),
            columns.join(", ")
        ));
    }
    sql
}
