//! The configured sinks: opened side by side, held against the slot, and each given its thread.

mod any;
mod opening;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::any::AnySink;
pub use self::opening::{OpenedSink, Opener, Turns};
use crate::Lsn;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fanout::chain::Inlet;
use crate::fanout::fill::TableFill;
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, SinkProgress, State};
use crate::fanout::sink::Checkpoint;

/// All sinks at the start of an engine, in the configuration's order.
pub struct OpenSinks {
    sinks: Vec<Starting>,
    opener: Opener,
}

/// A sink at the start of an engine.
#[expect(clippy::large_enum_variant, reason = "there is one for each region, and it is taken once")]
enum Starting {
    Open(OpenedSink),
    Away(AwaySink),
    Stopped(Arc<SinkProgress>),
}

/// A sink that could not be opened in time, and is tried again.
pub struct AwaySink {
    /// How far it is, as far as that is known.
    pub progress: Arc<SinkProgress>,
    /// Where it comes once it is open.
    pub opened: oneshot::Receiver<Result<OpenedSink>>,
}

impl Starting {
    fn progress(&self) -> &Arc<SinkProgress> {
        match self {
            Starting::Open(sink) => &sink.progress,
            Starting::Away(sink) => &sink.progress,
            Starting::Stopped(progress) => progress,
        }
    }
}

impl OpenSinks {
    /// Opens every sink, all at the same time. One that cannot be opened is stopped, and one that cannot be reached
    /// within the patience is away: both are no reason for the others to wait.
    pub async fn open(config: &Config, opener: Opener, patience: Duration) -> Self {
        let until = tokio::time::Instant::now() + patience;
        let opening: Vec<_> = config
            .sinks
            .iter()
            .map(|sink| {
                let progress = SinkProgress::new(sink.name.as_str());
                let opened = opener.open(sink, &progress);
                (progress, opened)
            })
            .collect();
        let mut sinks = Vec::new();
        for (progress, mut opened) in opening {
            sinks.push(match tokio::time::timeout_at(until, &mut opened).await {
                Ok(Ok(Ok(sink))) => {
                    if let Some(checkpoint) = &sink.checkpoint {
                        progress.set_durable(checkpoint.lsn);
                    }
                    Starting::Open(sink)
                }
                Ok(Ok(Err(error))) => stopped(progress, &error),
                Ok(Err(_)) => stopped(progress, &Error::bug("opening the sink panicked")),
                Err(_) => Starting::Away(AwaySink { progress, opened }),
            });
        }
        OpenSinks { sinks, opener }
    }

    /// The checkpoint of each sink that is open.
    pub fn checkpoints(&self) -> Vec<(String, Option<Checkpoint>)> {
        let open = |sink: &Starting| match sink {
            Starting::Open(sink) => Some((sink.progress.name.clone(), sink.checkpoint.clone())),
            Starting::Away(_) | Starting::Stopped(_) => None,
        };
        self.sinks.iter().filter_map(open).collect()
    }

    /// The sinks that are open.
    pub fn names(&self) -> Vec<String> {
        self.checkpoints().into_iter().map(|(name, _)| name).collect()
    }

    /// Whether some are away.
    pub fn has_away(&self) -> bool {
        self.sinks.iter().any(|sink| matches!(sink, Starting::Away(_)))
    }

    /// Stops the sinks that are away, for an engine that does not wait for them.
    pub fn give_up_away(&mut self) {
        for sink in &mut self.sinks {
            if let Starting::Away(away) = sink {
                let error = match away.progress.failure() {
                    Some(failure) => Error::transient(failure.problem),
                    None => Error::transient("it does not answer"),
                };
                *sink = stopped(away.progress.clone(), &error);
            }
        }
    }

    /// Lets those that are away count as where the slot is, `lsn`, or their copy of it: it holds what they lack.
    pub fn hold(&self, lsn: Lsn, copy: impl Fn(&str) -> Option<Lsn>) {
        for sink in &self.sinks {
            if let Starting::Away(AwaySink { progress, .. }) = sink {
                let own = copy(&progress.name);
                progress.await_opening(own.unwrap_or(lsn));
                if own.is_some() {
                    progress.stand_apart();
                }
                tracing::warn!(
                    sink = progress.name,
                    "the others start without this sink, which is tried again"
                );
            }
        }
    }

    /// Starts a sink that has no checkpoint at `lsn`, or stops it.
    pub fn start_at(&mut self, name: &str, lsn: Lsn) {
        self.write(name, |sink| sink.start_at(lsn));
    }

    /// Lets a sink begin anew at `lsn`, with all tables to be filled, or stops it.
    pub fn begin_anew(&mut self, name: &str, lsn: Lsn) {
        self.write(name, |sink| sink.begin_anew(lsn));
    }

    /// Keeps of tables what `settled` says, which is given a table's index, what is kept of it, and where the sink is.
    pub fn settle_tables(&mut self, settled: impl Fn(usize, Option<&TableFill>, Lsn) -> Option<TableFill>) {
        for name in self.names() {
            self.write(&name, |sink| sink.settle_tables(&settled));
        }
    }

    /// Takes what waits to be filled as complete where `is_forgone` says so of its table.
    pub fn forgo(&mut self, is_forgone: impl Fn(usize) -> bool) {
        for name in self.names() {
            self.write(&name, |sink| sink.forgo(&is_forgone));
        }
    }

    fn write(&mut self, name: &str, write: impl FnOnce(&mut OpenedSink) -> Result<()>) {
        let found = self.sinks.iter_mut().find(|sink| sink.progress().name == name);
        if let Some(sink) = found
            && let Starting::Open(open) = sink
            && let Err(error) = write(open)
        {
            *sink = stopped(open.progress.clone(), &error);
        }
    }

    /// Pauses the sinks that are to be, before anything is applied to them.
    pub fn pause(&self, is_paused: impl Fn(&str) -> bool) {
        for sink in &self.sinks {
            sink.progress().set_paused(is_paused(&sink.progress().name));
        }
    }

    /// Takes a sink out of action.
    pub fn stop(&mut self, name: &str, error: &Error) {
        for sink in self.sinks.iter_mut().filter(|sink| sink.progress().name == name) {
            *sink = stopped(sink.progress().clone(), error);
        }
    }

    /// Lets a sink start on its own copy of the slot.
    pub fn stand_apart(&self, name: &str) {
        for sink in self.sinks.iter().filter(|sink| sink.progress().name == name) {
            sink.progress().stand_apart();
        }
    }

    /// Gives each open sink its thread, and its queue if it takes the main stream. `deadline` says from when on the
    /// workers give up retrying.
    ///
    /// # Errors
    /// Halts when a thread cannot be started.
    pub fn spawn(
        self,
        config: &Config,
        deadline: impl Fn() -> Option<Instant> + Clone + Send + 'static,
    ) -> Result<Fanout> {
        let (outlets, leaving) = Outlets::new(config.queue.patience);
        let (mut lanes, mut away) = (Vec::new(), Vec::new());
        let progress = Progress::new(self.sinks.iter().map(|sink| sink.progress().clone()).collect());
        for sink in self.sinks {
            match sink {
                Starting::Open(sink) => {
                    let progress = sink.progress.clone();
                    let lane = sink.start(deadline.clone())?;
                    if progress.state() == State::Attached {
                        let (outlet, inlet) = outlets.queue(&progress, config.queue.max_bytes);
                        outlets.attach(outlet);
                        // A worker that is gone has said why.
                        let _ = lane.inlets.send(inlet);
                    }
                    lanes.push(lane);
                }
                Starting::Away(sink) => away.push(sink),
                Starting::Stopped(_) => {}
            }
        }
        Ok(Fanout { outlets: Arc::new(outlets), leaving, progress, lanes, away, opener: self.opener })
    }
}

fn stopped(progress: Arc<SinkProgress>, error: &Error) -> Starting {
    stop(&progress, error);
    Starting::Stopped(progress)
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
    /// The sinks that are not open yet.
    pub away: Vec<AwaySink>,
    /// Opens further ones.
    pub opener: Opener,
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
    if progress.is_retired() {
        return;
    }
    tracing::error!(
        sink = progress.name,
        kind = error.kind().as_str(),
        hint = error.hint_text(),
        "sink stopped: {}",
        error.chain()
    );
    progress.stop(error);
}
