//! The replicas, and the sinks that write them, with the faults of real ones.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags};
use walcast::Lsn;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::plan::Plan;
use walcast::error::{Error, Result};
use walcast::fanout::fill::{FillWrite, Fills, OwedKey, TableFill};
use walcast::fanout::sink::{Applied, Batch, Checkpoint, Reached, Sink, Whole};
use walcast::sink::d1::limits::RequestLimits;
use walcast::sink::d1::{D1Sink, Options};
use walcast::sink::replica::OnRejected;
use walcast::sink::sqlite::SqliteSink;

use super::local_d1::{self, LocalD1};
use super::snapshots::Rows;

/// A replica, which outlives the engine.
pub struct Database {
    kind: Kind,
    faults: Faults,
    seen: Arc<Mutex<Seen>>,
    /// Somebody took rows away since it was last filled from the beginning.
    pub is_damaged: bool,
    /// What readers see while another table is built beside.
    pub readers_see: Option<Rows>,
    /// What is in the table while it is stopped, if it was what the source was.
    pub stopped_at: Option<Rows>,
    /// Whether its table was live, and the other one was at any time.
    pub was_live: bool,
    pub has_others: bool,
    /// The checkpoint when it was last looked at.
    pub lsn: Lsn,
}

enum Kind {
    Sqlite(PathBuf),
    D1(LocalD1, Options),
}

/// Chances in a thousand.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    reject: u32,
    lose_answer: u32,
    lose_transaction: u32,
}

/// What happened to a sink.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub lost_answers: u32,
    /// Updates that found no row.
    pub missed: u32,
}

/// What is in a database at one moment.
pub struct Content {
    pub lsn: Lsn,
    /// Of a transaction that is split, a part is there.
    pub is_split: bool,
    pub fill: Option<TableFill>,
    pub rows: Rows,
    /// The same of the other table.
    pub others_fill: Option<TableFill>,
    pub others: Rows,
}

impl Database {
    pub fn new(rng: &mut fastrand::Rng, directory: &std::path::Path, number: usize) -> Database {
        let kind = match rng.bool() {
            true => Kind::Sqlite(directory.join(format!("{number}.db"))),
            false => {
                let rows_max = [3, 10, 100][rng.usize(..3)];
                let request = RequestLimits { rows_max, bytes_max: 1 << 20 };
                let options = Options { request, skip_unchanged: rng.bool(), ..Options::default() };
                Kind::D1(LocalD1::new(rng.u64(..)), options)
            }
        };
        let faults =
            Faults { reject: rng.u32(..200), lose_answer: rng.u32(..200), lose_transaction: rng.u32(..200) };
        Database {
            kind,
            faults,
            seen: Arc::default(),
            is_damaged: false,
            readers_see: None,
            stopped_at: None,
            was_live: false,
            has_others: false,
            lsn: Lsn::ZERO,
        }
    }

    /// The region is lost: what comes in its place is empty.
    pub fn lose(&mut self, rng: &mut fastrand::Rng) {
        match &mut self.kind {
            Kind::Sqlite(path) => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut file = path.clone().into_os_string();
                    file.push(suffix);
                    // Not all of them are there.
                    let _ = std::fs::remove_file(file);
                }
            }
            Kind::D1(local, _) => *local = LocalD1::new(rng.u64(..)),
        }
        (self.lsn, self.is_damaged, self.readers_see) = (Lsn::ZERO, false, None);
        (self.stopped_at, self.was_live, self.has_others) = (None, false, false);
    }

    pub fn sink(&self, rng: fastrand::Rng) -> FaultySink {
        let sink: Box<dyn Sink> = match &self.kind {
            Kind::Sqlite(path) => Box::new(SqliteSink::new(path, OnRejected::default())),
            Kind::D1(local, options) => {
                local.set_faults(local_d1::Faults::default());
                Box::new(D1Sink::new("d1", Box::new(local.clone()), *options))
            }
        };
        FaultySink { sink, faults: Faults::default(), seen: self.seen.clone(), rng }
    }

    /// From now on things go wrong.
    pub fn set_faulty(&self, sink: &mut FaultySink) {
        match &self.kind {
            Kind::Sqlite(_) => sink.faults = self.faults,
            Kind::D1(local, _) => {
                let Faults { reject: lost, lose_answer: lost_answer, .. } = self.faults;
                local.set_faults(local_d1::Faults { lost, lost_answer, throttled: 20, ..Default::default() });
            }
        }
    }

    /// From now on nothing does.
    pub fn set_faultless(&mut self) {
        self.faults = Faults::default();
        if let Kind::D1(local, _) = &self.kind {
            local.set_faults(local_d1::Faults::default());
        }
    }

    pub fn seen(&self) -> Seen {
        let mut seen = *self.seen.lock().unwrap();
        if let Kind::D1(local, _) = &self.kind {
            seen.lost_answers += local.seen().lost_answers;
        }
        seen
    }

    /// Somebody else puts a row where none is.
    pub fn put(&self, id: i64) {
        let sql = "INSERT INTO items (id, name, note) VALUES (?1, 'theirs', 'theirs')";
        self.with(|connection| connection.execute(sql, [id]).unwrap());
    }

    /// Somebody else takes a row away, if it is there.
    pub fn take_away(&mut self, id: i64) -> bool {
        if self.readers_see.is_some() || self.stopped_at.is_some() {
            return false;
        }
        // A writer may be inside a transaction.
        let deleted = self.with(|connection| connection.execute("DELETE FROM items WHERE id = ?1", [id]));
        let is_gone = deleted.is_ok_and(|deleted| deleted == 1);
        self.is_damaged |= is_gone;
        is_gone
    }

    pub fn content(&self) -> Content {
        self.with(|connection| {
            // All from one moment.
            let transaction = connection.unchecked_transaction().unwrap();
            let columns = transaction.prepare("SELECT * FROM _walcast_checkpoint").unwrap();
            let is_split = match columns.column_index("open_changes") {
                Ok(_) => "open_changes IS NOT NULL",
                Err(_) => "0",
            };
            drop(columns);
            let sql = format!("SELECT lsn, {is_split} FROM _walcast_checkpoint");
            let (lsn, is_split) =
                transaction.query_row(&sql, [], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).unwrap();
            let table = |name: &str| {
                let fill = "SELECT fill FROM _walcast_fills WHERE target = ?1";
                let fill = transaction.query_row(fill, [name], |row| row.get::<_, String>(0)).ok();
                let rows = format!("SELECT CAST(id AS INTEGER), name, note FROM {name}");
                let mut rows = transaction.prepare(&rows).unwrap();
                let rows = rows.query_map([], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?]))).unwrap();
                let rows: Rows = rows.map(|row| row.unwrap()).collect();
                (fill.map(|fill| serde_json::from_str(&fill).unwrap()), rows)
            };
            let ((fill, rows), (others_fill, others)) = (table("items"), table("others"));
            Content { lsn: lsn.parse().unwrap(), is_split, fill, rows, others_fill, others }
        })
    }

    fn with<T>(&self, look: impl FnOnce(&Connection) -> T) -> T {
        match &self.kind {
            Kind::Sqlite(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(path, flags).unwrap();
                look(&connection)
            }
            Kind::D1(local, _) => local.with(look),
        }
    }
}

/// A real sink, now and then interrupted.
pub struct FaultySink {
    sink: Box<dyn Sink>,
    faults: Faults,
    seen: Arc<Mutex<Seen>>,
    rng: fastrand::Rng,
}

impl FaultySink {
    fn happens(&mut self, per_mille: u32) -> bool {
        self.rng.u32(..1000) < per_mille
    }

    fn write<T>(&mut self, write: impl FnOnce(&mut dyn Sink) -> Result<T>) -> Result<T> {
        if self.happens(self.faults.reject) {
            return Err(Error::transient("rejected"));
        }
        if self.happens(self.faults.lose_transaction) {
            self.sink.checkpoint()?;
            return Err(Error::transient("the open transaction was lost"));
        }
        let written = write(&mut *self.sink)?;
        if self.happens(self.faults.lose_answer) {
            self.seen.lock().unwrap().lost_answers += 1;
            return Err(Error::transient("the answer was lost"));
        }
        Ok(written)
    }
}

impl Sink for FaultySink {
    fn open(&mut self, plan: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.sink.open(plan, source)
    }

    fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        self.sink.start_at(lsn)
    }

    fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        self.sink.begin_anew(lsn)
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        self.write(|sink| sink.apply(batch))
    }

    fn apply_some(&mut self, batch: &Batch<'_>) -> Result<(Applied, Reached)> {
        self.write(|sink| sink.apply_some(batch))
    }

    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        self.write(|sink| sink.fill(write))
    }

    fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        let missing = self.sink.take_missing();
        self.seen.lock().unwrap().missed += missing.len() as u32;
        missing
    }

    fn fills(&mut self) -> Result<Fills> {
        self.sink.fills()
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.sink.checkpoint()
    }

    fn whole(&self) -> Whole {
        self.sink.whole()
    }
}
