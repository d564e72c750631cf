//! `GET /logs`: the sync log, the newest first.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use super::problem::Problem;
use super::row::{key_parts, planned};
use super::{Shared, guard};
use crate::encode::key_hashes;
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
    /// That touched the row with this key, of `table`, which has to be given too; of several columns a JSON array of
    /// their values as text. Needs the secret.
    key: Option<String>,
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
    /// Where a key was asked for: how many entries of the table were passed over although they may have touched it,
    /// because they keep no keys, or had too many.
    unknown: usize,
}

/// What each region took when, and what failed
///
/// The batches that a sink took within a second are one entry; a failed attempt is one of its own. Keys are found by
/// hashes of 32 bits, so about one entry in a million is shown for another row's sake.
#[utoipa::path(
    get,
    path = "/logs",
    tag = "status",
    params(Logs),
    responses(
        (status = 200, description = "A page", body = LogPage),
        (status = 400, description = "A parameter is wrong", body = Problem),
        (status = 401, description = "A key was asked for, and the secret is missing or wrong", body = Problem),
        (status = 404, description = "No sync log is kept", body = Problem),
    )
)]
pub(super) async fn logs(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Parameters(Logs { sink, table, key, outcome, since, until, before, limit }): Parameters<Logs>,
) -> Result<Json<LogPage>, Problem> {
    let path = shared.config().log.sync_file.clone();
    let path = path.ok_or_else(|| {
        Problem::not_found("no sync log is kept").hint("set [log] sync_file in walcast.toml")
    })?;
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be from 1 to {LIMIT_MAX}")));
    }
    let key = match key {
        // That a row is there is something about the row.
        Some(key) => {
            guard::need_secret(&shared, peer, &headers)?;
            Some(hashes(&shared, table.as_deref(), &key)?)
        }
        None => None,
    };
    let filter = Filter {
        sink,
        table,
        key,
        outcome: outcome.map(|outcome| named(&outcome)).transpose()?,
        since_micros: since.map(|since| micros("since", &since)).transpose()?,
        until_micros: until.map(|until| micros("until", &until)).transpose()?,
        before,
        after: None,
    };
    // One more than fits says whether there is a next page.
    let read = tokio::task::spawn_blocking(move || sync_log::read(&path, &filter, limit + 1));
    let found = read.await.map_err(|error| Error::bug("reading the sync log").because(error))??;
    let (mut entries, unknown) = (found.entries, found.unknown);
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| has_more).map(|last| last.id);
    Ok(Json(LogPage { entries, next, unknown }))
}

/// What entries that touched the row keep of it.
fn hashes(shared: &Shared, table: Option<&str>, key: &str) -> Result<Vec<u32>, Problem> {
    if shared.config().log.max_key_bytes == 0 {
        return Err(
            Problem::not_found("the sync log keeps no keys").hint("[log] max_key_bytes is 0 in walcast.toml")
        );
    }
    let table = table.ok_or_else(|| Problem::bad_request("a key is one of a table: give table too"))?;
    let prepared = shared.prepared()?;
    let planned = planned(&prepared.plan, table)?;
    Ok(key_hashes::of_spelt(planned, &key_parts(planned, key)?).to_vec())
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
