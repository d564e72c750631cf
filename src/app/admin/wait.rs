//! `GET /wait`: answers once a region holds a position, so that whoever wrote can read what it wrote.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::Parameters;
use super::problem::Problem;
use crate::Lsn;
use crate::fanout::progress::SinkProgress;

/// How long is waited where the request does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Requests that may wait at a time: fewer than there may be connections, so that probes still get in.
pub(super) const WAITING_MAX: usize = 128;

/// For what, for whom, and how long.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// The position, as Postgres writes it: what `SELECT pg_current_wal_lsn()` says after the commit.
    #[param(example = "0/16B3748")]
    lsn: String,
    /// The sink; without it, every sink.
    sink: Option<String>,
    /// How long to wait at most: `500ms`, `10s` (the default), up to `60s`.
    timeout: Option<String>,
}

/// The sinks that hold the position.
#[derive(Serialize, ToSchema)]
pub(super) struct Reached {
    /// The position that was asked for.
    lsn: String,
    /// Each sink with its own position, which is not before it.
    sinks: Vec<Position>,
}

/// Where a sink is.
#[derive(Serialize, ToSchema)]
pub(super) struct Position {
    sink: String,
    lsn: String,
}

/// Wait until a region holds a position
///
/// For reading one's own writes: after the commit, ask the source for `pg_current_wal_lsn()`, wait for it here, then read
/// the region. Answers at once where the position is there already.
#[utoipa::path(
    get,
    path = "/wait",
    tag = "status",
    params(Wait),
    responses(
        (status = 200, description = "They hold it", body = Reached),
        (status = 400, body = Problem, description = "The LSN or the timeout is none"),
        (status = 404, body = Problem, description = "There is no such sink"),
        (status = 503, body = Problem, description = "The sink is out of action, or the engine does not run"),
        (status = 504, body = Problem, description = "The time is over"),
    )
)]
pub(super) async fn wait(
    State(shared): State<Arc<Shared>>,
    Parameters(Wait { lsn, sink, timeout }): Parameters<Wait>,
) -> Result<Json<Reached>, Problem> {
    let target: Lsn =
        lsn.parse().map_err(|_| Problem::bad_request("lsn is no position such as 0/16B3748"))?;
    let limit = limit(timeout.as_deref())?;
    let _permit = permit(&shared)?;
    let (mut stopping, mut prepared) = (shared.stopping.clone(), shared.view.subscribe());
    let until = tokio::time::Instant::now() + limit;
    let sinks = loop {
        prepared.mark_unchanged();
        let sinks = shared.sinks(sink.as_deref())?;
        let all_there = async {
            for sink in &sinks {
                if !sink.reach(target).await {
                    return Some(sink);
                }
            }
            None
        };
        tokio::select! {
            missing = all_there => match missing {
                None => break sinks,
                Some(sink) => return Err(never(sink)),
            },
            // Others may be there now.
            _ = prepared.changed() => continue,
            () = tokio::time::sleep_until(until) => {}
            _ = stopping.wait_for(|stop| *stop) => {
                return Err(Problem::unavailable("the engine is stopping"));
            }
        }
        {
            let missing: Vec<String> = sinks
                .iter()
                .filter(|sink| sink.durable_lsn() < target)
                .map(|sink| format!("sink {} is at {}", sink.name, sink.durable_lsn()))
                .collect();
            return Err(Problem::timeout(format!("not yet at {target}: {}", missing.join(", "))));
        }
    };
    let position =
        |sink: &Arc<SinkProgress>| Position { sink: sink.name.clone(), lsn: sink.durable_lsn().to_string() };
    Ok(Json(Reached { lsn: target.to_string(), sinks: sinks.iter().map(position).collect() }))
}

/// How long a request may wait.
pub(super) fn limit(timeout: Option<&str>) -> Result<Duration, Problem> {
    match timeout.map(humantime::parse_duration) {
        None => Ok(TIMEOUT),
        Some(Ok(limit)) if limit <= TIMEOUT_MAX => Ok(limit),
        Some(_) => {
            let message = format!("timeout is no time of up to {} s, such as 500ms", TIMEOUT_MAX.as_secs());
            Err(Problem::bad_request(message))
        }
    }
}

/// The permission to wait, for as long as it is kept.
pub(super) fn permit(shared: &Shared) -> Result<SemaphorePermit<'_>, Problem> {
    shared.waiting.try_acquire().map_err(|_| {
        Problem::too_many(format!("{WAITING_MAX} requests wait already"), Duration::from_secs(1))
    })
}

fn never(sink: &SinkProgress) -> Problem {
    Problem::unavailable(format!(
        "sink {} is {} and stays at {}",
        sink.name,
        sink.state().as_str(),
        sink.durable_lsn()
    ))
    .hint("GET /status says why")
}

impl Shared {
    /// The sink of that name, or all of them.
    pub(super) fn sinks(&self, name: Option<&str>) -> Result<Vec<Arc<SinkProgress>>, Problem> {
        if let Some(name) = name
            && !self.config().sinks.iter().any(|sink| sink.name.as_str() == name)
        {
            return Err(Problem::not_found("there is no sink of that name"));
        }
        let prepared = self.prepared()?;
        let is_meant = |sink: &Arc<SinkProgress>| name.is_none_or(|name| sink.name == name);
        Ok(prepared.progress.sinks().into_iter().filter(is_meant).collect())
    }
}
