//! The `_walcast_*` tables of a SQLite file: whose it is, how far it is, who may write it, and which rows it lacks.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, params};

use super::{failure, shapes, unreadable};
use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::error::{Error, Result};
use crate::fanout::sink::Checkpoint;
use crate::sink::definition::BESIDE;
use crate::sink::replica::{StoredTable, taken_over};
use crate::sink::shape::Kept;

/// Marks the file as ours in its header (`PRAGMA application_id`): "WALC".
const APPLICATION_ID: i32 = 0x5741_4c43;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS _walcast_checkpoint (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    lsn                TEXT    NOT NULL, -- everything that ended at or before this is here
    commit_time_micros INTEGER,          -- of the last transaction, since 1970-01-01 UTC
    system_identifier  TEXT    NOT NULL,
    timeline           INTEGER NOT NULL,
    database           TEXT    NOT NULL,
    slot               TEXT    NOT NULL,
    epoch              INTEGER NOT NULL, -- fencing token: the engine that wrote the highest one may write
    transactions       INTEGER NOT NULL  -- applied since the file was created
) STRICT;
CREATE TABLE IF NOT EXISTS _walcast_tables (
    target     TEXT PRIMARY KEY,
    source     TEXT NOT NULL,
    definition TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _walcast_fills (
    target TEXT PRIMARY KEY,
    fill   TEXT NOT NULL -- JSON: which rows from before the stream are here
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _walcast_left (
    target TEXT NOT NULL,
    column TEXT NOT NULL, -- was fed once; schema.json does not name it any more
    PRIMARY KEY (target, column)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _walcast_dead_letters (
    id         INTEGER PRIMARY KEY,
    recorded   TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')),
    target     TEXT    NOT NULL,
    operation  TEXT    NOT NULL,
    key        TEXT    NOT NULL, -- JSON array of the key's values
    reason     TEXT    NOT NULL,
    commit_lsn TEXT    NOT NULL,
    xid        INTEGER NOT NULL
) STRICT;";

/// What tells whose a file is.
struct Marks {
    application_id: i32,
    objects: i64,
}

impl Marks {
    fn are_ours(&self) -> bool {
        self.application_id == APPLICATION_ID || self.objects == 0 && self.application_id == 0
    }
}

fn marks(connection: &Connection) -> rusqlite::Result<Marks> {
    Ok(Marks {
        application_id: connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
        objects: connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
    })
}

/// Refuses a file that holds anything we did not make.
pub(super) fn refuse_foreign(connection: &Connection, path: &Path) -> Result<()> {
    let marks = marks(connection).map_err(|error| unreadable(error, path))?;
    if marks.are_ours() {
        return Ok(());
    }
    Err(Error::halt(format!(
        "{} is a database that walcast did not create; it will not be touched",
        path.display()
    ))
    .hint("give the sink another path in walcast.toml"))
}

/// Marks the file and creates the state tables.
pub(super) fn claim(transaction: &Transaction<'_>, path: &Path) -> Result<()> {
    let create = || -> rusqlite::Result<()> {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.execute_batch(CREATE)
    };
    create().map_err(|error| failure(error, format!("preparing {}", path.display())))
}

/// The checkpoint, if there is one yet.
pub(super) fn read(connection: &Connection) -> Result<Option<Checkpoint>> {
    connection
        .prepare_cached(
            "SELECT lsn, commit_time_micros, system_identifier, timeline, database, slot, epoch, transactions
               FROM _walcast_checkpoint",
        )
        .and_then(|mut statement| {
            statement
                .query_row([], |row| {
                    Ok(Checkpoint {
                        lsn: parsed(row, 0)?,
                        commit_time_micros: row.get(1)?,
                        source: SourceIdentity {
                            system_identifier: parsed(row, 2)?,
                            timeline: row.get(3)?,
                            database: row.get(4)?,
                            slot: row.get(5)?,
                        },
                        epoch: row.get::<_, i64>(6)? as u64,
                        transactions: row.get::<_, i64>(7)? as u64,
                        open: None,
                    })
                })
                .optional()
        })
        .map_err(|error| failure(error, "reading the checkpoint".to_owned()))
}

/// A column that holds the text form of a value SQLite has no type for.
fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Writes the first checkpoint.
pub(super) fn insert(connection: &Connection, lsn: Lsn, source: &SourceIdentity, epoch: u64) -> Result<()> {
    connection
        .execute(
            "INSERT INTO _walcast_checkpoint
                    (id, lsn, system_identifier, timeline, database, slot, epoch, transactions)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, 0)",
            params![
                lsn.to_string(),
                source.system_identifier.to_string(),
                source.timeline,
                source.database,
                source.slot,
                epoch as i64
            ],
        )
        .map_err(|error| failure(error, "writing the first checkpoint".to_owned()))?;
    Ok(())
}

/// Takes the fencing token: from now on only `epoch` may move the checkpoint.
pub(super) fn take_over(connection: &Connection, epoch: u64) -> Result<()> {
    connection
        .execute("UPDATE _walcast_checkpoint SET epoch = ?1", [epoch as i64])
        .map_err(|error| failure(error, "taking the fencing token".to_owned()))?;
    Ok(())
}

/// Moves the checkpoint anywhere, of which the rows know nothing.
pub(super) fn restart(connection: &Connection, lsn: Lsn, source: &SourceIdentity, epoch: u64) -> Result<()> {
    check_epoch(connection, epoch)?;
    connection
        .execute(
            "UPDATE _walcast_checkpoint SET lsn = ?1, timeline = ?2, commit_time_micros = NULL",
            params![lsn.to_string(), source.timeline],
        )
        .map_err(|error| failure(error, "moving the checkpoint".to_owned()))?;
    Ok(())
}

/// Makes sure that nobody else has taken the fencing token, in a transaction that moves no checkpoint.
///
/// # Errors
/// Halts when another engine holds it now.
pub(super) fn check_epoch(connection: &Connection, epoch: u64) -> Result<()> {
    let is_ours: bool = connection
        .prepare_cached("SELECT count(*) = 1 FROM _walcast_checkpoint WHERE epoch = ?1")
        .and_then(|mut statement| statement.query_row([epoch as i64], |row| row.get(0)))
        .map_err(|error| failure(error, "reading the fencing token".to_owned()))?;
    if is_ours { Ok(()) } else { Err(taken_over()) }
}

/// Moves the checkpoint, in the transaction that holds the rows.
///
/// # Errors
/// Halts when another engine holds the fencing token now.
pub(super) fn advance(
    connection: &Connection,
    lsn: Lsn,
    commit_time_micros: Option<i64>,
    timeline: u32,
    epoch: u64,
    transactions: u64,
) -> Result<()> {
    let moved = connection
        .prepare_cached(
            "UPDATE _walcast_checkpoint
                SET lsn = ?1, commit_time_micros = coalesce(?2, commit_time_micros), timeline = ?3,
                    transactions = transactions + ?4
              WHERE epoch = ?5",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                lsn.to_string(),
                commit_time_micros,
                timeline,
                transactions as i64,
                epoch as i64
            ])
        })
        .map_err(|error| failure(error, "moving the checkpoint".to_owned()))?;
    if moved == 1 {
        return Ok(());
    }
    Err(taken_over())
}

/// Whether the file exists and holds something that walcast did not make.
///
/// # Errors
/// It cannot be read.
pub fn is_foreign(path: &Path) -> Result<bool> {
    let Some(connection) = open_read_only(path)? else { return Ok(false) };
    match marks(&connection) {
        Ok(marks) => Ok(!marks.are_ours()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => Ok(true),
        Err(error) => Err(failure(error, format!("reading {}", path.display()))),
    }
}

/// A file's checkpoint and number of dead letters, read without disturbing a running engine; `None` for a file that
/// does not exist or has no checkpoint yet.
///
/// # Errors
/// The file is not ours, or cannot be read.
pub fn inspect(path: &Path) -> Result<Option<(Checkpoint, u64)>> {
    let reading = |error| failure(error, format!("reading {}", path.display()));
    let Some(connection) = open_ours(path)? else { return Ok(None) };
    let Some(checkpoint) = read(&connection)? else { return Ok(None) };
    let dead_letters: i64 = connection
        .query_row("SELECT count(*) FROM _walcast_dead_letters", [], |row| row.get(0))
        .map_err(reading)?;
    Ok(Some((checkpoint, dead_letters as u64)))
}

/// The replicated tables of a file, by name, read without disturbing a running engine; empty for a file that does not
/// exist or was never prepared.
///
/// # Errors
/// The file is not ours, or cannot be read.
pub fn stored_tables(path: &Path) -> Result<Vec<StoredTable>> {
    let Some(connection) = open_ours(path)? else { return Ok(Vec::new()) };
    let reading = |error| failure(error, format!("reading {}", path.display()));
    // A file that an older walcast made has no fills.
    let has_fills = has_table(&connection, "_walcast_fills").map_err(reading)?;
    let fill =
        if has_fills { "(SELECT fill FROM _walcast_fills f WHERE f.target = t.target)" } else { "NULL" };
    let sql = format!(
        "SELECT target, source, definition, {fill} FROM _walcast_tables t
          WHERE substr(target, 1, length('{BESIDE}')) <> '{BESIDE}' ORDER BY target"
    );
    let read = || -> rusqlite::Result<Vec<(StoredTable, Option<String>)>> {
        let mut statement = connection.prepare(&sql)?;
        let tables = statement.query_map([], |row| {
            let (target, source, definition) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((StoredTable { target, source, definition, fill: None }, row.get(3)?))
        })?;
        tables.collect()
    };
    let with_fill = |(table, fill): (StoredTable, Option<String>)| {
        let fill = fill.map(|text| StoredTable::parse_fill(&table.target, &text)).transpose()?;
        Ok(StoredTable { fill, ..table })
    };
    read().map_err(reading)?.into_iter().map(with_fill).collect()
}

/// What is kept of every replicated table of a file, by its name, as [`stored_tables`] reads them.
///
/// # Errors
/// The file is not ours, or cannot be read.
pub fn kept_tables(path: &Path) -> Result<BTreeMap<String, Kept>> {
    match open_ours(path)? {
        Some(connection) => shapes::kept(&connection),
        None => Ok(BTreeMap::new()),
    }
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    connection.query_row(sql, [name], |row| row.get(0))
}

/// A file that walcast has prepared; `None` where there is none, or nothing in it.
pub(super) fn open_ours(path: &Path) -> Result<Option<Connection>> {
    let Some(connection) = open_read_only(path)? else { return Ok(None) };
    refuse_foreign(&connection, path)?;
    let has_state = has_table(&connection, "_walcast_checkpoint")
        .map_err(|error| failure(error, format!("reading {}", path.display())))?;
    Ok(has_state.then_some(connection))
}

fn open_read_only(path: &Path) -> Result<Option<Connection>> {
    if !path.exists() {
        return Ok(None);
    }
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(super::BUSY_TIMEOUT)?;
        Ok(connection)
    };
    open().map(Some).map_err(|error| unreadable(error, path))
}
