//! `GET /status`: what `walcast status --json` prints, with what only the engine knows over it. The source and the sinks
//! are looked at for the first who asks; who asks within a second is answered from the same look, and where there are D1
//! databases, of which each look takes requests, within 20.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use tokio::sync::Mutex;

use super::Shared;
use crate::app::commands::status::{
    EngineStatus, Gatherer, RequestStatus, SinkInEngine, SinkState, SinkStatus, Status,
};
use crate::app::view::Phase;
use crate::config::Config;
use crate::encode::plan::PlannedTable;
use crate::fanout::fill::TableState;
use crate::fanout::progress::{SinkProgress, State as Relation};
use crate::sink::d1::budget::Standing;
use crate::telemetry::{self, TargetSeen};

/// How old the look may be that `/status` answers from.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Looks once for all who ask together.
#[derive(Default)]
pub(super) struct StatusCache(Mutex<Option<Looks>>);

struct Looks {
    config: Arc<Config>,
    gatherer: Gatherer,
    last: Option<(Instant, Status)>,
}

impl StatusCache {
    /// The status as it was at most `age_max` ago, or longer where looking is not free. What this configuration does not
    /// name is not looked at.
    pub(super) async fn get(&self, config: &Arc<Config>, age_max: Duration) -> Status {
        let mut kept = self.0.lock().await;
        let looks = match kept.take().filter(|looks| Arc::ptr_eq(&looks.config, config)) {
            Some(looks) => looks,
            None => match Gatherer::new(config) {
                Ok(gatherer) => Looks { config: config.clone(), gatherer, last: None },
                // It was checked before it came into force.
                Err(error) => return Status::without_source(&error),
            },
        };
        let looks = kept.insert(looks);
        let age_max = age_max.max(looks.gatherer.interval());
        match &looks.last {
            Some((at, status)) if at.elapsed() < age_max => status.clone(),
            _ => {
                let status = looks.gatherer.gather().await;
                record(&status);
                looks.last = Some((Instant::now(), status.clone()));
                status
            }
        }
    }
}

/// Records what only a look into the targets shows.
fn record(status: &Status) {
    for sink in &status.sinks {
        let seen = TargetSeen {
            dead_letters: sink.dead_letters,
            slot_retained_bytes: sink.copy.as_ref().and_then(|copy| copy.retained_bytes).unwrap_or(0),
            database_bytes: sink.cost.as_ref().and_then(|cost| cost.database_bytes),
        };
        telemetry::target_seen(&sink.name, &seen);
    }
}

/// Where the slot and every region are
///
/// The JSON of `walcast status --json`, with what the engine knows: its phase, and what it does with each sink. What the
/// source and the targets show is up to a second old, or 20 where there are D1 databases, because looking takes requests.
#[utoipa::path(get, path = "/status", tag = "status", responses((status = 200, description = "The status", body = Status)))]
pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Json<Status> {
    Json(current(&shared).await)
}

/// The status with what the engine knows.
pub(super) async fn current(shared: &Shared) -> Status {
    let mut status = shared.status.get(&shared.config(), AGE_MAX).await;
    let phase = shared.view.phase();
    let mut problems: Vec<String> = shared
        .observer
        .stalled(shared.config().admin.stall_timeout)
        .into_iter()
        .map(|(subject, sentence)| format!("{subject} {sentence}"))
        .collect();
    if let Phase::Waiting { problem, .. } = &phase {
        problems.push(problem.clone());
    }
    let next_run = match phase {
        Phase::Resting { until } => Timestamp::try_from(until).ok().map(|due| due.to_string()),
        _ => None,
    };
    let started = shared.started.to_string();
    status.engine = Some(EngineStatus { phase: phase.as_str(), next_run, started, problems });
    if let Some(prepared) = shared.view.prepared() {
        for sink in &mut status.sinks {
            let live = prepared.progress.find(&sink.name);
            if let Some(live) = live {
                let seen = Seen {
                    behind: shared.observer.behind(live.durable_lsn()),
                    changes_per_second: shared.observer.changes_per_second(&live.name),
                    standing: prepared.standing(&live.name),
                    delay: shared.view.delays.of(&live.name),
                };
                overlay(sink, &live, seen);
                for table in &mut sink.tables {
                    let of = |planned: &PlannedTable| planned.target == table.target;
                    let index = prepared.plan.tables.iter().position(of);
                    if let Some(failure) = index.and_then(|index| prepared.fills.failure(index))
                        && table.state != TableState::Live.as_str()
                    {
                        let reason = table.problem.take();
                        let problem = match reason {
                            Some(reason) => format!("{reason}; it cannot go on: {}", failure.problem),
                            None => failure.problem,
                        };
                        table.state = TableState::Stopped.as_str();
                        (table.problem, table.hint) = (Some(problem), failure.hint.or(table.hint.take()));
                    }
                }
            }
        }
    }
    freshen(shared, &mut status.sinks);
    // A region that cannot be looked at is one that the engine may well be trying again.
    status.is_ok = status.needs_no_operator();
    status
}

/// Where targets are not looked at each time, their sinks have moved on since the last look.
fn freshen(shared: &Shared, sinks: &mut [SinkStatus]) {
    let Some(prepared) = shared.view.prepared() else { return };
    for sink in sinks {
        let live = prepared.progress.find(&sink.name);
        let behind = live.and_then(|live| shared.observer.behind_bytes(live.durable_lsn()));
        sink.lag_bytes = sink.lag_bytes.and(behind.or(sink.lag_bytes));
    }
}

/// What is seen of a sink from beside it.
struct Seen {
    behind: Option<Duration>,
    changes_per_second: Option<f64>,
    standing: Option<Standing>,
    delay: Option<Duration>,
}

/// Puts what the engine knows of a sink over what its target and the slot showed.
fn overlay(sink: &mut SinkStatus, live: &SinkProgress, seen: Seen) {
    let Seen { behind, changes_per_second, standing, delay } = seen;
    if let Some(behind) = behind {
        sink.lag_seconds = Some(behind.as_secs());
    }
    let failure = live.failure();
    match live.state() {
        Relation::Stopped(reason) | Relation::Detached(reason) => {
            if !sink.state.needs_operator() {
                sink.state = SinkState::Stopped;
            }
            sink.problem = Some(reason);
        }
        Relation::Attached | Relation::CatchingUp(_) if live.is_paused() => sink.state = SinkState::Paused,
        relation @ (Relation::Attached | Relation::CatchingUp(_)) => {
            if let Some(failure) = &failure {
                sink.state = SinkState::Failing;
                sink.problem = Some(failure.problem.clone());
                sink.hint = failure.hint.clone();
            } else if relation != Relation::Attached {
                sink.state = SinkState::CatchingUp;
                sink.problem = live.obstacle();
            } else if sink.state == SinkState::CatchingUp {
                // Its copy of the slot, which is all that can be seen from outside, goes a little later.
                sink.state = SinkState::Attached;
            }
        }
    }
    sink.engine = Some(SinkInEngine {
        changes: live.changes(),
        transactions: live.transactions(),
        dead_letters: live.dead_letters(),
        retries: live.retries(),
        failed_attempts: failure.as_ref().map_or(0, |failure| failure.attempts),
        failing_since: failure
            .and_then(|failure| Timestamp::try_from(failure.since).ok())
            .map(|since| since.to_string()),
        changes_per_second,
        queue_bytes: live.queued_bytes(),
        delay_seconds: delay.map(|delay| delay.as_secs_f64()),
        requests: standing.map(|standing| RequestStatus {
            available: standing.available,
            paused_seconds: standing.paused.map(|pause| pause.as_secs_f64()),
            waiting: standing.waiting,
            sent: standing.requests,
            throttled: standing.throttled,
        }),
    });
}

/// The metrics, in Prometheus' text format
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "status",
    responses((status = 200, description = "The text", body = String, content_type = "text/plain; version=0.0.4"))
)]
pub(super) async fn metrics(
    State(shared): State<Arc<Shared>>,
) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    let content_type = (axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([content_type], shared.exposition.render())
}
