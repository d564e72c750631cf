//! Scheduled runs: the main stream flows until every sink is where the server was when the run began, or its time is
//! over; then the slot is let go, and the engine rests until the next run is due or somebody asks for one. The sinks stay
//! open meanwhile, and one that is catching up goes on doing so on its own slot.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::{Setup, Stop};
use crate::Lsn;
use crate::app::view::Phase;
use crate::capture::catalog;
use crate::config;
use crate::error::Result;
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::Progress;

/// The shortest rest: whoever asks with every commit shall not keep the engine connecting.
const REST_MIN: Duration = Duration::from_millis(250);

/// When the next run is due, and whether one is on.
pub(super) struct Schedule {
    config: config::Schedule,
    /// Whoever asks for a position.
    asked: watch::Receiver<Lsn>,
    /// The run that is on.
    run: Option<ScheduledRun>,
    /// When the last one began.
    began: Instant,
}

/// A run that is on.
#[derive(Clone, Copy)]
pub(super) struct ScheduledRun {
    ends: Instant,
    /// Transactions that the stream had brought before.
    ended_before: u64,
}

impl Schedule {
    /// What the configuration says; a run that ends by itself has no schedule.
    pub(super) fn of(setup: &Setup) -> Option<Schedule> {
        let config = setup.config.schedule.filter(|_| !setup.options.until_caught_up)?;
        let asked = setup.options.demand.subscribe();
        Some(Schedule { config, asked, run: None, began: Instant::now() })
    }

    /// Begins a run, unless one is on already: every sink is to be where the server is now.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub(super) async fn begin(&mut self, setup: &Setup, outlets: &Outlets) -> Result<ScheduledRun> {
        if let Some(run) = self.run {
            return Ok(run);
        }
        let client = setup.source.connect().await?;
        let target = catalog::read_server(&client).await?.current_wal_lsn;
        setup.options.demand.hasten(target);
        self.asked.mark_unchanged();
        self.began = Instant::now();
        let ends = self.began + self.config.max_duration;
        Ok(*self.run.insert(ScheduledRun { ends, ended_before: outlets.ended() }))
    }

    /// Rests until the next run is due, or somebody has asked for a position that is not there yet. False when the engine
    /// is to end.
    pub(super) async fn rest(&mut self, setup: &Setup, progress: &Progress, stop: &mut Stop) -> bool {
        let now = Instant::now();
        let due = (self.began + self.config.every).max(now + REST_MIN);
        self.run = None;
        if progress.has_reached(setup.options.demand.wanted()) {
            self.asked.mark_unchanged();
        }
        setup.options.view.set_phase(Phase::Resting { until: SystemTime::now() + (due - now) });
        tracing::info!(seconds = (due - now).as_secs(), "resting until the next run");
        let woken = async {
            tokio::time::sleep(REST_MIN).await;
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                _ = self.asked.changed() => {}
            }
        };
        tokio::select! {
            () = woken => true,
            () = stop.asked() => false,
        }
    }
}

impl ScheduledRun {
    /// Whether it has done what it was to do, or its time is over. Even then it goes on while a transaction is half on
    /// its way, and until it has brought one if there is one: what takes the server longer than a run would otherwise
    /// never arrive, because the server begins it anew each time.
    pub(super) fn is_over(&self, wanted: Lsn, progress: &Progress, outlets: &Outlets) -> bool {
        let has_brought = || outlets.ended() > self.ended_before || outlets.position() >= wanted;
        let is_late = || Instant::now() >= self.ends && outlets.is_between() && has_brought();
        progress.has_reached(wanted) || is_late()
    }
}
