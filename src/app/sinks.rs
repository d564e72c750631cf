//! The configured sinks: built, opened, and each given its thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{mpsc, watch};

use super::d1::{self, Transports};
use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::config::{self, Config, SchemaChanges, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::chain::{Inlet, chain};
use crate::fanout::fill::{FillWrite, Fills, OwedKey, TableFill};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, SinkProgress, State};
use crate::fanout::retry::{self, Backoff, Decision};
use crate::fanout::sink::{Applied, Batch, Checkpoint, Reached, Sink, Whole};
use crate::fanout::worker::{BatchLimits, Worker};
use crate::sink::d1::D1Sink;
use crate::sink::null::NullSink;
use crate::sink::sqlite::SqliteSink;
use crate::telemetry;

/// How long the start of an engine waits for a sink that cannot be reached. Then it starts without it.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Any kind of sink.
pub enum AnySink {
    /// A SQLite file.
    Sqlite(SqliteSink),
    /// A D1 database, and the sink's name.
    D1(Box<D1Sink>, String),
    /// Counts and discards.
    Null(NullSink),
}

impl AnySink {
    /// The sink that the configuration describes; nothing is opened.
    ///
    /// # Errors
    /// Its address is none.
    pub fn new(config: &config::Sink, changes: SchemaChanges, transports: &Transports) -> Result<Self> {
        let on_rejected = d1::on_rejected(config.on_rejected);
        Ok(match (&config.target, transports.connect(&config.target, None)?) {
            (SinkTarget::D1(_, writing) | SinkTarget::D1Worker(_, writing), Some(transport)) => {
                let options = d1::options(writing, on_rejected, changes);
                let sink = D1Sink::new(d1::place(&config.target), transport, options);
                AnySink::D1(Box::new(sink), config.name.to_string())
            }
            (SinkTarget::Sqlite { path }, _) => {
                let is_manual = changes == SchemaChanges::Manual;
                AnySink::Sqlite(SqliteSink::new(path, on_rejected).with_manual_changes(is_manual))
            }
            (SinkTarget::Null | SinkTarget::D1(..) | SinkTarget::D1Worker(..), _) => {
                AnySink::Null(NullSink::default())
            }
        })
    }

    fn any(&mut self) -> &mut dyn Sink {
        match self {
            AnySink::Sqlite(sink) => sink,
            AnySink::D1(sink, _) => &mut **sink,
            AnySink::Null(sink) => sink,
        }
    }
}

impl Sink for AnySink {
    fn open(&mut self, plan: &Arc<Plan>, source: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.any().open(plan, source)
    }

    fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        self.any().start_at(lsn)
    }

    fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        self.any().begin_anew(lsn)
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        self.any().apply(batch)
    }

    fn apply_some(&mut self, batch: &Batch<'_>) -> Result<(Applied, Reached)> {
        let applied = self.any().apply_some(batch);
        if let AnySink::D1(sink, name) = self
            && let Some(usage) = sink.usage()
        {
            telemetry::d1_wrote(name, usage.rows_written, usage.dollars());
        }
        applied
    }

    fn fill(&mut self, write: &FillWrite<'_>) -> Result<Applied> {
        self.any().fill(write)
    }

    fn take_missing(&mut self) -> Vec<(usize, OwedKey)> {
        self.any().take_missing()
    }

    fn fills(&mut self) -> Result<Fills> {
        self.any().fills()
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.any().checkpoint()
    }

    fn end(&mut self) {
        self.any().end();
    }

    fn whole(&self) -> Whole {
        match self {
            AnySink::Sqlite(sink) => sink.whole(),
            AnySink::D1(sink, _) => sink.whole(),
            AnySink::Null(sink) => sink.whole(),
        }
    }
}

/// All sinks, opened or stopped with the reason, in the configuration's order.
pub struct OpenSinks {
    sinks: Vec<(AnySink, Arc<SinkProgress>, Option<Checkpoint>)>,
    transports: Transports,
    /// What the runs are mapped by.
    plan: Arc<Plan>,
}

impl OpenSinks {
    /// Opens every sink, all at the same time. One that cannot be opened is stopped; the others go on.
    pub fn open(config: &Config, plan: &Arc<Plan>, source: &SourceIdentity) -> Self {
        let transports = Transports::new(config);
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        let changes = config.schema_changes;
        let open = |config: &config::Sink| {
            let progress = SinkProgress::new(config.name.as_str());
            let opened = AnySink::new(config, changes, &transports).and_then(|mut sink| {
                let checkpoint = patiently(backoff, || sink.open(plan, source))?;
                progress.set_fills(patiently(backoff, || sink.fills())?);
                Ok((sink, checkpoint))
            });
            match opened {
                Ok((sink, checkpoint)) => {
                    if let Some(checkpoint) = &checkpoint {
                        progress.set_durable(checkpoint.lsn);
                    }
                    (sink, progress, checkpoint)
                }
                Err(error) => {
                    stop(&progress, &error);
                    (AnySink::Null(NullSink::default()), progress, None)
                }
            }
        };
        let sinks = std::thread::scope(|scope| {
            let threads: Vec<_> = config.sinks.iter().map(|sink| scope.spawn(|| open(sink))).collect();
            let sinks = threads.into_iter().zip(&config.sinks).map(|(thread, config)| {
                thread.join().unwrap_or_else(|_| {
                    let progress = SinkProgress::new(config.name.as_str());
                    stop(&progress, &Error::bug("opening the sink panicked"));
                    (AnySink::Null(NullSink::default()), progress, None)
                })
            });
            sinks.collect()
        });
        OpenSinks { sinks, transports, plan: plan.clone() }
    }

    /// The checkpoint of each sink that is open.
    pub fn checkpoints(&self) -> Vec<(String, Option<Checkpoint>)> {
        self.running().map(|(_, progress, checkpoint)| (progress.name.clone(), checkpoint.clone())).collect()
    }

    /// The sinks that are open.
    pub fn names(&self) -> Vec<String> {
        self.running().map(|(_, progress, _)| progress.name.clone()).collect()
    }

    fn running(&self) -> impl Iterator<Item = &(AnySink, Arc<SinkProgress>, Option<Checkpoint>)> {
        let is_running = |progress: &SinkProgress| progress.is_running();
        self.sinks.iter().filter(move |(_, progress, _)| is_running(progress))
    }

    /// Starts a sink that has no checkpoint at `lsn`, or stops it.
    pub fn start_at(&mut self, config: &Config, name: &str, lsn: Lsn) {
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        for (sink, progress, _) in self.sinks.iter_mut().filter(|(_, progress, _)| progress.name == name) {
            match patiently(backoff, || sink.start_at(lsn)) {
                Ok(()) => progress.set_durable(lsn),
                Err(error) => stop(progress, &error),
            }
        }
    }

    /// Keeps of tables what `settled` says, which is given a table's index, what is kept of it, and where the sink is.
    pub fn settle_tables(
        &mut self,
        config: &Config,
        tables: usize,
        settled: impl Fn(usize, Option<&TableFill>, Lsn) -> Option<TableFill>,
    ) {
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        for (sink, progress, _) in self.sinks.iter_mut().filter(|(_, progress, _)| progress.is_running()) {
            let mut fills = progress.fills();
            for table in 0..tables {
                let Some(fill) = settled(table, fills.get(table), progress.durable_lsn()) else { continue };
                let write = FillWrite { table, fill: &fill, run: None, clears: false, swaps: false };
                match patiently(backoff, || sink.fill(&write)) {
                    Ok(_) => {
                        if let Some(stopped) = &fill.stopped {
                            stopped.log(&progress.name, &self.plan.tables[table].source.plain());
                        }
                        fills.set(table, fill);
                    }
                    Err(error) => stop(progress, &error),
                }
            }
            progress.set_fills(fills);
        }
    }

    /// Takes what waits to be filled as complete where `is_forgone` says so of its table.
    pub fn forgo(&mut self, config: &Config, is_forgone: impl Fn(usize) -> bool) {
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        for (sink, progress, _) in self.sinks.iter_mut().filter(|(_, progress, _)| progress.is_running()) {
            let mut fills = progress.fills();
            // One that takes another's place has to have that one's rows.
            let waits = |table: &usize| {
                let waits =
                    |fill: &TableFill| fill.ranges.is_empty() && !fill.is_beside && fill.stopped.is_none();
                // What a stopped table had was filled, and has to be again.
                fills.get(*table).is_some_and(|fill| waits(fill) && fill.from == Lsn::ZERO)
            };
            let tables: Vec<usize> =
                (0..fills.0.len()).filter(waits).filter(|&table| is_forgone(table)).collect();
            for table in tables {
                let waiting = fills.get(table).cloned().unwrap_or_else(TableFill::complete);
                // What it has is of no use where changes are missing, wanted or not.
                let clears = waiting.clears;
                let TableFill { owed, relation, .. } = waiting;
                let fill = TableFill { owed, relation, ..TableFill::complete() };
                let write = FillWrite { table, fill: &fill, run: None, clears, swaps: false };
                match patiently(backoff, || sink.fill(&write)) {
                    Ok(_) => fills.set(table, fill),
                    Err(error) => stop(progress, &error),
                }
            }
            progress.set_fills(fills);
        }
    }

    /// Lets a sink begin anew at `lsn`, with all tables to be filled, or stops it.
    pub fn begin_anew(&mut self, config: &Config, name: &str, lsn: Lsn) {
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        for (sink, progress, _) in self.sinks.iter_mut().filter(|(_, progress, _)| progress.name == name) {
            match patiently(backoff, || sink.begin_anew(lsn).and_then(|()| sink.fills())) {
                Ok(fills) => {
                    progress.set_fills(fills);
                    progress.move_to(lsn);
                }
                Err(error) => stop(progress, &error),
            }
        }
    }

    /// Pauses the sinks that are to be, before anything is applied to them.
    pub fn pause(&self, is_paused: impl Fn(&str) -> bool) {
        for (_, progress, _) in &self.sinks {
            progress.set_paused(is_paused(&progress.name));
        }
    }

    /// Takes a sink out of action.
    pub fn stop(&self, name: &str, error: &Error) {
        if let Some((_, progress, _)) = self.sinks.iter().find(|(_, progress, _)| progress.name == name) {
            stop(progress, error);
        }
    }

    /// Lets a sink start on its own copy of the slot.
    pub fn stand_apart(&self, name: &str) {
        if let Some((_, progress, _)) = self.sinks.iter().find(|(_, progress, _)| progress.name == name) {
            progress.stand_apart();
        }
    }

    /// Gives each running sink its thread, and its queue if it takes the main stream. `deadline` says from when on the
    /// workers give up retrying.
    pub fn spawn(
        self,
        config: &Config,
        deadline: impl Fn() -> Option<Instant> + Clone + Send + 'static,
    ) -> Result<Fanout> {
        let (outlets, leaving) = Outlets::new(config.queue.patience);
        let (mut lanes, mut progresses) = (Vec::new(), Vec::new());
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        for ((sink, progress, _), sink_config) in self.sinks.into_iter().zip(&config.sinks) {
            progresses.push(progress.clone());
            if !progress.is_running() {
                continue;
            }
            let (inlets, chain) = chain();
            if progress.state() == State::Attached {
                let (outlet, inlet) = outlets.queue(&progress, config.queue.max_bytes);
                outlets.attach(outlet);
                // The other end is right here.
                let _ = inlets.send(inlet);
            }
            let (alive, done) = watch::channel(());
            lanes.push(Lane { sink: progress.clone(), inlets, done });
            let limits = batch_limits(config, &sink_config.target);
            let position = progress.durable_lsn();
            let name = progress.name.clone();
            let worker =
                Worker::new(sink, chain, progress.clone(), position, limits, backoff, fastrand::Rng::new())
                    .with_plan(self.plan.clone());
            let deadline = deadline.clone();
            std::thread::Builder::new()
                .name(format!("sink-{name}"))
                .spawn(move || {
                    if catch_unwind(AssertUnwindSafe(|| worker.run(deadline))).is_err() {
                        stop(&progress, &Error::bug("the sink's worker panicked"));
                    }
                    drop(alive);
                })
                .map_err(|error| Error::halt(format!("starting the thread of sink {name}")).because(error))?;
        }
        let outlets = Arc::new(outlets);
        let progress = Progress::new(progresses);
        Ok(Fanout { outlets, leaving, progress, lanes, transports: self.transports })
    }
}

/// How much a sink takes at once.
fn batch_limits(config: &Config, target: &SinkTarget) -> BatchLimits {
    match target {
        SinkTarget::D1(_, writing) | SinkTarget::D1Worker(_, writing) => d1::request_limits(writing).batch(),
        SinkTarget::Sqlite { .. } | SinkTarget::Null => {
            BatchLimits { rows_max: config.batch.max_rows, bytes_max: config.batch.max_bytes }
        }
    }
}

/// Tries until it succeeds, fails for good, or has taken too long for an engine that waits to start.
fn patiently<T>(backoff: Backoff, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let (started, mut rng) = (Instant::now(), fastrand::Rng::new());
    for failed in 0.. {
        let error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Decision::Retry(wait) = retry::decide(error.kind(), failed, backoff, &mut rng) else {
            return Err(error);
        };
        if started.elapsed() + wait > OPEN_PATIENCE {
            return Err(error);
        }
        std::thread::sleep(wait);
    }
    Err(Error::bug("attempts are counted without end"))
}

/// The running sinks.
pub struct Fanout {
    /// Where the main river sends.
    pub outlets: Arc<Outlets>,
    /// The sinks that the main river leaves behind.
    pub leaving: mpsc::UnboundedReceiver<Arc<SinkProgress>>,
    /// How far each sink is.
    pub progress: Progress,
    /// The running sinks' workers.
    pub lanes: Vec<Lane>,
    /// Ends the waiting for requests when it is dropped.
    pub transports: Transports,
}

/// One sink's worker, as the engine holds it.
#[derive(Clone)]
pub struct Lane {
    /// Its sink.
    pub sink: Arc<SinkProgress>,
    /// Where queues are put behind those that it has. It ends once this is dropped and they are empty.
    pub inlets: Sender<Inlet>,
    /// Closes when the worker is done.
    pub done: watch::Receiver<()>,
}

impl Lane {
    /// Gives the worker no further queue. The future waits until it is done.
    pub fn end(self) -> impl Future<Output = ()> {
        let Lane { inlets, mut done, .. } = self;
        drop(inlets);
        async move { while done.changed().await.is_ok() {} }
    }
}

/// Takes a sink out of action, and says so.
pub fn stop(progress: &SinkProgress, error: &Error) {
    tracing::error!(
        sink = progress.name,
        kind = error.kind().as_str(),
        hint = error.hint_text(),
        "sink stopped: {}",
        error.chain()
    );
    progress.stop(error);
}
