//! Names of metrics and the places that record them. Recorded once per batch or session, never per row.
//!
//! The `metrics` facade keeps nothing by itself; whoever embeds walcast installs a recorder.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::error::Kind;

/// Row changes applied, by sink.
pub const SINK_CHANGES_TOTAL: &str = "walcast_sink_changes_total";
/// Source transactions applied, by sink.
pub const SINK_TRANSACTIONS_TOTAL: &str = "walcast_sink_transactions_total";
/// Rows set aside with a reason, by sink.
pub const SINK_DEAD_LETTERS_TOTAL: &str = "walcast_sink_dead_letters_total";
/// How long an apply took, by sink.
pub const SINK_FLUSH_DURATION_SECONDS: &str = "walcast_sink_flush_duration_seconds";
/// Bytes in an applied batch, by sink.
pub const BATCH_BYTES: &str = "walcast_batch_bytes";
/// Failed attempts, by sink and reason.
pub const RETRIES_TOTAL: &str = "walcast_retries_total";
/// Changes of a sink's relation to the stream, by sink and new state.
pub const SINK_STATE_CHANGES_TOTAL: &str = "walcast_sink_state_changes_total";
/// Times that a replication stream was started, by slot.
pub const SESSIONS_TOTAL: &str = "walcast_sessions_total";
/// The confirmed position as a number of bytes, by slot.
pub const CONFIRMED_LSN_BYTES: &str = "walcast_confirmed_lsn_bytes";

/// What one `apply` did.
pub(crate) struct BatchApplied {
    pub(crate) changes: u64,
    pub(crate) transactions: u64,
    pub(crate) dead_letters: u64,
    pub(crate) bytes: usize,
    pub(crate) took: Duration,
}

pub(crate) fn batch_applied(sink: &str, batch: &BatchApplied) {
    let sink = [("sink", sink.to_owned())];
    counter!(SINK_CHANGES_TOTAL, &sink).increment(batch.changes);
    counter!(SINK_TRANSACTIONS_TOTAL, &sink).increment(batch.transactions);
    counter!(SINK_DEAD_LETTERS_TOTAL, &sink).increment(batch.dead_letters);
    histogram!(SINK_FLUSH_DURATION_SECONDS, &sink).record(batch.took);
    histogram!(BATCH_BYTES, &sink).record(batch.bytes as f64);
}

pub(crate) fn retried(sink: &str, reason: Kind) {
    counter!(RETRIES_TOTAL, "sink" => sink.to_owned(), "reason" => reason.as_str()).increment(1);
}

pub(crate) fn state_changed(sink: &str, state: &'static str) {
    counter!(SINK_STATE_CHANGES_TOTAL, "sink" => sink.to_owned(), "state" => state).increment(1);
}

pub(crate) fn session_started(slot: &str) {
    counter!(SESSIONS_TOTAL, "slot" => slot.to_owned()).increment(1);
}

pub(crate) fn confirmed(slot: &str, lsn: crate::Lsn) {
    gauge!(CONFIRMED_LSN_BYTES, "slot" => slot.to_owned()).set(lsn.0 as f64);
}
