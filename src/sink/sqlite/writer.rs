//! Applies batches: prepared statements, changes in source order, one SQLite transaction per group of source
//! transactions.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, params};

use super::{Open, execute, failure, fills, state, tables};
use crate::encode::cell::Cell;
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::run::{Change, ChangeKind, RejectedRow, Run, Span};
use crate::encode::time::push_rfc3339_micros;
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{FillWrite, OwedKey};
use crate::fanout::sink::{Applied, Batch};
use crate::postgres::quote_identifier as quote;
use crate::sink::replica::{NOT_IN_REPLICA, OnRejected, missing_row, rejected, rejected_row, unix_micros};

/// The statements of each table that do not depend on which columns are present.
pub(super) struct TableSql(Vec<Statements>);

struct Statements {
    upsert: String,
    delete: String,
    truncate: String,
}

impl TableSql {
    pub(super) fn new(plan: &Plan) -> Self {
        TableSql(plan.tables.iter().map(Statements::new).collect())
    }
}

impl Statements {
    fn new(table: &PlannedTable) -> Self {
        let target = quote(&table.target);
        let names: Vec<String> = table.columns.iter().map(|column| quote(&column.target)).collect();
        let parameters: Vec<String> = (1..=names.len()).map(|index| format!("?{index}")).collect();
        let key: Vec<String> = table.key_columns().map(|column| quote(&column.target)).collect();
        let mut assignments: Vec<String> = (0..names.len())
            .filter(|index| !table.key.contains(index))
            .map(|index| format!("{0} = excluded.{0}", names[index]))
            .collect();
        let key_matches: Vec<String> =
            key.iter().enumerate().map(|(index, name)| format!("{name} = ?{}", index + 1)).collect();
        let key_matches = key_matches.join(" AND ");
        let (delete, truncate) = match table.soft_delete.as_deref().map(quote) {
            Some(column) => {
                // A row that comes again is not deleted any more.
                assignments.push(format!("{column} = NULL"));
                (
                    format!(
                        "UPDATE {target} SET {column} = ?{} WHERE {key_matches} AND {column} IS NULL",
                        key.len() + 1
                    ),
                    format!("UPDATE {target} SET {column} = ?1 WHERE {column} IS NULL"),
                )
            }
            None => (format!("DELETE FROM {target} WHERE {key_matches}"), format!("DELETE FROM {target}")),
        };
        let resolution = if assignments.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", assignments.join(", "))
        };
        Statements {
            upsert: format!(
                "INSERT INTO {target} ({}) VALUES ({}) ON CONFLICT ({}) DO {resolution}",
                names.join(", "),
                parameters.join(", "),
                key.join(", ")
            ),
            delete,
            truncate,
        }
    }
}

/// `UPDATE` of the columns that are present in `row`, found by `key_column = parameter` behind them.
fn update_sql(table: &PlannedTable, row: &[Cell], includes_key: bool) -> String {
    let mut assignments = Vec::new();
    let mut parameter = 0;
    for (index, cell) in row.iter().enumerate() {
        if *cell != Cell::Absent && (includes_key || !table.key.contains(&index)) {
            parameter += 1;
            assignments.push(format!("{} = ?{parameter}", quote(&table.columns[index].target)));
        }
    }
    if let Some(column) = &table.soft_delete {
        assignments.push(format!("{} = NULL", quote(column)));
    }
    let first_key = table.key.first().map(|&index| quote(&table.columns[index].target));
    if assignments.is_empty() {
        // Nothing but the key was sent: still tells whether the row is there.
        assignments.extend(first_key.map(|name| format!("{name} = {name}")));
    }
    let matches: Vec<String> = table
        .key_columns()
        .map(|column| {
            parameter += 1;
            format!("{} = ?{parameter}", quote(&column.target))
        })
        .collect();
    format!("UPDATE {} SET {} WHERE {}", quote(&table.target), assignments.join(", "), matches.join(" AND "))
}

/// The condition that finds a row by the values of its key, bound in key order.
fn key_matches(table: &PlannedTable) -> String {
    let matches: Vec<String> =
        table.key_columns().map(|column| format!("{} = ?", quote(&column.target))).collect();
    matches.join(" AND ")
}

/// One batch's worth of applying.
pub(super) struct Writer<'a> {
    connection: &'a Connection,
    /// With the names of the tables that rows are written to.
    plan: &'a Plan,
    /// With the names that readers know.
    known_as: &'a Plan,
    sql: &'a TableSql,
    /// By table: the statements that nearly every change needs, looked up once per batch.
    upserts: Vec<Option<CachedStatement<'a>>>,
    is_in_transaction: &'a mut bool,
    timeline: u32,
    epoch: u64,
    on_rejected: OnRejected,
    applied: Applied,
    /// What updates did not find, and should have.
    pub(super) missing: Vec<(usize, OwedKey)>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(open: &'a mut Open, on_rejected: OnRejected) -> Self {
        Writer {
            upserts: open.plan.tables.iter().map(|_| None).collect(),
            connection: &open.connection,
            plan: &open.written,
            known_as: &open.plan,
            sql: &open.sql,
            is_in_transaction: &mut open.is_in_transaction,
            timeline: open.source.timeline,
            epoch: open.epoch,
            on_rejected,
            applied: Applied::default(),
            missing: Vec::new(),
        }
    }

    /// Applies the batch's transactions. Whole ones are committed together; one that has not ended yet starts a
    /// transaction of its own, which stays open.
    pub(super) fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        let mut ended = Ended::default();
        for (run, span) in batch.spans() {
            if span.end_lsn.is_none() && span.is_start {
                self.commit(&mut ended)?;
            }
            if !*self.is_in_transaction {
                if !span.is_start {
                    return Err(Error::new(Kind::Replay, "the transaction's first part is no longer there"));
                }
                execute(self.connection, "BEGIN IMMEDIATE")?;
                *self.is_in_transaction = true;
            }
            self.span(batch, run, span)?;
            if let Some(end_lsn) = span.end_lsn {
                ended.lsn = Some(end_lsn);
                ended.commit_time_micros = Some(span.commit_time_micros);
                ended.transactions += 1;
            }
        }
        self.expect_all()?;
        if let Some(idle) = batch.idle() {
            ended.lsn = ended.lsn.max(Some(idle));
        }
        self.commit(&mut ended)?;
        Ok(self.applied)
    }

    /// Writes a step of a fill: a transaction of its own, unless one is open.
    pub(super) fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        let is_alone = !*self.is_in_transaction;
        if is_alone {
            execute(self.connection, "BEGIN IMMEDIATE")?;
        }
        state::check_epoch(self.connection, self.epoch)?;
        let target = &self.known_as.tables[write.table].target;
        if write.clears {
            tables::recreate(self.connection, &self.plan.tables[write.table], target)?;
        }
        if let Some(run) = write.run {
            // When a row that is gone was deleted, nobody knows any more.
            let commit_time_micros = unix_micros();
            let read = Span { commit_lsn: write.fill.seen_lsn, commit_time_micros, ..Span::default() };
            for &change in run.all_changes() {
                if change.kind == ChangeKind::Reject {
                    // The stream may have said so already.
                    if !self.has_dead_letter(target, run.rejection(change))? {
                        self.dead_letter(change.table, run.rejection(change), &read)?;
                    }
                    continue;
                }
                let written = match change.kind {
                    ChangeKind::Delete => self.delete(run, &read, change),
                    _ => self.upsert(run, write.table, run.row(change, self.plan)),
                };
                match written {
                    Ok(()) => self.applied.changes += 1,
                    Err(error) if error.kind() == Kind::Rejected => {
                        let row = rejected_row(run, change, self.plan, error.chain());
                        self.dead_letter(change.table, &row, &read)?;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        fills::put(self.connection, target, write.fill)?;
        if is_alone {
            execute(self.connection, "COMMIT")?;
        }
        Ok(self.applied)
    }

    /// Commits what has ended, with the checkpoint that says so.
    fn commit(&mut self, ended: &mut Ended) -> Result<()> {
        self.expect_all()?;
        let Some(lsn) = ended.lsn.take() else { return Ok(()) };
        let Ended { commit_time_micros, transactions, .. } = std::mem::take(ended);
        state::advance(self.connection, lsn, commit_time_micros, self.timeline, self.epoch, transactions)?;
        if *self.is_in_transaction {
            execute(self.connection, "COMMIT")?;
            *self.is_in_transaction = false;
        }
        self.applied.transactions += transactions;
        Ok(())
    }

    fn span(&mut self, batch: &Batch<'_>, run: &Run, span: &Span) -> Result<()> {
        for change in batch.changes(run, span) {
            if change.kind == ChangeKind::Reject {
                self.dead_letter(change.table, run.rejection(change), span)?;
                continue;
            }
            match self.change(batch, run, span, change) {
                Ok(()) => self.applied.changes += 1,
                // The statement had no effect; the transaction goes on without the row.
                Err(error) if error.kind() == Kind::Rejected && !self.connection.is_autocommit() => {
                    let row = rejected_row(run, change, self.plan, error.chain());
                    self.dead_letter(change.table, &row, span)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[inline]
    fn change(&mut self, batch: &Batch<'_>, run: &Run, span: &Span, change: Change) -> Result<()> {
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
    fn upsert(&mut self, run: &Run, table: usize, row: &[Cell]) -> Result<()> {
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

    /// Nothing is committed while a row is missing that should be there.
    fn expect_all(&self) -> Result<()> {
        match self.missing.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Kind::Rejected, NOT_IN_REPLICA)),
        }
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

    fn delete(&self, run: &Run, span: &Span, change: Change) -> Result<()> {
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

    fn has_dead_letter(&self, target: &str, row: &RejectedRow) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT count(*) > 0 FROM _walcast_dead_letters WHERE target = ?1 AND key = ?2")
            .and_then(|mut statement| statement.query_row(params![target, row.key], |row| row.get(0)))
            .map_err(|error| failure(error, "looking for a dead letter".to_owned()))
    }

    fn dead_letter(&mut self, table: u32, row: &RejectedRow, span: &Span) -> Result<()> {
        let target = &self.known_as.tables[table as usize].target;
        if self.on_rejected == OnRejected::Halt {
            return Err(rejected(target, span.commit_lsn, &row.reason));
        }
        tracing::warn!(
            table = target,
            operation = row.operation,
            lsn = %span.commit_lsn,
            "dead letter: {}",
            row.reason
        );
        self.connection
            .prepare_cached(
                "INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    target,
                    row.operation,
                    row.key,
                    row.reason,
                    span.commit_lsn.to_string(),
                    span.xid
                ])
            })
            .map_err(|error| failure(error, "writing a dead letter".to_owned()))?;
        self.applied.dead_letters += 1;
        Ok(())
    }
}

/// What ended in this batch and is not committed yet.
#[derive(Default)]
struct Ended {
    lsn: Option<crate::Lsn>,
    commit_time_micros: Option<i64>,
    transactions: u64,
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
