//! How long a committed row takes to be readable in each region. A prober commits one ledger row at a time and looks
//! for it in every region's file, as an application would. The clock runs from the server's answer to the commit until
//! a SELECT finds the row.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::replica::{Address, Replica};
use super::session::Session;
use super::workload::Counts;
use crate::error::{Error, Result};

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(50);
/// A row that is not everywhere after this ends the demo.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the prober has found, as the screen and the verdict read it.
#[derive(Debug, Clone, Default)]
pub(super) struct Latencies {
    /// By region: the time of every probe that did not meet the kill.
    pub measured: Vec<Vec<Duration>>,
    /// By region: the time of the latest probe that arrived.
    pub latest: Vec<Duration>,
    /// By region: whether the probe of `since` has not arrived yet.
    is_missing: Vec<bool>,
    since: Option<Instant>,
    /// When the engine was killed.
    killed: Option<Instant>,
    /// From the kill until a row that was committed after it was in every region.
    pub recovery: Option<Duration>,
}

impl Latencies {
    /// How far a region is behind now: the age of a row that it lacks, or else what the latest one took.
    pub(super) fn lag(&self, region: usize) -> Duration {
        match self.since {
            Some(since) if self.is_missing[region] => since.elapsed().max(self.latest[region]),
            _ => self.latest[region],
        }
    }
}

/// A running prober.
pub(super) struct Prober {
    found: Arc<Mutex<Latencies>>,
    stop: Arc<AtomicBool>,
    /// Until it has been waited for.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Prober {
    /// Starts probing the files.
    pub(super) fn start(url: &str, regions: Vec<Address>, counts: &Arc<Counts>) -> Result<Self> {
        let found = Arc::new(Mutex::new(Latencies {
            measured: vec![Vec::new(); regions.len()],
            latest: vec![Duration::ZERO; regions.len()],
            is_missing: vec![false; regions.len()],
            ..Latencies::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (url, counts) = (url.to_owned(), counts.clone());
        let shared = (found.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("prober".to_owned())
            .spawn(move || probe(&url, &regions, &counts, &shared.0, &shared.1))
            .map_err(|error| Error::halt("starting the prober").because(error))?;
        Ok(Prober { found, stop, thread: Some(thread) })
    }

    /// Notes that the engine is killed now.
    pub(super) fn killed(&self) {
        lock(&self.found).killed = Some(Instant::now());
    }

    /// What has been found so far.
    pub(super) fn found(&self) -> Latencies {
        lock(&self.found).clone()
    }

    /// Ends it, after the probe that is under way and the recovery from a kill.
    ///
    /// # Errors
    /// Where a probe did not arrive.
    pub(super) fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(Error::bug("the prober panicked")))
    }
}

/// A poisoned lock holds whole values all the same: nothing panics between two of its writes.
fn lock(found: &Mutex<Latencies>) -> MutexGuard<'_, Latencies> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

fn probe(
    url: &str,
    regions: &[Address],
    counts: &Counts,
    found: &Mutex<Latencies>,
    stop: &AtomicBool,
) -> Result<()> {
    let source = Session::connect(url)?;
    let insert = source.prepare("INSERT INTO ledger (writer, changes) VALUES ('probe', 1) RETURNING id")?;
    let replicas: Vec<Replica> = regions.iter().map(Address::open).collect::<Result<_>>()?;
    let pause = regions.iter().map(Address::pause).max().unwrap_or_default();
    let mut is_recovering = false;
    while !stop.load(Ordering::Relaxed) || is_recovering {
        let begin = Instant::now();
        let id: i64 = source.run(&insert)?.first().map_or(0, |row| row.get(0));
        counts.committed(1);
        let committed = Instant::now();
        {
            let mut found = lock(found);
            found.since = Some(committed);
            found.is_missing.fill(true);
        }
        let times = arrival(&replicas, id, committed, pause, found)?;
        let mut found = lock(found);
        found.since = None;
        match (found.killed, found.recovery) {
            (Some(killed), None) if killed < begin => found.recovery = Some(killed.elapsed()),
            // Under way when the engine was killed, or between the kill and the recovery.
            (Some(_), None) => {}
            _ => found.measured.iter_mut().zip(times).for_each(|(all, time)| all.push(time)),
        }
        // After a kill, the next probe is what tells the recovery.
        is_recovering = found.killed.is_some() && found.recovery.is_none();
        drop(found);
        if !is_recovering {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// How long the row took to each region.
fn arrival(
    replicas: &[Replica],
    id: i64,
    committed: Instant,
    pause: Duration,
    found: &Mutex<Latencies>,
) -> Result<Vec<Duration>> {
    let mut times: Vec<Option<Duration>> = vec![None; replicas.len()];
    while times.contains(&None) {
        for (index, replica) in replicas.iter().enumerate() {
            if times[index].is_none() && replica.has_ledger_row(id)? {
                let time = committed.elapsed();
                times[index] = Some(time);
                let mut found = lock(found);
                found.latest[index] = time;
                found.is_missing[index] = false;
            }
        }
        if committed.elapsed() > TIMEOUT {
            let missing = replicas.iter().zip(&times).find(|(_, time)| time.is_none());
            let name = missing.map_or("none", |(replica, _)| replica.name());
            return Err(Error::halt(format!("a row is not in region {name} {TIMEOUT:?} after its commit")));
        }
        thread::sleep(pause);
    }
    Ok(times.into_iter().flatten().collect())
}

/// The value below which this part of the sorted times lies.
pub(super) fn quantile(sorted: &[Duration], part: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).round() as usize).copied()
}
