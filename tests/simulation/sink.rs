//! A model of a sink, with the faults of real ones.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use walcast::Lsn;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::cell::Cell;
use walcast::encode::plan::Plan;
use walcast::encode::run::{Change, ChangeKind, Run};
use walcast::error::{Error, Kind, Result};
use walcast::fanout::fill::{FillWrite, Fills};
use walcast::fanout::sink::{Applied, Batch, Checkpoint, Sink};

use super::{Rows, Seen};

/// What survives a crash of the engine.
pub struct Target {
    pub state: Arc<Rows>,
    /// It was written since it was last compared with the source.
    pub is_unchecked: bool,
    pub lsn: Lsn,
    pub transactions: u64,
    pub faults: Faults,
    pub seen: Seen,
}

/// Chances in a thousand.
#[derive(Clone, Copy)]
pub struct Faults {
    pub reject: u32,
    pub lose_answer: u32,
    pub throttle: u32,
    pub lose_transaction: u32,
}

pub const NO_FAULTS: Faults = Faults { reject: 0, lose_answer: 0, throttle: 0, lose_transaction: 0 };

pub struct ModelSink {
    pub target: Arc<Mutex<Target>>,
    pub plan: Arc<Plan>,
    pub source: SourceIdentity,
    pub rng: fastrand::Rng,
    /// The open transaction, invisible to readers.
    pub open: Option<Arc<Rows>>,
}

impl Sink for ModelSink {
    fn open(&mut self, _: &Arc<Plan>, _: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.checkpoint().map(Some)
    }

    fn start_at(&mut self, _: Lsn) -> Result<()> {
        Ok(())
    }

    fn fill(&mut self, _: &FillWrite<'_>) -> Result<Applied> {
        Err(Error::bug("nothing is filled here"))
    }

    fn fills(&mut self) -> Result<Fills> {
        Ok(Fills::default())
    }

    fn begin_anew(&mut self, _: Lsn) -> Result<()> {
        Err(Error::bug("no sink falls out here"))
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.open = None;
        let target = self.target.lock().unwrap();
        Ok(Checkpoint {
            lsn: target.lsn,
            commit_time_micros: None,
            source: self.source.clone(),
            epoch: 1,
            transactions: target.transactions,
            open: None,
        })
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        let target = self.target.clone();
        let mut target = target.lock().unwrap();
        let faults = target.faults;
        if self.chance(faults.reject) {
            target.seen.rejected_attempts += 1;
            return Err(Error::transient("rejected"));
        }
        if self.chance(faults.throttle) {
            return Err(Error::new(Kind::Throttled { retry_after: Duration::from_secs(1) }, "throttled"));
        }
        if self.open.is_some() && self.chance(faults.lose_transaction) {
            self.open = None;
            return Err(Error::transient("the open transaction was lost"));
        }
        let mut applied = Applied::default();
        let mut state = self.open.take().unwrap_or_else(|| target.state.clone());
        let mut end_lsn = None;
        let mut is_open = false;
        for (run, span) in batch.spans() {
            assert!(span.is_start || is_open || end_lsn.is_none(), "a part follows its own start");
            if span.is_start && span.end_lsn.is_none() {
                target.seen.parts += 1;
                self.keep(&mut target, &state, end_lsn.take(), &mut applied);
            }
            for &change in run.changes(span) {
                apply_change(Arc::make_mut(&mut state), &self.plan, run, change);
                applied.changes += 1;
            }
            is_open = span.end_lsn.is_none();
            if span.end_lsn.is_some() {
                end_lsn = span.end_lsn;
                applied.transactions += 1;
            }
        }
        if is_open {
            self.open = Some(state);
        } else {
            self.keep(&mut target, &state, end_lsn.max(batch.idle()), &mut applied);
        }
        if self.chance(faults.lose_answer) {
            target.seen.lost_answers += 1;
            return Err(Error::transient("the answer was lost"));
        }
        Ok(applied)
    }
}

impl ModelSink {
    fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.u32(..1000) < per_mille
    }

    fn keep(&mut self, target: &mut Target, state: &Arc<Rows>, lsn: Option<Lsn>, applied: &mut Applied) {
        let Some(lsn) = lsn else { return };
        assert!(lsn >= target.lsn, "a checkpoint never goes back");
        target.state.clone_from(state);
        target.is_unchecked = true;
        target.lsn = lsn;
        target.transactions += applied.transactions;
        applied.transactions = 0;
    }
}

fn apply_change(state: &mut Rows, plan: &Plan, run: &Run, change: Change) {
    let planned = &plan.tables[change.table as usize];
    let table = state.get_mut(planned.target.as_str()).unwrap();
    let show = |cell: &Cell| match cell {
        Cell::Integer(value) => value.to_string(),
        Cell::Text(slice) => String::from_utf8(slice.of(run.arena()).to_vec()).unwrap(),
        cell => panic!("unexpected {cell:?}"),
    };
    let merge = |before: Option<Vec<String>>, row: &[Cell]| -> Vec<String> {
        row.iter()
            .enumerate()
            .map(|(index, cell)| match cell {
                Cell::Absent => before.as_ref().expect("a partial row has a predecessor")[index].clone(),
                cell => show(cell),
            })
            .collect()
    };
    let key_of = |row: &[String]| planned.key.iter().map(|&index| row[index].clone()).collect::<Vec<_>>();
    match change.kind {
        ChangeKind::Upsert => {
            let row = merge(None, run.row(change, plan));
            table.insert(key_of(&row), row);
        }
        ChangeKind::Update => {
            let cells = run.row(change, plan);
            let key: Vec<_> = planned.key.iter().map(|&index| show(&cells[index])).collect();
            let row = merge(table.get(&key).cloned(), cells);
            table.insert(key, row);
        }
        ChangeKind::Delete => {
            let key: Vec<_> = run.key(change, plan).iter().map(show).collect();
            assert!(table.remove(&key).is_some(), "a deleted row was there");
        }
        ChangeKind::Move => {
            let old: Vec<_> = run.key(change, plan).iter().map(show).collect();
            let before = table.remove(&old);
            let row = merge(before, run.row(change, plan));
            table.insert(key_of(&row), row);
        }
        ChangeKind::Truncate => table.clear(),
        ChangeKind::Reject => panic!("nothing is rejected here"),
    }
}
