//! `POST /reload`: the configuration is read once more. One that will not do is the answer; one that does comes into
//! force in a job.

use std::sync::Arc;

use axum::extract::State;
use tokio::sync::oneshot;

use super::Shared;
use super::answers::JobAnswers;
use super::extract::Parameters;
use super::problem::Problem;
use super::sync::{Begun, Sync, answer, begun, wait_for};
use crate::app::jobs::{JobKind, JobTarget};

/// Read walcast.toml and schema.json again
///
/// Both are checked, also against the source, before anything is touched: with a mistake in either the answer says what
/// is wrong, and the old configuration stays in force whole. Otherwise sinks come and go while the others stream on;
/// other settings and tables begin the pipeline anew, from its checkpoints. `[admin]` names and secret, `[log]`, the slot
/// and another database take a restart.
#[utoipa::path(
    post,
    path = "/reload",
    tag = "steering",
    params(Sync),
    security(("signature" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "The new configuration is in force (with `wait`)", body = crate::app::jobs::Job),
        (status = 400, description = "A file or a parameter is wrong, or the change takes a restart", body = Problem),
        JobAnswers,
        (status = 429, description = "Too many requests wait", body = Problem),
        (status = 503, description = "The source cannot be asked, or (with `wait`) the old configuration is in force again", body = Problem),
    )
)]
pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    Parameters(parameters): Parameters<Sync>,
) -> Result<Begun, Problem> {
    let waiting = parameters.begin(&shared)?;
    let running = begun(&shared, JobKind::Reload, JobTarget::default())?;
    let (job, reloads) = (running.watch(), shared.reloads.clone());
    let (refused, refusal) = oneshot::channel();
    // By itself, because whoever asks may hang up.
    tokio::spawn(async move {
        let outcome = match reloads.ask().await {
            Ok(accepted) => {
                drop(refused);
                accepted.done().await
            }
            Err(error) => {
                running.failed(&error);
                let _ = refused.send(error);
                return;
            }
        };
        match outcome {
            Ok(outcome) => running.done(outcome),
            Err(error) => running.failed(&error),
        }
    });
    match refusal.await {
        Ok(error) => Err(Problem::refused(&error)),
        Err(_) => answer(wait_for(waiting, job).await),
    }
}
