//! A region's replica as an application reads it, while the engine writes: one read-only connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use crate::Lsn;
use crate::error::{Error, Result};

/// How long a statement waits where the file is locked, as it is for a moment when its WAL is recovered.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a region's replica is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// A SQLite file; the region is named as the file is.
    File(PathBuf),
}

/// A replica, open for reading.
pub(super) struct Replica {
    name: String,
    connection: Connection,
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
        }
    }

    /// Whether there is anything to open yet.
    pub(super) fn exists(&self) -> bool {
        match self {
            Address::File(path) => path.exists(),
        }
    }
}

impl Replica {
    fn open_file(path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)
            .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection))
            .map(|connection| Replica { connection, name: name.clone() })
            .map_err(|error| failure(&name, error))
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
        let read = || -> rusqlite::Result<Vec<Texts>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let width = statement.column_count();
            let rows = statement.query_map([], |row| (0..width).map(|index| spelt(row, index)).collect())?;
            rows.collect()
        };
        read().map_err(|error| failure(&self.name, error))
    }
}

fn spelt(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => None,
        ValueRef::Real(value) => Some(format!("{:016x}", value.to_bits())),
        ValueRef::Integer(value) => Some(value.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
    })
}

fn failure(name: &str, error: rusqlite::Error) -> Error {
    Error::halt(format!("reading the replica of region {name}")).because(error)
}
