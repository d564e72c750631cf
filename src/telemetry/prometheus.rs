//! The recorder behind `GET /metrics`: keeps what is recorded, and writes it in Prometheus' text format.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::{
    BATCH_BYTES, BATCH_ROWS, BUILD_INFO, CHANGES_TOTAL, CONFIRMED_LSN_BYTES, D1_COST_DOLLARS,
    D1_DATABASE_BYTES, D1_REQUESTS_AVAILABLE, D1_ROWS_WRITTEN_TOTAL, D1_THROTTLED_TOTAL,
    HEARTBEAT_DURATION_SECONDS, REPLICATION_LAG_BYTES, REPLICATION_LAG_SECONDS, RETRIES_TOTAL,
    SESSIONS_TOTAL, SINK_CHANGES_TOTAL, SINK_DEAD_LETTERS, SINK_DEAD_LETTERS_TOTAL, SINK_DELAY_SECONDS,
    SINK_FILLED_TOTAL, SINK_FLUSH_DURATION_SECONDS, SINK_LAG_BYTES, SINK_LAG_SECONDS, SINK_QUEUE_BYTES,
    SINK_SLOT_RETAINED_WAL_BYTES, SINK_STATE, SINK_STATE_CHANGES_TOTAL, SINK_TRANSACTIONS_TOTAL, SLOT_HEALTH,
    SLOT_RETAINED_WAL_BYTES, SLOT_SAFE_WAL_BYTES, STALLED, SYNC_LOG_DROPPED_TOTAL, TABLE_STOPPED,
};
use crate::error::{Error, Result};

/// From a local file's commit to a region that is throttled, in seconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
const ROW_BUCKETS: [f64; 8] = [1.0, 5.0, 20.0, 100.0, 500.0, 2_000.0, 5_000.0, 20_000.0];
const BYTE_BUCKETS: [f64; 8] = [256.0, 1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6];

/// What was recorded so far.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        let hidden = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.0.render();
        if hidden.is_empty() {
            return text;
        }
        // The recorder forgets nothing by itself.
        let is_shown = |line: &&str| {
            let sink = line.split_once("sink=\"").and_then(|(_, rest)| rest.split('"').next());
            sink.is_none_or(|sink| !hidden.contains(sink))
        };
        text.split_inclusive('\n').filter(is_shown).collect()
    }

    /// Folds what was recorded into what is kept. Without it, and without [`render`](Self::render), memory grows.
    pub fn fold(&self) {
        self.0.run_upkeep();
    }
}

/// Sinks that were taken out.
static HIDDEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Shows what is recorded of the sink.
pub(super) fn show(sink: &str) {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).remove(sink);
}

/// Shows nothing of the sink any more.
pub(super) fn hide(sink: &str) {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).insert(sink.to_owned());
}

/// Makes the process record its metrics. Before anything is counted.
///
/// # Errors
/// The process records them elsewhere already.
pub fn install() -> Result<Exposition> {
    let invalid = |error| Error::bug("the metrics' buckets").because(error);
    let buckets = |builder: PrometheusBuilder, name: &str, buckets: &[f64]| {
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets).map_err(invalid)
    };
    let mut builder = PrometheusBuilder::new();
    builder = buckets(builder, SINK_FLUSH_DURATION_SECONDS, &DURATION_BUCKETS)?;
    builder = buckets(builder, HEARTBEAT_DURATION_SECONDS, &DURATION_BUCKETS)?;
    builder = buckets(builder, BATCH_ROWS, &ROW_BUCKETS)?;
    builder = buckets(builder, BATCH_BYTES, &BYTE_BUCKETS)?;
    let handle = builder
        .install_recorder()
        .map_err(|error| Error::bug("this process records its metrics elsewhere").because(error))?;
    describe();
    counter!(SYNC_LOG_DROPPED_TOTAL).increment(0);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Exposition(handle))
}

fn describe() {
    describe_gauge!(BUILD_INFO, "Always 1; the labels say what runs");
    describe_counter!(CHANGES_TOTAL, "Row changes that the main stream brought, by table and operation");
    describe_counter!(
        D1_ROWS_WRITTEN_TOTAL,
        "Rows written to a D1 database since it was first fed, as billed, by sink"
    );
    describe_gauge!(
        D1_COST_DOLLARS,
        "Dollars for the rows written to a D1 database since it was first fed, by sink"
    );
    describe_gauge!(D1_REQUESTS_AVAILABLE, "Requests that a sink's API token may send at once, by sink");
    describe_counter!(D1_THROTTLED_TOTAL, "How often the D1 API turned a sink's token away, by sink");
    describe_counter!(
        SINK_STATE_CHANGES_TOTAL,
        "Changes of a sink's relation to the stream, by sink and new state"
    );
    describe_counter!(SINK_CHANGES_TOTAL, "Row changes applied, by sink");
    describe_counter!(SINK_FILLED_TOTAL, "Rows from before the stream that were written, by sink");
    describe_counter!(SINK_TRANSACTIONS_TOTAL, "Source transactions applied, by sink");
    describe_counter!(SINK_DEAD_LETTERS_TOTAL, "Rows set aside with a reason, by sink");
    describe_gauge!(SINK_DEAD_LETTERS, "Rows that a sink has set aside and still keeps, by sink");
    describe_gauge!(
        SINK_SLOT_RETAINED_WAL_BYTES,
        Unit::Bytes,
        "The WAL that the own slot of a sink that catches up holds back, by sink"
    );
    describe_gauge!(
        SINK_QUEUE_BYTES,
        Unit::Bytes,
        "What waits in a sink's queue or is being applied, by sink"
    );
    describe_gauge!(D1_DATABASE_BYTES, Unit::Bytes, "The size of a D1 database, by sink");
    describe_counter!(RETRIES_TOTAL, "Failed attempts, by sink and reason");
    describe_counter!(SYNC_LOG_DROPPED_TOTAL, "Events that the sync log did not keep up with");
    describe_counter!(SESSIONS_TOTAL, "Times that the replication stream was started");
    describe_histogram!(
        SINK_FLUSH_DURATION_SECONDS,
        Unit::Seconds,
        "How long a batch took to apply, by sink"
    );
    describe_histogram!(BATCH_ROWS, "Row changes in an applied batch, by sink");
    describe_histogram!(BATCH_BYTES, Unit::Bytes, "Bytes in an applied batch, by sink");
    describe_gauge!(
        SINK_DELAY_SECONDS,
        Unit::Seconds,
        "How long a commit takes to a sink, as the last heartbeat or the one on its way shows, by sink"
    );
    describe_histogram!(HEARTBEAT_DURATION_SECONDS, Unit::Seconds, "How long each heartbeat took, by sink");
    describe_gauge!(CONFIRMED_LSN_BYTES, Unit::Bytes, "The confirmed position as a number");
    describe_gauge!(REPLICATION_LAG_BYTES, Unit::Bytes, "From the confirmed position to the server's");
    describe_gauge!(
        REPLICATION_LAG_SECONDS,
        Unit::Seconds,
        "How long ago the server was where the sink furthest behind is"
    );
    describe_gauge!(SLOT_RETAINED_WAL_BYTES, Unit::Bytes, "The WAL that the slot holds back");
    describe_gauge!(
        SLOT_SAFE_WAL_BYTES,
        Unit::Bytes,
        "How much more WAL may be written before the server gives the slot up"
    );
    describe_gauge!(SLOT_HEALTH, "1 for the slot's health, 0 for every other");
    describe_gauge!(SINK_LAG_BYTES, Unit::Bytes, "From the sink's checkpoint to the server's position");
    describe_gauge!(SINK_LAG_SECONDS, Unit::Seconds, "How long ago the server was where the sink is");
    describe_gauge!(SINK_STATE, "1 for the sink's state, 0 for every other");
    describe_gauge!(TABLE_STOPPED, "1 for a table whose changes are not applied, by sink and table");
    describe_gauge!(STALLED, "1 while the slot or a sink stands still although there is something to do");
}
