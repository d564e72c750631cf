//! Applies batches and steps of fills: changes in source order, one SQLite transaction per group of source transactions,
//! with the checkpoint that says so. A row that SQLite does not take becomes a dead letter, and the rest goes on. Nothing
//! is committed while a row is missing that an update should have found.

mod changes;
mod statements;

use rusqlite::{CachedStatement, Connection, params};

pub(super) use self::statements::TableSql;
use super::{Open, execute, failure, fills, state, tables};
use crate::encode::plan::Plan;
use crate::encode::run::{ChangeKind, RejectedRow, Run, Span};
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{FillWrite, OwedKey};
use crate::fanout::sink::{Applied, Batch};
use crate::sink::replica::{NOT_IN_REPLICA, OnRejected, rejected, rejected_row, unix_micros};

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

    /// Nothing is committed while a row is missing that should be there.
    fn expect_all(&self) -> Result<()> {
        match self.missing.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Kind::Rejected, NOT_IN_REPLICA)),
        }
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
