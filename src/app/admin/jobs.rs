//! `GET /jobs` and `GET /jobs/{id}`: what runs, what it waits for, and what came of what has ended.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::extract::Segments;
use super::problem::Problem;
use crate::app::jobs::Job;

/// The jobs of this process.
#[derive(Serialize, ToSchema)]
pub(super) struct JobList {
    /// Every one that runs, and the last hundred that have ended; the newest first.
    jobs: Vec<Job>,
}

/// What runs, and what ran
#[utoipa::path(get, path = "/jobs", tag = "status", responses((status = 200, description = "The jobs", body = JobList)))]
pub(super) async fn jobs(State(shared): State<Arc<Shared>>) -> Json<JobList> {
    Json(JobList { jobs: shared.jobs.all() })
}

/// How far one job is
#[utoipa::path(
    get,
    path = "/jobs/{id}",
    tag = "status",
    params(("id" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "The job", body = Job),
        (status = 400, body = Problem, description = "That is no number"),
        (status = 404, body = Problem, description = "There is no such job, or it has been forgotten"),
    )
)]
pub(super) async fn job(
    State(shared): State<Arc<Shared>>,
    Segments(id): Segments<u64>,
) -> Result<Json<Job>, Problem> {
    let job = shared.jobs.get(id);
    job.map(Json).ok_or_else(|| Problem::not_found("there is no such job").hint("GET /jobs lists them"))
}
