//! How far a table is, in the form in which a sink keeps it. Fields are only ever added, and one that is missing means
//! what it meant before it was there: a sink may have been written by an older walcast. Nothing is decided here.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};

use crate::Lsn;
use crate::capture::chunk::KeyRange;
use crate::encode::plan::PlannedTable;
use crate::fanout::stop::Stopped;

/// How far one table of one sink is, as the sink keeps it.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFill {
    /// The key's columns at the source, in the order of every [`Key`](crate::capture::chunk::Key); without meaning while it waits.
    pub key_columns: Vec<String>,
    /// What there is to fill; none while it waits to begin.
    pub ranges: Vec<RangeFill>,
    /// Rows that were brought.
    pub rows: u64,
    /// How many rows the source was thought to have at the beginning.
    pub rows_estimated: u64,
    /// When it began, in seconds since 1970-01-01 UTC; 0 while it waits.
    pub began: u64,
    /// What the ranges were read from ends at or before this: until the checkpoint is there, a row may be newer than the
    /// stream, or gone already.
    #[serde_as(as = "DisplayFromStr")]
    pub filled_lsn: Lsn,
    /// The same with the rows that were read by themselves: a checkpoint behind it makes the table right.
    #[serde_as(as = "DisplayFromStr")]
    pub seen_lsn: Lsn,
    /// Rows that must be read by themselves.
    pub owed: Vec<OwedKey>,
    /// How often it began anew because too many rows were owed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overflows: u32,
    /// What is in the table goes when the fill begins.
    pub clears: bool,
    /// The operator has emptied it and wants it so.
    pub is_left_empty: bool,
    /// The operator wants only some rows, and the others are there: such a chunk is no use to a sink that lacks all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// What is filled stands beside the table that readers see, and takes its place once it is live.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_beside: bool,
    /// `schema.json` does not name the table any more: it stays as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_left: bool,
    /// Why its changes are not applied any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Changes of transactions that were committed before this are left out: whatever is read of the table has them.
    #[serde_as(as = "DisplayFromStr")]
    #[serde(default = "zero", skip_serializing_if = "is_from_the_start")]
    pub from: Lsn,
    /// The OID of the relation that its rows are from; `None` where that was never noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<u32>,
}

fn zero() -> Lsn {
    Lsn::ZERO
}

fn is_from_the_start(lsn: &Lsn) -> bool {
    *lsn == Lsn::ZERO
}

/// A range of keys, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeFill {
    /// What is left to be read.
    #[serde(flatten)]
    pub rest: KeyRange,
    /// Nothing is.
    pub is_done: bool,
}

/// A row that must be read by itself. `Debug` does not show its key.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedKey {
    /// The key's values as the source writes them, in the plan's key order.
    pub key: Vec<String>,
    /// The change that makes it so: a read that does not see it is not enough.
    #[serde_as(as = "DisplayFromStr")]
    pub commit_lsn: Lsn,
    /// That transaction's id.
    pub xid: u32,
}

impl fmt::Debug for OwedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwedKey").field("commit_lsn", &self.commit_lsn).finish_non_exhaustive()
    }
}

impl TableFill {
    /// A fill that waits to begin.
    pub fn waiting(rows_estimated: u64) -> Self {
        TableFill {
            key_columns: Vec::new(),
            ranges: Vec::new(),
            rows: 0,
            rows_estimated,
            began: 0,
            filled_lsn: Lsn::ZERO,
            seen_lsn: Lsn::ZERO,
            owed: Vec::new(),
            overflows: 0,
            clears: false,
            is_left_empty: false,
            is_partial: false,
            is_beside: false,
            is_left: false,
            stopped: None,
            from: Lsn::ZERO,
            relation: None,
        }
    }

    /// The same for a table of the plan.
    pub fn of(table: &PlannedTable) -> Self {
        let rows_estimated = table.estimated_rows.max(0).unsigned_abs();
        let relation = table.problem.is_none().then_some(table.oid.0);
        TableFill { relation, ..TableFill::waiting(rows_estimated) }
    }

    /// A table that lacks nothing.
    pub fn complete() -> Self {
        let ranges = vec![RangeFill { rest: KeyRange::default(), is_done: true }];
        TableFill { ranges, ..TableFill::waiting(0) }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
