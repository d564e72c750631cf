//! The configured sinks: built, opened, and each given its thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;
use tokio::sync::{mpsc, watch};

use crate::Lsn;
use crate::capture::slot::SourceIdentity;
use crate::config::{self, Config, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::chain::{Inlet, chain};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, SinkProgress, State};
use crate::fanout::retry::Backoff;
use crate::fanout::sink::{Applied, Batch, Checkpoint, Sink};
use crate::fanout::worker::{BatchLimits, Worker};
use crate::sink::null::NullSink;
use crate::sink::replica::{self, OnRejected};
use crate::sink::sqlite::{self, SqliteSink};

/// Any kind of sink.
pub enum AnySink {
    /// A SQLite file.
    Sqlite(SqliteSink),
    /// Counts and discards.
    Null(NullSink),
}

impl AnySink {
    /// The sink that the configuration describes; nothing is opened.
    pub fn new(config: &config::Sink) -> Self {
        match &config.target {
            SinkTarget::Sqlite { path } => {
                let on_rejected = match config.on_rejected {
                    config::OnRejected::DeadLetter => OnRejected::DeadLetter,
                    config::OnRejected::Halt => OnRejected::Halt,
                };
                AnySink::Sqlite(SqliteSink::new(path, on_rejected))
            }
            SinkTarget::Null => AnySink::Null(NullSink::default()),
        }
    }

    fn any(&mut self) -> &mut dyn Sink {
        match self {
            AnySink::Sqlite(sink) => sink,
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

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        self.any().apply(batch)
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.any().checkpoint()
    }
}

/// What a sink's target holds, read without an engine: its checkpoint and number of dead letters, if it was ever fed.
pub fn inspect(config: &config::Sink) -> Result<Option<(Checkpoint, u64)>> {
    match &config.target {
        SinkTarget::Sqlite { path } => sqlite::inspect(path),
        SinkTarget::Null => Ok(None),
    }
}

/// Whether a sink's target holds something that walcast did not make.
pub fn is_foreign(config: &config::Sink) -> Result<bool> {
    match &config.target {
        SinkTarget::Sqlite { path } => sqlite::is_foreign(path),
        SinkTarget::Null => Ok(false),
    }
}

/// Refuses a sink whose checkpoint belongs to another source or slot.
pub fn check_source(config: &config::Sink, checkpoint: &Checkpoint, source: &SourceIdentity) -> Result<()> {
    match &config.target {
        SinkTarget::Sqlite { path } => replica::check_source(checkpoint, source, &path.display()),
        SinkTarget::Null => Ok(()),
    }
}

/// All sinks, opened or stopped with the reason, in the configuration's order.
pub struct OpenSinks {
    sinks: Vec<(AnySink, Arc<SinkProgress>, Option<Checkpoint>)>,
}

impl OpenSinks {
    /// Opens every sink. One that cannot be opened is stopped; the others go on.
    pub fn open(config: &Config, plan: &Arc<Plan>, source: &SourceIdentity) -> Self {
        let sinks = config.sinks.iter().map(|config| {
            let mut sink = AnySink::new(config);
            let progress = SinkProgress::new(config.name.as_str());
            let checkpoint = sink.open(plan, source).unwrap_or_else(|error| {
                stop(&progress, &error);
                None
            });
            if let Some(checkpoint) = &checkpoint {
                progress.set_durable(checkpoint.lsn);
            }
            (sink, progress, checkpoint)
        });
        OpenSinks { sinks: sinks.collect() }
    }

    /// The checkpoint of each sink that is open.
    pub fn checkpoints(&self) -> Vec<(String, Option<Checkpoint>)> {
        self.running().map(|(_, progress, checkpoint)| (progress.name.clone(), checkpoint.clone())).collect()
    }

    fn running(&self) -> impl Iterator<Item = &(AnySink, Arc<SinkProgress>, Option<Checkpoint>)> {
        let is_running = |progress: &SinkProgress| progress.is_running();
        self.sinks.iter().filter(move |(_, progress, _)| is_running(progress))
    }

    /// Starts a sink that has no checkpoint at `lsn`, or stops it.
    pub fn start_at(&mut self, name: &str, lsn: Lsn) {
        for (sink, progress, _) in self.sinks.iter_mut().filter(|(_, progress, _)| progress.name == name) {
            match sink.start_at(lsn) {
                Ok(()) => progress.set_durable(lsn),
                Err(error) => stop(progress, &error),
            }
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
        let limits = BatchLimits { rows_max: config.batch.max_rows, bytes_max: config.batch.max_bytes };
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        for (sink, progress, _) in self.sinks {
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
            let position = progress.durable_lsn();
            let name = progress.name.clone();
            let worker =
                Worker::new(sink, chain, progress.clone(), position, limits, backoff, fastrand::Rng::new());
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
        Ok(Fanout { outlets: Arc::new(outlets), leaving, progress: Progress::new(progresses), lanes })
    }
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
