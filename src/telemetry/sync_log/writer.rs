//! Writes the sync log: gathers what the workers say, and adds it to the file once a second. What cannot be written is
//! given up and counted; a log must not fill the memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use metrics::counter;
use rusqlite::{Connection, params};

use super::super::SYNC_LOG_DROPPED_TOTAL;
use super::{Applied, BUSY_TIMEOUT, Bounds, Event, Outcome};
use crate::error::{Error, Result};

/// Marks the file as ours in its header (`PRAGMA application_id`): "WALL".
const APPLICATION_ID: i32 = 0x5741_4c4c;
/// How often entries are written.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// After how many writes old entries are removed.
const WRITES_PER_SWEEP: u32 = 60;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS entries (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    ended_micros INTEGER NOT NULL, -- since 1970-01-01 UTC
    sink         TEXT    NOT NULL,
    outcome      TEXT    NOT NULL,
    batches      INTEGER NOT NULL,
    transactions INTEGER NOT NULL,
    changes      INTEGER NOT NULL,
    dead_letters INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    took_micros  INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    lsn          TEXT,
    problem      TEXT,
    tables       TEXT    NOT NULL DEFAULT '{}' -- how many changes came, by table
) STRICT;
CREATE INDEX IF NOT EXISTS entries_of_sink ON entries (sink, id);
-- Which keys the batches of an entry touched: their hashes, sorted. Not of every entry.
CREATE TABLE IF NOT EXISTS keys (
    entry  INTEGER PRIMARY KEY, -- as in entries
    hashes BLOB NOT NULL
) STRICT;";

/// The thread's end of the log.
pub(super) struct Writer {
    path: PathBuf,
    connection: Connection,
    bounds: Bounds,
    /// By sink: what it has taken since the last write, and what failed before that.
    pending: HashMap<String, Vec<Pending>>,
    writes: u32,
    is_failing: bool,
}

/// An entry that is not written yet.
struct Pending {
    ended_micros: i64,
    outcome: Outcome,
    applied: Applied,
    problem: Option<String>,
}

impl Writer {
    /// Opens the file, which is created where there is none.
    ///
    /// # Errors
    /// It is not a sync log, or cannot be written.
    pub(super) fn open(path: &Path, bounds: Bounds) -> Result<Writer> {
        let connection = open(path)?;
        let pending = HashMap::new();
        Ok(Writer { path: path.to_owned(), connection, bounds, pending, writes: 0, is_failing: false })
    }

    /// Writes until the log ends.
    pub(super) fn run(mut self, events: &Receiver<Event>) {
        let mut next_write = Instant::now() + WRITE_INTERVAL;
        loop {
            match events.recv_deadline(next_write) {
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return self.write(),
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_write {
                self.write();
                next_write = Instant::now() + WRITE_INTERVAL;
            }
        }
    }

    fn take(&mut self, event: Event) {
        let ended_micros = unix_micros(SystemTime::now());
        match event {
            Event::End => {}
            Event::Failed { sink, outcome, attempts, problem } => {
                let applied = Applied { attempts, ..Applied::default() };
                let entry = Pending { ended_micros, outcome, applied, problem: Some(problem) };
                self.pending.entry(sink).or_default().push(entry);
            }
            Event::Applied { sink, entry } => {
                let pending = self.pending.entry(sink).or_default();
                match pending.last_mut().filter(|last| last.outcome == Outcome::Applied) {
                    Some(last) => {
                        last.ended_micros = ended_micros;
                        last.applied.add(entry);
                    }
                    None => {
                        let outcome = Outcome::Applied;
                        pending.push(Pending { ended_micros, outcome, applied: entry, problem: None });
                    }
                }
            }
        }
    }

    /// Writes what is pending. What cannot be written is given up: a log must not fill the memory.
    fn write(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        self.writes += 1;
        let is_sweep = self.writes % WRITES_PER_SWEEP == 1;
        match insert(&mut self.connection, &mut pending).and_then(|()| match is_sweep {
            true => sweep(&self.connection, self.bounds),
            false => Ok(()),
        }) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                let lost = pending.values().map(Vec::len).sum::<usize>();
                counter!(SYNC_LOG_DROPPED_TOTAL).increment(lost as u64);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!("the sync log {} cannot be written: {error}", self.path.display());
                }
            }
        }
    }
}

impl Applied {
    fn add(&mut self, other: Applied) {
        self.batches += other.batches;
        self.transactions += other.transactions;
        self.changes += other.changes;
        self.dead_letters += other.dead_letters;
        self.bytes += other.bytes;
        self.took += other.took;
        self.attempts += other.attempts;
        self.lsn = self.lsn.max(other.lsn);
        self.keys.add(other.keys);
        for (table, changes) in other.tables {
            *self.tables.entry(table).or_default() += changes;
        }
    }
}

fn insert(connection: &mut Connection, pending: &mut HashMap<String, Vec<Pending>>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO entries (ended_micros, sink, outcome, batches, transactions, changes, dead_letters, bytes,
                                  took_micros, attempts, lsn, problem, tables)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?;
        let mut keep_keys = transaction
            .prepare_cached("INSERT INTO keys (entry, hashes) VALUES (last_insert_rowid(), ?1)")?;
        for (sink, entries) in pending {
            for entry in entries {
                let keys = entry.applied.keys.take_bytes();
                let Pending { ended_micros, outcome, applied, problem } = entry;
                statement.execute(params![
                    *ended_micros,
                    sink,
                    outcome.as_str(),
                    applied.batches as i64,
                    applied.transactions as i64,
                    applied.changes as i64,
                    applied.dead_letters as i64,
                    applied.bytes as i64,
                    applied.took.as_micros() as i64,
                    applied.attempts,
                    applied.lsn.map(|lsn| lsn.to_string()),
                    problem.as_deref(),
                    serde_json::json!(applied.tables).to_string()
                ])?;
                if let Some(keys) = keys {
                    keep_keys.execute([keys])?;
                }
            }
        }
    }
    transaction.commit()
}

fn sweep(connection: &Connection, bounds: Bounds) -> rusqlite::Result<()> {
    let oldest = unix_micros(SystemTime::now()) - bounds.retention.as_micros() as i64;
    connection.execute(
        "DELETE FROM entries WHERE id <= (SELECT max(id) FROM entries) - ?1 OR ended_micros < ?2",
        params![bounds.entries_max as i64, oldest],
    )?;
    // From the newest on, as many as there is room for.
    connection.execute(
        "DELETE FROM keys WHERE entry < coalesce((SELECT min(id) FROM entries), 0) OR entry <= (
             SELECT max(entry) FROM (
                 SELECT entry, sum(length(hashes)) OVER (ORDER BY entry DESC) AS bytes FROM keys
             ) WHERE bytes > ?1)",
        [bounds.key_bytes_max as i64],
    )?;
    Ok(())
}

fn unix_micros(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

fn open(path: &Path) -> Result<Connection> {
    let cannot =
        |error| Error::halt(format!("the sync log {} cannot be opened", path.display())).because(error);
    let connection = Connection::open(path).map_err(cannot)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(cannot)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(cannot)?;
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(cannot)?;
    if id != APPLICATION_ID && (id != 0 || objects > 0) {
        return Err(Error::halt(format!("{} is no sync log; it will not be touched", path.display()))
            .hint("give [log] sync_file another path in walcast.toml"));
    }
    let prepare = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A power failure may cost the last entries, never the file.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(CREATE)?;
        // A file from before has it not.
        let has_tables = "SELECT count(*) FROM pragma_table_info('entries') WHERE name = 'tables'";
        if connection.query_row(has_tables, [], |row| row.get::<_, i64>(0))? == 0 {
            connection.execute_batch("ALTER TABLE entries ADD COLUMN tables TEXT NOT NULL DEFAULT '{}'")?;
        }
        Ok(())
    };
    prepare().map_err(cannot)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, Keys, read};
    use super::*;

    fn pending(ended_micros: i64, changes: u64) -> Pending {
        let applied = Applied { batches: 1, changes, ..Applied::default() };
        Pending { ended_micros, outcome: Outcome::Applied, applied, problem: None }
    }

    #[test]
    fn the_log_keeps_no_more_and_nothing_older_than_it_should() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("log.db");
        let mut connection = open(&path).unwrap();
        let now = unix_micros(SystemTime::now());
        let mut entries: Vec<Pending> = (0..20).map(|changes| pending(now, changes)).collect();
        entries.insert(15, pending(now - 7_200_000_000, 99));
        insert(&mut connection, &mut HashMap::from([("eu".to_owned(), entries)])).unwrap();
        let bounds = Bounds { retention: Duration::from_secs(3_600), entries_max: 10, key_bytes_max: 0 };
        sweep(&connection, bounds).unwrap();
        let kept: Vec<i64> =
            read(&path, &Filter::default(), 100).unwrap().entries.iter().map(|entry| entry.changes).collect();
        assert_eq!(kept, [19, 18, 17, 16, 15, 14, 13, 12, 11]);
        let filter = Filter { before: Some(20), sink: Some("eu".to_owned()), ..Filter::default() };
        assert_eq!(read(&path, &filter, 2).unwrap().entries.len(), 2);
        assert!(
            read(&path, &Filter { outcome: Some(Outcome::Failed), ..filter }, 2).unwrap().entries.is_empty()
        );
    }

    #[test]
    fn an_entry_names_its_tables_and_a_file_from_before_is_taken_over() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("log.db");
        let old = CREATE.replace(
            ",\n    tables       TEXT    NOT NULL DEFAULT '{}' -- how many changes came, by table",
            "",
        );
        assert!(!old.contains("tables"));
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.execute_batch(&old).unwrap();
        drop(connection);
        let mut connection = open(&path).unwrap();
        let mut entries = [pending(1, 1), pending(2, 5)];
        for (table, changes) in [("apps", 2), ("sales.notes", 3)] {
            let tables = [(table.to_owned(), changes)].into();
            entries[1].applied.add(Applied { tables, ..Applied::default() });
        }
        insert(&mut connection, &mut HashMap::from([("eu".to_owned(), entries.into())])).unwrap();
        let of = |table: &str| {
            read(&path, &Filter { table: Some(table.to_owned()), ..Filter::default() }, 10).unwrap().entries
        };
        assert_eq!(of("apps")[0].tables, [("apps".to_owned(), 2), ("sales.notes".to_owned(), 3)].into());
        assert_eq!((of("sales.notes").len(), of("notes").len()), (1, 0));
    }

    #[test]
    fn a_key_finds_its_entries_and_says_how_many_may_be_its_own() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("log.db");
        let mut connection = open(&path).unwrap();
        // The first one kept no keys; every other one is of the next key.
        let of = |hash: u32| {
            let mut entry = pending(unix_micros(SystemTime::now()), 1);
            entry.applied.tables.insert("apps".to_owned(), 1);
            entry.applied.keys = if hash == 0 { Keys::UNKNOWN } else { Keys::of([hash % 3].into_iter()) };
            entry
        };
        insert(&mut connection, &mut HashMap::from([("eu".to_owned(), (0..=9).map(of).collect())])).unwrap();
        let found = |limit: usize, before: Option<i64>| {
            let filter = Filter { table: Some("apps".to_owned()), before, ..Filter::default() };
            let found = read(&path, &Filter { key: Some(vec![1, 77]), ..filter }, limit).unwrap();
            (found.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), found.unknown)
        };
        assert_eq!(found(10, None), (vec![8, 5, 2], 1));
        assert_eq!(found(2, None), (vec![8, 5], 0));
        assert_eq!(found(2, Some(5)), (vec![2], 1));
        // Of the last three entries, four bytes each, there is room for the keys.
        let bounds = Bounds { retention: Duration::from_secs(3_600), entries_max: 9, key_bytes_max: 15 };
        sweep(&connection, bounds).unwrap();
        assert_eq!(found(10, None), (vec![8], 6));
    }

    #[test]
    fn a_file_that_is_no_log_is_not_touched() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("is no sync log"));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
