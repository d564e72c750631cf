//! What a worker takes from its queue for one attempt: as much as is there, up to its limits, and where the sink wants
//! whole transactions, their ends too. What the sink has of it leaves again. Nothing is written to the sink here, and only
//! [`Worker::take`] waits.

use std::sync::Arc;

use super::Worker;
use crate::Lsn;
use crate::encode::run::{Run, Span};
use crate::fanout::delivery::Delivery;
use crate::fanout::fill::{FillStep, Fills};
use crate::fanout::queue::Received;
use crate::fanout::sink::{Batch, Reached, Sink};

/// What was taken from the queue and is not applied yet.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) idle: Option<Lsn>,
    /// What is owed, or stopped, because of the runs.
    pub(super) owes: Vec<Arc<FillStep>>,
    /// It stood behind the runs, and is taken once they are applied.
    pub(super) fill: Option<Arc<FillStep>>,
    pub(super) bytes: usize,
    pub(super) rows: usize,
    /// A restart stood behind the runs; it is handled once they are applied.
    pub(super) is_restart_next: bool,
    /// What was released to the queue already.
    pub(super) released_bytes: usize,
    /// There was no more, and the sink wants the end of the transaction that the runs end inside of.
    pub(super) awaits_end: bool,
    /// That transaction does not end: the queue is closed, or a restart stood behind it.
    pub(super) is_cut_off: bool,
}

impl Taken {
    pub(super) fn batch<'a>(&'a self, after: Lsn, fills: &'a Fills) -> Batch<'a> {
        let batch = Batch::new(&self.runs, after, self.idle).with_fills(fills);
        if self.is_cut_off { batch.ended() } else { batch }
    }

    /// The first runs, which the sink has, and their bytes.
    pub(super) fn there(&self, reached: Reached) -> (usize, usize) {
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
    pub(super) fn let_go(&mut self, reached: Reached) -> usize {
        let (runs, bytes) = self.there(reached);
        self.rows -= self.runs.drain(..runs).map(|run| run.all_changes().len()).sum::<usize>();
        self.bytes -= bytes;
        let released = bytes.min(self.released_bytes);
        self.released_bytes -= released;
        bytes - released
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.idle.is_none()
            && self.owes.is_empty()
            && self.fill.is_none()
            && !self.is_restart_next
    }
}

impl<S: Sink> Worker<S> {
    /// Takes what has queued, up to the limits. False once the last queue is closed and empty.
    pub(super) fn take(&mut self, may_wait: bool) -> bool {
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
    pub(super) fn top_up(&mut self, may_wait: bool) {
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
}
