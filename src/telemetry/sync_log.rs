//! The sync log: what each sink took when, how long that took, and what failed, in a local SQLite file of bounded size.
//!
//! Enters: one event a batch, over a bounded channel that nobody ever waits for: an event that finds it full is dropped
//! and counted. Leaves: entries, written by a thread of its own. The batches that a sink took within a second are one
//! entry; a failure is an entry of its own. No row value enters.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use metrics::counter;
use rusqlite::{Connection, OpenFlags, ToSql, params, params_from_iter};
use serde::Serialize;
use utoipa::ToSchema;

use super::SYNC_LOG_DROPPED_TOTAL;
use crate::Lsn;
use crate::error::{Error, Result};

/// Marks the file as ours in its header (`PRAGMA application_id`): "WALL".
const APPLICATION_ID: i32 = 0x5741_4c4c;
/// Events that wait for the writer.
const EVENTS_MAX: usize = 8_192;
/// How often entries are written.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// After how many writes old entries are removed.
const WRITES_PER_SWEEP: u32 = 60;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
    problem      TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS entries_of_sink ON entries (sink, id);";

/// Where the process's events go, if anywhere.
static EVENTS: OnceLock<Sender<Event>> = OnceLock::new();

/// What a worker says.
pub(super) enum Event {
    Applied {
        sink: String,
        entry: Applied,
    },
    Failed {
        sink: String,
        outcome: Outcome,
        attempts: u32,
        problem: String,
    },
    /// The log ends.
    End,
}

/// What a sink took.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) batches: u64,
    pub(super) transactions: u64,
    pub(super) changes: u64,
    pub(super) dead_letters: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    pub(super) attempts: u32,
    pub(super) lsn: Option<Lsn>,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The sink took it.
    Applied,
    /// An attempt failed, and is made again.
    Failed,
    /// The sink was taken out of action.
    Stopped,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 3] = [Outcome::Applied, Outcome::Failed, Outcome::Stopped];

    /// The outcome as JSON spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Failed => "failed",
            Outcome::Stopped => "stopped",
        }
    }
}

/// Hands an event on, if a log is kept and there is room.
pub(super) fn record(event: impl FnOnce() -> Event) {
    if let Some(events) = EVENTS.get()
        && events.try_send(event()).is_err()
    {
        counter!(SYNC_LOG_DROPPED_TOTAL).increment(1);
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Older entries are removed.
    pub retention: Duration,
    /// So are the oldest of more entries than this.
    pub entries_max: usize,
}

/// The running log. Dropping it writes what has come in, and ends it.
pub struct SyncLog {
    events: Sender<Event>,
    thread: Option<JoinHandle<()>>,
}

impl SyncLog {
    /// Makes this process keep its log in the file at `path`, which is created where there is none.
    ///
    /// # Errors
    /// The file is not a sync log, or cannot be written; or the process keeps one already.
    pub fn start(path: &Path, bounds: Bounds) -> Result<SyncLog> {
        let connection = open(path)?;
        let (events, received) = bounded(EVENTS_MAX);
        if EVENTS.set(events.clone()).is_err() {
            return Err(Error::bug("this process keeps a sync log already"));
        }
        let writer = Writer {
            path: path.to_owned(),
            connection,
            bounds,
            pending: HashMap::new(),
            writes: 0,
            is_failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("sync-log".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(|error| Error::halt("starting the sync log's thread").because(error))?;
        Ok(SyncLog { events, thread: Some(thread) })
    }
}

impl Drop for SyncLog {
    fn drop(&mut self) {
        let _ = self.events.send(Event::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
        connection.execute_batch(CREATE)
    };
    prepare().map_err(cannot)?;
    Ok(connection)
}

struct Writer {
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
    fn run(mut self, events: &Receiver<Event>) {
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
        let pending = std::mem::take(&mut self.pending);
        self.writes += 1;
        let is_sweep = self.writes % WRITES_PER_SWEEP == 1;
        match insert(&mut self.connection, &pending).and_then(|()| match is_sweep {
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
    }
}

fn insert(connection: &mut Connection, pending: &HashMap<String, Vec<Pending>>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO entries (ended_micros, sink, outcome, batches, transactions, changes, dead_letters, bytes,
                                  took_micros, attempts, lsn, problem)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?;
        for (sink, entries) in pending {
            for Pending { ended_micros, outcome, applied, problem } in entries {
                statement.execute(params![
                    ended_micros,
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
                    problem
                ])?;
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
    Ok(())
}

fn unix_micros(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

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
}

/// Which entries are meant.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this sink.
    pub sink: Option<String>,
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

/// The newest entries first, up to `limit`.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path, filter: &Filter, limit: usize) -> Result<Vec<Entry>> {
    let mut conditions = vec!["true"];
    let mut parameters: Vec<Box<dyn ToSql>> = Vec::new();
    let mut add = |condition, parameter: Option<Box<dyn ToSql>>| {
        if let Some(parameter) = parameter {
            conditions.push(condition);
            parameters.push(parameter);
        }
    };
    add("sink = ?", filter.sink.clone().map(|sink| Box::new(sink) as Box<dyn ToSql>));
    add("outcome = ?", filter.outcome.map(|outcome| Box::new(outcome.as_str()) as Box<dyn ToSql>));
    add("ended_micros >= ?", filter.since_micros.map(|since| Box::new(since) as Box<dyn ToSql>));
    add("ended_micros < ?", filter.until_micros.map(|until| Box::new(until) as Box<dyn ToSql>));
    add("id < ?", filter.before.map(|before| Box::new(before) as Box<dyn ToSql>));
    add("id > ?", filter.after.map(|after| Box::new(after) as Box<dyn ToSql>));
    let sql = format!(
        "SELECT id, ended_micros, sink, outcome, batches, transactions, changes, dead_letters, bytes, took_micros,
                attempts, lsn, problem
           FROM entries WHERE {} ORDER BY id DESC LIMIT ?",
        conditions.join(" AND ")
    );
    parameters.push(Box::new(limit as i64));
    let read = || -> rusqlite::Result<Vec<Entry>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let mut statement = connection.prepare(&sql)?;
        let entries = statement.query_map(params_from_iter(&parameters), |row| {
            Ok(Entry {
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
            })
        })?;
        entries.collect()
    };
    read().map_err(|error| Error::transient("reading the sync log").because(error))
}

#[cfg(test)]
mod tests {
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
        insert(&mut connection, &HashMap::from([("eu".to_owned(), entries)])).unwrap();
        sweep(&connection, Bounds { retention: Duration::from_secs(3_600), entries_max: 10 }).unwrap();
        let kept: Vec<i64> =
            read(&path, &Filter::default(), 100).unwrap().iter().map(|entry| entry.changes).collect();
        assert_eq!(kept, [19, 18, 17, 16, 15, 14, 13, 12, 11]);
        let filter = Filter { before: Some(20), sink: Some("eu".to_owned()), ..Filter::default() };
        assert_eq!(read(&path, &filter, 2).unwrap().len(), 2);
        assert!(read(&path, &Filter { outcome: Some(Outcome::Failed), ..filter }, 2).unwrap().is_empty());
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
