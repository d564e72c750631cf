//! What a target shows to whoever looks into it beside the engine: single rows and dead letters. Their values leave
//! walcast only where somebody asked for this row.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::fanout::fill::TableFill;
use crate::fanout::sink::Checkpoint;

/// A row that a sink did not take, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Its number at this sink; later ones are higher.
    pub id: i64,
    /// When it was kept, in RFC 3339.
    pub recorded: String,
    /// The table at the sink.
    pub target: String,
    /// `insert`, `upsert`, `update`, `delete` or `truncate`.
    pub operation: String,
    /// The row's key: a JSON array as text.
    pub key: String,
    /// Column and reason, without the value.
    pub reason: String,
    /// The commit record of the transaction that brought it.
    pub commit_lsn: String,
    /// That transaction's id at the source.
    pub xid: i64,
}

/// Which dead letters are meant.
#[derive(Debug, Clone, Default)]
pub struct Letters {
    /// Those of this table at the sink; `None` for all.
    pub target: Option<String>,
    /// Those of one of these keys; empty for all.
    pub keys: Vec<String>,
    /// Those with one of these ids; empty for all.
    pub ids: Vec<i64>,
    /// Only those behind this id.
    pub after: i64,
}

/// A sink's row, and the sink's position when it was read.
#[derive(Debug, Clone)]
pub struct FoundRow {
    /// `None` for a target that was never fed.
    pub checkpoint: Option<Checkpoint>,
    /// The row's values in plan order, then that of the soft-delete column where the table has one.
    pub values: Option<Vec<Value>>,
    /// How far the table is; `None` for one that never had to be filled. While it is built anew beside the one that
    /// readers see, no row is read: that one has the form of an older `schema.json`.
    pub fill: Option<TableFill>,
}

/// The form in which a row's bytes are shown: as Postgres writes a `bytea`.
pub fn bytes(bytes: &[u8]) -> Value {
    Value::String(format!("\\x{}", hex::encode(bytes)))
}

/// The form in which a float is shown; JSON has no infinities.
pub fn real(real: f64) -> Value {
    match serde_json::Number::from_f64(real) {
        Some(number) => Value::Number(number),
        None => Value::String(if real > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()),
    }
}
