//! What holds for every replica, whatever holds its rows: whose it is, who may write it, which tables it was made for,
//! and what becomes of a row that it does not take.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::capture::slot::SourceIdentity;
use crate::encode::cell::Cell;
use crate::encode::json_rows;
use crate::encode::plan::Plan;
use crate::encode::run::{Change, ChangeKind, RejectedRow, Run, Span};
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{OwedKey, TableFill};
use crate::fanout::sink::Checkpoint;

/// What happens to a row that the sink does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRejected {
    /// It is kept in `_walcast_dead_letters` with its reason, and the stream goes on.
    #[default]
    DeadLetter,
    /// The sink stops.
    Halt,
}

/// A replicated table as the replica remembers it in `_walcast_tables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTable {
    /// Its name in the replica.
    pub target: String,
    /// The source table, as [`TableName::plain`](crate::capture::table::TableName::plain) writes it.
    pub source: String,
    /// The DDL it was made from.
    pub definition: String,
    /// How far it is filled; `None` for one that never had to be.
    pub fill: Option<TableFill>,
}

impl StoredTable {
    /// How far a fill is, from the text that the replica keeps of it.
    pub(super) fn parse_fill(target: &str, text: &str) -> Result<TableFill> {
        serde_json::from_str(text).map_err(|error| {
            Error::halt(format!("_walcast_fills says of table {target} what cannot be read")).because(error)
        })
    }
}

/// Why an update of some columns cannot be applied where its row is not.
pub(super) const NOT_IN_REPLICA: &str =
    "the row is not in this replica, and the update carries only a part of it (unchanged TOAST)";

/// Refuses a replica that was filled from another slot, database or system. (A timeline may change: the slot's own check
/// decides whether that is harmless.) `place` is what errors call it.
///
/// # Errors
/// Halts, naming what differs.
pub fn check_source(checkpoint: &Checkpoint, source: &SourceIdentity, place: &dyn Display) -> Result<()> {
    let ours = &checkpoint.source;
    let difference = if ours.system_identifier != source.system_identifier {
        format!("system {}, but the source is system {}", ours.system_identifier, source.system_identifier)
    } else if ours.database != source.database {
        format!("database {}, but the source is database {}", ours.database, source.database)
    } else if ours.slot != source.slot {
        format!("slot {}, but the configuration names slot {}", ours.slot, source.slot)
    } else {
        return Ok(());
    };
    Err(Error::halt(format!("{place} is a replica of {difference}"))
        .hint("correct walcast.toml, or give the sink a new place"))
}

/// The fencing token is another engine's.
pub(super) fn taken_over() -> Error {
    Error::halt("another walcast engine has taken this replica over")
        .hint("only one engine may run for a slot; walcast status shows which one is active")
}

/// Tables would have to be changed, and the operator wants to say when.
pub(super) fn awaits_operator(place: &dyn Display, changes: &[String]) -> Error {
    Error::new(
        Kind::NeedsBackfill,
        format!("schema.json has changed, and {place} is not changed by itself: {}", changes.join("; ")),
    )
    .hint("see `walcast schema plan`, then `walcast schema apply`, or set schema_changes = \"auto\"")
}

/// A row has no valid form, and the sink stops for that.
pub(super) fn rejected(target: &str, commit_lsn: crate::Lsn, reason: &str) -> Error {
    Error::halt(format!("a row of table {target} has no valid form here, at {commit_lsn}: {reason}"))
        .hint("correct the row or the mapping, or set on_rejected = \"dead-letter\" for this sink")
}

/// What has to be read where an update did not find its row: the table's index in the plan, and the row's new key.
/// `None` where the key is not known as the source writes it.
pub(super) fn missing_row(run: &Run, span: &Span, change: Change, plan: &Plan) -> Option<(usize, OwedKey)> {
    let table = &plan.tables[change.table as usize];
    let row = run.row(change, plan);
    let text = |&index: &usize| match row[index] {
        Cell::Integer(value) => Some(value.to_string()),
        Cell::Real(value) => Some(value.to_string()),
        Cell::Text(slice) => String::from_utf8(slice.of(run.arena()).to_vec()).ok(),
        Cell::Blob(slice) => Some(format!("\\x{}", hex::encode(slice.of(run.arena())))),
        Cell::Null | Cell::Absent => None,
    };
    let key = table.key.iter().map(text).collect::<Option<_>>()?;
    Some((change.table as usize, OwedKey { key, commit_lsn: span.commit_lsn, xid: span.xid }))
}

/// Now, in microseconds since 1970-01-01 UTC.
pub(super) fn unix_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The dead letter of a change that has a valid form, but which the replica does not take.
pub(super) fn rejected_row(run: &Run, change: Change, plan: &Plan, reason: String) -> RejectedRow {
    let table = &plan.tables[change.table as usize];
    let key: Vec<Cell> = match change.kind {
        ChangeKind::Delete => run.key(change, plan).to_vec(),
        ChangeKind::Truncate | ChangeKind::Reject => Vec::new(),
        ChangeKind::Upsert | ChangeKind::Update | ChangeKind::Move => {
            let row = run.row(change, plan);
            table.key.iter().map(|&index| row[index]).collect()
        }
    };
    let mut text = Vec::new();
    json_rows::array(key, run.arena(), &mut text);
    RejectedRow {
        operation: match change.kind {
            ChangeKind::Upsert => "upsert",
            ChangeKind::Update | ChangeKind::Move => "update",
            ChangeKind::Delete => "delete",
            ChangeKind::Truncate | ChangeKind::Reject => "truncate",
        },
        key: String::from_utf8_lossy(&text).into_owned(),
        reason,
    }
}
