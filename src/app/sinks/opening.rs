//! Opening one sink, on a thread of its own: it may take long, and nobody else has to wait for it. What is opened is held
//! against the slot before it is given its worker.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};

use super::any::AnySink;
use super::{Lane, stop};
use crate::Lsn;
use crate::app::d1::{self, Transports};
use crate::capture::slot::SourceIdentity;
use crate::config::{self, Config, SchemaChanges, SinkTarget};
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::chain::chain;
use crate::fanout::fill::{FillWrite, TableFill};
use crate::fanout::progress::SinkProgress;
use crate::fanout::retry::{self, Backoff, Decision};
use crate::fanout::sink::{Checkpoint, Sink};
use crate::fanout::worker::{BatchLimits, Worker};
use crate::sink::d1::budget::Budget;

/// How long what is written to a sink before its worker has it is tried.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How soon a thread notices that nobody waits for its sink any more.
const NAP: Duration = Duration::from_millis(50);

/// Lets one after the other open a sink, also of engines that follow each other: opening takes the sink's fencing token,
/// and one that hangs and is given up must not take it from its successor.
#[derive(Debug, Default)]
pub struct Turns(std::sync::Mutex<BTreeMap<String, Arc<Mutex<()>>>>);

impl Turns {
    fn of(&self, sink: &str) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(sink.to_owned()).or_default().clone()
    }
}

/// What every sink of an engine is opened with.
#[derive(Clone)]
pub struct Opener {
    turns: Arc<Turns>,
    /// The ways to D1 databases.
    pub transports: Arc<Transports>,
    plan: Arc<Plan>,
    source: SourceIdentity,
    changes: SchemaChanges,
    backoff: Backoff,
    batch: BatchLimits,
}

/// A sink that is open.
pub struct OpenedSink {
    sink: AnySink,
    /// How far it is.
    pub progress: Arc<SinkProgress>,
    /// Where it was when it was opened.
    pub checkpoint: Option<Checkpoint>,
    limits: BatchLimits,
    backoff: Backoff,
    /// What the runs are mapped by.
    plan: Arc<Plan>,
    /// Kept until its worker has it: nobody else opens it meanwhile.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Opener {
    /// For the sinks of an engine; nothing is opened.
    pub fn new(config: &Config, plan: &Arc<Plan>, source: &SourceIdentity, turns: &Arc<Turns>) -> Self {
        Opener {
            turns: turns.clone(),
            transports: Arc::new(Transports::new(config)),
            plan: plan.clone(),
            source: source.clone(),
            changes: config.schema_changes,
            backoff: Backoff { initial: config.retry.initial, max: config.retry.max },
            batch: BatchLimits { rows_max: config.batch.max_rows, bytes_max: config.batch.max_bytes },
        }
    }

    /// The budgets of requests that these sinks keep to, by sink.
    pub fn budgets(&self, sinks: &[config::Sink]) -> Vec<(String, Arc<Budget>)> {
        let budget = |sink: &config::Sink| {
            self.transports.budget_of(&sink.target).map(|budget| (sink.name.to_string(), budget))
        };
        sinks.iter().filter_map(budget).collect()
    }

    /// Begins to open a sink. It is tried until it is open, fails for good, or the receiver is gone; `progress` says
    /// meanwhile why it fails.
    pub fn open(
        &self,
        config: &config::Sink,
        progress: &Arc<SinkProgress>,
    ) -> oneshot::Receiver<Result<OpenedSink>> {
        let (answer, opened) = oneshot::channel();
        let sink = match AnySink::new(config, self.changes, &self.transports) {
            Ok(sink) => sink,
            Err(error) => {
                let _ = answer.send(Err(error));
                return opened;
            }
        };
        let turn = self.turns.of(config.name.as_str());
        let mut sink = OpenedSink {
            sink,
            turn: None,
            progress: progress.clone(),
            checkpoint: None,
            limits: match &config.target {
                SinkTarget::D1(_, writing) | SinkTarget::D1Worker(_, writing) => {
                    d1::request_limits(writing).batch()
                }
                SinkTarget::Sqlite { .. } | SinkTarget::Null => self.batch,
            },
            backoff: self.backoff,
            plan: self.plan.clone(),
        };
        let source = self.source.clone();
        let thread = std::thread::Builder::new().name(format!("open-{}", config.name));
        // A thread that cannot be started, or panics, drops the answer's sender.
        let started = thread.spawn(move || {
            sink.turn = Some(turn.blocking_lock_owned());
            if let Some(opened) = sink.open(&source, &answer) {
                let _ = answer.send(opened);
            }
        });
        if let Err(error) = started {
            tracing::error!(sink = %config.name, "starting the thread that opens a sink: {error}");
        }
        opened
    }
}

impl OpenedSink {
    /// Opens it, however often that takes. Nothing once nobody waits for it any more.
    fn open(
        mut self,
        source: &SourceIdentity,
        answer: &oneshot::Sender<Result<OpenedSink>>,
    ) -> Option<Result<OpenedSink>> {
        let mut rng = fastrand::Rng::new();
        for failed in 0.. {
            if answer.is_closed() {
                return None;
            }
            let opened = self.sink.open(&self.plan, source).and_then(|found| Ok((found, self.sink.fills()?)));
            let error = match opened {
                Ok((checkpoint, fills)) => {
                    self.progress.recover();
                    self.progress.set_fills(fills);
                    self.checkpoint = checkpoint;
                    return Some(Ok(self));
                }
                Err(error) => error,
            };
            let Decision::Retry(wait) = retry::decide(error.kind(), failed, self.backoff, &mut rng) else {
                return Some(Err(error));
            };
            self.progress.count_retry(&error);
            tracing::warn!(
                sink = self.progress.name,
                wait_ms = wait.as_millis() as u64,
                hint = error.hint_text(),
                "the sink cannot be opened yet: {}",
                error.chain()
            );
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if answer.is_closed() {
                    return None;
                }
                std::thread::sleep((until - Instant::now()).min(NAP));
            }
        }
        None
    }

    /// Starts a sink that has no checkpoint at `lsn`. Blocks.
    ///
    /// # Errors
    /// The sink's, after a while.
    pub fn start_at(&mut self, lsn: Lsn) -> Result<()> {
        patiently(self.backoff, || self.sink.start_at(lsn))?;
        self.progress.move_to(lsn);
        Ok(())
    }

    /// Lets the sink begin anew at `lsn`, with all tables to be filled. Blocks.
    ///
    /// # Errors
    /// The sink's, after a while.
    pub fn begin_anew(&mut self, lsn: Lsn) -> Result<()> {
        let fills = patiently(self.backoff, || self.sink.begin_anew(lsn).and_then(|()| self.sink.fills()))?;
        self.progress.set_fills(fills);
        self.progress.move_to(lsn);
        Ok(())
    }

    /// Takes what waits to be filled as complete where `is_forgone` says so of its table. Blocks.
    ///
    /// # Errors
    /// The sink's, after a while.
    pub fn forgo(&mut self, is_forgone: impl Fn(usize) -> bool) -> Result<()> {
        let mut fills = self.progress.fills();
        // One that takes another's place has to have that one's rows.
        let waits =
            |table: &usize| fills.get(*table).is_some_and(|fill| fill.ranges.is_empty() && !fill.is_beside);
        let tables: Vec<usize> =
            (0..fills.0.len()).filter(waits).filter(|&table| is_forgone(table)).collect();
        for table in tables {
            let waiting = fills.get(table).cloned().unwrap_or_else(TableFill::complete);
            // What it has is of no use where changes are missing, wanted or not.
            let clears = waiting.clears;
            let fill = TableFill { owed: waiting.owed, ..TableFill::complete() };
            let write = FillWrite { table, fill: &fill, run: None, clears, swaps: false };
            patiently(self.backoff, || self.sink.fill(&write))?;
            fills.set(table, fill);
        }
        self.progress.set_fills(fills);
        Ok(())
    }

    /// Gives the sink its thread, without a queue yet. `deadline` says from when on the worker gives up retrying.
    ///
    /// # Errors
    /// Halts when the thread cannot be started.
    pub fn start(self, deadline: impl Fn() -> Option<Instant> + Send + 'static) -> Result<Lane> {
        let OpenedSink { sink, progress, limits, backoff, plan, .. } = self;
        let (inlets, chain) = chain();
        let (alive, done) = watch::channel(());
        let lane = Lane { sink: progress.clone(), inlets, done };
        let name = progress.name.clone();
        let position = progress.durable_lsn();
        let worker =
            Worker::new(sink, chain, progress.clone(), position, limits, backoff, fastrand::Rng::new())
                .with_plan(plan);
        // Nobody waits for one that was taken out.
        let taken_out = progress.clone();
        let deadline = move || match taken_out.is_retired() {
            true => Some(Instant::now()),
            false => deadline(),
        };
        std::thread::Builder::new()
            .name(format!("sink-{name}"))
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| worker.run(deadline))).is_err() {
                    stop(&progress, &Error::bug("the sink's worker panicked"));
                }
                drop(alive);
            })
            .map_err(|error| Error::halt(format!("starting the thread of sink {name}")).because(error))?;
        Ok(lane)
    }
}

/// Tries until it succeeds, fails for good, or has taken too long for somebody who waits.
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
        if started.elapsed() + wait > WRITE_PATIENCE {
            return Err(error);
        }
        std::thread::sleep(wait);
    }
    Err(Error::bug("attempts are counted without end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[tokio::test]
    async fn a_sink_is_opened_only_once_nobody_else_has_it_in_hand() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("walcast.toml");
        let text = "[source]\nurl = \"postgres://u@h/d\"\n[[sink]]\nname = \"eu\"\ntype = \"sqlite\"\npath = \"eu.db\"\n";
        std::fs::write(&path, text).unwrap();
        let config = Config::load(Some(&path), &Environment::default()).unwrap();
        let identity = SourceIdentity {
            system_identifier: 1,
            timeline: 1,
            slot: "walcast".to_owned(),
            database: "d".to_owned(),
        };
        let turns = Arc::new(Turns::default());
        let open = || {
            let opener = Opener::new(&config, &Arc::new(Plan::default()), &identity, &turns);
            opener.open(&config.sinks[0], &SinkProgress::new("eu"))
        };
        let mut first = open().await.unwrap().unwrap();
        let mut second = open();
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        first.start_at(Lsn(7)).unwrap();
        drop(first);
        assert_eq!(second.await.unwrap().unwrap().checkpoint.unwrap().lsn, Lsn(7));
        // One that nobody waits for lets go by itself.
        drop(open());
        assert!(open().await.unwrap().is_ok());
    }
}
