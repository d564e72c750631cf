//! `GET /logs`: the sync log, the newest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::Parameters;
use super::problem::Problem;
use crate::error::Error;
use crate::telemetry::sync_log::{self, Entry, Filter, Outcome};

/// Entries on a page where the request does not say.
const LIMIT: usize = 100;
/// The most on a page.
const LIMIT_MAX: usize = 1_000;

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Logs {
    /// Of this sink.
    sink: Option<String>,
    /// With changes of this table, by its name at the source.
    table: Option<String>,
    /// `applied`, `failed` or `stopped`.
    outcome: Option<String>,
    /// Ended at or after this, in RFC 3339.
    since: Option<String>,
    /// Ended before this, in RFC 3339.
    until: Option<String>,
    /// Behind the page whose `next` this is.
    before: Option<i64>,
    /// How many at most: 1 to 1000, 100 without it.
    limit: Option<usize>,
}

/// A page of the sync log.
#[derive(Serialize, ToSchema)]
pub(super) struct LogPage {
    /// The newest first.
    entries: Vec<Entry>,
    /// What `before` has to be for the next page; null on the last one.
    next: Option<i64>,
}

/// What each region took when, and what failed
///
/// The batches that a sink took within a second are one entry; a failed attempt is one of its own.
#[utoipa::path(
    get,
    path = "/logs",
    tag = "status",
    params(Logs),
    responses(
        (status = 200, description = "A page", body = LogPage),
        (status = 400, description = "A parameter is wrong", body = Problem),
        (status = 404, description = "No sync log is kept", body = Problem),
    )
)]
pub(super) async fn logs(
    State(shared): State<Arc<Shared>>,
    Parameters(Logs { sink, table, outcome, since, until, before, limit }): Parameters<Logs>,
) -> Result<Json<LogPage>, Problem> {
    let path = shared.config().log.sync_file.clone();
    let path = path.ok_or_else(|| {
        Problem::not_found("no sync log is kept").hint("set [log] sync_file in walcast.toml")
    })?;
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be from 1 to {LIMIT_MAX}")));
    }
    let filter = Filter {
        sink,
        table,
        outcome: outcome.map(|outcome| named(&outcome)).transpose()?,
        since_micros: since.map(|since| micros("since", &since)).transpose()?,
        until_micros: until.map(|until| micros("until", &until)).transpose()?,
        before,
        after: None,
    };
    // One more than fits says whether there is a next page.
    let read = tokio::task::spawn_blocking(move || sync_log::read(&path, &filter, limit + 1));
    let mut entries = read.await.map_err(|error| Error::bug("reading the sync log").because(error))??;
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| has_more).map(|last| last.id);
    Ok(Json(LogPage { entries, next }))
}

fn named(outcome: &str) -> Result<Outcome, Problem> {
    let known = Outcome::ALL.into_iter().find(|known| known.as_str() == outcome);
    known.ok_or_else(|| Problem::bad_request("outcome is applied, failed or stopped"))
}

fn micros(name: &str, text: &str) -> Result<i64, Problem> {
    let time: Timestamp = text
        .parse()
        .map_err(|_| Problem::bad_request(format!("{name} is no time such as 2026-01-31T12:00:00Z")))?;
    Ok(time.as_microsecond())
}
