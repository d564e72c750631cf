//! `POST /sinks/{name}/pause` and `/resume`: leaves one region as it is for a while. The slot keeps what it lacks; once its
//! queue is full, the other regions go on without it, and a copy of the slot keeps that.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::answers::SinkAnswers;
use super::extract::Segments;
use super::health::sink_word;
use super::problem::Problem;

/// A sink after what was asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct Steered {
    /// Its name.
    sink: String,
    /// `paused`, `attached`, `catching-up`, `failing`, `stopped` or `detached`.
    state: &'static str,
    /// Its checkpoint.
    lsn: String,
}

/// Pause a sink
///
/// It is applied nothing until it is resumed or walcast starts anew, and the slot keeps what it lacks. A batch that is
/// being applied is finished.
#[utoipa::path(
    post,
    path = "/sinks/{name}/pause",
    tag = "steering",
    params(("name" = String, Path, description = "The sink")),
    security(("signature" = []), ("bearer" = [])),
    responses((status = 200, description = "It is done", body = Steered), SinkAnswers)
)]
pub(super) async fn pause(
    State(shared): State<Arc<Shared>>,
    Segments(name): Segments<String>,
) -> Result<Json<Steered>, Problem> {
    set_paused(&shared, &name, true)
}

/// Resume a sink
#[utoipa::path(
    post,
    path = "/sinks/{name}/resume",
    tag = "steering",
    params(("name" = String, Path, description = "The sink")),
    security(("signature" = []), ("bearer" = [])),
    responses((status = 200, description = "It is done", body = Steered), SinkAnswers)
)]
pub(super) async fn resume(
    State(shared): State<Arc<Shared>>,
    Segments(name): Segments<String>,
) -> Result<Json<Steered>, Problem> {
    set_paused(&shared, &name, false)
}

fn set_paused(shared: &Shared, name: &str, is_paused: bool) -> Result<Json<Steered>, Problem> {
    let sinks = shared.sinks(Some(name))?;
    let sink = sinks.first().ok_or_else(|| Problem::not_found("there is no sink of that name"))?;
    if sink.is_paused() != is_paused {
        sink.set_paused(is_paused);
        tracing::info!(sink = sink.name, "{}", if is_paused { "paused" } else { "resumed" });
    }
    Ok(Json(Steered { sink: sink.name.clone(), state: sink_word(sink), lsn: sink.durable_lsn().to_string() }))
}
