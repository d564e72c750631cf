//! Looks at the slot once a second, through an SQL session of its own: a stream that has fallen silent cannot say that it
//! has. Enters: what the engine shows and what the server says. Leaves: whether the engine stands still, how far each
//! sink is behind, and the gauges among the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Shared;
use super::health::sink_word;
use super::lag::LagClock;
use super::rate::RateClock;
use super::stall::{Sight, SinkSight, StallClock};
use crate::Lsn;
use crate::app::source::Source;
use crate::app::view::{EngineView, Phase};
use crate::capture::slot::{self, Slot};
use crate::config::Config;
use crate::error::Result;
use crate::telemetry::{self, SlotSeen};

/// The pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks, and remembers.
#[derive(Default)]
pub(super) struct Observer {
    seen: Mutex<Seen>,
}

/// Where it looks.
struct Place {
    config: Arc<Config>,
    source: Source,
    client: Client,
}

#[derive(Default)]
struct Seen {
    stall: StallClock,
    lag: LagClock,
    /// The server's position at the last look.
    wal: Option<Lsn>,
    /// Row changes written, by sink.
    changes: BTreeMap<String, RateClock>,
    /// The tables of each sink at the last look: a gauge of one that is gone must not stay up.
    tables: BTreeSet<(String, String)>,
}

impl Observer {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands still although it should not: subject and sentence.
    pub(super) fn stalled(&self, timeout: Duration) -> Vec<(String, String)> {
        self.seen().stall.stalled(Instant::now(), timeout)
    }

    /// How far a sink at `durable` is behind the source; `None` while that is not known.
    pub(super) fn behind(&self, durable: Lsn) -> Option<Duration> {
        self.seen().lag.behind(Instant::now(), durable)
    }

    /// How many bytes of WAL a sink at `durable` was behind the source at the last look.
    pub(super) fn behind_bytes(&self, durable: Lsn) -> Option<u64> {
        self.seen().wal.map(|wal| wal.0.saturating_sub(durable.0))
    }

    /// How many row changes are written to the sink a second.
    pub(super) fn changes_per_second(&self, sink: &str) -> Option<f64> {
        self.seen().changes.get(sink)?.per_second()
    }

    /// Looks until it is dropped.
    pub(super) async fn run(&self, shared: &Shared) {
        let (view, mut place) = (&shared.view, None);
        loop {
            let config = shared.config();
            match tokio::time::timeout(LOOK_TIMEOUT, look(&config, &mut place)).await {
                Ok(Ok(slot)) => self.take_in(view, slot.as_ref()),
                failed => {
                    if let Ok(Err(error)) = failed {
                        tracing::debug!("the source could not be looked at: {}", error.chain());
                    }
                    place = None;
                    self.seen().stall.reset();
                    telemetry::slot_seen(&SlotSeen { health: "unknown", ..SlotSeen::default() });
                }
            }
            self.record_engine(view, config.admin.stall_timeout);
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn take_in(&self, view: &EngineView, slot: Option<&Slot>) {
        let (now, mut seen) = (Instant::now(), self.seen());
        let Some(slot) = slot else {
            seen.stall.reset();
            return telemetry::slot_seen(&SlotSeen { health: "missing", ..SlotSeen::default() });
        };
        telemetry::slot_seen(&SlotSeen {
            health: health(slot),
            lag_bytes: slot.lag_bytes(),
            retained_bytes: slot.retained_bytes,
            safe_bytes: Some(slot.safe_wal_size.map_or(f64::INFINITY, |safe| safe as f64)),
        });
        seen.wal = Some(slot.current_wal_lsn);
        seen.lag.look(now, slot.current_wal_lsn);
        if matches!(view.phase(), Phase::Resting { .. }) {
            // It stands still because it is told to.
            return seen.stall.reset();
        }
        let Some(prepared) = view.prepared() else { return };
        seen.stall.look(
            now,
            &Sight {
                wal: slot.current_wal_lsn,
                confirmed: slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO),
                confirmable: prepared.progress.confirmable(),
                sinks: prepared.progress.sinks().iter().map(|sink| SinkSight::of(sink)).collect(),
            },
        );
    }

    /// Records what the engine shows, whether or not the source could be looked at.
    fn record_engine(&self, view: &EngineView, stall_timeout: Duration) {
        let wal = self.seen().wal.unwrap_or(Lsn::ZERO);
        let mut most = None;
        let Some(prepared) = view.prepared() else {
            return telemetry::engine_seen(None, !self.stalled(stall_timeout).is_empty());
        };
        let mut tables = BTreeSet::new();
        for sink in prepared.progress.sinks() {
            if let Some(standing) = prepared.standing(&sink.name) {
                telemetry::d1_budget_seen(&sink.name, standing.available, standing.throttled);
            }
            if let Some(delay) = view.delays.of(&sink.name) {
                telemetry::sink_delay_seen(&sink.name, delay);
            }
            let durable = sink.durable_lsn();
            let behind = self.behind(durable);
            most = most.max(behind);
            let lag_bytes = wal.0.saturating_sub(durable.0);
            telemetry::sink_seen(&sink.name, sink_word(&sink), lag_bytes, behind, sink.queued_bytes());
            sink.look_at_fills(|fills| {
                for (index, table) in prepared.plan.tables.iter().enumerate() {
                    let is_stopped = fills.get(index).is_some_and(|fill| fill.stopped.is_some());
                    telemetry::table_seen(&sink.name, &table.source.plain(), is_stopped);
                    tables.insert((sink.name.clone(), table.source.plain()));
                }
            });
            self.seen().changes.entry(sink.name.clone()).or_default().look(Instant::now(), sink.changes());
        }
        let before = std::mem::replace(&mut self.seen().tables, tables.clone());
        for (sink, table) in before.difference(&tables) {
            // What a sink that is gone has shown goes with it.
            if prepared.progress.find(sink).is_some() {
                telemetry::table_seen(sink, table, false);
            }
        }
        telemetry::engine_seen(most, !self.stalled(stall_timeout).is_empty());
    }
}

/// Looks at the slot that the configuration names.
async fn look(config: &Arc<Config>, place: &mut Option<Place>) -> Result<Option<Slot>> {
    let is_there = |place: &Place| !place.client.is_closed() && Arc::ptr_eq(&place.config, config);
    let found = match place.take().filter(is_there) {
        Some(found) => found,
        None => {
            let source = Source::new(&config.source)?;
            let client = source.connect().await?;
            Place { config: config.clone(), source, client }
        }
    };
    let slot = slot::read(&found.client, &found.source.config.slot).await?;
    *place = Some(found);
    Ok(slot)
}

/// The slot's health, as the metrics name it.
fn health(slot: &Slot) -> &'static str {
    match (slot.invalidation(), slot.wal_status.as_deref()) {
        (Some(_), _) => "lost",
        (None, Some("reserved" | "extended")) => "ok",
        (None, Some("unreserved")) => "unreserved",
        (None, _) => "unknown",
    }
}
