//! Reads the sync log, beside whoever writes it.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};
use serde::Serialize;
use utoipa::ToSchema;

use super::keys::holds;
use super::{BUSY_TIMEOUT, Outcome};
use crate::error::{Error, Result};

/// What a sink did in about a second, or a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Entry {
    /// Its number; later ones are higher.
    pub id: i64,
    /// When the last of its batches ended, in microseconds since 1970-01-01 UTC.
    pub ended_micros: i64,
    /// The sink.
    pub sink: String,
    /// How it went: `applied`, `failed` or `stopped`.
    pub outcome: String,
    /// Batches; 0 for a failure.
    pub batches: i64,
    /// Source transactions that ended in them.
    pub transactions: i64,
    /// Row changes written.
    pub changes: i64,
    /// Rows set aside with a reason.
    pub dead_letters: i64,
    /// Their size in memory.
    pub bytes: i64,
    /// How long applying took in all.
    pub took_micros: i64,
    /// Attempts that it took; for a failure, how many have failed in a row.
    pub attempts: i64,
    /// The sink's position after them.
    pub lsn: Option<String>,
    /// What failed.
    pub problem: Option<String>,
    /// How many row changes came, by table at the source. D1 sinks may write fewer, because they fold.
    pub tables: BTreeMap<String, u64>,
}

/// Which entries are meant.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this sink.
    pub sink: Option<String>,
    /// Those with changes of this table, by its name at the source.
    pub table: Option<String>,
    /// Those that touched a key with one of these hashes, of a `table` that is named too.
    pub key: Option<Vec<u32>>,
    /// Those with this outcome.
    pub outcome: Option<Outcome>,
    /// Those that ended at or after this, in microseconds since 1970-01-01 UTC.
    pub since_micros: Option<i64>,
    /// Those that ended before this.
    pub until_micros: Option<i64>,
    /// Those before this number.
    pub before: Option<i64>,
    /// Those behind this number.
    pub after: Option<i64>,
}

/// What was looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The newest first.
    pub entries: Vec<Entry>,
    /// Where a key was looked for: how many entries that fit otherwise were passed over although they may have touched
    /// it, because it is not known which keys they touched.
    pub unknown: usize,
}

/// The newest entries first, up to `limit`.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path, filter: &Filter, limit: usize) -> Result<Found> {
    let mut conditions = vec!["true"];
    let mut parameters: Vec<Box<dyn ToSql>> = Vec::new();
    let mut add = |condition, parameter: Option<Box<dyn ToSql>>| {
        if let Some(parameter) = parameter {
            conditions.push(condition);
            parameters.push(parameter);
        }
    };
    add("sink = ?", filter.sink.clone().map(|sink| Box::new(sink) as Box<dyn ToSql>));
    let of_table = "EXISTS (SELECT 1 FROM json_each(tables) AS named WHERE named.key = ?)";
    add(of_table, filter.table.clone().map(|table| Box::new(table) as Box<dyn ToSql>));
    add("outcome = ?", filter.outcome.map(|outcome| Box::new(outcome.as_str()) as Box<dyn ToSql>));
    add("ended_micros >= ?", filter.since_micros.map(|since| Box::new(since) as Box<dyn ToSql>));
    add("ended_micros < ?", filter.until_micros.map(|until| Box::new(until) as Box<dyn ToSql>));
    add("id < ?", filter.before.map(|before| Box::new(before) as Box<dyn ToSql>));
    add("id > ?", filter.after.map(|after| Box::new(after) as Box<dyn ToSql>));
    let sql = format!(
        "SELECT id, ended_micros, sink, outcome, batches, transactions, changes, dead_letters, bytes, took_micros,
                attempts, lsn, problem, tables{}
           FROM entries WHERE {} ORDER BY id DESC{}",
        if filter.key.is_some() { ", (SELECT hashes FROM keys WHERE entry = id)" } else { "" },
        conditions.join(" AND "),
        // Where a key is looked for, how far to read shows only on the way.
        if filter.key.is_some() { "" } else { " LIMIT ?" }
    );
    if filter.key.is_none() {
        parameters.push(Box::new(limit as i64));
    }
    let read = || -> rusqlite::Result<Found> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(&parameters))?;
        let mut found = Found::default();
        while found.entries.len() < limit
            && let Some(row) = rows.next()?
        {
            if let Some(key) = &filter.key {
                match row.get_ref(14)?.as_blob_or_null()? {
                    Some(kept) if holds(kept, key) => {}
                    Some(_) => continue,
                    None => {
                        found.unknown += 1;
                        continue;
                    }
                }
            }
            found.entries.push(Entry {
                id: row.get(0)?,
                ended_micros: row.get(1)?,
                sink: row.get(2)?,
                outcome: row.get(3)?,
                batches: row.get(4)?,
                transactions: row.get(5)?,
                changes: row.get(6)?,
                dead_letters: row.get(7)?,
                bytes: row.get(8)?,
                took_micros: row.get(9)?,
                attempts: row.get(10)?,
                lsn: row.get(11)?,
                problem: row.get(12)?,
                tables: serde_json::from_str(&row.get::<_, String>(13)?).unwrap_or_default(),
            });
        }
        Ok(found)
    };
    read().map_err(|error| Error::transient("reading the sync log").because(error))
}
