//! Jobs: what takes longer than a request may, and is looked at while it runs and afterwards.
//!
//! Whoever begins one holds a [`Running`] and says through it how far it is; dropping it unfinished ends the job as a
//! failed one. One job of a kind runs on the same thing at a time: another is refused, not queued. What has ended is
//! kept for a while, in memory alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::error::Error;

/// Ended jobs that are kept.
const ENDED_MAX: usize = 100;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Waits until every sink is where the source was when it was asked for.
    Sync,
    /// Closes the dead letters of rows that are right, and makes the others right.
    RetryFailed,
    /// Fills tables from the source.
    Backfill,
    /// Drops and creates tables anew.
    Nuke,
    /// Builds a table anew for a changed `schema.json`, beside the one that readers see. Begins by itself.
    Rebuild,
    /// Puts a new configuration into force.
    Reload,
}

/// What it does that to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobTarget {
    /// The sink; null for all.
    pub sink: Option<String>,
    /// The table as the request named it; null for all.
    pub table: Option<String>,
}

impl JobTarget {
    /// Whether something belongs to both.
    fn overlaps(&self, other: &JobTarget) -> bool {
        let meets = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        meets(&self.sink, &other.sink) && meets(&self.table, &other.table)
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It runs. Either of the others follows.
    Running,
    /// It did all it was to do.
    Done,
    /// It did not.
    Failed,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobProgress {
    /// How much is done.
    pub done: u64,
    /// Of how much, as far as that is known; it may be an estimate.
    pub total: Option<u64>,
    /// Of what: `sinks`, `rows`, `dead-letters`.
    pub unit: &'static str,
}

/// A job as it is shown.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Job {
    /// Its number; later ones are higher. Numbers start anew with the process.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// To what.
    pub target: JobTarget,
    /// Where it is.
    pub state: JobState,
    /// When it began, in RFC 3339.
    pub started: String,
    /// When it ended, in RFC 3339.
    pub ended: Option<String>,
    /// How far it is.
    pub progress: Option<JobProgress>,
    /// What it waits for now, one sentence each.
    pub waits_for: Vec<String>,
    /// Of a nuke: how each D1 database is brought back to what it was before, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ways_back: Vec<String>,
    /// What came of it.
    pub outcome: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
}

/// All jobs of the process.
#[derive(Default)]
pub struct Jobs {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    last_id: u64,
    /// Running and ended ones, in order.
    jobs: VecDeque<watch::Receiver<Job>>,
}

impl Jobs {
    /// Begins a job.
    ///
    /// # Errors
    /// One of the kind runs on the same thing: the error is its number.
    pub fn begin(&self, kind: JobKind, target: JobTarget) -> Result<Running, u64> {
        let mut book = self.book();
        let in_the_way = book.jobs.iter().find_map(|job| {
            let job = job.borrow();
            let is_in_the_way =
                job.state == JobState::Running && job.kind == kind && job.target.overlaps(&target);
            is_in_the_way.then_some(job.id)
        });
        if let Some(id) = in_the_way {
            return Err(id);
        }
        book.last_id += 1;
        let (job, shown) = watch::channel(Job {
            id: book.last_id,
            kind,
            target,
            state: JobState::Running,
            started: Timestamp::now().to_string(),
            ended: None,
            progress: None,
            waits_for: Vec::new(),
            ways_back: Vec::new(),
            outcome: None,
            hint: None,
        });
        book.jobs.push_back(shown);
        book.forget();
        Ok(Running(job))
    }

    /// Every job that is kept, the newest first.
    pub fn all(&self) -> Vec<Job> {
        self.book().jobs.iter().rev().map(|job| job.borrow().clone()).collect()
    }

    /// One of them.
    pub fn get(&self, id: u64) -> Option<Job> {
        self.book().jobs.iter().map(|job| job.borrow().clone()).find(|job| job.id == id)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Forgets the oldest of too many that have ended.
    fn forget(&mut self) {
        let has_ended = |job: &watch::Receiver<Job>| job.borrow().state != JobState::Running;
        let mut surplus = self.jobs.iter().filter(|job| has_ended(job)).count().saturating_sub(ENDED_MAX);
        self.jobs.retain(|job| {
            let is_surplus = surplus > 0 && has_ended(job);
            surplus -= usize::from(is_surplus);
            !is_surplus
        });
    }
}

/// A job in the hands of whoever does it.
#[derive(Debug)]
pub struct Running(watch::Sender<Job>);

impl Running {
    /// The job as it is shown now.
    pub fn job(&self) -> Job {
        self.0.borrow().clone()
    }

    /// The job while it changes; it ends with its last state.
    pub fn watch(&self) -> watch::Receiver<Job> {
        self.0.subscribe()
    }

    /// Says how far it is.
    pub fn set_progress(&self, progress: JobProgress) {
        self.0.send_modify(|job| job.progress = Some(progress));
    }

    /// Says what it waits for.
    pub fn set_waits_for(&self, waits_for: Vec<String>) {
        self.0.send_if_modified(|job| {
            let is_new = job.waits_for != waits_for;
            job.waits_for = waits_for;
            is_new
        });
    }

    /// Says how to go back to what was there before.
    pub fn set_ways_back(&self, ways_back: Vec<String>) {
        self.0.send_modify(|job| job.ways_back = ways_back);
    }

    /// Ends it: everything is done.
    pub fn done(self, outcome: impl Into<String>) {
        self.end(JobState::Done, outcome.into(), None);
    }

    /// Ends it: something is not.
    pub fn failed(self, error: &Error) {
        self.end(JobState::Failed, error.chain(), error.hint_text().map(str::to_owned));
    }

    fn end(&self, state: JobState, outcome: String, hint: Option<String>) {
        self.0.send_if_modified(|job| {
            if job.state != JobState::Running {
                return false;
            }
            job.state = state;
            job.ended = Some(Timestamp::now().to_string());
            job.waits_for.clear();
            (job.outcome, job.hint) = (Some(outcome), hint);
            true
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(JobState::Failed, "it was given up".to_owned(), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(sink: Option<&str>, table: Option<&str>) -> JobTarget {
        JobTarget { sink: sink.map(str::to_owned), table: table.map(str::to_owned) }
    }

    #[test]
    fn a_second_job_of_a_kind_on_the_same_thing_is_refused_until_the_first_has_ended() {
        let jobs = Jobs::default();
        let eu = jobs.begin(JobKind::Backfill, target(Some("eu"), None)).unwrap();
        for (sink, table) in [(None, None), (Some("eu"), None), (Some("eu"), Some("t")), (None, Some("t"))] {
            assert_eq!(jobs.begin(JobKind::Backfill, target(sink, table)).unwrap_err(), 1);
        }
        let na = jobs.begin(JobKind::Backfill, target(Some("na"), Some("t"))).unwrap();
        let other = jobs.begin(JobKind::Backfill, target(Some("na"), Some("u"))).unwrap();
        let nuke = jobs.begin(JobKind::Nuke, target(None, None)).unwrap();
        assert_eq!([na.job().id, other.job().id, nuke.job().id], [2, 3, 4]);
        eu.done("filled");
        assert_eq!(jobs.begin(JobKind::Backfill, target(Some("eu"), None)).unwrap().job().id, 5);
    }

    #[test]
    fn a_job_shows_how_far_it_is_and_what_came_of_it() {
        let jobs = Jobs::default();
        let job = jobs.begin(JobKind::Sync, JobTarget::default()).unwrap();
        job.set_progress(JobProgress { done: 1, total: Some(2), unit: "sinks" });
        job.set_waits_for(vec!["sink na".to_owned()]);
        let shown = serde_json::to_value(jobs.get(1).unwrap()).unwrap();
        assert_eq!((&shown["kind"], &shown["state"]), (&"sync".into(), &"running".into()));
        assert_eq!(shown["progress"], serde_json::json!({"done": 1, "total": 2, "unit": "sinks"}));
        job.failed(&Error::halt("na is gone").hint("look"));
        let shown = jobs.get(1).unwrap();
        assert_eq!((shown.state, shown.outcome.as_deref()), (JobState::Failed, Some("na is gone")));
        assert!(shown.waits_for.is_empty() && shown.ended.is_some() && shown.hint.is_some());
        drop(jobs.begin(JobKind::Sync, JobTarget::default()).unwrap());
        assert_eq!(jobs.get(2).unwrap().outcome.as_deref(), Some("it was given up"));
        assert!(jobs.get(3).is_none());
    }

    #[test]
    fn the_oldest_ended_jobs_are_forgotten_and_a_running_one_never() {
        let jobs = Jobs::default();
        let running = jobs.begin(JobKind::Nuke, JobTarget::default()).unwrap();
        for _ in 0..2 * ENDED_MAX {
            jobs.begin(JobKind::Sync, JobTarget::default()).unwrap().done("there");
        }
        let ids: Vec<u64> = jobs.all().iter().map(|job| job.id).collect();
        assert!(ids.len() <= ENDED_MAX + 2, "{}", ids.len());
        assert_eq!((ids[0], ids.last()), (2 * ENDED_MAX as u64 + 1, Some(&1)));
        assert_eq!(running.job().state, JobState::Running);
    }
}
