//! The demo's live workload: several writers with a connection each, and one for large transactions. Every transaction
//! also writes one row to the ledger, so a replica that has each of them once has as many ledger rows.
//!
//! Writers own their rows and keep a lock on somebody else's only for one statement at the end, so that none waits for
//! another in a circle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::changes::Generator;
use super::{changes, extremes, session};
use crate::error::{Error, Result};
use crate::postgres::session::from_sql;

/// A writer's pause between two transactions.
const PAUSE: Duration = Duration::from_millis(1);
/// How often the writer of large transactions looks at the clock.
const POLL: Duration = Duration::from_millis(10);
/// When the large transactions come, in parts of the whole time, and what each is.
const LARGE: [(f64, fn() -> String); 5] = [
    (0.0, extremes::insert),
    (0.15, || changes::insert_devices(0)),
    (0.5, || changes::insert_devices(1)),
    (0.65, changes::update_devices),
    (0.85, changes::delete_devices),
];
/// After how many of [`LARGE`] the engine is to be killed, so that it has just begun with 20,000 rows.
pub(super) const LARGE_BEFORE_KILL: u64 = 3;

/// What has been committed so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Transactions.
    pub transactions: AtomicU64,
    /// Changed rows, the ledger's included; a truncated table counts as one.
    pub changes: AtomicU64,
    /// Transactions of [`LARGE`].
    pub large: AtomicU64,
}

impl Counts {
    /// Counts a transaction that was committed.
    pub(super) fn committed(&self, changes: u64) {
        self.changes.fetch_add(changes, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running workload.
pub(super) struct Workload {
    thread: JoinHandle<Result<()>>,
}

impl Workload {
    /// Starts the writers. They end by themselves after `length`, or when `stop` turns true.
    pub(super) fn start(
        url: &str,
        writers: u32,
        length: Duration,
        counts: &Arc<Counts>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let shared = Shared { counts: counts.clone(), stop: stop.clone(), start: Instant::now(), length };
        let url = url.to_owned();
        let run = move || session::runtime()?.block_on(run(&url, writers, shared));
        let thread = thread::Builder::new()
            .name("workload".to_owned())
            .spawn(run)
            .map_err(|error| Error::halt("starting the workload's thread").because(error))?;
        Ok(Workload { thread })
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The first error of a writer.
    pub(super) fn join(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(Error::bug("a writer panicked")))
    }
}

/// What all writers look at.
#[derive(Clone)]
struct Shared {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    start: Instant,
    length: Duration,
}

impl Shared {
    fn goes_on(&self) -> bool {
        self.start.elapsed() < self.length && !self.stop.load(Ordering::Relaxed)
    }
}

async fn run(url: &str, writers: u32, shared: Shared) -> Result<()> {
    let mut running = JoinSet::new();
    for writer in 1..=writers {
        let client = session::connect(url).await?;
        running.spawn(write(client, writer, shared.clone()));
    }
    running.spawn(write_large(session::connect(url).await?, shared.clone()));
    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|_| Err(Error::bug("a writer panicked")));
        if outcome.is_ok() && ended.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
            outcome = ended;
        }
    }
    outcome
}

async fn write(client: Client, writer: u32, shared: Shared) -> Result<()> {
    let mut generator = Generator::new(writer);
    while shared.goes_on() {
        commit(&client, &format!("w{writer}"), &generator.transaction(), &shared.counts).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn write_large(client: Client, shared: Shared) -> Result<()> {
    for (part, statements) in LARGE {
        while shared.goes_on() && shared.start.elapsed() < shared.length.mul_f64(part) {
            tokio::time::sleep(POLL).await;
        }
        // Where the time is over they come at once: each is a part of what the demo is to show.
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        commit(&client, "large", &statements(), &shared.counts).await?;
        shared.counts.large.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// One transaction, with its row in the ledger.
async fn commit(client: &Client, writer: &str, statements: &str, counts: &Counts) -> Result<()> {
    let failed = |error| from_sql(error, "a writer of the workload");
    let messages = client.simple_query(&format!("BEGIN; {statements}")).await.map_err(failed)?;
    let changed = messages.iter().map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    });
    let truncated = u64::from(statements.starts_with("TRUNCATE"));
    let changes = changed.sum::<u64>() + truncated + 1;
    let ledger = format!("INSERT INTO ledger (writer, changes) VALUES ('{writer}', {changes}); COMMIT");
    client.simple_query(&ledger).await.map_err(failed)?;
    counts.committed(changes);
    Ok(())
}
