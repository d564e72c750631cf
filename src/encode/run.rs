//! Mapped transactions on their way to the sinks.
//!
//! A [`Run`] holds the changes of consecutive transactions in commit order, all values in one arena, and is shared by
//! every sink behind one `Arc`. It usually holds whole transactions; a transaction above the part limit spans several
//! runs, so a run may begin or end inside one. Nothing here knows a sink.

use std::ops::Range;
use std::sync::OnceLock;

use super::cell::Cell;
use super::plan::Plan;
use crate::Lsn;

/// Changes of consecutive transactions in commit order.
#[derive(Debug, Default)]
pub struct Run {
    pub(super) arena: Vec<u8>,
    pub(super) cells: Vec<Cell>,
    pub(super) changes: Vec<Change>,
    pub(super) spans: Vec<Span>,
    pub(super) rejections: Vec<RejectedRow>,
    /// By change, in order: the key, in key order and as the source writes it, of rows that may have to be read by
    /// themselves. `None` where it cannot be sent back as text.
    pub(super) source_keys: Vec<(usize, Option<Vec<String>>)>,
    /// Tables that changes were left out of.
    pub(super) misfits: Vec<Misfit>,
    /// What `json_rows` has rendered, for all sinks that ask.
    pub(super) rendered: OnceLock<Rendered>,
    /// By change, in order: what `key_hashes` has made of its key, for all sinks that ask.
    pub(super) key_hashes: OnceLock<Vec<(usize, u32)>>,
}

/// One transaction's share of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// The position of the transaction's commit record: known from its first part on.
    pub commit_lsn: Lsn,
    /// The transaction's id at the source.
    pub xid: u32,
    /// When it was committed, in microseconds since 1970-01-01 UTC.
    pub commit_time_micros: i64,
    /// The transaction starts in this run.
    pub is_start: bool,
    /// How many of the transaction's changes came in earlier runs: the same for every delivery of the transaction,
    /// however it is cut, as long as the plan has the same tables.
    pub changes_before: u64,
    /// The end of the commit record, if the transaction ends in this run: the checkpoint after it.
    pub end_lsn: Option<Lsn>,
    /// Which of the run's changes are its.
    pub changes: Range<usize>,
}

/// What happens to one row, or to one table, at the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Write the whole row, over an older one of the same key. Cells: the row.
    Upsert,
    /// Write the columns that are not [`Cell::Absent`] into the row that has the key. Cells: the row.
    Update,
    /// Remove the row, or mark it where the table is soft-deleted. Cells: the key.
    Delete,
    /// The row's key changed: write the present columns and take the old key away. Cells: the old key, the row.
    Move,
    /// Remove, or mark, all rows. No cells.
    Truncate,
    /// A row that has no valid form at the sink; keep why. The change's `first_cell` indexes the rejections.
    Reject,
}

/// One change, with its cells in the run's cell list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What happens.
    pub kind: ChangeKind,
    /// Index of the table in the plan.
    pub table: u32,
    /// The first of its cells.
    pub first_cell: u32,
}

/// Why a row is not in a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRow {
    /// `insert`, `update` or `delete`.
    pub operation: &'static str,
    /// The row's key as JSON text: an array of the key's source values, `\x` and hexadecimal digits where they came
    /// in binary.
    pub key: String,
    /// Column and reason, without the value.
    pub reason: String,
}

/// Why a table's changes are left out: what the source has of it does not fit the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Index of the table in the plan.
    pub table: usize,
    /// The first transaction whose changes are left out, by the position of its commit record.
    pub commit_lsn: Lsn,
    /// What is wrong, in one sentence.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
    /// It is gone, or another one: one of its name that fits may come.
    pub returns: bool,
}

/// The text of a run's changes, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// Where each change's text ends.
    pub(super) ends: Vec<usize>,
}

impl Run {
    /// The transactions in this run, in commit order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The changes of one of this run's spans, in order.
    pub fn changes(&self, span: &Span) -> &[Change] {
        &self.changes[span.changes.clone()]
    }

    /// All changes of the run.
    pub fn all_changes(&self) -> &[Change] {
        &self.changes
    }

    /// The memory that text and blob cells lie in.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// The row's cells in plan order: of an `Upsert`, `Update` or `Move`.
    pub fn row(&self, change: Change, plan: &Plan) -> &[Cell] {
        let table = &plan.tables[change.table as usize];
        let skip = if change.kind == ChangeKind::Move { table.key.len() } else { 0 };
        &self.cells[change.first_cell as usize + skip..][..table.columns.len()]
    }

    /// The key's cells in key order: of a `Delete`, or the old key of a `Move`.
    pub fn key(&self, change: Change, plan: &Plan) -> &[Cell] {
        &self.cells[change.first_cell as usize..][..plan.tables[change.table as usize].key.len()]
    }

    /// The rows of a span that moved without all of their values: the table, and the new key as the source writes it, in
    /// key order; `None` where it cannot be sent back as text.
    pub(super) fn moved_in_part(&self, span: &Span) -> impl Iterator<Item = (u32, Option<&[String]>)> {
        let before = |at: usize| self.source_keys.partition_point(|(change, _)| *change < at);
        let of_span = &self.source_keys[before(span.changes.start)..before(span.changes.end)];
        of_span.iter().map(|(change, key)| (self.changes[*change].table, key.as_deref()))
    }

    /// The tables that changes were left out of, each before the first of them is told.
    pub fn misfits(&self) -> &[Misfit] {
        &self.misfits
    }

    /// Why the row was rejected: of a `Reject`.
    pub fn rejection(&self, change: Change) -> &RejectedRow {
        &self.rejections[change.first_cell as usize]
    }

    /// How much memory the run holds, for the queues' limits.
    pub fn bytes(&self) -> usize {
        self.arena.len()
            + self.cells.len() * size_of::<Cell>()
            + self.changes.len() * size_of::<Change>()
            + self.spans.len() * size_of::<Span>()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}
