//! Steps that are on their way: what lies in a sink's queue is not sent to it once more.
//!
//! A sink says what it lacks as long as it has not taken what brings it, and one that is stuck goes on saying so. Every
//! step is therefore kept here with the sinks that it was sent to, and with how many steps each had been sent then, until
//! each is done with as many. There are never more than fit the queues.

use std::cell::RefCell;
use std::sync::Arc;

use super::job::Job;
use crate::fanout::progress::SinkProgress;

/// The steps that are on their way.
#[derive(Default)]
pub struct Pending(RefCell<Vec<Step>>);

struct Step {
    /// What it does.
    job: Job,
    sinks: Vec<(Arc<SinkProgress>, u64)>,
}

impl Pending {
    /// A step was sent to these sinks, after which they need not be told to do this.
    pub fn sent(&self, job: Job, sinks: impl Iterator<Item = Arc<SinkProgress>>) {
        let sinks = sinks.map(|sink| (sink.clone(), sink.fill_steps_sent())).collect();
        let mut steps = self.0.borrow_mut();
        steps.retain(|step| step.sinks.iter().any(|(sink, sent)| sink.fill_steps_done() < *sent));
        steps.push(Step { job, sinks });
    }

    /// What the sink has been sent and has not done yet.
    pub fn of(&self, sink: &SinkProgress) -> Vec<Job> {
        let is_open = |step: &&Step| {
            let mut sinks = step.sinks.iter();
            sinks.any(|(one, sent)| std::ptr::eq(&**one, sink) && sink.fill_steps_done() < *sent)
        };
        self.0.borrow().iter().filter(is_open).map(|step| step.job.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;
    use crate::app::fill::job::jobs_to_begin;
    use crate::capture::chunk::KeyRange;
    use crate::fanout::fill::{Fills, OwedKey, RangeFill, TableFill};
    use crate::fanout::progress::Progress;

    #[test]
    fn what_a_sink_has_in_its_queue_is_known_until_it_is_done_with_it_whatever_others_do() {
        let (pending, stuck, quick) =
            (Pending::default(), SinkProgress::new("stuck"), SinkProgress::new("quick"));
        let range = Job::Range(0, KeyRange::default());
        let rows = ["1", "2", "3"].map(|id| OwedKey { key: vec![id.to_owned()], commit_lsn: Lsn(1), xid: 1 });
        let send = |job: Job| {
            [&stuck, &quick].into_iter().for_each(|sink| sink.fill_step_sent());
            pending.sent(job, [stuck.clone(), quick.clone()].into_iter());
        };
        send(range.clone());
        send(Job::Owed(0, rows[..2].to_vec()));
        quick.fill_step_done();
        assert!(!pending.of(&quick).contains(&range));
        quick.fill_step_done();
        assert_eq!(pending.of(&quick), []);
        let of_stuck = pending.of(&stuck);
        assert!(of_stuck.contains(&range) && !of_stuck.contains(&Job::Begin(0)));
        let ranges = vec![RangeFill { rest: KeyRange::default(), is_done: false }];
        let fill = TableFill { ranges, owed: rows.to_vec(), ..TableFill::waiting(3) };
        stuck.set_fills(Fills(vec![Some(fill.clone())]));
        let progress = Progress::new(vec![stuck.clone()]);
        assert_eq!(jobs_to_begin(&progress, 1, &pending), [Job::Owed(0, rows[2..].to_vec())]);
        // One that comes later has not been sent any of it.
        assert_eq!(pending.of(&SinkProgress::new("later")), []);
        (0..2).for_each(|_| stuck.fill_step_done());
        assert_eq!(pending.of(&stuck), []);
        send(range);
        assert_eq!(pending.0.borrow().len(), 1, "what all have done is forgotten");
    }
}
