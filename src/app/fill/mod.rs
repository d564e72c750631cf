//! Bringing the rows that a sink lacks and the stream does not have: those from before the slot, of a new region, of a
//! new table, and single rows that proved to be missing.
//!
//! The sinks say what they lack (`fanout::fill`), the readers here read it from the source in chunks, and the gate puts
//! it among the stream's deliveries. A reader works on one range of one table at a time, so ranges of several tables are
//! read at once. Sinks that lack the same get the same chunk.
//!
//! **Only sinks that take the main stream are filled.** One that catches up goes on where it was when it is back, and is
//! not filled from its own stream. It fell behind because it is slower than what comes, so a fill beside would keep it
//! behind for longer, while its copy of the slot keeps WAL for it; and what a chunk is held against is the log of one
//! stream, so its own stream would need a log, a gate and reads of its own, for rows that the others have read already.
//! A region that can never be back while it has to be filled is detached by `catch_up.max_wal`, and then begins with the
//! fill.

pub mod gate;
pub mod job;
mod pace;
pub mod pending;
mod reader;
pub mod request;
pub mod resume;
pub mod settled;
pub mod stops;
mod tables;
pub mod view;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use self::gate::Gate;
use self::job::{Job, jobs, jobs_to_begin};
use self::pending::Pending;
use self::reader::Reader;
use self::tables::Tables;
use self::view::FillView;
use super::source::Source;
use crate::Lsn;
use crate::config::Backfill;
use crate::encode::current::CurrentPlan;
use crate::encode::plan::Plan;
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Result};
use crate::fanout::fill::{TableFill, TableState};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, SinkProgress};

/// How often it is looked whether a sink lacks something.
const POLL: Duration = Duration::from_millis(50);

/// What the readers need.
pub struct Filler {
    /// Where rows are read.
    pub source: Source,
    /// How.
    pub config: Backfill,
    /// A larger row ends the fill of its table, in bytes.
    pub row_bytes_max: usize,
    /// The queues must not be fuller than this for a chunk, in bytes.
    pub queue_bytes_max: usize,
    /// What is replicated, as it was planned at the start.
    pub plan: Arc<Plan>,
    /// The same as it is now.
    pub current: Arc<CurrentPlan>,
    /// What that is made from.
    pub schema: Arc<SchemaFile>,
    /// Where the server was when it was planned.
    pub planned_at: Lsn,
    /// Where chunks join the stream.
    pub gate: Arc<Gate>,
    /// The sinks' queues.
    pub outlets: Arc<Outlets>,
    /// How far each sink is.
    pub progress: Progress,
    /// What is asked for, and what fails.
    pub view: Arc<FillView>,
}

impl Filler {
    /// Starts the readers, which run until `stop` turns true.
    ///
    /// # Errors
    /// Halts when the thread cannot be started.
    pub fn start(self, stop: watch::Receiver<bool>) -> Result<JoinHandle<()>> {
        let starting = |error| Error::halt("starting the thread of the fills").because(error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(starting)?;
        let run = move || runtime.block_on(self.run(stop));
        std::thread::Builder::new().name("fill".to_owned()).spawn(run).map_err(starting)
    }

    /// Whether a sink has the table as the source has it: then the publication has had it for long.
    fn is_live_anywhere(&self, table: usize) -> bool {
        let is_live = |sink: &SinkProgress| {
            sink.look_at_fills(|fills| fills.state(table, sink.durable_lsn()) == TableState::Live)
        };
        self.progress.sinks().iter().any(|sink| is_live(sink))
    }

    /// Whether a sink lacks rows of the table beyond those that an operator has asked for.
    fn is_wanted_whole(&self, table: usize) -> bool {
        let is_whole = |sink: &SinkProgress| {
            let has_ranges = |fill: &TableFill| fill.ranges.is_empty() || fill.open_ranges().next().is_some();
            let lacks = |fill: &TableFill| {
                !fill.is_partial && fill.lacks_rows(sink.durable_lsn()) && has_ranges(fill)
            };
            sink.look_at_fills(|fills| fills.get(table).is_some_and(lacks))
        };
        self.progress.sinks().iter().any(|sink| is_whole(sink))
    }

    async fn run(self, mut stop: watch::Receiver<bool>) {
        let shared = Shared {
            tables: Tables::new(&self),
            pending: Pending::default(),
            busy: RefCell::default(),
            filler: Rc::new(self),
        };
        let workers = (0..shared.filler.config.connections).map(|_| shared.work());
        tokio::select! {
            _ = join_all(workers) => {}
            () = shared.filler.keep_stops(&shared.tables) => {}
            // Its sender goes with the engine.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// What the readers share.
struct Shared {
    filler: Rc<Filler>,
    tables: Tables,
    /// What is on its way to the sinks.
    pending: Pending,
    /// What is being done.
    busy: RefCell<Vec<Job>>,
}

impl Shared {
    async fn work(&self) {
        let mut reader = Reader::new(&self.filler, &self.pending);
        loop {
            if let Some(request) = self.filler.view.take_request() {
                reader.begin_anew(&self.tables, request.clone()).await;
                self.filler.view.request_begun(&request);
                continue;
            }
            if let Some(request) = self.filler.view.take_row_request() {
                reader.owe(request.clone()).await;
                self.filler.view.row_request_begun(&request);
                continue;
            }
            let Some(job) = self.take() else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            let table = job.table();
            let done = reader.run(&self.tables, &job).await;
            self.busy.borrow_mut().retain(|other| *other != job);
            match done {
                Ok(()) => self.tables.succeeded(table),
                Err(error) => self.tables.failed(table, error),
            }
            if self.filler.gate.restart_if_blind() {
                tracing::warn!(
                    "too much changes in the tables being filled; they wait until all of it is visible"
                );
                self.tables.forget_all();
            }
        }
    }

    /// The next job that nobody does yet. Tables that nobody lacks any more are forgotten.
    fn take(&self) -> Option<Job> {
        let (progress, tables) = (&self.filler.progress, self.filler.plan.tables.len());
        let (all, jobs) = (jobs(progress, tables), jobs_to_begin(progress, tables, &self.pending));
        let mut busy = self.busy.borrow_mut();
        let needed: BTreeSet<usize> = all.iter().chain(busy.iter()).map(Job::table).collect();
        self.tables.keep(&needed);
        self.filler.view.keep_filters(|table| needed.contains(&table) && !self.filler.is_wanted_whole(table));
        let is_free = |job: &&Job| !busy.iter().any(|other| other.is_in_the_way_of(job));
        let job = jobs.iter().filter(is_free).find(|job| !self.tables.is_resting(job.table()))?.clone();
        busy.push(job.clone());
        Some(job)
    }
}
