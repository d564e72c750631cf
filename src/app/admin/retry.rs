//! `POST /retry-failed`: dead letters once more, as a job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::answers::{JobAnswers, NamingAnswers};
use super::extract::Body;
use super::problem::Problem;
use super::sync::{Begun, answer, begun};
use crate::app::fill::request::RowRequest;
use crate::app::jobs::{JobKind, JobProgress, JobTarget, Running};
use crate::app::retry::{self, RowToWrite, Which};
use crate::app::source::Source;
use crate::config::SinkTarget;
use crate::encode::plan::Plan;
use crate::error::{Error, Result as JobResult};
use crate::fanout::fill::OwedKey;

/// How long a job may take.
const JOB_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the engine may take to read rows again. What comes later is closed by the next retry.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Which dead letters; all without a body.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RetryFailed {
    /// Those of this sink.
    sink: Option<String>,
    /// Those of this table, by its name at the source or in the regions.
    table: Option<String>,
    /// Those of the row with this key: a text or a number, or a list of them where the key has several columns.
    key: Option<Value>,
}

/// Look at dead letters once more
///
/// Each row is read again, at the source and in the region; where it is right by now, the letter goes. Where it is not,
/// but could be, the engine reads it anew for the region, in the order of the stream. What is left, and why, the
/// job's outcome says.
#[utoipa::path(
    post,
    path = "/retry-failed",
    tag = "rows",
    request_body(content = Option<RetryFailed>, description = "Which; nothing means all"),
    security(("signature" = []), ("bearer" = [])),
    responses(JobAnswers, NamingAnswers)
)]
pub(super) async fn retry_failed(
    State(shared): State<Arc<Shared>>,
    Body(body): Body<RetryFailed>,
) -> Result<Begun, Problem> {
    let RetryFailed { sink, table, key } = body;
    // Refuses a name that is none.
    shared.sinks(sink.as_deref())?;
    let plan = shared.prepared()?.plan.clone();
    if table.as_ref().is_some_and(|name| retry::table_of(&plan, name).is_err()) {
        return Err(Problem::not_found("schema.json has no such table"));
    }
    if key.is_some() && table.is_none() {
        return Err(Problem::bad_request("a key needs a table"));
    }
    let key = key.map(texts).transpose()?;
    let target = JobTarget { sink: sink.clone(), table: table.clone() };
    let running = begun(&shared, JobKind::RetryFailed, target)?;
    let job = running.job();
    tokio::spawn(run(shared.clone(), plan, Which { sink, table, key }, running));
    answer(job)
}

/// The parts of a key as the source is asked for them.
fn texts(key: Value) -> Result<Vec<String>, Problem> {
    let text = |part: Value| match part {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(Problem::bad_request("a key is a text, a number, or a list of such")),
    };
    match key {
        Value::Array(parts) => parts.into_iter().map(text).collect(),
        part => text(part).map(|text| vec![text]),
    }
}

async fn run(shared: Arc<Shared>, plan: Arc<Plan>, which: Which, running: Running) {
    let work = tokio::time::timeout(JOB_TIMEOUT, retry(&shared, &plan, &which, &running));
    let done = work.await.unwrap_or_else(|_| {
        Err(Error::transient(format!("not done within {} s", JOB_TIMEOUT.as_secs())).hint("ask once more"))
    });
    match done {
        Ok(sentence) => running.done(sentence),
        Err(error) => running.failed(&error),
    }
}

async fn retry(shared: &Shared, plan: &Arc<Plan>, which: &Which, running: &Running) -> JobResult<String> {
    let config = shared.config();
    let client = Source::new(&config.source)?.connect().await?;
    let seen = |done, total| {
        running.set_progress(JobProgress { done, total: Some(total), unit: "dead-letters" });
    };
    let mut retried = retry::retry(&config, plan, &client, which, seen).await?;
    if write(shared, plan, &retried.to_write, running).await {
        let closed = retried.closed;
        retried = retry::retry(&config, plan, &client, which, seen).await?;
        retried.closed += closed;
    }
    let sentence = retried.sentence();
    match retried.hint() {
        None => Ok(sentence),
        Some(hint) => Err(Error::halt(sentence).hint(hint)),
    }
}

/// Lets the engine read the rows for the sinks that can be filled, and waits until they are there; false if none can.
async fn write(shared: &Shared, plan: &Arc<Plan>, rows: &[RowToWrite], running: &Running) -> bool {
    // Tables are known by their place in the plan, which a reload may have replaced.
    let current = || shared.view.prepared().filter(|prepared| Arc::ptr_eq(&prepared.plan, plan));
    let (Some(prepared), config) = (current(), shared.config()) else { return false };
    let can_be_filled = |row: &&RowToWrite| {
        let sink = config.sinks.iter().find(|sink| sink.name.as_str() == row.sink);
        sink.is_some_and(|sink| !matches!(sink.target, SinkTarget::Null))
    };
    let rows: Vec<&RowToWrite> = rows.iter().filter(can_be_filled).collect();
    let mut requests: BTreeMap<(&str, usize), Vec<OwedKey>> = BTreeMap::new();
    for row in &rows {
        requests.entry((&row.sink, row.index)).or_default().push(row.owed.clone());
    }
    for ((sink, table), rows) in requests {
        if !prepared.fills.request_rows(RowRequest { sinks: vec![sink.to_owned()], table, rows }) {
            // As where a reload came before: what is still there is tried again by who asks again.
            return false;
        }
    }
    let is_there = |row: &RowToWrite| {
        let sink = prepared.progress.find(&row.sink);
        sink.is_none_or(|sink| {
            let fills = sink.fills();
            !fills.get(row.index).is_some_and(|fill| fill.owed.contains(&row.owed))
        })
    };
    let until = Instant::now() + WRITE_TIMEOUT;
    while Instant::now() < until && current().is_some() {
        let missing = rows.iter().filter(|row| !is_there(row)).count();
        if missing == 0 && !prepared.fills.has_pending() {
            break;
        }
        running.set_waits_for(vec![format!("{missing} rows to be read again")]);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    running.set_waits_for(Vec::new());
    !rows.is_empty()
}
