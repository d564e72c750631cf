//! What the sinks' targets hold, read without an engine and without disturbing one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::d1::{Transports, place};
use crate::capture::slot::SourceIdentity;
use crate::config::{self, Config, SinkTarget};
use crate::error::{Error, Result};
use crate::fanout::sink::Checkpoint;
use crate::sink::d1::cost::Usage;
use crate::sink::d1::transport::Transport;
use crate::sink::replica::StoredTable;
use crate::sink::shape::Kept;
use crate::sink::{d1, replica, sqlite};

/// How long a database on the network may take to answer somebody who only looks.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a target holds.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    /// How far it is; `None` where it was never fed.
    pub checkpoint: Option<Checkpoint>,
    /// Rows that it did not take.
    pub dead_letters: u64,
    /// Its replicated tables, by name.
    pub tables: Vec<StoredTable>,
    /// What only D1 databases have.
    pub d1: Option<D1Facts>,
}

/// What is to be known of a D1 database beyond its rows.
#[derive(Debug, Clone, Default)]
pub struct D1Facts {
    /// What was written and paid for.
    pub usage: Usage,
    /// Its size.
    pub bytes: Option<u64>,
    /// What it keeps of its replicated tables, by name.
    pub kept: BTreeMap<String, Kept>,
}

/// Why a target cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// It holds something that walcast did not make.
    pub is_foreign: bool,
    /// The error.
    pub error: Error,
}

/// Reads all targets at the same time, in the configuration's order: one that does not answer takes no longer than its
/// timeout and hides nothing of the others.
pub fn read_all(config: &Config) -> Vec<Result<Replica, Unreadable>> {
    let panicked = |error| Err(Unreadable { is_foreign: false, error });
    let read = ask_all(config, read).into_iter();
    read.map(|replica| replica.unwrap_or_else(panicked)).collect()
}

/// Asks all targets at the same time, in the configuration's order.
///
/// # Errors
/// Of a target: asking it panicked.
pub fn ask_all<T: Send>(
    config: &Config,
    ask: impl Fn(&config::Sink, &Transports) -> T + Sync,
) -> Vec<Result<T>> {
    let transports = Transports::new(config);
    std::thread::scope(|scope| {
        let asked = config.sinks.iter().map(|sink| scope.spawn(|| ask(sink, &transports)));
        let asked: Vec<_> = asked.collect();
        let panicked = |_| Error::bug("reading a replica panicked");
        asked.into_iter().map(|answer| answer.join().map_err(panicked)).collect()
    })
}

/// The way to a sink's D1 database for somebody who only looks, or does little; and what errors call it.
///
/// # Errors
/// The address is none, or the sink is no D1 database.
pub fn connect(target: &SinkTarget, transports: &Transports) -> Result<(Box<dyn Transport>, String)> {
    let transport = transports.connect(target, Some(TIMEOUT))?;
    Ok((transport.ok_or_else(|| Error::bug("a D1 database has a transport"))?, place(target)))
}

fn read(sink: &config::Sink, transports: &Transports) -> Result<Replica, Unreadable> {
    let target = &sink.target;
    match target {
        SinkTarget::Sqlite { path } => sqlite_file(path)
            .map_err(|error| Unreadable { is_foreign: sqlite::is_foreign(path).unwrap_or(false), error }),
        SinkTarget::D1(..) | SinkTarget::D1Worker(..) => {
            let of = |error| Unreadable { is_foreign: false, error };
            let (mut transport, place) = connect(target, transports).map_err(of)?;
            let d1::Inspected { checkpoint, dead_letters, usage, tables, kept, bytes } =
                d1::inspect(&mut *transport, &place)
                    .map_err(|(error, is_foreign)| Unreadable { is_foreign, error })?;
            Ok(Replica { checkpoint, dead_letters, tables, d1: Some(D1Facts { usage, bytes, kept }) })
        }
        SinkTarget::Null => Ok(Replica::default()),
    }
}

/// What a sink keeps of its replicated tables, by their names there.
///
/// # Errors
/// They cannot be read.
pub fn kept(sink: &config::Sink, replica: &Replica) -> Result<BTreeMap<String, Kept>> {
    if let SinkTarget::Sqlite { path } = &sink.target {
        return sqlite::kept_tables(path);
    }
    Ok(replica.d1.as_ref().map(|facts| facts.kept.clone()).unwrap_or_default())
}

fn sqlite_file(path: &std::path::Path) -> Result<Replica> {
    let tables = sqlite::stored_tables(path)?;
    let found = sqlite::inspect(path)?;
    let dead_letters = found.as_ref().map_or(0, |(_, letters)| *letters);
    Ok(Replica { checkpoint: found.map(|(checkpoint, _)| checkpoint), dead_letters, tables, d1: None })
}

/// Refuses a sink whose checkpoint belongs to another source or slot.
///
/// # Errors
/// Halts, naming what differs.
pub fn check_source(sink: &config::Sink, checkpoint: &Checkpoint, source: &SourceIdentity) -> Result<()> {
    match &sink.target {
        SinkTarget::Null => Ok(()),
        target => replica::check_source(checkpoint, source, &place(target)),
    }
}
