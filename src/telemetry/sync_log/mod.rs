//! The sync log: what each sink took when, how long that took, and what failed, in a local SQLite file of bounded size.
//!
//! Enters: one event a batch, over a bounded channel that nobody ever waits for: an event that finds it full is dropped
//! and counted. Leaves: entries, written by a thread of its own (`writer`), and read by whoever asks (`reader`). The
//! batches that a sink took within a second are one entry; a failure is an entry of its own. No row value enters, only
//! hashes of the keys (`keys`).

mod keys;
mod reader;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use metrics::counter;
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::keys::Keys;
pub use self::reader::{Entry, Filter, Found, read};
use self::writer::Writer;

use super::SYNC_LOG_DROPPED_TOTAL;
use crate::Lsn;
use crate::error::{Error, Result};

/// Events that wait for the writer.
const EVENTS_MAX: usize = 8_192;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The log that the process keeps, if any.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    /// Where the events go.
    events: Sender<Event>,
    keeps_keys: bool,
}

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
    /// Of the changes that came, how many were in which table at the source.
    pub(super) tables: BTreeMap<String, u64>,
    /// The keys that they touched.
    pub(super) keys: Keys,
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

/// Whether a log is kept.
pub(super) fn is_kept() -> bool {
    LOG.get().is_some()
}

/// The keys with the hashes that `hashes` gives, if keys are logged.
pub(crate) fn touched<H: Iterator<Item = u32>>(hashes: impl FnOnce() -> H) -> Keys {
    match LOG.get() {
        Some(log) if log.keeps_keys => Keys::of(hashes()),
        _ => Keys::UNKNOWN,
    }
}

/// Hands an event on, if a log is kept and there is room.
pub(super) fn record(event: impl FnOnce() -> Event) {
    if let Some(log) = LOG.get()
        && log.events.try_send(event()).is_err()
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
    /// The keys of the oldest entries are removed where all take more bytes than this, four for each; none are kept
    /// where it is 0.
    pub key_bytes_max: usize,
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
        let writer = Writer::open(path, bounds)?;
        let (events, received) = bounded(EVENTS_MAX);
        let log = Log { events: events.clone(), keeps_keys: bounds.key_bytes_max > 0 };
        if LOG.set(log).is_err() {
            return Err(Error::bug("this process keeps a sync log already"));
        }
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
