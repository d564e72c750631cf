//! `/livez`, `/readyz` and `/`: whether a restart would help, whether the regions are right, and both for a person.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use bytesize::ByteSize;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::problem::Problem;
use super::secret::Shown;
use crate::app::view::{Phase, Prepared};
use crate::encode::plan::PlannedTable;
use crate::fanout::fill::TableState;
use crate::fanout::progress::{SinkProgress, State as SinkState};

/// How old a count of dead letters may be.
const COUNT_AGE_MAX: Duration = Duration::from_secs(5);

/// Whether the engine moves.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Liveness {
    /// False when something has stood still for `[admin] stall_timeout` although there is something to do.
    is_live: bool,
    /// What stands still.
    problems: Vec<Finding>,
}

/// Whether every region is right.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// True when the engine streams, or rests between two scheduled runs, and every sink is attached, or catching up within its limit.
    is_ready: bool,
    /// `preparing`, `streaming`, `waiting`, `resting` or `stopping`.
    phase: &'static str,
    /// Why not.
    problems: Vec<Finding>,
    /// Sinks that the stream goes on without, and that come back by themselves: they are behind, but right.
    catching_up: Vec<Finding>,
}

/// Something to know of one part.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Finding {
    /// What it is about: `engine`, `slot`, `sink eu`.
    subject: String,
    /// One sentence.
    message: String,
    /// The next step.
    hint: Option<String>,
}

impl Finding {
    fn new(subject: impl Into<String>, message: impl Into<String>, hint: Option<String>) -> Self {
        Finding { subject: subject.into(), message: message.into(), hint }
    }
}

impl Liveness {
    pub(super) fn of(shared: &Shared) -> Self {
        let stalled = shared.observer.stalled(shared.config().admin.stall_timeout).into_iter();
        let hint = "restarting walcast is safe: it goes on from the slot and the sinks' checkpoints";
        let problems: Vec<Finding> =
            stalled.map(|(subject, message)| Finding::new(subject, message, Some(hint.to_owned()))).collect();
        Liveness { is_live: problems.is_empty(), problems }
    }
}

impl Readiness {
    pub(super) async fn of(shared: &Shared) -> Self {
        let (phase, config) = (shared.view.phase(), shared.config());
        let mut problems = Vec::new();
        match &phase {
            Phase::Streaming | Phase::Resting { .. } => {}
            Phase::Preparing => problems.push(Finding::new("engine", "has not started to stream yet", None)),
            Phase::Waiting { problem, hint } => {
                problems.push(Finding::new("engine", problem, hint.clone()));
            }
            Phase::Stopping => problems.push(Finding::new("engine", "is stopping", None)),
        }
        let mut catching_up = Vec::new();
        if let Some(prepared) = shared.view.prepared() {
            problems.extend(prepared.progress.running().flat_map(|sink| tables_of(&sink, &prepared)));
        }
        for sink in shared.view.prepared().into_iter().flat_map(|prepared| prepared.progress.sinks()) {
            let behind = shared.observer.behind_bytes(sink.durable_lsn());
            match problem_of(&sink, behind, config.catch_up.max_wal) {
                Some(problem) => problems.push(problem),
                None => catching_up.extend(catching_up_of(&sink, behind)),
            }
        }
        if let Some(max) = config.admin.max_dead_letters {
            problems.extend(too_many_dead_letters(shared, max as u64).await);
        }
        Readiness { is_ready: problems.is_empty(), phase: phase.as_str(), problems, catching_up }
    }
}

/// The sinks that hold more dead letters than `max`. They are counted at the sinks, where an operator drops them.
async fn too_many_dead_letters(shared: &Shared, max: u64) -> Vec<Finding> {
    let status = shared.status.get(&shared.config(), COUNT_AGE_MAX).await;
    let counts = status.sinks.into_iter().filter_map(|sink| Some((sink.name, sink.dead_letters?)));
    let too_many = counts.filter(|(_, letters)| *letters > max);
    let finding = |(sink, letters): (String, u64)| {
        let hint = format!("walcast failed list --sink {sink}");
        Finding::new(
            format!("sink {sink}"),
            format!("holds {letters} dead letters, more than {max}"),
            Some(hint),
        )
    };
    too_many.map(finding).collect()
}

/// Why a sink is not right. One that catches up is right as long as nothing keeps it from that, and it holds back no more
/// WAL than it may.
fn problem_of(sink: &SinkProgress, behind: Option<u64>, max_wal: Option<u64>) -> Option<Finding> {
    let subject = format!("sink {}", sink.name);
    let status = Some("walcast status shows all sinks".to_owned());
    let state = sink.state();
    match &state {
        SinkState::Stopped(reason) | SinkState::Detached(reason) => {
            return Some(Finding::new(subject, format!("{}: {reason}", state.as_str()), status));
        }
        SinkState::Attached | SinkState::CatchingUp(_) => {}
    }
    if sink.is_paused() {
        let hint = format!("POST /sinks/{}/resume", sink.name);
        return Some(Finding::new(subject, "is paused", Some(hint)));
    }
    if let Some(failure) = sink.failure() {
        let message =
            format!("fails, and is tried again ({} times so far): {}", failure.attempts, failure.problem);
        return Some(Finding::new(subject, message, failure.hint));
    }
    if !matches!(state, SinkState::CatchingUp(_)) {
        return None;
    }
    if let Some(obstacle) = sink.obstacle() {
        return Some(Finding::new(subject, format!("cannot catch up: {obstacle}"), status));
    }
    let (behind, max) = (behind?, max_wal?);
    let message = format!("is {} behind, more than catch_up.max_wal ({})", ByteSize(behind), ByteSize(max));
    (behind > max).then(|| Finding::new(subject, message, status))
}

/// The tables of a sink that are not live.
fn tables_of(sink: &SinkProgress, prepared: &Prepared) -> Vec<Finding> {
    let finding = |(index, table): (usize, &PlannedTable)| {
        let state = sink.fills().state(index, sink.durable_lsn());
        if state == TableState::Live {
            return None;
        }
        let subject = format!("sink {}", sink.name);
        let name = table.source.plain();
        let failure = prepared.fills.failure(index);
        if let Some(stopped) = sink.fills().get(index).and_then(|fill| fill.stopped.as_ref()) {
            let mut message = format!("table {name} is stopped since {}: {}", stopped.since, stopped.reason);
            failure
                .iter()
                .for_each(|failure| message.push_str(&format!("; it cannot go on: {}", failure.problem)));
            let hint = failure.and_then(|failure| failure.hint).unwrap_or_else(|| stopped.hint.clone());
            return Some(Finding::new(subject, message, Some(hint)));
        }
        if let Some(failure) = failure {
            let message = format!("table {name} cannot be filled: {}", failure.problem);
            return Some(Finding::new(subject, message, failure.hint));
        }
        let (mut rows, mut word) = ((0, 0), state.as_str());
        if let Some(fill) = sink.fills().get(index) {
            (rows, word) = ((fill.rows, fill.rows_estimated), fill.shown(sink.durable_lsn()));
        }
        let message = match state {
            TableState::Incomplete => format!("table {name} was left empty"),
            _ => format!("table {name} is {word}: {} of about {} rows", rows.0, rows.1),
        };
        let hint = (state == TableState::Incomplete)
            .then(|| format!("walcast backfill --sink {} --table {name}", sink.name));
        Some(Finding::new(subject, message, hint))
    };
    prepared.plan.tables.iter().enumerate().filter_map(finding).collect()
}

/// What is to be said of a sink that catches up.
fn catching_up_of(sink: &SinkProgress, behind: Option<u64>) -> Option<Finding> {
    if !matches!(sink.state(), SinkState::CatchingUp(_)) {
        return None;
    }
    let message = match behind {
        Some(behind) => format!("is catching up, {} behind", ByteSize(behind)),
        None => "is catching up".to_owned(),
    };
    Some(Finding::new(format!("sink {}", sink.name), message, None))
}

/// Whether the caller may see more than yes or no. Probes show no secret.
fn sees_all(shared: &Shared, peer: SocketAddr, headers: &HeaderMap) -> Result<bool, Problem> {
    Ok(shared.gate.look(peer.ip(), headers)? == Shown::Secret || !shared.config().admin.protect_reads)
}

fn status(is_well: bool) -> StatusCode {
    if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Whether the engine moves
///
/// 503 when the slot or a sink has not moved for `[admin] stall_timeout` although there is something to do: a restart
/// may help. A region that fails by itself is not meant; that is `/readyz`.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    responses((status = 200, description = "It moves, or has nothing to do", body = Liveness), (status = 503, description = "Something stands still", body = Liveness))
)]
pub(super) async fn livez(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Liveness>), Problem> {
    let mut liveness = Liveness::of(&shared);
    if !sees_all(&shared, peer, &headers)? {
        liveness.problems.clear();
    }
    Ok((status(liveness.is_live), Json(liveness)))
}

/// Whether every region is right
///
/// 200 when the engine streams and every sink is attached, or catching up within `[catch_up] max_wal`, and neither
/// failing nor paused. The body says why not, and who is catching up.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses((status = 200, description = "Every region is right", body = Readiness), (status = 503, description = "Something is not right", body = Readiness))
)]
pub(super) async fn readyz(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Readiness>), Problem> {
    let mut readiness = Readiness::of(&shared).await;
    if !sees_all(&shared, peer, &headers)? {
        readiness.problems.clear();
        readiness.catching_up.clear();
    }
    Ok((status(readiness.is_ready), Json(readiness)))
}

/// The health in a few lines of text.
pub(super) async fn text(shared: &Shared) -> String {
    let (liveness, readiness) = (Liveness::of(shared), Readiness::of(shared).await);
    let word = match (liveness.is_live, readiness.is_ready) {
        (true, true) => "ready",
        (true, false) => "not ready",
        (false, _) => "stalled",
    };
    let mut text = format!("walcast {}: {}, {word}\n", env!("CARGO_PKG_VERSION"), readiness.phase);
    for sink in shared.view.prepared().into_iter().flat_map(|prepared| prepared.progress.sinks()) {
        let lsn = sink.durable_lsn();
        let behind = shared.observer.behind(lsn);
        let lag = behind.map_or_else(String::new, |behind| format!(", {} s behind", behind.as_secs()));
        text.push_str(&format!("  {}: {} at {lsn}{lag}\n", sink.name, sink_word(&sink)));
    }
    let findings = liveness.problems.into_iter().chain(readiness.problems).chain(readiness.catching_up);
    for Finding { subject, message, hint } in findings {
        text.push_str(&format!("{subject} {message}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!(" hint: {hint}\n"));
        }
    }
    text
}

/// A sink's state in the engine, with what is no state of its own: `paused` and `failing`.
pub(super) fn sink_word(sink: &SinkProgress) -> &'static str {
    match sink.state() {
        SinkState::Attached | SinkState::CatchingUp(_) if sink.is_paused() => "paused",
        SinkState::Attached | SinkState::CatchingUp(_) if sink.failure().is_some() => "failing",
        state => state.as_str(),
    }
}
