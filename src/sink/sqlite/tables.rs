//! The replicated tables of a SQLite file: created from the plan, and changed with it. What others may read is never
//! taken away: columns and tables that are not planned any more stay, and a table that has to be another one is built
//! beside it.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use super::{failure, fills, shapes};
use crate::Lsn;
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::Result;
use crate::fanout::fill::{Fills, TableFill};
use crate::postgres::quote_identifier as quote;
use crate::sink::definition::{BESIDE, Definition, beside};
use crate::sink::shape::{Added, Change, Kept, Rest, Shape};

/// Makes the tables the plan's, as far as that can be done at once, and returns what was changed: a sentence for each
/// table.
pub(super) fn prepare(transaction: &Transaction<'_>, plan: &Plan, path: &Path) -> Result<Vec<String>> {
    let preparing = |error| failure(error, format!("preparing the tables of {}", path.display()));
    let kept = shapes::kept(transaction)?;
    let mut changes = Vec::new();
    for table in &plan.tables {
        let (target, kept) = (&table.target, kept.get(&table.target));
        let changing = Changing { transaction, table, fill: kept.and_then(|kept| kept.fill.as_ref()) };
        match Change::of(table, kept) {
            Change::New => {
                changing.create().map_err(preparing)?;
                fills::put(transaction, target, &TableFill::of(table))?;
                changes.push(format!("table {target} is new"));
            }
            Change::GoesOn => {}
            Change::Same => changing.note().map_err(preparing)?,
            Change::Fits(rest) => {
                changing.settle(&rest).and_then(|()| changing.note()).map_err(preparing)?;
                changes.extend(rest.summary().map(|summary| format!("table {target}: {summary}")));
            }
            Change::Add(added, rest) => {
                changing.add(&added).and_then(|()| changing.settle(&rest)).map_err(preparing)?;
                changing.note().map_err(preparing)?;
                changing.fill_again()?;
                let names: Vec<&str> = added.iter().map(|added| added.name.as_str()).collect();
                let names = names.join(", ");
                changes
                    .push(format!("table {target}: new columns ({names}), and its rows are written again"));
                changes.extend(rest.summary().map(|summary| format!("table {target}: {summary}")));
            }
            Change::Rebuild(why) => {
                create_beside(transaction, table).map_err(preparing)?;
                let is_left_empty = changing.fill.is_some_and(|fill| fill.is_left_empty);
                let stopped = changing.fill.and_then(|fill| fill.stopped.clone());
                let fill = TableFill { is_beside: true, is_left_empty, stopped, ..TableFill::of(table) };
                fills::put(transaction, target, &fill)?;
                changes.push(format!(
                    "table {target} is built anew, because {why}; until it is full, its readers see it as it was"
                ));
            }
        }
    }
    leave(transaction, plan, &kept, path)?;
    Ok(changes)
}

/// The plan with the names of the tables that rows are written to.
pub(super) fn written(plan: &Plan, fills: &Fills) -> Plan {
    let written = |(index, table): (usize, &PlannedTable)| match fills.get(index) {
        Some(fill) if fill.is_beside => beside(table),
        _ => table.clone(),
    };
    Plan { tables: plan.tables.iter().enumerate().map(written).collect() }
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

/// Marks the tables that are not planned any more, and says so once.
fn leave(
    transaction: &Transaction<'_>,
    plan: &Plan,
    kept: &BTreeMap<String, Kept>,
    path: &Path,
) -> Result<()> {
    for (target, kept) in kept {
        let is_marked = kept.fill.as_ref().is_some_and(|fill| fill.is_left);
        if is_marked || plan.tables.iter().any(|table| table.target == *target) {
            continue;
        }
        drop_table(transaction, &format!("{BESIDE}{target}"))
            .map_err(|error| failure(error, format!("leaving table {target} as it is")))?;
        fills::put(transaction, target, &TableFill { is_left: true, ..TableFill::waiting(0) })?;
        tracing::info!(
            table = target,
            replica = %path.display(),
            "schema.json does not name it any more: it stays as it is (walcast schema apply --prune drops it)"
        );
    }
    Ok(())
}

/// Drops a table of ours and forgets it.
pub(super) fn drop_table(connection: &Connection, target: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {}", quote(target)))?;
    connection.execute("DELETE FROM _walcast_tables WHERE target = ?1", [target])?;
    Ok(())
}

/// Makes an empty table beside one of the plan. All its rows are read again, and those that have no valid form noted
/// again.
pub(super) fn create_beside(connection: &Connection, table: &PlannedTable) -> rusqlite::Result<()> {
    let beside = beside(table);
    drop_table(connection, &beside.target)?;
    connection.execute_batch(&Definition::of(&beside).text())?;
    note(connection, &beside)?;
    connection.execute("DELETE FROM _walcast_dead_letters WHERE target = ?1", [&table.target])?;
    Ok(())
}

fn note(connection: &Connection, table: &PlannedTable) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO _walcast_tables (target, source, definition) VALUES (?1, ?2, ?3)
         ON CONFLICT (target) DO UPDATE SET source = excluded.source, definition = excluded.definition",
        params![table.target, table.source.plain(), Definition::of(table).text()],
    )?;
    Ok(())
}

/// One table of the plan, while it is made to be what it is there.
struct Changing<'a> {
    transaction: &'a Transaction<'a>,
    table: &'a PlannedTable,
    fill: Option<&'a TableFill>,
}

impl Changing<'_> {
    fn create(&self) -> rusqlite::Result<()> {
        self.transaction.execute_batch(&Definition::of(self.table).text())?;
        self.note()
    }

    fn add(&self, added: &[Added]) -> rusqlite::Result<()> {
        for column in Shape::of(self.table).columns {
            let Some(added) = added.iter().find(|added| added.name == column.name) else { continue };
            let (target, name) = (&self.table.target, &added.name);
            if !added.is_there {
                let (table, column, type_name) = (quote(target), quote(name), column.type_name);
                self.transaction
                    .execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {type_name}"))?;
            }
            let sql = "DELETE FROM _walcast_left WHERE target = ?1 AND column = ?2 COLLATE NOCASE";
            self.transaction.execute(sql, [target, name])?;
        }
        Ok(())
    }

    /// Whole rows are written again, over those that are there.
    fn fill_again(&self) -> Result<()> {
        // A table that is stopped is filled anew as a whole when it goes on.
        if self.fill.is_some_and(|fill| fill.is_left_empty || fill.stopped.is_some()) {
            return Ok(());
        }
        let clears = self.fill.is_some_and(|fill| fill.clears);
        let (from, relation) = self.fill.map_or((Lsn::ZERO, None), |fill| (fill.from, fill.relation));
        let fill = TableFill { clears, from, relation, ..TableFill::of(self.table) };
        fills::put(self.transaction, &self.table.target, &fill)
    }

    fn settle(&self, rest: &Rest) -> rusqlite::Result<()> {
        let target = &self.table.target;
        for name in &rest.old_indexes {
            self.transaction.execute_batch(&format!("DROP INDEX {}", quote(name)))?;
        }
        let names = Shape::of(self.table).indexes;
        for (name, sql) in names.iter().zip(&Definition::of(self.table).indexes) {
            if rest.missing_indexes.contains(name) {
                self.transaction.execute_batch(sql)?;
            }
        }
        for column in &rest.left {
            tracing::info!(
                table = target,
                column,
                "schema.json does not name it any more: it stays as it is (walcast schema apply --prune drops it)"
            );
            let sql = "INSERT OR IGNORE INTO _walcast_left (target, column) VALUES (?1, ?2)";
            self.transaction.execute(sql, [target, column])?;
        }
        Ok(())
    }

    fn note(&self) -> rusqlite::Result<()> {
        note(self.transaction, self.table)
    }
}
