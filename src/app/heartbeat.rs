//! The heartbeat: measures how long a commit takes from the source to each region, also while nobody writes.
//!
//! A beat is a transaction at the source with nothing in it but a logical message. It travels as any other does, through
//! the slot, the river, the queues and the sinks, and has arrived where a sink's checkpoint is behind it; so nothing on
//! that way knows of it. Each sink has at most one beat on its way: those that are written meanwhile are not waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_postgres::Client;

use super::source::Source;
use super::view::{EngineView, Phase};
use crate::Lsn;
use crate::capture::catalog::lsn;
use crate::capture::query::rows;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fanout::progress::SinkProgress;
use crate::telemetry;

/// How long the source may take for a beat.
const BEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long beats take, by sink.
#[derive(Debug, Default)]
pub struct Delays(Mutex<BTreeMap<String, Delay>>);

#[derive(Debug, Default)]
struct Delay {
    /// How long the last one took that arrived.
    last: Option<Duration>,
    /// When the one began that is on its way.
    since: Option<Instant>,
}

/// A transaction that was written at the source.
#[derive(Debug, Clone, Copy)]
struct Beat {
    /// Just before it was written.
    began: Instant,
    /// It has arrived with everything up to here.
    lsn: Lsn,
}

impl Delays {
    /// How long a commit takes to this sink: as the last beat did, or as long as the present one has been on its way
    /// already. `None` before the first.
    pub fn of(&self, sink: &str) -> Option<Duration> {
        let delays = self.lock();
        let delay = delays.get(sink)?;
        delay.last.max(delay.since.map(|since| since.elapsed()))
    }

    fn set_since(&self, sink: &str, since: Option<Instant>) {
        self.lock().entry(sink.to_owned()).or_default().since = since;
    }

    fn set_last(&self, sink: &str, last: Duration) {
        *self.lock().entry(sink.to_owned()).or_default() = Delay { last: Some(last), since: None };
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Delay>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beats while the engine streams, as the configuration in force says, until it is dropped.
pub async fn run(mut in_force: watch::Receiver<Arc<Config>>, view: Arc<EngineView>) {
    loop {
        let config = in_force.borrow_and_update().clone();
        tokio::select! {
            Err(error) = run_by(&config, &view) => {
                tracing::warn!("no heartbeat, so no delay is measured: {}", error.chain());
                if in_force.changed().await.is_err() {
                    return;
                }
            }
            changed = in_force.changed() => if changed.is_err() { return },
        }
    }
}

/// Does nothing where the configuration has no interval.
async fn run_by(config: &Config, view: &Arc<EngineView>) -> Result<()> {
    let Some(interval) = config.heartbeat.interval else { return std::future::pending().await };
    let source = Source::new(&config.source)?;
    let beats = watch::Sender::new(None);
    let (mut client, mut is_failing, mut listeners) = (None, false, Listeners::default());
    loop {
        tokio::time::sleep(interval).await;
        if !matches!(view.phase(), Phase::Streaming) {
            continue;
        }
        let Some(prepared) = view.prepared() else { continue };
        listeners.follow(prepared.progress.sinks(), |sink| listen(sink, beats.subscribe(), view.clone()));
        let beat = tokio::time::timeout(BEAT_TIMEOUT, beat(&source, &mut client)).await;
        match beat.unwrap_or_else(|_| Err(Error::transient("the source takes too long"))) {
            Ok(beat) => {
                is_failing = false;
                beats.send_replace(Some(beat));
            }
            Err(error) => {
                client = None;
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!("no heartbeat, so no delay is measured: {}", error.chain());
                }
            }
        }
    }
}

/// One listener for each sink that there is. Dropped, they end.
#[derive(Default)]
struct Listeners {
    tasks: JoinSet<()>,
    of: Vec<(Arc<SinkProgress>, AbortHandle)>,
}

impl Listeners {
    fn follow<T>(&mut self, sinks: Vec<Arc<SinkProgress>>, listen: impl Fn(Arc<SinkProgress>) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.of.retain(|(sink, task)| {
            let is_there = sinks.iter().any(|other| Arc::ptr_eq(sink, other));
            if !is_there {
                task.abort();
            }
            is_there
        });
        for sink in sinks {
            if !self.of.iter().any(|(other, _)| Arc::ptr_eq(&sink, other)) {
                self.of.push((sink.clone(), self.tasks.spawn(listen(sink))));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn beat(source: &Source, client: &mut Option<Client>) -> Result<Beat> {
    let connected = match client.take() {
        Some(connected) if !connected.is_closed() => connected,
        Some(_) | None => source.connect().await?,
    };
    let began = Instant::now();
    let found = rows(&connected, include_str!("../../sql/heartbeat.sql"), &[], "writing a heartbeat").await?;
    let row = found.first().ok_or_else(|| Error::bug("sql/heartbeat.sql returned no row"))?;
    let lsn = lsn(row, "lsn")?.ok_or_else(|| Error::bug("a heartbeat has no position"))?;
    *client = Some(connected);
    Ok(Beat { began, lsn })
}

/// Waits for one beat after the other to arrive at a sink.
async fn listen(sink: Arc<SinkProgress>, mut beats: watch::Receiver<Option<Beat>>, view: Arc<EngineView>) {
    while beats.changed().await.is_ok() {
        let Some(Beat { began, lsn }) = *beats.borrow_and_update() else { continue };
        view.delays.set_since(&sink.name, Some(began));
        if !sink.reach(lsn).await {
            // It is out of action; how long that takes, nobody knows.
            view.delays.set_since(&sink.name, None);
            return;
        }
        let delay = began.elapsed();
        view.delays.set_last(&sink.name, delay);
        telemetry::heartbeat_arrived(&sink.name, delay);
    }
}
