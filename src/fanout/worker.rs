//! A sink's worker: takes what has queued for its sink, applies it, retries it, and says how far the sink is.
//!
//! Group commit: a sink that is idle takes everything queued, up to its own limits; while it is busy the queue grows.
//! [`Worker::step`] is one such round without any waiting of its own, so that a simulation can drive it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::Chain;
use super::fill::{Action, FillStep, FillWrite, Fills, OwedKey, TableState};
use super::progress::SinkProgress;
use super::queue::Received;
use super::retry::{self, Backoff, Decision};
use super::sink::{Applied, Batch, OpenTransaction, Reached, Sink};
use crate::Lsn;
use crate::encode::key_hashes::KeyHashes;
use crate::encode::plan::Plan;
use crate::encode::run::{Run, Span};
use crate::error::{Error, Kind, Result};
use crate::telemetry::{self, BatchApplied, span, sync_log};

/// How often a paused sink's worker looks whether it may go on.
const PAUSE_NAP: Duration = Duration::from_millis(20);

/// What a river sends to a sink.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Changes, in commit order.
    Run(Arc<Run>),
    /// Nothing else was committed up to this position.
    Idle(Lsn),
    /// A step of a fill; only one that says what is owed comes inside a transaction.
    Fill(Arc<FillStep>),
    /// The stream starts again at or before the sink's checkpoint, or goes on in another queue between two transactions:
    /// forget one that has not ended.
    Restart,
}

impl Delivery {
    /// How much room it takes in the queue.
    pub fn bytes(&self) -> usize {
        match self {
            Delivery::Run(run) => run.bytes(),
            Delivery::Fill(step) => step.bytes(),
            Delivery::Idle(_) | Delivery::Restart => 0,
        }
    }

    /// The position up to which everything was sent once this was; `None` inside a transaction, at a restart, and for a
    /// step of a fill.
    pub fn end_lsn(&self) -> Option<Lsn> {
        match self {
            Delivery::Run(run) => run.spans().last()?.end_lsn,
            Delivery::Idle(lsn) => Some(*lsn),
            Delivery::Fill(_) | Delivery::Restart => None,
        }
    }
}

/// How much one batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Row changes; a single run may exceed it.
    pub rows_max: usize,
    /// Bytes in memory; a single run may exceed it.
    pub bytes_max: usize,
}

/// One sink with its queues.
pub struct Worker<S> {
    sink: S,
    queue: Chain,
    progress: Arc<SinkProgress>,
    limits: BatchLimits,
    backoff: Backoff,
    rng: fastrand::Rng,
    /// The sink's checkpoint as far as we know; what lies before it is left out.
    position: Lsn,
    /// What the sink had of the transaction behind it, when that was last asked.
    open: Option<OpenTransaction>,
    /// How far the sink's fills are.
    fills: Fills,
    /// Rows that updates did not find, until the sink says that they are owed.
    missing: Vec<(usize, OwedKey)>,
    /// What was taken from the queue and is not applied yet.
    taken: Taken,
    /// Failed attempts at what is taken.
    attempt: u32,
    /// An attempt failed, and the target has not been asked yet what became of it.
    is_unsure: bool,
    /// The sink lost its open transaction: everything is dropped until the stream starts again.
    awaits_restart: bool,
    /// What the runs' tables are, for the sync log.
    plan: Arc<Plan>,
    /// What they are called.
    tables: Vec<String>,
}

#[derive(Default)]
struct Taken {
    runs: Vec<Arc<Run>>,
    idle: Option<Lsn>,
    /// What is owed, or stopped, because of the runs.
    owes: Vec<Arc<FillStep>>,
    /// It stood behind the runs, and is taken once they are applied.
    fill: Option<Arc<FillStep>>,
    bytes: usize,
    rows: usize,
    /// A restart stood behind the runs; it is handled once they are applied.
    is_restart_next: bool,
    /// What was released to the queue already.
    released_bytes: usize,
    /// There was no more, and the sink wants the end of the transaction that the runs end inside of.
    awaits_end: bool,
    /// That transaction does not end: the queue is closed, or a restart stood behind it.
    is_cut_off: bool,
}

impl Taken {
    fn batch<'a>(&'a self, after: Lsn, fills: &'a Fills) -> Batch<'a> {
        let batch = Batch::new(&self.runs, after, self.idle).with_fills(fills);
        if self.is_cut_off { batch.ended() } else { batch }
    }

    /// The first runs, which the sink has, and their bytes.
    fn there(&self, reached: Reached) -> (usize, usize) {
        let Reached::Part { lsn, open } = reached else { return (self.runs.len(), self.bytes) };
        let is_there = |run: &&Arc<Run>| {
            run.spans().last().is_some_and(|span| match span.end_lsn {
                Some(end_lsn) => end_lsn <= lsn,
                None => open.is_some_and(|open| {
                    let changes = span.changes_before + span.changes.len() as u64;
                    open.commit_lsn == span.commit_lsn && open.changes >= changes
                }),
            })
        };
        let there = self.runs.iter().take_while(is_there);
        there.fold((0, 0), |(runs, bytes), run| (runs + 1, bytes + run.bytes()))
    }

    /// Lets go of the runs that the sink has, and returns how much of the queue's room they still held.
    fn let_go(&mut self, reached: Reached) -> usize {
        let (runs, bytes) = self.there(reached);
        self.rows -= self.runs.drain(..runs).map(|run| run.all_changes().len()).sum::<usize>();
        self.bytes -= bytes;
        let released = bytes.min(self.released_bytes);
        self.released_bytes -= released;
        bytes - released
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.idle.is_none()
            && self.owes.is_empty()
            && self.fill.is_none()
            && !self.is_restart_next
    }
}

/// What one round of a worker came to.
#[derive(Debug)]
pub enum Step {
    /// Something was done, or there was nothing to do.
    Done,
    /// The attempt failed; try again after this.
    Wait(Duration),
    /// The last queue is closed and empty.
    Closed,
    /// The sink cannot go on.
    Stopped(Error),
}

impl<S: Sink> Worker<S> {
    /// A worker for an opened sink whose checkpoint is `position`, and whose fills `progress` knows.
    pub fn new(
        sink: S,
        queue: Chain,
        progress: Arc<SinkProgress>,
        position: Lsn,
        limits: BatchLimits,
        backoff: Backoff,
        rng: fastrand::Rng,
    ) -> Self {
        progress.set_durable(position);
        let fills = progress.fills();
        Worker {
            sink,
            queue,
            progress,
            limits,
            backoff,
            rng,
            position,
            open: None,
            fills,
            missing: Vec::new(),
            taken: Taken::default(),
            attempt: 0,
            is_unsure: false,
            awaits_restart: false,
            plan: Arc::default(),
            tables: Vec::new(),
        }
    }

    /// With the plan that the runs were mapped by, for the sync log: without it, no table is named there.
    pub fn with_plan(self, plan: Arc<Plan>) -> Self {
        let tables = plan.tables.iter().map(|table| table.source.plain()).collect();
        Worker { plan, tables, ..self }
    }

    /// Runs until the last queue is closed and empty, the sink stops or is stopped, or `deadline` says that the engine no longer waits.
    pub fn run(mut self, deadline: impl Fn() -> Option<Instant>) {
        while self.progress.is_running() {
            match self.step(true) {
                Step::Done => {}
                Step::Closed => {
                    if deadline().is_none_or(|deadline| Instant::now() < deadline) {
                        self.sink.end();
                    }
                    return;
                }
                Step::Stopped(_) if self.progress.is_retired() => return,
                Step::Stopped(error) if error.kind() == Kind::Replaced => {
                    tracing::warn!(sink = self.progress.name, "{}", error.chain());
                    self.progress.lose(&error);
                    return;
                }
                Step::Stopped(error) => {
                    tracing::error!(
                        sink = self.progress.name,
                        kind = error.kind().as_str(),
                        hint = error.hint_text(),
                        "sink stopped: {}",
                        error.chain()
                    );
                    self.progress.stop(&error);
                    return;
                }
                // What it holds is sent again at the next start.
                Step::Wait(_) if self.progress.is_paused() && deadline().is_some() => return,
                Step::Wait(wait) => {
                    if !sleep_until(Instant::now() + wait, &deadline) {
                        return;
                    }
                }
            }
        }
    }

    /// One round: take what is there, try it once. `may_wait` says whether to wait for the queue's next item.
    pub fn step(&mut self, may_wait: bool) -> Step {
        if self.taken.is_empty() || self.taken.awaits_end {
            if !self.take(may_wait) {
                return Step::Closed;
            }
            if self.taken.awaits_end {
                return Step::Done;
            }
        }
        if self.progress.is_paused() {
            return Step::Wait(PAUSE_NAP);
        }
        if self.is_unsure && !self.awaits_restart {
            if let Err(error) = self.relearn() {
                self.attempt += 1;
                return self.wait_after(error);
            }
            if self.has_lost_the_start() {
                return self.ask_for_replay();
            }
        }
        match self.attempt() {
            Ok(reached) => {
                if self.attempt > 0 {
                    self.progress.recover();
                }
                self.attempt = 0;
                // A sink that goes on without the rows that updates do not find says so afterwards.
                self.missing.extend(self.sink.take_missing());
                if !self.missing.is_empty()
                    && let Err(error) = self.keep_missing(self.missing.clone())
                {
                    return self.failed(error);
                }
                self.missing.clear();
                if reached != Reached::All {
                    let bytes = self.taken.let_go(reached);
                    self.queue.release(bytes);
                    self.top_up(may_wait);
                    return Step::Done;
                }
                let taken = std::mem::take(&mut self.taken);
                drop(taken.runs);
                if taken.fill.is_some() {
                    self.progress.fill_step_done();
                }
                self.queue.release(taken.bytes - taken.released_bytes);
                if taken.is_restart_next { self.restart() } else { Step::Done }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Takes what has queued, up to the limits. False once the last queue is closed and empty.
    fn take(&mut self, may_wait: bool) -> bool {
        let next = if self.taken.awaits_end {
            self.receive_the_end(may_wait)
        } else if may_wait {
            match self.queue.receive() {
                Some(delivery) => Some(delivery),
                None => return false,
            }
        } else {
            match self.queue.try_receive() {
                Received::Item(delivery) => Some(delivery),
                Received::Empty => None,
                Received::Closed => return false,
            }
        };
        self.take_on(next, may_wait);
        true
    }

    /// Takes what has queued behind a batch that is partly applied.
    fn top_up(&mut self, may_wait: bool) {
        let is_ended = self.taken.is_restart_next || self.taken.is_cut_off || self.taken.fill.is_some();
        if !is_ended && !self.is_full() {
            let next = self.receive_more();
            self.take_on(next, may_wait);
        }
    }

    fn receive_more(&mut self) -> Option<Delivery> {
        match self.queue.try_receive() {
            Received::Item(delivery) => Some(delivery),
            Received::Empty | Received::Closed => None,
        }
    }

    fn is_full(&self) -> bool {
        self.taken.rows >= self.limits.rows_max || self.taken.bytes >= self.limits.bytes_max
    }

    /// Takes this and what follows it, up to the limits.
    fn take_on(&mut self, mut next: Option<Delivery>, may_wait: bool) {
        while let Some(delivery) = next {
            self.taken.bytes += delivery.bytes();
            match delivery {
                Delivery::Run(run) => {
                    self.taken.rows += run.all_changes().len();
                    self.taken.idle = None;
                    self.taken.runs.push(run);
                }
                Delivery::Idle(lsn) => self.taken.idle = Some(lsn),
                Delivery::Fill(step) if step.comes_first() => self.taken.owes.push(step),
                Delivery::Fill(step) => {
                    self.taken.fill = Some(step);
                    break;
                }
                Delivery::Restart => {
                    self.taken.is_restart_next = true;
                    self.taken.is_cut_off = true;
                    break;
                }
            }
            next = match self.wants_the_end() {
                true => self.receive_the_end(may_wait),
                false if self.is_full() => None,
                false => self.receive_more(),
            };
        }
    }

    /// Whether the sink waits for the end of the transaction that the runs end inside of.
    fn wants_the_end(&self) -> bool {
        let whole = self.sink.whole();
        let is_open = |span: &&Span| span.end_lsn.is_none();
        let Some(open) = self.taken.runs.last().and_then(|run| run.spans().last()).filter(is_open) else {
            return false;
        };
        let parts = self
            .taken
            .runs
            .iter()
            .rev()
            .take_while(|run| run.spans().iter().any(|span| span.commit_lsn == open.commit_lsn));
        let bytes: usize = parts.map(|run| run.bytes()).sum();
        let rows = open.changes_before + open.changes.len() as u64;
        // Of one that has come to more than that, the sink takes what there is.
        rows < whole.rows_max as u64 && bytes < whole.bytes_max
    }

    /// The next delivery, for the sake of which the queue gets back the room of what was taken from it: it could hold
    /// less than the sink wants at once.
    fn receive_the_end(&mut self, may_wait: bool) -> Option<Delivery> {
        self.queue.release(self.taken.bytes - self.taken.released_bytes);
        self.taken.released_bytes = self.taken.bytes;
        let received = match may_wait {
            true => self.queue.receive().map_or(Received::Closed, Received::Item),
            false => self.queue.try_receive(),
        };
        self.taken.awaits_end = matches!(received, Received::Empty);
        self.taken.is_cut_off = matches!(received, Received::Closed);
        match received {
            Received::Item(delivery) => Some(delivery),
            Received::Empty | Received::Closed => None,
        }
    }

    fn attempt(&mut self) -> Result<Reached> {
        if self.awaits_restart {
            return Ok(Reached::All);
        }
        self.owe()?;
        let reached = self.apply()?;
        if reached == Reached::All {
            if let Some(step) = self.taken.fill.clone() {
                self.fill(&step)?;
            }
            self.swap()?;
        }
        Ok(reached)
    }

    /// Keeps what is owed or stopped because of the runs, in one write for each table.
    fn owe(&mut self) -> Result<()> {
        if self.taken.owes.is_empty() {
            return Ok(());
        }
        let (mut fills, mut tables) = (self.fills.clone(), BTreeSet::new());
        for step in &self.taken.owes {
            if let Some(fill) = fills.after(&self.progress.name, self.position, step) {
                fills.set(step.table, fill);
                tables.insert(step.table);
            }
        }
        for table in tables {
            let Some(fill) = fills.get(table) else { continue };
            self.sink.fill(&FillWrite { table, fill, run: None, clears: false, swaps: false })?;
            let was_stopped = self.fills.state(table, self.position) == TableState::Stopped;
            if let Some(stopped) = fill.stopped.as_ref().filter(|_| !was_stopped) {
                stopped.log(&self.progress.name, self.tables.get(table).map_or("", String::as_str));
            }
            self.progress.set_fill(table, fill.clone());
            self.fills.set(table, fill.clone());
        }
        Ok(())
    }

    /// Lets tables that stand beside others take their places, where they are ready to.
    fn swap(&mut self) -> Result<()> {
        for table in 0..self.fills.0.len() {
            let swapped = self.fills.get(table).and_then(|fill| fill.swapped(self.position));
            let Some(fill) = swapped else { continue };
            self.sink.fill(&FillWrite { table, fill: &fill, run: None, clears: false, swaps: true })?;
            self.progress.set_fill(table, fill.clone());
            self.fills.set(table, fill);
        }
        Ok(())
    }

    /// Takes a step of a fill, if it is for this sink and not there yet.
    fn fill(&mut self, step: &FillStep) -> Result<()> {
        let Some(fill) = self.fills.after(&self.progress.name, self.position, step) else { return Ok(()) };
        let clears = match &step.action {
            Action::Begin { fill, sinks } => {
                let waiting = self.fills.get(step.table).filter(|_| sinks.is_none());
                fill.clears || waiting.is_some_and(|waiting| waiting.clears)
            }
            Action::Resume { fill, .. } => fill.clears,
            Action::Chunk { .. }
            | Action::Owe(_)
            | Action::Miss(_)
            | Action::Stop { .. }
            | Action::Retry { .. }
            | Action::Paid { .. } => false,
        };
        let run = step.run().map(|run| &**run);
        let (started, table) = (Instant::now(), self.tables.get(step.table).map_or("", String::as_str));
        let span = span::fill(&self.progress.name, table);
        let write = FillWrite { table: step.table, fill: &fill, run, clears, swaps: false };
        let applied = span.in_scope(|| self.sink.fill(&write));
        let applied = applied.inspect_err(|error| span::failed(&span, error))?;
        span.record("rows", applied.changes);
        telemetry::filled(&self.progress.name, applied.changes, started.elapsed());
        self.progress.count(Applied { changes: 0, ..applied }, None);
        self.progress.set_fill(step.table, fill.clone());
        self.fills.set(step.table, fill);
        Ok(())
    }

    fn apply(&mut self) -> Result<Reached> {
        let batch = self.taken.batch(self.position, &self.fills);
        if batch.spans().next().is_none() && batch.idle().is_none() {
            return Ok(Reached::All);
        }
        let started = Instant::now();
        let span = span::flush(&self.progress.name, self.attempt);
        let applied = span.in_scope(|| self.sink.apply_some(&batch));
        let (applied, reached) = applied.inspect_err(|error| span::failed(&span, error))?;
        let end_lsn = match reached {
            Reached::All => batch.end_lsn(),
            Reached::Part { lsn, .. } => Some(lsn).filter(|&lsn| lsn > self.position),
        };
        let commit_time =
            batch.spans().filter(|(_, span)| span.end_lsn.is_some() && span.end_lsn <= end_lsn).last();
        let commit_time = commit_time.map(|(_, span)| span.commit_time_micros);
        let Applied { changes, transactions, dead_letters } = applied;
        let ((_, bytes), took) = (self.taken.there(reached), started.elapsed());
        let failed_attempts = self.attempt;
        let has_ended = |span: &Span| span.end_lsn.is_some() && span.end_lsn <= end_lsn;
        let is_there = |span: &Span| reached == Reached::All || has_ended(span);
        let there = || batch.spans().filter(|(_, span)| is_there(span));
        let changed = there().flat_map(|(run, span)| batch.changes(run, span)).map(|change| change.table);
        let keys = || there().flat_map(|(run, span)| KeyHashes::of(run, &self.plan).of_span(span));
        let batch_applied = BatchApplied {
            changes,
            transactions,
            dead_letters,
            tables: telemetry::by_table(&self.tables, changed),
            keys: sync_log::touched(keys),
            bytes,
            took,
            failed_attempts,
            end_lsn,
        };
        span::flushed(&span, &batch_applied, commit_time);
        telemetry::batch_applied(&self.progress.name, batch_applied);
        self.progress.count(applied, commit_time);
        if let Some(end_lsn) = end_lsn {
            self.position = end_lsn;
            self.progress.set_durable(end_lsn);
        }
        Ok(reached)
    }

    /// Learns from the target where it is, and decides by the error's kind.
    fn failed(&mut self, error: Error) -> Step {
        let missing = self.sink.take_missing();
        if !missing.is_empty() {
            return self.missed(missing);
        }
        let decision = match retry::decide(error.kind(), self.attempt, self.backoff, &mut self.rng) {
            Decision::Stop => return Step::Stopped(error),
            decision => decision,
        };
        self.attempt += 1;
        self.progress.count_retry(&error);
        telemetry::retried(&self.progress.name, &error, self.attempt);
        tracing::warn!(
            sink = self.progress.name,
            kind = error.kind().as_str(),
            attempt = self.attempt,
            "applying a batch failed: {}",
            error.chain()
        );
        if let Err(error) = self.relearn() {
            return self.wait_after(error);
        }
        match decision {
            Decision::Retry(wait) if !self.has_lost_the_start() => Step::Wait(wait),
            _ => self.ask_for_replay(),
        }
    }

    /// When the target is asked again that could not be asked where it is.
    fn wait_after(&mut self, error: Error) -> Step {
        match retry::decide(error.kind(), self.attempt, self.backoff, &mut self.rng) {
            Decision::Retry(wait) => Step::Wait(wait),
            Decision::Replay | Decision::Stop => Step::Stopped(error),
        }
    }

    /// Whether the batch begins inside a transaction of which the target has not what came before.
    fn has_lost_the_start(&self) -> bool {
        let batch = self.taken.batch(self.position, &self.fills);
        batch.spans().next().is_some_and(|(_, span)| {
            let is_there = |open: OpenTransaction| {
                open.commit_lsn == span.commit_lsn && open.changes >= span.changes_before
            };
            !span.is_start && !self.open.is_some_and(is_there)
        })
    }

    fn ask_for_replay(&mut self) -> Step {
        self.awaits_restart = true;
        self.queue.request_replay();
        Step::Done
    }

    /// Keeps that rows have to be read by themselves; then the batch goes through without them.
    fn missed(&mut self, missing: Vec<(usize, OwedKey)>) -> Step {
        if let Err(error) = self.relearn().and_then(|()| self.keep_missing(missing)) {
            return self.failed(error);
        }
        if self.has_lost_the_start() { self.ask_for_replay() } else { Step::Done }
    }

    fn keep_missing(&mut self, missing: Vec<(usize, OwedKey)>) -> Result<()> {
        let mut by_table: BTreeMap<usize, Vec<OwedKey>> = BTreeMap::new();
        missing.into_iter().for_each(|(table, owed)| by_table.entry(table).or_default().push(owed));
        for (table, owed) in by_table {
            tracing::warn!(
                sink = self.progress.name,
                rows = owed.len(),
                lsn = ?owed.first().map(|owed| owed.commit_lsn),
                "updates found no row in this sink; it is read from the source"
            );
            let step = FillStep { table, action: Action::Miss(owed), sent_at: Lsn::ZERO, receipt: None };
            self.fill(&step)?;
        }
        Ok(())
    }

    fn relearn(&mut self) -> Result<()> {
        self.is_unsure = true;
        let checkpoint = self.sink.checkpoint()?;
        if checkpoint.lsn < self.progress.durable_lsn() {
            return Err(Error::new(
                Kind::NeedsBackfill,
                format!(
                    "the checkpoint of sink {} went back from {} to {}: it was restored or replaced",
                    self.progress.name,
                    self.progress.durable_lsn(),
                    checkpoint.lsn
                ),
            )
            .hint("walcast status shows slot and checkpoints"));
        }
        self.fills = self.sink.fills()?;
        self.progress.set_fills(self.fills.clone());
        self.position = checkpoint.lsn;
        self.open = checkpoint.open;
        self.is_unsure = false;
        Ok(())
    }

    fn restart(&mut self) -> Step {
        match self.relearn() {
            Ok(()) => {
                self.awaits_restart = false;
                Step::Done
            }
            Err(error) => {
                self.taken.is_restart_next = true;
                self.failed(error)
            }
        }
    }
}

/// Sleeps until `wake`, in short naps so that a shutdown is noticed. False once the deadline has passed.
fn sleep_until(wake: Instant, deadline: &impl Fn() -> Option<Instant>) -> bool {
    loop {
        let now = Instant::now();
        match deadline() {
            Some(deadline) if now >= deadline => return false,
            _ if now >= wake => return true,
            _ => std::thread::sleep((wake - now).min(Duration::from_millis(50))),
        }
    }
}
