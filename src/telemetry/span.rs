//! Spans around what takes time: a batch on its way into a sink, a step of a fill, a request to D1. They are for
//! OpenTelemetry (the cargo feature `otel`) alone: the log leaves them out, and where nobody takes them, making one costs
//! a look at an atomic. No row value enters.

use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::Empty;
use tracing::{Span, info_span};

use super::BatchApplied;
use crate::error::Error;

/// The target of every span, and of nothing else.
pub const TARGET: &str = "walcast::span";

/// One attempt at a batch.
pub(crate) fn flush(sink: &str, failed_attempts: u32) -> Span {
    info_span!(
        target: TARGET,
        "flush",
        sink,
        attempt = failed_attempts + 1,
        changes = Empty,
        transactions = Empty,
        dead_letters = Empty,
        bytes = Empty,
        lsn = Empty,
        commit_age_ms = Empty,
        error.kind = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// Says what the batch came to. `commit_time_micros` is when its newest transaction was committed, since 1970-01-01 UTC.
pub(crate) fn flushed(span: &Span, batch: &BatchApplied, commit_time_micros: Option<i64>) {
    if span.is_disabled() {
        return;
    }
    span.record("changes", batch.changes);
    span.record("transactions", batch.transactions);
    span.record("dead_letters", batch.dead_letters);
    span.record("bytes", batch.bytes);
    if let Some(lsn) = batch.end_lsn {
        span.record("lsn", lsn.to_string());
    }
    if let (Some(committed), Ok(now)) = (commit_time_micros, SystemTime::now().duration_since(UNIX_EPOCH)) {
        span.record("commit_age_ms", (now.as_micros() as i64 - committed) / 1_000);
    }
}

/// One step of a fill of a table, by the table's name at the source.
pub(crate) fn fill(sink: &str, table: &str) -> Span {
    info_span!(
        target: TARGET,
        "fill",
        sink,
        table,
        rows = Empty,
        error.kind = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// One request over HTTP.
pub(crate) fn request(method: &str, body_bytes: usize) -> Span {
    info_span!(
        target: TARGET,
        "request",
        otel.kind = "client",
        http.request.method = method,
        http.request.body.size = body_bytes,
        http.response.status_code = Empty,
        otel.status_code = Empty,
    )
}

/// Says what the other side answered; without a status, no answer came.
pub(crate) fn answered(span: &Span, status: Option<u16>) {
    match status {
        Some(status) => span.record("http.response.status_code", status),
        None => span.record("otel.status_code", "ERROR"),
    };
}

/// Says that it failed.
pub(crate) fn failed(span: &Span, error: &Error) {
    if !span.is_disabled() {
        span.record("error.kind", error.kind().as_str());
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", error.chain());
    }
}
