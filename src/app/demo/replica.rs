//! A region's file as an application reads it: one read-only connection, while the engine writes.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::Lsn;
use crate::error::{Error, Result};

/// How long a statement waits where the file is locked, as it is for a moment when its WAL is recovered.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A region's file, open for reading.
pub(super) struct Replica {
    connection: Connection,
    name: String,
}

/// What a file says about how far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Everything that ended at or before this is in the file.
    pub lsn: Lsn,
    /// How many source transactions were applied.
    pub transactions: u64,
}

impl Replica {
    /// Opens the file.
    ///
    /// # Errors
    /// Where there is none, or it is no database.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)
            .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection))
            .map(|connection| Replica { connection, name: name.clone() })
            .map_err(|error| failure(&name, error))
    }

    /// The region's name: the file's without its extension.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How far the file is; `None` before it has a checkpoint.
    pub(super) fn position(&self) -> Result<Option<Position>> {
        // The table is missing for the moment between the file's creation and the engine's first transaction.
        let has_state =
            self.count("SELECT count(*) FROM sqlite_schema WHERE name = '_walcast_checkpoint'")?;
        if has_state == 0 {
            return Ok(None);
        }
        let read = || {
            let sql = "SELECT lsn, transactions FROM _walcast_checkpoint";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
            self.connection.prepare_cached(sql)?.query_row([], row).optional()
        };
        let Some((lsn, transactions)) = read().map_err(|error| self.failure(error))? else {
            return Ok(None);
        };
        let lsn =
            lsn.parse().map_err(|error| Error::bug(format!("checkpoint of {}", self.name)).because(error))?;
        Ok(Some(Position { lsn, transactions: transactions as u64 }))
    }

    /// Whether the ledger has this row.
    pub(super) fn has_ledger_row(&self, id: i64) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM ledger WHERE id = ?1")
            .and_then(|mut statement| statement.exists([id]))
            .map_err(|error| self.failure(error))
    }

    /// The single number that a query without parameters returns.
    pub(super) fn count(&self, sql: &str) -> Result<u64> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
            .map(|count| count as u64)
            .map_err(|error| self.failure(error))
    }

    /// A prepared statement.
    pub(super) fn prepare(&self, sql: &str) -> Result<rusqlite::Statement<'_>> {
        self.connection.prepare(sql).map_err(|error| self.failure(error))
    }

    /// What went wrong, with the region's name.
    pub(super) fn failure(&self, error: rusqlite::Error) -> Error {
        failure(&self.name, error)
    }
}

fn failure(name: &str, error: rusqlite::Error) -> Error {
    Error::halt(format!("reading the replica of region {name}")).because(error)
}
