//! A replica's file, read as an application would read it. Nothing is written to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use walcast::Lsn;

use super::LIMIT;

/// A SQLite replica as its readers see it.
pub struct Replica {
    pub path: PathBuf,
}

/// A replica's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub lsn: Lsn,
    pub transactions: i64,
    pub epoch: i64,
}

impl Replica {
    /// A read-only connection.
    pub fn open(&self) -> Connection {
        self.try_open().unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }

    fn try_open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(LIMIT)?;
        Ok(connection)
    }

    /// A query's rows, columns joined by `|`, NULL as `NULL`, a blob as `x'…'`.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.open(), sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.path.display()))
    }

    /// The single value that a query returns.
    pub fn ask(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap()
    }

    /// What the replica says of its fills, by target.
    pub fn fills(&self) -> BTreeMap<String, Value> {
        if self.checkpoint().is_none() {
            return BTreeMap::new();
        }
        let Ok(rows) = rows(&self.open(), "SELECT target, fill FROM _walcast_fills") else {
            return BTreeMap::new();
        };
        rows.iter()
            .map(|row| {
                let (target, fill) = row.split_once('|').unwrap();
                (target.to_owned(), serde_json::from_str(fill).unwrap())
            })
            .collect()
    }

    /// `target|operation|key|reason` of every dead letter.
    pub fn dead_letters(&self) -> Vec<String> {
        self.rows("SELECT target, operation, key, reason FROM _walcast_dead_letters ORDER BY id")
    }

    /// The position, if the replica has one yet.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        if !Path::exists(&self.path) {
            return None;
        }
        let connection = self.try_open().ok()?;
        let read =
            connection.query_row("SELECT lsn, transactions, epoch FROM _walcast_checkpoint", [], |row| {
                Ok(Checkpoint {
                    lsn: parse_lsn(&row.get::<_, String>(0)?),
                    transactions: row.get(1)?,
                    epoch: row.get(2)?,
                })
            });
        read.ok()
    }
}

/// A query's rows on a connection.
pub fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut found = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let values =
            (0..columns).map(|column| row.get_ref(column).map(text)).collect::<Result<Vec<_>, _>>()?;
        found.push(values.join("|"));
    }
    Ok(found)
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(integer) => integer.to_string(),
        ValueRef::Real(real) => format!("{real:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(blob) => format!("x'{}'", hex(blob)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn parse_lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|_| panic!("{text} is no LSN"))
}
