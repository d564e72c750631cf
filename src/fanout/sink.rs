//! The delivery contract: what the engine promises a sink, and what it expects. An implementer needs no other page.
//!
//! **Order.** `open` comes first and once. Then batches come in commit order. A transaction above the part limit
//! comes in parts, in consecutive batches; a batch may begin or end inside one.
//!
//! **Atomicity.** Readers of the sink never see half of a source transaction. Rows and checkpoint commit together.
//! When `apply` returns `Ok`, all transactions that ended in the batch are durable and the checkpoint says so.
//!
//! **Parts.** What a sink does with the parts of a transaction that has not ended, it chooses:
//! - It keeps them in an open transaction of the target, which readers do not see. They are gone after an error, so a
//!   batch that then begins behind its transaction's start is answered by asking for the stream again.
//! - It cannot keep a transaction open, as D1 cannot. Then [`Sink::whole`] says how much of one the target takes in a
//!   single step, and the worker waits for the transaction's end until it has that much: a smaller transaction is never
//!   split. A larger one is made durable part by part, in steps that readers do see, each with a checkpoint that says how
//!   many of the transaction's changes are there ([`Checkpoint::open`]). Whatever comes again, after an error or from the
//!   start of the stream, the sink skips by that count; so nothing has to be asked for again.
//!
//! **Failure.** After any error the sink must be back at a checkpoint that [`Sink::checkpoint`] reads from the target
//! itself: the engine asks for it, leaves out what is already there, and sends the rest again. So an answer that was
//! lost is harmless, and a transaction has its effect exactly once. A sink that knows that nothing was applied, because
//! the target said so, may answer from memory instead of asking a target that wants to be left alone.
//!
//! **Fills.** Rows that are older than the slot come between batches, by [`Sink::fill`]. As long as [`Batch::may_lack`]
//! says so, an update may find no row: it comes, or is gone already. Where an update finds none otherwise, nothing of the
//! batch is applied, and [`Sink::take_missing`] says which rows have to be read. Where a move finds its new key taken by
//! a row that a fill brought, it writes over that one. A table whose definition changed is filled beside the one that
//! readers see ([`TableFill::is_beside`](super::fill::TableFill::is_beside)); the stream goes to the new one alone, and
//! [`FillWrite::swaps`] puts it in the other's place, in one step.
//!
//! **Blocking.** All methods may block the calling thread, which is the sink's own.

use std::sync::Arc;

use super::fill::{FillWrite, Fills, OwedKey, TableState};
use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::encode::run::{Change, Run, Span};
use crate::error::Result;

/// A target. See the module's head for the contract.
pub trait Sink: Send {
    /// Connects to the target, makes sure that it is ours, creates what the plan needs, and takes over the fencing
    /// token so that an older engine can no longer write. Returns the checkpoint, or `None` for a target that never
    /// received anything.
    ///
    /// # Errors
    /// Halts when the target belongs to something else or to another pipeline; nothing was changed then.
    fn open(&mut self, plan: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>>;

    /// Writes the first checkpoint of a target that has none.
    fn start_at(&mut self, lsn: Lsn) -> Result<()>;

    /// Moves the checkpoint of a target to `lsn`, wherever it was: what was between is lost. All tables are emptied and
    /// filled anew; until each begins, it stays as it is.
    ///
    /// # Errors
    /// As [`Sink::apply`].
    fn begin_anew(&mut self, lsn: Lsn) -> Result<()>;

    /// Applies a batch and returns what it did.
    ///
    /// # Errors
    /// The kind decides: transient and throttled are sent again, rejected and halt stop this sink, replay asks for
    /// the stream again from the checkpoint.
    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied>;

    /// Applies the batch or only the first part of it, and says how far that reaches. The worker comes again with the
    /// rest and with what has queued meanwhile, so a sink that takes a batch in several steps takes as much as there is
    /// in each, and its progress is known after each. Without an implementation of its own, a sink applies everything.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn apply_some(&mut self, batch: &Batch<'_>) -> Result<(Applied, Reached)> {
        self.apply(batch).map(|applied| (applied, Reached::All))
    }

    /// Gives up whatever is not committed and reads the checkpoint from the target.
    fn checkpoint(&mut self) -> Result<Checkpoint>;

    /// Writes a step of a fill, rows and progress together. It may come while a transaction is open in the target; then
    /// it commits with it.
    ///
    /// # Errors
    /// As [`Sink::apply`]. The step is sent again, which writes the same once more.
    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied>;

    /// The rows that the last [`Sink::apply`] failed for, or went on without, because updates did not find them: each with
    /// its table's index in the plan.
    fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        Vec::new()
    }

    /// How far the fills are, from the target.
    fn fills(&mut self) -> Result<Fills>;

    /// Writes what the sink keeps for the next batch, such as what the last one came to: nothing more comes. Tried once;
    /// nothing that the contract asks for may depend on it.
    fn end(&mut self) {}

    /// How much of a transaction that has not ended the sink wants to have at once. Nothing, for a sink that keeps a
    /// transaction open across batches.
    fn whole(&self) -> Whole {
        Whole::default()
    }
}

/// Up to which size a transaction comes whole: while it has less of both, the worker waits for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whole {
    /// Row changes.
    pub rows_max: usize,
    /// Bytes in memory.
    pub bytes_max: usize,
}

/// A sink's position as it is stored in the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything that ended at or before this position is in the sink.
    pub lsn: Lsn,
    /// When the last applied transaction was committed at the source, in microseconds since 1970-01-01 UTC.
    pub commit_time_micros: Option<i64>,
    /// Which source, timeline and slot the position belongs to.
    pub source: SourceIdentity,
    /// The fencing token: only the engine that wrote the highest one may write.
    pub epoch: u64,
    /// Transactions applied since the target was created.
    pub transactions: u64,
    /// What is durable of the next transaction, if it comes in parts and the target holds some.
    pub open: Option<OpenTransaction>,
}

/// A transaction of which a target holds the first changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTransaction {
    /// The position of its commit record.
    pub commit_lsn: Lsn,
    /// How many of its changes are there.
    pub changes: u64,
}

/// What one `apply` takes: the runs that had queued, less what the sink already has.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    runs: &'a [Arc<Run>],
    after: Lsn,
    idle: Option<Lsn>,
    /// The commit record of a transaction that has not ended and is left out.
    without: Option<Lsn>,
    fills: Option<&'a Fills>,
}

impl<'a> Batch<'a> {
    /// The transactions of `runs` that are not part of a checkpoint at `after`. `idle`: behind them nothing else was
    /// committed up to this position.
    pub fn new(runs: &'a [Arc<Run>], after: Lsn, idle: Option<Lsn>) -> Self {
        Batch { runs, after, idle, without: None, fills: None }
    }

    /// The same for a sink whose fills are here.
    pub fn with_fills(mut self, fills: &'a Fills) -> Self {
        self.fills = Some(fills);
        self
    }

    /// Whether the table may lack rows, because it is being filled.
    pub fn may_lack(&self, table: usize) -> bool {
        self.fills.and_then(|fills| fills.get(table)).is_some_and(|fill| fill.may_lack(self.after))
    }

    /// Whether rows of the table may be newer than the stream.
    pub fn may_be_newer(&self, table: usize) -> bool {
        self.fills.is_some_and(|fills| fills.state(table, self.after) != TableState::Live)
    }

    /// Changes of the table by transactions that were committed before this are left out; they count among a
    /// transaction's changes all the same.
    pub fn from(&self, table: usize) -> Lsn {
        let fill = self.fills.and_then(|fills| fills.get(table));
        fill.map_or(Lsn::ZERO, |fill| if fill.stopped.is_some() { Lsn(u64::MAX) } else { fill.from })
    }

    /// The changes of one of its spans that are to be applied.
    pub fn changes(&self, run: &'a Run, span: &'a Span) -> impl Iterator<Item = Change> + use<'a> {
        let (fills, commit_lsn) = (self.fills, span.commit_lsn);
        let is_left_out = move |table: u32| {
            fills.and_then(|fills| fills.get(table as usize)).is_some_and(|fill| fill.leaves_out(commit_lsn))
        };
        run.changes(span).iter().copied().filter(move |change| !is_left_out(change.table))
    }

    /// Whether it is known that this row has to be read by itself.
    pub fn is_owed(&self, table: usize, key: &[String]) -> bool {
        let owed = self.fills.and_then(|fills| fills.get(table)).map_or(&[][..], |fill| &fill.owed);
        owed.iter().any(|owed| owed.key == key)
    }

    /// The same without a transaction that has not ended, because its end does not come.
    pub fn ended(mut self) -> Self {
        let last = self.runs.last().and_then(|run| run.spans().last());
        self.without = last.filter(|span| span.end_lsn.is_none()).map(|span| span.commit_lsn);
        self
    }

    /// The transactions to apply, in commit order, each with the run that holds its changes.
    pub fn spans(&self) -> impl Iterator<Item = (&'a Arc<Run>, &'a Span)> + use<'a> {
        let Batch { after, without, .. } = *self;
        // A transaction ends behind its commit record, so one at or behind the checkpoint has not been applied.
        self.runs
            .iter()
            .flat_map(|run| run.spans().iter().map(move |span| (run, span)))
            .filter(move |(_, span)| span.commit_lsn >= after && Some(span.commit_lsn) != without)
    }

    /// The position that the sink's checkpoint may move to although no transaction ends there.
    pub fn idle(&self) -> Option<Lsn> {
        self.idle.filter(|&lsn| lsn > self.after)
    }

    /// The position after the batch: its last transaction's end or its idle position; `None` if it brings neither.
    pub fn end_lsn(&self) -> Option<Lsn> {
        let last_end = self.spans().filter_map(|(_, span)| span.end_lsn).last();
        last_end.max(self.idle())
    }

    /// Whether the batch ends inside a transaction.
    pub fn is_open(&self) -> bool {
        self.spans().last().is_some_and(|(_, span)| span.end_lsn.is_none())
    }
}

/// How much of a batch is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// All of it.
    All,
    /// Its first part.
    Part {
        /// The checkpoint's position.
        lsn: Lsn,
        /// What is durable of the transaction behind it.
        open: Option<OpenTransaction>,
    },
}

/// What an `apply` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Row changes written.
    pub changes: u64,
    /// Source transactions that ended.
    pub transactions: u64,
    /// Rows set aside as dead letters.
    pub dead_letters: u64,
}

impl Applied {
    /// Counts in what another step did.
    pub fn add(&mut self, step: Applied) {
        self.changes += step.changes;
        self.transactions += step.transactions;
        self.dead_letters += step.dead_letters;
    }
}
