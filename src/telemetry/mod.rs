//! Names of metrics and the places that record them. Recorded once per batch, session or look, never per row.
//!
//! The `metrics` facade keeps nothing by itself. The HTTP API installs a recorder ([`install`]); whoever embeds
//! walcast may install another.

#[cfg(feature = "otel")]
pub mod otel;
mod prometheus;
pub mod span;
pub mod sync_log;

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, counter, gauge, histogram};

pub use prometheus::{Exposition, install};

use self::sync_log::{Applied, Event, Keys, Outcome};
use crate::Lsn;
use crate::error::{Error, Kind};

/// Row changes applied, by sink.
pub const SINK_CHANGES_TOTAL: &str = "walcast_sink_changes_total";
/// Source transactions applied, by sink.
pub const SINK_TRANSACTIONS_TOTAL: &str = "walcast_sink_transactions_total";
/// Rows set aside with a reason, by sink.
pub const SINK_DEAD_LETTERS_TOTAL: &str = "walcast_sink_dead_letters_total";
/// Rows that a sink has set aside and still keeps, at the last look into it, by sink.
pub const SINK_DEAD_LETTERS: &str = "walcast_sink_dead_letters";
/// The WAL that a sink's own copy of the slot holds back, while it has one, by sink.
pub const SINK_SLOT_RETAINED_WAL_BYTES: &str = "walcast_sink_slot_retained_wal_bytes";
/// What waits in a sink's queue or is being applied, by sink.
pub const SINK_QUEUE_BYTES: &str = "walcast_sink_queue_bytes";
/// How long an apply took, by sink.
pub const SINK_FLUSH_DURATION_SECONDS: &str = "walcast_sink_flush_duration_seconds";
/// Bytes in an applied batch, by sink.
pub const BATCH_BYTES: &str = "walcast_batch_bytes";
/// Row changes in an applied batch, by sink.
pub const BATCH_ROWS: &str = "walcast_batch_rows";
/// Row changes that the main stream brought, by source table and operation; what is sent again after a restart counts
/// again.
pub const CHANGES_TOTAL: &str = "walcast_changes_total";
/// Failed attempts, by sink and reason.
pub const RETRIES_TOTAL: &str = "walcast_retries_total";
/// Changes of a sink's relation to the stream, by sink and new state.
pub const SINK_STATE_CHANGES_TOTAL: &str = "walcast_sink_state_changes_total";
/// Times that a replication stream was started, by slot.
pub const SESSIONS_TOTAL: &str = "walcast_sessions_total";
/// The confirmed position as a number of bytes, by slot.
pub const CONFIRMED_LSN_BYTES: &str = "walcast_confirmed_lsn_bytes";
/// From the confirmed position to the server's.
pub const REPLICATION_LAG_BYTES: &str = "walcast_replication_lag_bytes";
/// How long ago the server was where the sink furthest behind is.
pub const REPLICATION_LAG_SECONDS: &str = "walcast_replication_lag_seconds";
/// The WAL that the slot holds back.
pub const SLOT_RETAINED_WAL_BYTES: &str = "walcast_slot_retained_wal_bytes";
/// How much more WAL may be written before the server gives the slot up; infinite without a limit.
pub const SLOT_SAFE_WAL_BYTES: &str = "walcast_slot_safe_wal_bytes";
/// 1 for the slot's health, 0 for every other: see [`SLOT_HEALTHS`].
pub const SLOT_HEALTH: &str = "walcast_slot_health";
/// From a sink's checkpoint to the server's position, by sink.
pub const SINK_LAG_BYTES: &str = "walcast_sink_lag_bytes";
/// How long ago the server was where the sink is, by sink.
pub const SINK_LAG_SECONDS: &str = "walcast_sink_lag_seconds";
/// How long a commit takes to a sink: the last heartbeat's time, or that of the one on its way, by sink.
pub const SINK_DELAY_SECONDS: &str = "walcast_sink_delay_seconds";
/// How long each heartbeat took to a sink, by sink.
pub const HEARTBEAT_DURATION_SECONDS: &str = "walcast_heartbeat_duration_seconds";
/// 1 for a sink's state, 0 for every other: see [`SINK_STATES`].
pub const SINK_STATE: &str = "walcast_sink_state";
/// 1 for a table whose changes are not applied because it does not fit `schema.json`, 0 for every other, by sink and table.
pub const TABLE_STOPPED: &str = "walcast_table_stopped";
/// Rows written to a D1 database as Cloudflare bills them, since it was first fed, by sink.
pub const D1_ROWS_WRITTEN_TOTAL: &str = "walcast_d1_rows_written_total";
/// Dollars for these rows, by sink.
pub const D1_COST_DOLLARS: &str = "walcast_d1_cost_dollars";
/// The size of a D1 database, by sink.
pub const D1_DATABASE_BYTES: &str = "walcast_d1_database_bytes";
/// Requests that a sink's API token may send at once, by sink.
pub const D1_REQUESTS_AVAILABLE: &str = "walcast_d1_requests_available";
/// How often the D1 API turned a sink's token away, by sink.
pub const D1_THROTTLED_TOTAL: &str = "walcast_d1_throttled_total";
/// 1 while the slot or a sink stands still although there is something to do.
pub const STALLED: &str = "walcast_stalled";
/// Events that the sync log did not keep up with.
pub const SYNC_LOG_DROPPED_TOTAL: &str = "walcast_sync_log_dropped_total";
/// Always 1; its labels say what runs.
pub const BUILD_INFO: &str = "walcast_build_info";

/// What a slot's health can be.
pub const SLOT_HEALTHS: [&str; 5] = ["ok", "unreserved", "lost", "missing", "unknown"];
/// What a sink's state can be.
pub const SINK_STATES: [&str; 6] = ["attached", "catching-up", "failing", "paused", "stopped", "detached"];

/// What one `apply` did.
pub(crate) struct BatchApplied {
    pub(crate) changes: u64,
    pub(crate) transactions: u64,
    pub(crate) dead_letters: u64,
    /// Of the changes that came, how many were in which table, where that is logged: see [`by_table`].
    pub(crate) tables: BTreeMap<String, u64>,
    /// Which keys they touched, where that is logged: see [`sync_log::touched`].
    pub(crate) keys: Keys,
    pub(crate) bytes: usize,
    pub(crate) took: Duration,
    /// The attempts before that failed.
    pub(crate) failed_attempts: u32,
    /// The sink's position after it, unless it ends inside a transaction.
    pub(crate) end_lsn: Option<Lsn>,
}

pub(crate) fn batch_applied(sink: &str, batch: BatchApplied) {
    // A position alone, as an idle stream or a heartbeat brings it, is not worth an entry.
    if batch.changes + batch.dead_letters > 0 {
        sync_log::record(|| Event::Applied {
            sink: sink.to_owned(),
            entry: Applied {
                batches: 1,
                transactions: batch.transactions,
                changes: batch.changes,
                dead_letters: batch.dead_letters,
                tables: batch.tables,
                keys: batch.keys,
                bytes: batch.bytes as u64,
                took: batch.took,
                attempts: batch.failed_attempts + 1,
                lsn: batch.end_lsn,
            },
        });
    }
    let sink = [("sink", sink.to_owned())];
    counter!(SINK_CHANGES_TOTAL, &sink).increment(batch.changes);
    counter!(SINK_TRANSACTIONS_TOTAL, &sink).increment(batch.transactions);
    counter!(SINK_DEAD_LETTERS_TOTAL, &sink).increment(batch.dead_letters);
    histogram!(SINK_FLUSH_DURATION_SECONDS, &sink).record(batch.took);
    histogram!(BATCH_BYTES, &sink).record(batch.bytes as f64);
    histogram!(BATCH_ROWS, &sink).record(batch.changes as f64);
}

/// Rows from before the stream that were written, by sink.
pub const SINK_FILLED_TOTAL: &str = "walcast_sink_filled_total";

pub(crate) fn filled(sink: &str, rows: u64, took: Duration) {
    let sink = [("sink", sink.to_owned())];
    counter!(SINK_FILLED_TOTAL, &sink).increment(rows);
    histogram!(SINK_FLUSH_DURATION_SECONDS, &sink).record(took);
}

/// How many changes are in which table, by the tables' names; nothing unless somebody keeps a log of it.
pub(crate) fn by_table(names: &[String], tables: impl Iterator<Item = u32>) -> BTreeMap<String, u64> {
    if !sync_log::is_kept() {
        return BTreeMap::new();
    }
    let mut counts = vec![0; names.len()];
    for table in tables {
        if let Some(count) = counts.get_mut(table as usize) {
            *count += 1;
        }
    }
    let counted = names.iter().cloned().zip(counts);
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Counts the changes that the stream brings: added up in plain numbers, and recorded a run at a time.
pub(crate) struct ChangeCounters<const OPERATIONS: usize>(Vec<[(Counter, u64); OPERATIONS]>);

impl<const OPERATIONS: usize> ChangeCounters<OPERATIONS> {
    /// Counters of these tables, by their position, and of these operations.
    pub(crate) fn new(tables: impl Iterator<Item = String>, operations: [&'static str; OPERATIONS]) -> Self {
        let of_table = |table: String| {
            operations.map(|operation| {
                (counter!(CHANGES_TOTAL, "table" => table.clone(), "operation" => operation), 0)
            })
        };
        ChangeCounters(tables.map(of_table).collect())
    }

    /// Adds one change.
    #[inline]
    pub(crate) fn add(&mut self, table: usize, operation: usize) {
        if let Some((_, count)) = self.0.get_mut(table).and_then(|counters| counters.get_mut(operation)) {
            *count += 1;
        }
    }

    /// Records what was added.
    pub(crate) fn record(&mut self) {
        for (counter, count) in self.0.iter_mut().flatten().filter(|(_, count)| *count > 0) {
            counter.increment(std::mem::take(count));
        }
    }
}

/// The slot at one look.
#[derive(Default)]
pub(crate) struct SlotSeen {
    /// One of [`SLOT_HEALTHS`].
    pub(crate) health: &'static str,
    pub(crate) lag_bytes: Option<u64>,
    pub(crate) retained_bytes: Option<i64>,
    /// Infinite without a limit; `None` where there is no slot to ask.
    pub(crate) safe_bytes: Option<f64>,
}

pub(crate) fn slot_seen(slot: &SlotSeen) {
    for health in SLOT_HEALTHS {
        gauge!(SLOT_HEALTH, "state" => health).set(f64::from(u8::from(health == slot.health)));
    }
    if let Some(lag) = slot.lag_bytes {
        gauge!(REPLICATION_LAG_BYTES).set(lag as f64);
    }
    if let Some(retained) = slot.retained_bytes {
        gauge!(SLOT_RETAINED_WAL_BYTES).set(retained as f64);
    }
    if let Some(safe) = slot.safe_bytes {
        gauge!(SLOT_SAFE_WAL_BYTES).set(safe);
    }
}

/// Makes what is counted of a sink begin at zero, so that the first of anything is seen to be one more.
pub(crate) fn sink_expected(sink: &str) {
    prometheus::show(sink);
    let label = [("sink", sink.to_owned())];
    for total in [SINK_CHANGES_TOTAL, SINK_FILLED_TOTAL, SINK_TRANSACTIONS_TOTAL, SINK_DEAD_LETTERS_TOTAL] {
        counter!(total, &label).increment(0);
    }
    for state in ["attached", "catching-up", "stopped", "detached"] {
        counter!(SINK_STATE_CHANGES_TOTAL, "sink" => sink.to_owned(), "state" => state).increment(0);
    }
    for reason in [Kind::Transient, Kind::Throttled { retry_after: Duration::ZERO }, Kind::Replay] {
        counter!(RETRIES_TOTAL, "sink" => sink.to_owned(), "reason" => reason.as_str()).increment(0);
    }
}

/// A sink was taken out: what was recorded of it is shown no more, until it is expected again.
pub(crate) fn sink_gone(sink: &str) {
    prometheus::hide(sink);
}

/// What a look into a sink's target, and at its own slot, has found.
pub(crate) struct TargetSeen {
    pub(crate) dead_letters: Option<u64>,
    pub(crate) slot_retained_bytes: u64,
    pub(crate) database_bytes: Option<u64>,
}

pub(crate) fn target_seen(sink: &str, seen: &TargetSeen) {
    let label = [("sink", sink.to_owned())];
    gauge!(SINK_SLOT_RETAINED_WAL_BYTES, &label).set(seen.slot_retained_bytes as f64);
    if let Some(letters) = seen.dead_letters {
        gauge!(SINK_DEAD_LETTERS, &label).set(letters as f64);
    }
    if let Some(bytes) = seen.database_bytes {
        gauge!(D1_DATABASE_BYTES, &label).set(bytes as f64);
    }
}

/// A sink at one look. `state` is one of [`SINK_STATES`].
pub(crate) fn sink_seen(sink: &str, state: &str, lag_bytes: u64, lag: Option<Duration>, queue_bytes: usize) {
    gauge!(SINK_QUEUE_BYTES, "sink" => sink.to_owned()).set(queue_bytes as f64);
    for other in SINK_STATES {
        gauge!(SINK_STATE, "sink" => sink.to_owned(), "state" => other)
            .set(f64::from(u8::from(other == state)));
    }
    gauge!(SINK_LAG_BYTES, "sink" => sink.to_owned()).set(lag_bytes as f64);
    if let Some(lag) = lag {
        gauge!(SINK_LAG_SECONDS, "sink" => sink.to_owned()).set(lag);
    }
}

/// Whether a table of a sink is stopped.
pub(crate) fn table_seen(sink: &str, table: &str, is_stopped: bool) {
    gauge!(TABLE_STOPPED, "sink" => sink.to_owned(), "table" => table.to_owned())
        .set(f64::from(u8::from(is_stopped)));
}

/// A heartbeat has arrived.
pub(crate) fn heartbeat_arrived(sink: &str, took: Duration) {
    histogram!(HEARTBEAT_DURATION_SECONDS, "sink" => sink.to_owned()).record(took);
}

/// How long a commit takes to a sink at one look.
pub(crate) fn sink_delay_seen(sink: &str, delay: Duration) {
    gauge!(SINK_DELAY_SECONDS, "sink" => sink.to_owned()).set(delay);
}

/// What a D1 database has cost since it was first fed.
pub(crate) fn d1_wrote(sink: &str, rows: u64, dollars: f64) {
    counter!(D1_ROWS_WRITTEN_TOTAL, "sink" => sink.to_owned()).absolute(rows);
    gauge!(D1_COST_DOLLARS, "sink" => sink.to_owned()).set(dollars);
}

/// What the token of a D1 sink may send, and how often it was turned away.
pub(crate) fn d1_budget_seen(sink: &str, available: u32, throttled: u64) {
    gauge!(D1_REQUESTS_AVAILABLE, "sink" => sink.to_owned()).set(available);
    counter!(D1_THROTTLED_TOTAL, "sink" => sink.to_owned()).absolute(throttled);
}

/// The lag of the sink that is furthest behind, and whether something stands still.
pub(crate) fn engine_seen(lag: Option<Duration>, is_stalled: bool) {
    if let Some(lag) = lag {
        gauge!(REPLICATION_LAG_SECONDS).set(lag);
    }
    gauge!(STALLED).set(f64::from(u8::from(is_stalled)));
}

/// An attempt failed; `attempts` failed in a row.
pub(crate) fn retried(sink: &str, error: &Error, attempts: u32) {
    counter!(RETRIES_TOTAL, "sink" => sink.to_owned(), "reason" => error.kind().as_str()).increment(1);
    sync_log::record(|| failed(sink, Outcome::Failed, attempts, error));
}

/// A sink was taken out of action.
pub(crate) fn sink_stopped(sink: &str, error: &Error) {
    sync_log::record(|| failed(sink, Outcome::Stopped, 0, error));
}

fn failed(sink: &str, outcome: Outcome, attempts: u32, error: &Error) -> Event {
    Event::Failed { sink: sink.to_owned(), outcome, attempts, problem: error.chain() }
}

/// A sink attached, fell behind, stopped or was detached.
pub(crate) fn state_changed(sink: &str, state: &'static str) {
    counter!(SINK_STATE_CHANGES_TOTAL, "sink" => sink.to_owned(), "state" => state).increment(1);
}

pub(crate) fn session_started(slot: &str) {
    counter!(SESSIONS_TOTAL, "slot" => slot.to_owned()).increment(1);
}

pub(crate) fn confirmed(slot: &str, lsn: Lsn) {
    gauge!(CONFIRMED_LSN_BYTES, "slot" => slot.to_owned()).set(lsn.0 as f64);
}
