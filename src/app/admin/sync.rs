//! `POST /sync` and `POST /webhook`: hastens the regions to where the source is now, and waits for them in a job. What
//! takes part in no publication moves them too, at once instead of with the next idle position.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::sync::{SemaphorePermit, watch};
use utoipa::IntoParams;

use super::Shared;
use super::answers::{JobAnswers, SyncAnswers};
use super::extract::Parameters;
use super::problem::Problem;
use super::wait;
use crate::Lsn;
use crate::app::jobs::{Job, JobKind, JobProgress, JobState, JobTarget, Running};
use crate::app::source::Source;
use crate::capture::catalog;
use crate::error::{Error, Result as SourceResult};
use crate::fanout::progress::SinkProgress;

/// How long a job watches. The engine goes on without it, and another job may follow.
const JOB_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the source may take to say where it is.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a job looks at what it waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Whether to wait, and how long.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Sync {
    /// Whether to answer only once the job has ended.
    #[serde(default)]
    wait: bool,
    /// How long to wait at most: `500ms`, `10s` (the default), up to `60s`. The job goes on after that.
    timeout: Option<String>,
}

/// What is answered: a job, where it is shown.
pub(super) type Begun = (StatusCode, HeaderMap, Json<Job>);

/// Bring every region up to date now
///
/// Takes the source's position and ends what an idle stream, a pause after a failure or the schedule would wait for. The
/// job is done when every region holds that position. One at a time: while one runs, the position is noted all the same,
/// and the answer names the job that runs.
#[utoipa::path(
    post,
    path = "/sync",
    tag = "steering",
    params(Sync),
    security(("signature" = []), ("bearer" = [])),
    responses(JobAnswers, SyncAnswers)
)]
pub(super) async fn sync(
    State(shared): State<Arc<Shared>>,
    Parameters(parameters): Parameters<Sync>,
) -> Result<Begun, Problem> {
    begin(shared, parameters).await
}

/// The same, for whatever calls when something was written
///
/// The body is not looked at.
#[utoipa::path(
    post,
    path = "/webhook",
    tag = "steering",
    params(Sync),
    security(("signature" = []), ("bearer" = [])),
    responses(JobAnswers, SyncAnswers)
)]
pub(super) async fn webhook(
    State(shared): State<Arc<Shared>>,
    Parameters(parameters): Parameters<Sync>,
) -> Result<Begun, Problem> {
    begin(shared, parameters).await
}

/// The permission to wait for a job, and how long; `None` where the request does not.
pub(super) type Waiting<'a> = Option<(SemaphorePermit<'a>, Duration)>;

impl Sync {
    /// Whether to wait.
    pub(super) fn begin<'a>(&self, shared: &'a Shared) -> Result<Waiting<'a>, Problem> {
        let limit = wait::limit(self.timeout.as_deref())?;
        match self.wait {
            true => Ok(Some((wait::permit(shared)?, limit))),
            false => Ok(None),
        }
    }
}

/// The job, once it has ended or the time to wait is over: then it goes on.
pub(super) async fn wait_for(waiting: Waiting<'_>, mut job: watch::Receiver<Job>) -> Job {
    if let Some((_permit, limit)) = waiting {
        let ended = job.wait_for(|job| job.state != JobState::Running);
        let _ = tokio::time::timeout(limit, ended).await;
    }
    let job = job.borrow();
    job.clone()
}

async fn begin(shared: Arc<Shared>, parameters: Sync) -> Result<Begun, Problem> {
    let waiting = parameters.begin(&shared)?;
    // Before anything is asked that may take long, or fail because the source is away.
    shared.demand.wake();
    shared.sinks(None)?;
    let target = tokio::time::timeout(SOURCE_TIMEOUT, position(&shared))
        .await
        .map_err(|_| Problem::timeout("the source does not say where it is"))??;
    shared.demand.hasten(target);
    let running = begun(&shared, JobKind::Sync, JobTarget::default())?;
    let job = running.watch();
    tokio::spawn(look(shared.clone(), running, target));
    answer(wait_for(waiting, job).await)
}

/// Where the source's WAL is.
async fn position(shared: &Shared) -> SourceResult<Lsn> {
    let client = Source::new(&shared.config().source)?.connect().await?;
    Ok(catalog::read_server(&client).await?.current_wal_lsn)
}

/// Begins a job, or says which is in the way.
pub(super) fn begun(shared: &Shared, kind: JobKind, target: JobTarget) -> Result<Running, Problem> {
    shared.jobs.begin(kind, target).map_err(|id| {
        Problem::conflict(format!("job {id} does this already"), format!("/jobs/{id}"))
            .hint(format!("GET /jobs/{id} says how far it is"))
    })
}

/// What is answered for a job as it is now.
pub(super) fn answer(job: Job) -> Result<Begun, Problem> {
    let status = match job.state {
        JobState::Running => StatusCode::ACCEPTED,
        JobState::Done => StatusCode::OK,
        JobState::Failed => {
            let problem = Problem::unavailable(job.outcome.unwrap_or_default());
            return Err(match job.hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
    };
    let location = HeaderValue::try_from(format!("/jobs/{}", job.id))
        .map_err(|error| Problem::from(Error::bug("the place of a job").because(error)))?;
    Ok((status, HeaderMap::from_iter([(header::LOCATION, location)]), Json(job)))
}

/// Waits until every sink that there is then holds `target`.
async fn look(shared: Arc<Shared>, running: Running, target: Lsn) {
    let started = tokio::time::Instant::now();
    loop {
        let sinks = shared.view.prepared().map_or_else(Vec::new, |prepared| prepared.progress.sinks());
        let waiting: Vec<&Arc<SinkProgress>> =
            sinks.iter().filter(|sink| sink.durable_lsn() < target).collect();
        let done = (sinks.len() - waiting.len()) as u64;
        running.set_progress(JobProgress { done, total: Some(sinks.len() as u64), unit: "sinks" });
        let Some(next) = waiting.iter().find(|sink| sink.is_running()) else {
            return match &waiting[..] {
                [] => running.done(format!("every sink is at {target}")),
                never => running.failed(&out_of_action(never)),
            };
        };
        if started.elapsed() > JOB_TIMEOUT {
            let error = Error::transient(format!(
                "not at {target} within {} s: {}",
                JOB_TIMEOUT.as_secs(),
                waiting.iter().map(|sink| sentence(sink)).collect::<Vec<_>>().join(", ")
            ));
            return running.failed(&error.hint("GET /readyz says why; what is missing is still on its way"));
        }
        running.set_waits_for(waiting.iter().map(|sink| sentence(sink)).collect());
        let _ = tokio::time::timeout(LOOK_INTERVAL, next.reach(target)).await;
    }
}

fn sentence(sink: &Arc<SinkProgress>) -> String {
    format!("sink {} ({}) to leave {}", sink.name, super::health::sink_word(sink), sink.durable_lsn())
}

fn out_of_action(sinks: &[&Arc<SinkProgress>]) -> Error {
    let each = |sink: &&Arc<SinkProgress>| {
        format!("sink {} is {} and stays at {}", sink.name, sink.state().as_str(), sink.durable_lsn())
    };
    let sinks: Vec<String> = sinks.iter().map(each).collect();
    Error::halt(sinks.join(", ")).hint("GET /status says why")
}
