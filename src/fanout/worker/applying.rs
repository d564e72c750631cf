//! One attempt at what a worker has taken: what is owed goes first, then the transactions, then the step of a fill that
//! stood behind them. What the sink says it has done goes into the sink's progress, the metrics and the sync log. An error
//! is handed on as it is: nothing is retried or learned here.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Worker;
use crate::encode::key_hashes::KeyHashes;
use crate::encode::run::Span;
use crate::error::Result;
use crate::fanout::fill::{Action, FillStep, FillWrite, TableState};
use crate::fanout::sink::{Applied, Reached, Sink};
use crate::telemetry::{self, BatchApplied, span, sync_log};

impl<S: Sink> Worker<S> {
    pub(super) fn attempt(&mut self) -> Result<Reached> {
        if self.awaits_restart {
            return Ok(Reached::All);
        }
        self.owe()?;
        let reached = self.apply()?;
        if reached == Reached::All {
            if let Some(step) = self.taken.fill.clone() {
                self.fill(&step)?;
            }
            self.swap()?;
        }
        Ok(reached)
    }

    /// Keeps what is owed or stopped because of the runs, in one write for each table.
    fn owe(&mut self) -> Result<()> {
        if self.taken.owes.is_empty() {
            return Ok(());
        }
        let (mut fills, mut tables) = (self.fills.clone(), BTreeSet::new());
        for step in &self.taken.owes {
            if let Some(fill) = fills.after(&self.progress.name, self.position, step) {
                fills.set(step.table, fill);
                tables.insert(step.table);
            }
        }
        for table in tables {
            let Some(fill) = fills.get(table) else { continue };
            self.sink.fill(&FillWrite { table, fill, run: None, clears: false, swaps: false })?;
            let was_stopped = self.fills.state(table, self.position) == TableState::Stopped;
            if let Some(stopped) = fill.stopped.as_ref().filter(|_| !was_stopped) {
                stopped.log(&self.progress.name, self.tables.get(table).map_or("", String::as_str));
            }
            self.progress.set_fill(table, fill.clone());
            self.fills.set(table, fill.clone());
        }
        Ok(())
    }

    /// Lets tables that stand beside others take their places, where they are ready to.
    fn swap(&mut self) -> Result<()> {
        for table in 0..self.fills.0.len() {
            let swapped = self.fills.get(table).and_then(|fill| fill.swapped(self.position));
            let Some(fill) = swapped else { continue };
            self.sink.fill(&FillWrite { table, fill: &fill, run: None, clears: false, swaps: true })?;
            self.progress.set_fill(table, fill.clone());
            self.fills.set(table, fill);
        }
        Ok(())
    }

    /// Takes a step of a fill, if it is for this sink and not there yet.
    pub(super) fn fill(&mut self, step: &FillStep) -> Result<()> {
        let Some(fill) = self.fills.after(&self.progress.name, self.position, step) else { return Ok(()) };
        let clears = match &step.action {
            Action::Begin { fill, sinks } => {
                let waiting = self.fills.get(step.table).filter(|_| sinks.is_none());
                fill.clears || waiting.is_some_and(|waiting| waiting.clears)
            }
            Action::Resume { fill, .. } => fill.clears,
            Action::Chunk { .. }
            | Action::Owe(_)
            | Action::Miss(_)
            | Action::Stop { .. }
            | Action::Retry { .. }
            | Action::Paid { .. } => false,
        };
        let run = step.run().map(|run| &**run);
        let (started, table) = (Instant::now(), self.tables.get(step.table).map_or("", String::as_str));
        let span = span::fill(&self.progress.name, table);
        let write = FillWrite { table: step.table, fill: &fill, run, clears, swaps: false };
        let applied = span.in_scope(|| self.sink.fill(&write));
        let applied = applied.inspect_err(|error| span::failed(&span, error))?;
        span.record("rows", applied.changes);
        telemetry::filled(&self.progress.name, applied.changes, started.elapsed());
        self.progress.count(Applied { changes: 0, ..applied }, None);
        self.progress.set_fill(step.table, fill.clone());
        self.fills.set(step.table, fill);
        Ok(())
    }

    fn apply(&mut self) -> Result<Reached> {
        let batch = self.taken.batch(self.position, &self.fills);
        if batch.spans().next().is_none() && batch.idle().is_none() {
            return Ok(Reached::All);
        }
        let started = Instant::now();
        let span = span::flush(&self.progress.name, self.attempt);
        let applied = span.in_scope(|| self.sink.apply_some(&batch));
        let (applied, reached) = applied.inspect_err(|error| span::failed(&span, error))?;
        let end_lsn = match reached {
            Reached::All => batch.end_lsn(),
            Reached::Part { lsn, .. } => Some(lsn).filter(|&lsn| lsn > self.position),
        };
        let commit_time =
            batch.spans().filter(|(_, span)| span.end_lsn.is_some() && span.end_lsn <= end_lsn).last();
        let commit_time = commit_time.map(|(_, span)| span.commit_time_micros);
        let Applied { changes, transactions, dead_letters } = applied;
        let ((_, bytes), took) = (self.taken.there(reached), started.elapsed());
        let failed_attempts = self.attempt;
        let has_ended = |span: &Span| span.end_lsn.is_some() && span.end_lsn <= end_lsn;
        let is_there = |span: &Span| reached == Reached::All || has_ended(span);
        let there = || batch.spans().filter(|(_, span)| is_there(span));
        let changed = there().flat_map(|(run, span)| batch.changes(run, span)).map(|change| change.table);
        let keys = || there().flat_map(|(run, span)| KeyHashes::of(run, &self.plan).of_span(span));
        let batch_applied = BatchApplied {
            changes,
            transactions,
            dead_letters,
            tables: telemetry::by_table(&self.tables, changed),
            keys: sync_log::touched(keys),
            bytes,
            took,
            failed_attempts,
            end_lsn,
        };
        span::flushed(&span, &batch_applied, commit_time);
        telemetry::batch_applied(&self.progress.name, batch_applied);
        self.progress.count(applied, commit_time);
        if let Some(end_lsn) = end_lsn {
            self.position = end_lsn;
            self.progress.set_durable(end_lsn);
        }
        Ok(reached)
    }
}
