//! What there is to be read for the sinks, as they say themselves.

use super::pending::Pending;
use crate::Lsn;
use crate::capture::chunk::KeyRange;
use crate::fanout::fill::{Fills, OwedKey, TableState};
use crate::fanout::progress::{Progress, SinkProgress, State};

/// Rows that are read by themselves at once; fewer where they are large.
pub(super) const OWED_MAX: usize = 200;

/// One thing to be done. Tables are named by their index in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A fill begins where it waits.
    Begin(usize),
    /// What is left of a range.
    Range(usize, KeyRange),
    /// Rows by themselves.
    Owed(usize, Vec<OwedKey>),
}

impl Job {
    /// The table that it reads.
    pub fn table(&self) -> usize {
        match self {
            Job::Begin(table) | Job::Range(table, _) | Job::Owed(table, _) => *table,
        }
    }

    /// Whether one reader does what the other would do. A range is known by its end; its beginning moves.
    pub fn is_in_the_way_of(&self, other: &Job) -> bool {
        match (self, other) {
            (Job::Begin(one), other) => *one == other.table(),
            (Job::Range(one, rest), Job::Range(other, other_rest)) => {
                one == other && rest.up_to == other_rest.up_to
            }
            (Job::Owed(one, _), Job::Owed(other, _)) => one == other,
            (one, other) => one == other,
        }
    }
}

/// What the sinks that take the main stream lack of the plan's tables.
pub fn jobs(progress: &Progress, tables: usize) -> Vec<Job> {
    jobs_to_begin(progress, tables, &Pending::default())
}

/// The same without what is on its way to them.
pub fn jobs_to_begin(progress: &Progress, tables: usize, pending: &Pending) -> Vec<Job> {
    let takers = progress.sinks().into_iter().filter(|sink| can_take(sink));
    takers
        .flat_map(|sink| {
            let (sent, position) = (pending.of(&sink), sink.durable_lsn());
            sink.look_at_fills(|fills| jobs_of(fills, tables, position, &sent))
        })
        .collect()
}

fn jobs_of(fills: &Fills, tables: usize, position: Lsn, sent: &[Job]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for table in 0..tables {
        let Some(fill) = fills.get(table) else { continue };
        match fill.state(position) {
            TableState::Waiting => jobs.push(Job::Begin(table)),
            TableState::Filling => {
                let is_sent = |one: &OwedKey| {
                    let in_job =
                        |job: &Job| matches!(job, Job::Owed(of, rows) if *of == table && rows.contains(one));
                    sent.iter().any(in_job)
                };
                let owed = fill.owed.iter().filter(|one| !is_sent(one));
                let some: Vec<OwedKey> = owed.take(OWED_MAX).cloned().collect();
                if !some.is_empty() {
                    jobs.push(Job::Owed(table, some));
                }
                jobs.extend(fill.open_ranges().map(|rest| Job::Range(table, rest.clone())));
            }
            TableState::CatchingUp
            | TableState::Live
            | TableState::Incomplete
            | TableState::Left
            | TableState::Stopped => {}
        }
    }
    jobs.retain(|job| !sent.contains(job));
    jobs
}

/// Whether a sink takes what it is sent, as far as that is known.
pub(super) fn can_take(sink: &SinkProgress) -> bool {
    sink.state() == State::Attached && !sink.is_paused() && sink.failure().is_none()
}
