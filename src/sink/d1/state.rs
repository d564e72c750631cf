//! The checkpoint of a D1 database: how far it is, who may write it, and the fence in front of every request.
//!
//! A request begins with a statement that moves the checkpoint from the sequence that the engine knows to the next. If
//! the row is another writer's, or not at that sequence, or gone, the statement makes a NOT NULL column NULL, and the
//! whole request has no effect. So a request that is sent twice is applied once, and reading the row tells which
//! requests are there.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::cost::Usage;
use super::request::End;
use super::transport::{Answer, Statement};
use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::error::{Error, Result};
use crate::fanout::sink::{Checkpoint, OpenTransaction};

/// The tables of walcast's own.
pub(super) const CREATE: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS _walcast_checkpoint (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    lsn                TEXT    NOT NULL, -- everything that ended at or before this is here
    commit_time_micros INTEGER,          -- of the last transaction, since 1970-01-01 UTC
    system_identifier  TEXT    NOT NULL,
    timeline           INTEGER NOT NULL,
    database           TEXT    NOT NULL,
    slot               TEXT    NOT NULL,
    epoch              INTEGER NOT NULL, -- how many engines have written, one after the other
    transactions       INTEGER NOT NULL, -- applied since the database was created
    writer             TEXT    NOT NULL, -- the engine that may write
    sequence           INTEGER NOT NULL, -- requests applied
    open_lsn           TEXT,             -- of a transaction too large for a request: its commit record
    open_changes       INTEGER,          -- and how many of its changes are here
    usage              TEXT    NOT NULL  -- JSON: what has been written and paid for
) STRICT",
    "CREATE TABLE IF NOT EXISTS _walcast_tables (
    target     TEXT PRIMARY KEY,
    source     TEXT NOT NULL,
    definition TEXT NOT NULL
) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS _walcast_fills (
    target TEXT PRIMARY KEY,
    fill   TEXT NOT NULL -- JSON: which rows from before the stream are here
) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS _walcast_left (
    target TEXT NOT NULL,
    column TEXT NOT NULL, -- was fed once; schema.json does not name it any more
    PRIMARY KEY (target, column)
) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS _walcast_dead_letters (
    id         INTEGER PRIMARY KEY,
    recorded   TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')),
    target     TEXT    NOT NULL,
    operation  TEXT    NOT NULL,
    key        TEXT    NOT NULL, -- JSON array of the key's values
    reason     TEXT    NOT NULL,
    commit_lsn TEXT    NOT NULL,
    xid        INTEGER NOT NULL
) STRICT",
];

const READ: &str = "SELECT lsn, CAST(commit_time_micros AS TEXT) AS commit_time_micros, system_identifier, \
    CAST(timeline AS TEXT) AS timeline, database, slot, CAST(epoch AS TEXT) AS epoch, \
    CAST(transactions AS TEXT) AS transactions, writer, CAST(sequence AS TEXT) AS sequence, open_lsn, \
    CAST(open_changes AS TEXT) AS open_changes, usage FROM _walcast_checkpoint";

const INSERT: &str = "INSERT INTO _walcast_checkpoint (id, lsn, system_identifier, timeline, database, slot, epoch, \
    transactions, writer, sequence, usage) \
    VALUES (1, ?1, ?2, CAST(?3 AS INTEGER), ?4, ?5, 1, 0, ?6, 0, ?7) ON CONFLICT (id) DO NOTHING";

const TAKE_OVER: &str = "UPDATE _walcast_checkpoint SET epoch = epoch + 1, writer = ?1, sequence = sequence + 1 \
    WHERE writer = ?2 AND sequence = CAST(?3 AS INTEGER)";

const ADVANCE: &str = "INSERT INTO _walcast_checkpoint (id, writer, sequence, lsn, commit_time_micros, \
    system_identifier, timeline, database, slot, epoch, transactions, open_lsn, open_changes, usage) \
    VALUES (1, ?1, (SELECT sequence + 1 FROM _walcast_checkpoint WHERE writer = ?1 AND sequence = CAST(?2 AS INTEGER)), \
    ?3, CAST(nullif(?4, '') AS INTEGER), ?5, CAST(?6 AS INTEGER), ?7, ?8, 0, CAST(?9 AS INTEGER), nullif(?10, ''), \
    CAST(nullif(?11, '') AS INTEGER), ?12) \
    ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, lsn = excluded.lsn, \
    commit_time_micros = coalesce(excluded.commit_time_micros, commit_time_micros), timeline = excluded.timeline, \
    transactions = transactions + excluded.transactions, open_lsn = excluded.open_lsn, \
    open_changes = excluded.open_changes, usage = excluded.usage";

/// Always fails, and not as the fence does: a request that ends with it has no effect, whatever came before.
const ABORT: &str = "UPDATE _walcast_checkpoint SET slot = NULL";
/// What the failure of [`ABORT`] names.
const ABORTED: &str = "_walcast_checkpoint.slot";

/// The checkpoint's row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    pub(super) checkpoint: Checkpoint,
    /// The token of the engine that may write.
    pub(super) writer: String,
    /// How many requests were applied.
    pub(super) sequence: u64,
    /// What they came to.
    pub(super) usage: Usage,
}

/// The statements about the checkpoint, their texts shared.
#[derive(Debug)]
pub(super) struct StateSql {
    advance: Arc<str>,
    abort: Arc<str>,
}

impl StateSql {
    pub(super) fn new() -> Self {
        StateSql { advance: ADVANCE.into(), abort: ABORT.into() }
    }

    /// The fence: moves the checkpoint one request on, if `writer` may write and it is where `state` says.
    pub(super) fn advance(
        &self,
        state: &State,
        source: &SourceIdentity,
        end: &End,
        usage: &Usage,
    ) -> Statement {
        let text = |value: Option<String>| value.unwrap_or_default();
        let params = vec![
            state.writer.clone(),
            state.sequence.to_string(),
            end.lsn.unwrap_or(state.checkpoint.lsn).to_string(),
            text(end.commit_time_micros.map(|micros| micros.to_string())),
            source.system_identifier.to_string(),
            source.timeline.to_string(),
            source.database.clone(),
            source.slot.clone(),
            end.transactions.to_string(),
            text(end.open.map(|open| open.commit_lsn.to_string())),
            text(end.open.map(|open| open.changes.to_string())),
            usage.to_json(),
        ];
        Statement { sql: self.advance.clone(), params }
    }

    /// Lets everything that stands in front of it have no effect.
    pub(super) fn abort(&self) -> Statement {
        Statement::plain(self.abort.clone())
    }
}

/// Whether a request failed at nothing but its [`StateSql::abort`].
pub(super) fn is_aborted(message: &str) -> bool {
    message.contains(ABORTED)
}

pub(super) fn read() -> Statement {
    Statement::plain(READ)
}

/// Writes the first checkpoint, unless there is one.
pub(super) fn insert(lsn: Lsn, source: &SourceIdentity, writer: &str, usage: &Usage) -> Statement {
    let params = vec![
        lsn.to_string(),
        source.system_identifier.to_string(),
        source.timeline.to_string(),
        source.database.clone(),
        source.slot.clone(),
        writer.to_owned(),
        usage.to_json(),
    ];
    Statement { sql: INSERT.into(), params }
}

/// Makes `writer` the one that may write, if nothing was written since `state` was read.
pub(super) fn take_over(state: &State, writer: &str) -> Statement {
    let params = vec![writer.to_owned(), state.writer.clone(), state.sequence.to_string()];
    Statement { sql: TAKE_OVER.into(), params }
}

/// The row of an answer to [`read`]; `None` where there is none yet.
///
/// # Errors
/// The row is not as we write it.
pub(super) fn parse(answer: &Answer) -> Result<Option<State>> {
    let Some(row) = answer.rows.first() else { return Ok(None) };
    let row = Row(row);
    let open = match (row.optional("open_lsn")?, row.optional("open_changes")?) {
        (Some(commit_lsn), Some(changes)) => Some(OpenTransaction { commit_lsn, changes }),
        _ => None,
    };
    Ok(Some(State {
        checkpoint: Checkpoint {
            lsn: row.required("lsn")?,
            commit_time_micros: row.optional("commit_time_micros")?,
            source: SourceIdentity {
                system_identifier: row.required("system_identifier")?,
                timeline: row.required("timeline")?,
                slot: row.required("slot")?,
                database: row.required("database")?,
            },
            epoch: row.required("epoch")?,
            transactions: row.required("transactions")?,
            open,
        },
        writer: row.required("writer")?,
        sequence: row.required("sequence")?,
        usage: Usage::from_json(&row.required::<String>("usage")?),
    }))
}

/// A row of which every column is TEXT or NULL.
pub(super) struct Row<'a>(pub(super) &'a Map<String, Value>);

impl Row<'_> {
    pub(super) fn optional<T: std::str::FromStr>(&self, column: &str) -> Result<Option<T>> {
        match self.0.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let parsed = value.as_str().and_then(|text| text.parse().ok());
                parsed.map(Some).ok_or_else(|| unexpected(column))
            }
        }
    }

    pub(super) fn required<T: std::str::FromStr>(&self, column: &str) -> Result<T> {
        self.optional(column)?.ok_or_else(|| unexpected(column))
    }
}

fn unexpected(column: &str) -> Error {
    Error::halt(format!("column {column} of walcast's own tables in D1 is not as walcast writes it"))
        .hint("was it written by another version, or by hand? walcast status shows all sinks")
}
