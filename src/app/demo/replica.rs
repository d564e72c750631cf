//! A region's replica as an application reads it, while the engine writes: a file by a read-only connection, a D1
//! database by the REST API. Neither shares code with the sinks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::workerd::Workerd;
use crate::Lsn;
use crate::error::{Error, Result};
use crate::fanout::fill::{TableFill, TableState};

/// How long a statement waits where the file is locked, as it is for a moment when its WAL is recovered.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// More than a page of the largest rows.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How long a database may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a region's replica is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// A SQLite file; the region is named as the file is.
    File(PathBuf),
    /// A D1 database.
    Database {
        /// The region.
        name: String,
        /// Where its API takes queries and answers with arrays.
        url: String,
    },
}

/// A replica, open for reading.
pub(super) struct Replica {
    name: String,
    reader: Reader,
}

enum Reader {
    File(Connection),
    Database { agent: ureq::Agent, url: String },
}

/// What a replica says about how far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Everything that ended at or before this is in the replica.
    pub lsn: Lsn,
    /// How many source transactions were applied.
    pub transactions: u64,
}

/// A row as text: integers in digits, floats as the hexadecimal digits of their bits.
pub(super) type Texts = Vec<Option<String>>;

impl Address {
    /// Opens the replica.
    ///
    /// # Errors
    /// Where there is none, or it is no database.
    pub(super) fn open(&self) -> Result<Replica> {
        match self {
            Address::File(path) => Replica::open_file(path),
            Address::Database { name, url } => {
                let agent = ureq::Agent::config_builder()
                    .http_status_as_error(false)
                    .timeout_global(Some(ANSWER_TIMEOUT))
                    .build();
                let reader = Reader::Database { agent: agent.into(), url: url.clone() };
                Ok(Replica { name: name.clone(), reader })
            }
        }
    }

    /// Whether there is anything to open yet.
    pub(super) fn exists(&self) -> bool {
        match self {
            Address::File(path) => path.exists(),
            Address::Database { .. } => true,
        }
    }

    /// How long to wait between two looks: an application asks a database over the network less often than a file.
    pub(super) fn pause(&self) -> Duration {
        match self {
            Address::File(_) => Duration::from_micros(200),
            Address::Database { .. } => Duration::from_millis(3),
        }
    }
}

impl Replica {
    fn open_file(path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)
            .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection))
            .map(|connection| Replica { name: name.clone(), reader: Reader::File(connection) })
            .map_err(|error| unreadable(&name).because(error))
    }

    /// The region's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How far the replica is; `None` before it has a checkpoint.
    pub(super) fn position(&self) -> Result<Option<Position>> {
        // The table is missing for the moment between the replica's creation and the engine's first transaction.
        let has_state =
            self.count("SELECT count(*) FROM sqlite_schema WHERE name = '_walcast_checkpoint'")?;
        if has_state == 0 {
            return Ok(None);
        }
        let rows = self.rows("SELECT lsn, transactions FROM _walcast_checkpoint")?;
        let Some([Some(lsn), Some(transactions)]) = rows.first().map(Vec::as_slice) else { return Ok(None) };
        let cannot = |what: &str| Error::bug(format!("{what} of region {} is no such thing", self.name));
        Ok(Some(Position {
            lsn: lsn.parse().map_err(|_| cannot("the checkpoint"))?,
            transactions: transactions.parse().map_err(|_| cannot("the number of transactions"))?,
        }))
    }

    /// Whether every table is filled, and nothing has to be read by itself any more.
    pub(super) fn is_live(&self) -> Result<bool> {
        let Some(position) = self.position()? else { return Ok(false) };
        for fill in self.rows("SELECT fill FROM _walcast_fills")? {
            let text = fill.first().cloned().flatten().unwrap_or_default();
            let fill: TableFill = serde_json::from_str(&text)
                .map_err(|error| Error::bug(format!("a fill of region {}", self.name)).because(error))?;
            if fill.state(position.lsn) != TableState::Live {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the ledger has this row.
    pub(super) fn has_ledger_row(&self, id: i64) -> Result<bool> {
        Ok(!self.rows(&format!("SELECT 1 FROM ledger WHERE id = {id}"))?.is_empty())
    }

    /// The single number that a query returns.
    pub(super) fn count(&self, sql: &str) -> Result<u64> {
        let rows = self.rows(sql)?;
        let count = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
        count.ok_or_else(|| Error::bug(format!("no number from region {}: {sql}", self.name)))
    }

    /// All rows that a query returns.
    pub(super) fn rows(&self, sql: &str) -> Result<Vec<Texts>> {
        self.rows_with_floats(sql, &[])
    }

    /// All rows that a query returns, of which the columns in `floats` hold floating-point numbers: JSON writes `1.0` as
    /// it writes `1`.
    pub(super) fn rows_with_floats(&self, sql: &str, floats: &[usize]) -> Result<Vec<Texts>> {
        match &self.reader {
            Reader::File(connection) => {
                file_rows(connection, sql).map_err(|error| unreadable(&self.name).because(error))
            }
            Reader::Database { agent, url } => {
                let rows =
                    database_rows(agent, url, sql).map_err(|error| error.context(unreadable(&self.name)))?;
                Ok(rows.iter().map(|row| spelt_row(row, floats)).collect())
            }
        }
    }
}

fn file_rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Texts>> {
    let mut statement = connection.prepare_cached(sql)?;
    let width = statement.column_count();
    let rows = statement.query_map([], |row| (0..width).map(|index| spelt(row, index)).collect())?;
    rows.collect()
}

fn spelt(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => None,
        ValueRef::Real(value) => Some(bits(value)),
        ValueRef::Integer(value) => Some(value.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
    })
}

fn database_rows(agent: &ureq::Agent, url: &str, sql: &str) -> Result<Vec<Vec<Value>>> {
    let failed = |error| Error::halt("asking D1").because(error);
    let request = agent.post(url).header("authorization", format!("Bearer {}", Workerd::READER_TOKEN));
    let mut answer = request.send(json!({ "sql": sql }).to_string()).map_err(failed)?;
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(failed)?;
    let mut answer: Value =
        serde_json::from_str(&text).map_err(|error| Error::halt("D1's answer is no JSON").because(error))?;
    let rows = answer["result"][0]["results"]["rows"].take();
    serde_json::from_value(rows).map_err(|_| Error::halt(format!("D1 says: {}", answer["errors"])))
}

fn spelt_row(row: &[Value], floats: &[usize]) -> Texts {
    let spelt = |(index, value): (usize, &Value)| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if floats.contains(&index) || number.is_f64() => number.as_f64().map(bits),
        other => Some(other.to_string()),
    };
    row.iter().enumerate().map(spelt).collect()
}

fn bits(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

fn unreadable(name: &str) -> Error {
    Error::halt(format!("reading the replica of region {name}"))
}
