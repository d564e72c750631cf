//! Watches the one rule that must hold at every moment: a slot's `confirmed_flush_lsn` is never ahead of the checkpoint
//! of a replica that depends on it. A replica that catches up depends on its copy of the slot, any other on the slot. Ten
//! times a second it reads the slot and *then* the files: whatever happened in between, a file can only
//! have moved on, so a slot ahead of a file has broken the rule.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::replica::{Address, Position, Replica};
use super::session::Session;
use crate::Lsn;
use crate::config::slot_copy;
use crate::error::{Error, Result};

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(100);
/// Between two sums over a region's ledger, in samples.
const CHANGES_EVERY: u64 = 2;

/// The slot, then its copies.
const SLOTS: &str = "SELECT slot_name::text, confirmed_flush_lsn::text, pg_current_wal_lsn()::text \
                     FROM pg_replication_slots \
                     WHERE slot_name ~ '^walcast(__|$)' AND confirmed_flush_lsn IS NOT NULL ORDER BY slot_name";

/// What the samples say.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// How many were taken.
    pub samples: u64,
    /// How many found the slot ahead of a file.
    pub violations: u64,
    /// The first of those.
    pub violation: Option<String>,
    /// The server's position in the latest.
    pub wal_lsn: Lsn,
    /// What the slot has confirmed.
    pub confirmed_flush_lsn: Lsn,
    /// By region: its checkpoint.
    pub positions: Vec<Position>,
    /// By region: the row changes of all transactions in its ledger.
    pub changes: Vec<u64>,
}

/// A running watch.
pub(super) struct Watch {
    watched: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    /// Until it has been waited for.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    /// Starts watching the slot and the files.
    pub(super) fn start(url: &str, regions: Vec<Address>) -> Result<Self> {
        let watched = Watched {
            positions: vec![Position::default(); regions.len()],
            changes: vec![0; regions.len()],
            ..Watched::default()
        };
        let (watched, stop) = (Arc::new(Mutex::new(watched)), Arc::new(AtomicBool::new(false)));
        let url = url.to_owned();
        let shared = (watched.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch(&url, &regions, &shared.0, &shared.1))
            .map_err(|error| Error::halt("starting the watch").because(error))?;
        Ok(Watch { watched, stop, thread: Some(thread) })
    }

    /// What it has seen so far.
    pub(super) fn watched(&self) -> Watched {
        lock(&self.watched).clone()
    }

    /// Ends it with one last sample.
    pub(super) fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(Error::bug("the watch panicked")))
    }
}

/// A poisoned lock holds whole values all the same: nothing panics between two of its writes.
fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(url: &str, regions: &[Address], watched: &Mutex<Watched>, stop: &AtomicBool) -> Result<()> {
    let source = Session::connect(url)?;
    let slots = source.prepare(SLOTS)?;
    let replicas: Vec<Replica> = regions.iter().map(Address::open).collect::<Result<_>>()?;
    let mut is_last = false;
    for sample in 0.. {
        let begin = Instant::now();
        let slots = source.run(&slots)?;
        let row = slots.first().ok_or_else(|| Error::halt("the slot is gone"))?;
        let confirmed = lsn(row.get(1))?;
        let depends_on = |replica: &Replica| -> Result<Lsn> {
            let name = slot_copy("walcast", replica.name());
            let copy = slots.iter().find(|row| row.get::<_, &str>(0) == name);
            copy.map_or(Ok(confirmed), |row| lsn(row.get(1)))
        };
        let mut positions = Vec::with_capacity(replicas.len());
        for replica in &replicas {
            positions.push(replica.position()?.unwrap_or_default());
        }
        let changes = match sample % CHANGES_EVERY == 0 || is_last {
            true => Some(changes(&replicas)?),
            false => None,
        };
        let mut ahead = None;
        for (replica, position) in replicas.iter().zip(&positions) {
            let confirmed = depends_on(replica)?;
            if confirmed > position.lsn {
                ahead = Some((replica, position, confirmed));
            }
        }
        let mut watched = lock(watched);
        if let Some((replica, position, confirmed)) = ahead {
            watched.violations += 1;
            watched.violation.get_or_insert_with(|| {
                format!(
                    "the slot had confirmed {confirmed}, region {} was at {}",
                    replica.name(),
                    position.lsn
                )
            });
        }
        watched.samples += 1;
        (watched.confirmed_flush_lsn, watched.wal_lsn) = (confirmed, lsn(row.get(2))?);
        watched.positions = positions;
        watched.changes = changes.unwrap_or_else(|| std::mem::take(&mut watched.changes));
        drop(watched);
        if is_last {
            break;
        }
        thread::sleep(INTERVAL.saturating_sub(begin.elapsed()));
        is_last = stop.load(Ordering::Relaxed);
    }
    Ok(())
}

fn changes(replicas: &[Replica]) -> Result<Vec<u64>> {
    replicas.iter().map(|replica| replica.count("SELECT coalesce(sum(changes), 0) FROM ledger")).collect()
}

fn lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|error| Error::bug("reading an LSN").because(error))
}
