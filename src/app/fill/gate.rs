//! Where chunks join the stream: between two transactions, held against what was delivered before.
//!
//! Enters: every run of the river, and every chunk of the readers. Leaves: deliveries to the sinks, in one order. While
//! nothing is filled, a run passes through untouched.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Lsn;
use crate::capture::snapshot::{CommitId, ReadPoint};
use crate::encode::current::CurrentPlan;
use crate::encode::plan::Plan;
use crate::encode::run::Run;
use crate::encode::touched::{Horizon, Owed, Settled, Stale, Touched};
use crate::fanout::delivery::Delivery;
use crate::fanout::fill::{Action, FillStep, OwedKey};
use crate::fanout::outlets::Outlets;
use crate::fanout::stop::Stopped;

/// How much memory the log of touched keys may take.
const LOG_BYTES_MAX: usize = 64 << 20;

/// The gate between the river and the readers of chunks.
pub struct Gate {
    outlets: Arc<Outlets>,
    plan: Arc<Plan>,
    current: Arc<CurrentPlan>,
    log: Mutex<Log>,
}

struct Log {
    touched: Touched,
    /// Once something was read that sees all that was delivered before the log began.
    horizon: Option<Horizon>,
    /// How often the log began anew.
    generation: u64,
    /// Behind the last commit record of what was sent, also in part.
    sent: Lsn,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is in the queues.
    Sent,
    /// The river is inside a transaction; offer it again.
    NotNow,
    /// It must be read again.
    Stale,
}

/// What became of the step that lets a table go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// It is in the queues.
    Sent,
    /// The river is inside a transaction; try again.
    NotNow,
    /// Changes were left out that would be missing.
    Unsound,
}

impl Log {
    fn restart(&mut self) {
        self.touched.restart();
        self.horizon = None;
        self.generation += 1;
    }
}

impl Gate {
    /// A gate in front of these queues.
    pub fn new(outlets: Arc<Outlets>, current: Arc<CurrentPlan>) -> Self {
        Gate::with_log_of(LOG_BYTES_MAX, outlets, current)
    }

    /// The same with a log that takes up to `bytes_max`: one that is too small for what changes begins anew again and
    /// again.
    pub fn with_log_of(bytes_max: usize, outlets: Arc<Outlets>, current: Arc<CurrentPlan>) -> Self {
        let log = Log { touched: Touched::new(bytes_max), horizon: None, generation: 0, sent: Lsn::ZERO };
        Gate { outlets, plan: current.plan(), current, log: Mutex::new(log) }
    }

    /// Sends what the main river brings. What it touches is remembered before anybody has it.
    pub fn send(&self, run: Run) {
        let mut log = self.log();
        if log.touched.is_watching() {
            let floor = log.horizon.as_ref().map_or(NOTHING_SEEN, Horizon::floor);
            log.touched.record(&run, &self.plan, &floor);
        }
        let last = run.spans().last().map_or(0, |span| span.commit_lsn.0 + 1);
        log.sent = log.sent.max(Lsn(last));
        // Under the lock, so that no chunk comes between what is remembered and the queues.
        send(&self.outlets, run);
    }

    /// Remembers from now on what touches the table.
    pub fn watch(&self, table: usize) {
        self.log().touched.watch(table);
    }

    /// The table is filled.
    pub fn unwatch(&self, table: usize) {
        self.log().touched.unwatch(table);
    }

    /// The read points of open chunks, if there was a first one, and how often the log had begun anew.
    pub fn horizon(&self) -> Option<(Horizon, u64)> {
        let log = self.log();
        log.horizon.clone().map(|horizon| (horizon, log.generation))
    }

    /// How often the log has begun anew.
    pub fn generation(&self) -> u64 {
        self.log().generation
    }

    /// Begins with a read that saw all that was delivered before the log began, which was then of this generation; `None`
    /// where it has begun anew since.
    pub fn begin(&self, first: &ReadPoint, generation: u64) -> Option<Horizon> {
        let mut log = self.log();
        let is_same = log.generation == generation;
        is_same.then(|| log.horizon.get_or_insert_with(|| Horizon::new(first.clone())).clone())
    }

    /// Begins anew, because the log is of no use any more; true if that was necessary.
    pub fn restart_if_blind(&self) -> bool {
        let mut log = self.log();
        let is_blind = log.touched.is_blind();
        if is_blind {
            log.restart();
        }
        is_blind
    }

    /// Begins anew, because reads go to a server now whose snapshots cannot be held against those before.
    pub fn restart(&self) {
        self.log().restart();
    }

    /// Sends the step that lets a stopped table go on with what is committed at `from` or behind, unless some of that was
    /// left out. Whatever is read of the tables must then be read by somebody who has waited for what runs now.
    pub fn resume(&self, step: FillStep, from: Lsn) -> Resumed {
        let mut log = self.log();
        let mut is_sound = false;
        let is_between = self.outlets.send_between(|| {
            is_sound = self.current.is_sound_from(step.table, from);
            if !is_sound {
                return Vec::new();
            }
            log.restart();
            vec![Delivery::Fill(Arc::new(step))]
        });
        match (is_between, is_sound) {
            (false, _) => Resumed::NotNow,
            (true, true) => Resumed::Sent,
            (true, false) => Resumed::Unsound,
        }
    }

    /// Sends what was read of a table, as a step that `make` makes of the rows that are left. Blocks while a queue is
    /// full. The rows are gone unless the river is inside a transaction. `generation` is that of the horizon under which
    /// they were read.
    pub fn offer(
        &self,
        table: usize,
        rows: &mut Option<Run>,
        (read_point, generation): (&ReadPoint, u64),
        make: impl FnOnce(Arc<Run>) -> FillStep,
    ) -> Offered {
        let mut log = self.log();
        let mut settled = Ok(());
        let is_between = self.outlets.send_between(|| {
            let mut run = rows.take().unwrap_or_default();
            let decided = match generation == log.generation {
                true => log.touched.settle(table, &mut run, &self.plan, read_point),
                false => Err(Stale),
            };
            let Ok(Settled { owed, .. }) = decided else {
                settled = Err(Offered::Stale);
                return Vec::new();
            };
            let owes = owed.into_iter().filter_map(owe);
            let mut step = FillStep { sent_at: self.outlets.position(), ..make(Arc::new(run)) };
            // What was sent has left its marks on the rows. A sink that has lost it, and takes it again behind them, is not
            // where they are before that.
            if let Action::Chunk { seen_lsn, .. } | Action::Paid { seen_lsn, .. } = &mut step.action {
                *seen_lsn = log.sent.max(*seen_lsn);
            }
            owes.chain([Delivery::Fill(Arc::new(step))]).collect()
        });
        if let Some(horizon) = &log.horizon {
            let floor = horizon.floor();
            log.touched.prune(&floor);
        }
        match settled {
            Ok(()) if is_between => Offered::Sent,
            Ok(()) => Offered::NotNow,
            Err(stale) => stale,
        }
    }

    /// Sends a step without rows; false while the river is inside a transaction.
    pub fn send_step(&self, make: impl FnOnce() -> FillStep) -> bool {
        let mut log = self.log();
        self.outlets.send_between(|| {
            let step = make();
            if matches!(step.action, Action::Begin { .. }) {
                log.touched.begin(step.table);
            }
            vec![Delivery::Fill(Arc::new(step))]
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read point that sees no transaction.
const NOTHING_SEEN: ReadPoint = ReadPoint::Standby { replayed: Lsn::ZERO };

/// Sends a run, behind what is owed or stopped because of it.
pub fn send(outlets: &Outlets, run: Run) {
    for misfit in run.misfits() {
        let action = Action::Stop { stopped: Stopped::from(misfit), sinks: None };
        let step = FillStep { table: misfit.table, action, sent_at: Lsn::ZERO, receipt: None };
        outlets.send(&Delivery::Fill(Arc::new(step)));
    }
    for owe in Owed::of(&run).filter_map(owe) {
        outlets.send(&owe);
    }
    outlets.send(&Delivery::Run(Arc::new(run)));
}

/// What tells the sinks that a row is owed.
fn owe(Owed { table, key, commit: CommitId { xid, commit_lsn } }: Owed) -> Option<Delivery> {
    let Some(key) = key else {
        tracing::error!(
            lsn = %commit_lsn,
            "a row moved to a key that cannot be read by itself: where its table was being filled, fill it anew"
        );
        return None;
    };
    let owed = OwedKey { key, commit_lsn, xid };
    let step = FillStep { table, action: Action::Owe(owed), sent_at: Lsn::ZERO, receipt: None };
    Some(Delivery::Fill(Arc::new(step)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decode::Event;
    use crate::decode::message::Begin;
    use crate::encode::mapper::Mapper;
    use crate::fanout::chain::chain;
    use crate::fanout::progress::SinkProgress;
    use crate::fanout::queue::Received;

    #[test]
    fn a_chunk_is_as_new_as_what_it_was_held_against_also_where_that_did_not_end() {
        let (outlets, _) = Outlets::new(Duration::MAX);
        let (inlets, mut chain) = chain();
        let (outlet, inlet) = outlets.queue(&SinkProgress::new("eu"), usize::MAX);
        outlets.attach(outlet);
        inlets.send(inlet).unwrap();
        let current = Arc::new(CurrentPlan::new(Arc::default()));
        let gate = Gate::new(Arc::new(outlets), current);
        let mut mapper = Mapper::new(Arc::default(), 1, Lsn::ZERO);
        mapper.map(Event::Begin(Begin { commit_lsn: Lsn(500), commit_time_micros: 0, xid: 1 }));
        gate.send(mapper.take_full().unwrap());
        // The session breaks, and the next one has not come so far yet.
        gate.outlets.send(&Delivery::Restart);
        gate.outlets.send(&Delivery::Idle(Lsn(300)));
        let read_point = ReadPoint::Standby { replayed: Lsn(400) };
        gate.begin(&read_point, 0).unwrap();
        let chunk = |run| {
            let (rest, seen_lsn) = (crate::capture::chunk::KeyRange::default(), Lsn(400));
            let action =
                Action::Chunk { rest, last_key: None, is_last: true, run, seen_lsn, is_partial: false };
            FillStep { table: 0, action, sent_at: Lsn::ZERO, receipt: None }
        };
        assert_eq!(gate.offer(0, &mut None, (&read_point, 0), chunk), Offered::Sent);
        let received = std::iter::from_fn(|| match chain.try_receive() {
            Received::Item(delivery) => Some(delivery),
            Received::Empty | Received::Closed => None,
        });
        let seen = received.filter_map(|delivery| match delivery {
            Delivery::Fill(step) => match step.action {
                Action::Chunk { seen_lsn, .. } => Some(seen_lsn),
                _ => None,
            },
            Delivery::Run(_) | Delivery::Idle(_) | Delivery::Restart => None,
        });
        assert_eq!(seen.collect::<Vec<_>>(), [Lsn(501)]);
    }
}
