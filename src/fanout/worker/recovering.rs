//! What a worker does after an attempt that failed: it learns from the target where that is, and then tries again, asks
//! for the stream again, has missing rows read by themselves, or gives up. The error's kind decides, in [`retry`].
//! Nothing of the batch is applied here.

use std::collections::BTreeMap;

use super::{Step, Worker};
use crate::Lsn;
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{Action, FillStep, OwedKey};
use crate::fanout::retry::{self, Decision};
use crate::fanout::sink::{OpenTransaction, Sink};
use crate::telemetry;

impl<S: Sink> Worker<S> {
    /// Learns from the target where it is, and decides by the error's kind.
    pub(super) fn failed(&mut self, error: Error) -> Step {
        let missing = self.sink.take_missing();
        if !missing.is_empty() {
            return self.missed(missing);
        }
        let decision = match retry::decide(error.kind(), self.attempt, self.backoff, &mut self.rng) {
            Decision::Stop => return Step::Stopped(error),
            decision => decision,
        };
        self.attempt += 1;
        self.progress.count_retry(&error);
        telemetry::retried(&self.progress.name, &error, self.attempt);
        tracing::warn!(
            sink = self.progress.name,
            kind = error.kind().as_str(),
            attempt = self.attempt,
            "applying a batch failed: {}",
            error.chain()
        );
        if let Err(error) = self.relearn() {
            return self.wait_after(error);
        }
        match decision {
            Decision::Retry(wait) if !self.has_lost_the_start() => Step::Wait(wait),
            _ => self.ask_for_replay(),
        }
    }

    /// When the target is asked again that could not be asked where it is.
    pub(super) fn wait_after(&mut self, error: Error) -> Step {
        match retry::decide(error.kind(), self.attempt, self.backoff, &mut self.rng) {
            Decision::Retry(wait) => Step::Wait(wait),
            Decision::Replay | Decision::Stop => Step::Stopped(error),
        }
    }

    /// Whether the batch begins inside a transaction of which the target has not what came before.
    pub(super) fn has_lost_the_start(&self) -> bool {
        let batch = self.taken.batch(self.position, &self.fills);
        batch.spans().next().is_some_and(|(_, span)| {
            let is_there = |open: OpenTransaction| {
                open.commit_lsn == span.commit_lsn && open.changes >= span.changes_before
            };
            !span.is_start && !self.open.is_some_and(is_there)
        })
    }

    pub(super) fn ask_for_replay(&mut self) -> Step {
        self.awaits_restart = true;
        self.queue.request_replay();
        Step::Done
    }

    /// Keeps that rows have to be read by themselves; then the batch goes through without them.
    fn missed(&mut self, missing: Vec<(usize, OwedKey)>) -> Step {
        if let Err(error) = self.relearn().and_then(|()| self.keep_missing(missing)) {
            return self.failed(error);
        }
        if self.has_lost_the_start() { self.ask_for_replay() } else { Step::Done }
    }

    pub(super) fn keep_missing(&mut self, missing: Vec<(usize, OwedKey)>) -> Result<()> {
        let mut by_table: BTreeMap<usize, Vec<OwedKey>> = BTreeMap::new();
        missing.into_iter().for_each(|(table, owed)| by_table.entry(table).or_default().push(owed));
        for (table, owed) in by_table {
            tracing::warn!(
                sink = self.progress.name,
                rows = owed.len(),
                lsn = ?owed.first().map(|owed| owed.commit_lsn),
                "updates found no row in this sink; it is read from the source"
            );
            let step = FillStep { table, action: Action::Miss(owed), sent_at: Lsn::ZERO, receipt: None };
            self.fill(&step)?;
        }
        Ok(())
    }

    pub(super) fn relearn(&mut self) -> Result<()> {
        self.is_unsure = true;
        let checkpoint = self.sink.checkpoint()?;
        if checkpoint.lsn < self.progress.durable_lsn() {
            return Err(Error::new(
                Kind::NeedsBackfill,
                format!(
                    "the checkpoint of sink {} went back from {} to {}: it was restored or replaced",
                    self.progress.name,
                    self.progress.durable_lsn(),
                    checkpoint.lsn
                ),
            )
            .hint("walcast status shows slot and checkpoints"));
        }
        self.fills = self.sink.fills()?;
        self.progress.set_fills(self.fills.clone());
        self.position = checkpoint.lsn;
        self.open = checkpoint.open;
        self.is_unsure = false;
        Ok(())
    }

    pub(super) fn restart(&mut self) -> Step {
        match self.relearn() {
            Ok(()) => {
                self.awaits_restart = false;
                Step::Done
            }
            Err(error) => {
                self.taken.is_restart_next = true;
                self.failed(error)
            }
        }
    }
}
