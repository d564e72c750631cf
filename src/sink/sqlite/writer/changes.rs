//! One change → its statement: bound to the change's cells where they lie, run, and where an update finds no row, noted as
//! missing. Transactions are not begun or ended here, and dead letters are not written.

use rusqlite::CachedStatement;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::Writer;
use super::statements::{key_matches, update_sql};
use crate::encode::cell::Cell;
use crate::encode::plan::PlannedTable;
use crate::encode::run::{Change, ChangeKind, Run, Span};
use crate::encode::time::push_rfc3339_micros;
use crate::error::{Error, Kind, Result};
use crate::fanout::sink::Batch;
use crate::postgres::quote_identifier as quote;
use crate::sink::replica::{NOT_IN_REPLICA, missing_row};
use crate::sink::sqlite::failure;

impl<'a> Writer<'a> {
    #[inline]
    pub(super) fn change(&mut self, batch: &Batch<'_>, run: &Run, span: &Span, change: Change) -> Result<()> {
        let table = &self.plan.tables[change.table as usize];
        match change.kind {
            ChangeKind::Upsert => self.upsert(run, change.table as usize, run.row(change, self.plan)),
            ChangeKind::Update => {
                let row = run.row(change, self.plan);
                let key: Vec<Cell> = table.key.iter().map(|&index| row[index]).collect();
                let is_found = self.update(run, table, row, &key, false)?;
                self.expect(is_found, batch, run, span, change)
            }
            ChangeKind::Delete => self.delete(run, span, change),
            ChangeKind::Move => {
                let (old_key, row) = (run.key(change, self.plan), run.row(change, self.plan));
                if row.contains(&Cell::Absent) {
                    self.bury(run, table, row)?;
                    if batch.may_be_newer(change.table as usize) {
                        self.make_way(run, table, row, old_key)?;
                    }
                    let is_found = self.update(run, table, row, old_key, true)?;
                    return self.expect(is_found, batch, run, span, change);
                }
                // Not a deletion at the source, so never a soft one here.
                let sql = format!("DELETE FROM {} WHERE {}", quote(&table.target), key_matches(table));
                let mut statement = self.prepare(&sql, table)?;
                bind(&mut statement, 1, old_key, run)?;
                run_statement(&mut statement, table)?;
                self.upsert(run, change.table as usize, row)
            }
            ChangeKind::Truncate => {
                let sql = &self.sql.0[change.table as usize].truncate;
                let mut statement = self.prepare(sql, table)?;
                if table.soft_delete.is_some() {
                    bind_time(&mut statement, 1, span)?;
                }
                run_statement(&mut statement, table)?;
                Ok(())
            }
            ChangeKind::Reject => Err(Error::bug("a rejection is not applied")),
        }
    }

    #[inline]
    pub(super) fn upsert(&mut self, run: &Run, table: usize, row: &[Cell]) -> Result<()> {
        let statement = match &mut self.upserts[table] {
            Some(statement) => statement,
            slot => {
                let sql = &self.sql.0[table].upsert;
                slot.insert(self.connection.prepare_cached(sql).map_err(|error| failure(error, sql.clone()))?)
            }
        };
        bind(statement, 1, row, run)?;
        run_statement(statement, &self.plan.tables[table])?;
        Ok(())
    }

    fn update(
        &self,
        run: &Run,
        table: &PlannedTable,
        row: &[Cell],
        key: &[Cell],
        includes_key: bool,
    ) -> Result<bool> {
        let mut statement = self.prepare(&update_sql(table, row, includes_key), table)?;
        let mut parameter = 1;
        for (index, cell) in row.iter().enumerate() {
            if *cell != Cell::Absent && (includes_key || !table.key.contains(&index)) {
                bind(&mut statement, parameter, &[*cell], run)?;
                parameter += 1;
            }
        }
        bind(&mut statement, parameter, key, run)?;
        Ok(run_statement(&mut statement, table)? > 0)
    }

    /// An update that carries a part of its row must find it, unless the row is still to come.
    fn expect(
        &mut self,
        is_found: bool,
        batch: &Batch<'_>,
        run: &Run,
        span: &Span,
        change: Change,
    ) -> Result<()> {
        if is_found || batch.may_lack(change.table as usize) {
            return Ok(());
        }
        let Some((table, owed)) = missing_row(run, span, change, self.plan) else {
            return Err(Error::new(Kind::Rejected, NOT_IN_REPLICA));
        };
        if !batch.is_owed(table, &owed.key) {
            self.missing.push((table, owed));
        }
        Ok(())
    }

    /// Removes the row that a fill brought to the new key of a row that moves there: what moves is older, and the
    /// stream goes on from it.
    fn make_way(&self, run: &Run, table: &PlannedTable, row: &[Cell], old_key: &[Cell]) -> Result<()> {
        let (target, matches) = (quote(&table.target), key_matches(table));
        let sql = format!(
            "DELETE FROM {target} WHERE {matches} AND EXISTS (SELECT 1 FROM {target} WHERE {matches})"
        );
        let new_key: Vec<Cell> = table.key.iter().map(|&index| row[index]).collect();
        let mut statement = self.prepare(&sql, table)?;
        bind(&mut statement, 1, &new_key, run)?;
        bind(&mut statement, 1 + new_key.len(), old_key, run)?;
        run_statement(&mut statement, table)?;
        Ok(())
    }

    /// Removes what a soft deletion left at the key of `row`: the key is in use again, by a row that comes from another.
    fn bury(&self, run: &Run, table: &PlannedTable, row: &[Cell]) -> Result<()> {
        let Some(deleted) = table.soft_delete.as_deref().map(quote) else { return Ok(()) };
        let sql = format!(
            "DELETE FROM {} WHERE {} AND {deleted} IS NOT NULL",
            quote(&table.target),
            key_matches(table)
        );
        let key: Vec<Cell> = table.key.iter().map(|&index| row[index]).collect();
        let mut statement = self.prepare(&sql, table)?;
        bind(&mut statement, 1, &key, run)?;
        run_statement(&mut statement, table)?;
        Ok(())
    }

    pub(super) fn delete(&self, run: &Run, span: &Span, change: Change) -> Result<()> {
        let table = &self.plan.tables[change.table as usize];
        let mut statement = self.prepare(&self.sql.0[change.table as usize].delete, table)?;
        let key = run.key(change, self.plan);
        bind(&mut statement, 1, key, run)?;
        if table.soft_delete.is_some() {
            bind_time(&mut statement, key.len() + 1, span)?;
        }
        run_statement(&mut statement, table)?;
        Ok(())
    }

    fn prepare(&self, sql: &str, table: &PlannedTable) -> Result<CachedStatement<'a>> {
        self.connection
            .prepare_cached(sql)
            .map_err(|error| failure(error, format!("preparing a statement for table {}", table.target)))
    }
}

/// A cell with the arena that it lies in, borrowed by SQLite for the length of one statement.
struct Bound<'a>(Cell, &'a [u8]);

impl ToSql for Bound<'_> {
    #[inline]
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Cell::Absent | Cell::Null => ValueRef::Null,
            Cell::Integer(value) => ValueRef::Integer(value),
            Cell::Real(value) => ValueRef::Real(value),
            Cell::Text(slice) => ValueRef::Text(slice.of(self.1)),
            Cell::Blob(slice) => ValueRef::Blob(slice.of(self.1)),
        }))
    }
}

#[inline]
fn bind(statement: &mut CachedStatement<'_>, first: usize, cells: &[Cell], run: &Run) -> Result<()> {
    for (offset, &cell) in cells.iter().enumerate() {
        statement
            .raw_bind_parameter(first + offset, Bound(cell, run.arena()))
            .map_err(|error| failure(error, "binding a value".to_owned()))?;
    }
    Ok(())
}

/// Binds the transaction's commit time as RFC 3339.
fn bind_time(statement: &mut CachedStatement<'_>, index: usize, span: &Span) -> Result<()> {
    let mut text = Vec::new();
    push_rfc3339_micros(&mut text, span.commit_time_micros);
    statement
        .raw_bind_parameter(index, ToSqlOutput::Borrowed(ValueRef::Text(&text)))
        .map_err(|error| failure(error, "binding a value".to_owned()))
}

#[inline]
fn run_statement(statement: &mut CachedStatement<'_>, table: &PlannedTable) -> Result<usize> {
    statement.raw_execute().map_err(|error| failure(error, format!("writing to table {}", table.target)))
}
