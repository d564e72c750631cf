//! `POST /backfill` and `POST /nuke`: tables filled once more, or made anew, as jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Shared;
use super::answers::{JobAnswers, NamingAnswers};
use super::extract::Body;
use super::problem::Problem;
use super::sync::{Begun, answer, begun};
use crate::app::bookmark::{self, WayBack};
use crate::app::fill::request::{FillRequest, Refill};
use crate::app::jobs::{JobKind, JobProgress, JobTarget, Running};
use crate::app::source::Source;
use crate::app::view::{EngineView, Prepared};
use crate::error::{Error, Result};
use crate::fanout::fill::TableState;
use crate::fanout::progress::{SinkProgress, State as SinkState};

/// How often a job looks how far the tables are.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often an engine is asked that may just be followed by another one, which takes no time, and how soon again.
const HAND_IN_ATTEMPTS: u32 = 100;
const HAND_IN_INTERVAL: Duration = Duration::from_millis(20);

/// What is to be filled.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Which {
    /// `all`, `db` or `table`.
    #[serde(rename = "type")]
    what: Option<What>,
    /// The sink: with `db`, and with `table` unless the table of every sink is meant.
    db: Option<String>,
    /// The table as `schema.json` names it: with `table`.
    table: Option<String>,
    /// For a backfill with `table`: only rows that meet this condition, in the source's SQL.
    #[serde(rename = "where")]
    condition: Option<String>,
    /// For a nuke: whether the tables are filled again. Default true.
    refill: Option<bool>,
    /// For a nuke: go on although there is no way back to what a D1 database holds. Default false.
    yes: Option<bool>,
}

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// Every table of every sink.
    All,
    /// Every table of one sink.
    Db,
    /// One table, of one sink or of all.
    Table,
}

/// Fill tables once more
///
/// Rows are written over those that are there, while the stream flows.
#[utoipa::path(
    post,
    path = "/backfill",
    tag = "steering",
    request_body = Which,
    security(("signature" = []), ("bearer" = [])),
    responses(JobAnswers, NamingAnswers)
)]
pub(super) async fn backfill(
    State(shared): State<Arc<Shared>>,
    Body(which): Body<Which>,
) -> Result<Begun, Problem> {
    if which.refill.is_some() {
        return Err(Problem::bad_request("refill means nothing in a backfill"));
    }
    if which.yes.is_some() {
        return Err(Problem::bad_request("yes means nothing in a backfill"));
    }
    begin(&shared, JobKind::Backfill, which).await
}

/// Drop tables, make them anew and fill them
///
/// Only what walcast made. Until a table is full again, its readers see fewer rows. The job says how each D1 database is
/// brought back to what it was; where there is no way back, as through the companion Worker, `yes` has to be true.
#[utoipa::path(
    post,
    path = "/nuke",
    tag = "steering",
    request_body = Which,
    security(("signature" = []), ("bearer" = [])),
    responses(JobAnswers, NamingAnswers)
)]
pub(super) async fn nuke(
    State(shared): State<Arc<Shared>>,
    Body(which): Body<Which>,
) -> Result<Begun, Problem> {
    if which.condition.is_some() {
        return Err(Problem::bad_request("where means nothing in a nuke"));
    }
    begin(&shared, JobKind::Nuke, which).await
}

async fn begin(shared: &Arc<Shared>, kind: JobKind, which: Which) -> Result<Begun, Problem> {
    let Which { what, db, table, condition, refill, yes } = which;
    let fits = match what {
        Some(What::All) => db.is_none() && table.is_none(),
        Some(What::Db) => db.is_some() && table.is_none(),
        Some(What::Table) => table.is_some(),
        None => return Err(Problem::bad_request("type is missing: all, db or table")),
    };
    if !fits || condition.is_some() && what != Some(What::Table) {
        return Err(Problem::bad_request("type, db and table do not fit together"));
    }
    // Refuses a name that is none.
    shared.sinks(db.as_deref())?;
    let prepared = shared.prepared()?;
    let asked = Refill {
        sinks: db.iter().cloned().collect(),
        tables: table.iter().cloned().collect(),
        clears: kind == JobKind::Nuke,
        is_left_empty: refill == Some(false),
        filter: condition,
    };
    let request = resolve(&asked, &prepared).map_err(|error| Problem::not_found(error.chain()))?;
    if let Some(away) =
        named(&prepared, &request).into_iter().find(|sink| sink.state() != SinkState::Attached)
    {
        let state = away.state().as_str();
        return Err(Problem::conflict(format!("sink {} is {state}", away.name), "/status".to_owned())
            .hint("a sink is filled while it takes the main stream; GET /status says what keeps it"));
    }
    request
        .check(prepared.progress.sinks().iter())
        .map_err(|error| Problem::conflict(error.chain(), "/status".to_owned()))?;
    if request.filter.is_some() {
        let client = Source::new(&shared.config().source)?.connect().await?;
        let checked = request.check_condition(&client, &prepared.plan).await;
        checked.map_err(|error| Problem::refused(&error))?;
    }
    let running = begun(shared, kind, JobTarget { sink: db, table })?;
    if kind == JobKind::Nuke {
        match ways_back(shared, &request.sinks, yes == Some(true)).await {
            Ok(ways_back) => running.set_ways_back(ways_back),
            Err((problem, error)) => {
                running.failed(&error);
                return Err(problem);
            }
        }
    }
    let running = hand_in(&shared.view, &asked, running).await?;
    let job = running.job();
    tokio::spawn(watch(shared.clone(), asked, running));
    answer(job)
}

/// Asks the engine that there is now: the configuration may have been read again meanwhile, or just be. Where that comes
/// to nothing the job has failed, and says why.
async fn hand_in(view: &EngineView, asked: &Refill, running: Running) -> Result<Running, Problem> {
    for _ in 0..HAND_IN_ATTEMPTS {
        let Some(now) = view.prepared() else { break };
        match resolve(asked, &now) {
            Ok(request) => match now.fills.request(request) {
                true => return Ok(running),
                false => tokio::time::sleep(HAND_IN_INTERVAL).await,
            },
            Err(error) => {
                running.failed(&error);
                return Err(Problem::not_found(error.chain()));
            }
        }
    }
    let error = Error::transient("one engine follows another").hint("ask again");
    running.failed(&error);
    Err(Problem::unavailable(error.chain()).hint("ask again"))
}

/// How each database is brought back. `is_sure`: also where there is no way.
async fn ways_back(
    shared: &Arc<Shared>,
    sinks: &[String],
    is_sure: bool,
) -> Result<Vec<String>, (Problem, Error)> {
    let (config, sinks) = (shared.config(), sinks.to_vec());
    let asked = tokio::task::spawn_blocking(move || bookmark::ways_back(&config, &sinks)).await;
    let asked = asked.unwrap_or_else(|error| Err(Error::bug("asking for bookmarks").because(error)));
    let ways = asked.map_err(|error| {
        let copy = Error::new(error.kind(), error.chain());
        (Problem::from(error), copy)
    })?;
    let sentences: Vec<String> = ways.iter().map(WayBack::sentence).collect();
    match ways.iter().zip(&sentences).find(|(way, _)| way.command.is_none() && !is_sure) {
        Some((_, sentence)) => {
            let hint = "ask again with \"yes\": true";
            let problem = Problem::conflict(sentence.clone(), "/status".to_owned()).hint(hint);
            Err((problem, Error::halt(sentence.clone()).hint(hint)))
        }
        None => {
            sentences.iter().for_each(|sentence| tracing::warn!("{sentence}"));
            Ok(sentences)
        }
    }
}

/// What is asked for, by what the engine has now.
fn resolve(asked: &Refill, prepared: &Prepared) -> Result<FillRequest> {
    let sinks = prepared.progress.sinks();
    asked.resolve(&prepared.plan, sinks.iter().map(|sink| sink.name.as_str()))
}

fn named(prepared: &Prepared, request: &FillRequest) -> Vec<Arc<SinkProgress>> {
    let sinks = prepared.progress.sinks().into_iter();
    sinks.filter(|sink| request.sinks.contains(&sink.name)).collect()
}

/// Waits until every table is there, or cannot be.
async fn watch(shared: Arc<Shared>, asked: Refill, running: Running) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        // A reload may have taken away what was asked for, or put it elsewhere.
        let Some(prepared) = shared.view.prepared() else { return };
        let request = match resolve(&asked, &prepared) {
            Ok(request) => request,
            Err(error) => return running.failed(&error),
        };
        let (mut rows, mut estimated, mut waits) = (0, 0, Vec::new());
        for sink in named(&prepared, &request) {
            if !sink.is_running() {
                let error = Error::halt(format!("sink {} is {}", sink.name, sink.state().as_str()));
                return running.failed(&error.hint("GET /status says why"));
            }
            let (fills, position) = (sink.fills(), sink.durable_lsn());
            for &table in &request.tables {
                let name = prepared.plan.tables[table].source.plain();
                let Some(fill) = fills.get(table) else { continue };
                rows += fill.rows;
                estimated += fill.rows_estimated.max(fill.rows);
                match fill.state(position) {
                    TableState::Live | TableState::Incomplete => {}
                    state => match prepared.fills.failure(table) {
                        Some(failure) => {
                            let error = Error::halt(format!("table {name}: {}", failure.problem));
                            return running.failed(&match failure.hint {
                                Some(hint) => error.hint(hint),
                                None => error,
                            });
                        }
                        None => {
                            waits.push(format!("table {name} of sink {} ({})", sink.name, state.as_str()))
                        }
                    },
                }
            }
        }
        running.set_progress(JobProgress { done: rows, total: Some(estimated), unit: "rows" });
        if waits.is_empty() && !prepared.fills.has_pending() {
            let outcome = [vec![format!("{rows} rows written")], running.job().ways_back].concat();
            return running.done(outcome.join("; "));
        }
        running.set_waits_for(waits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::fill::view::FillView;
    use crate::app::jobs::{JobState, Jobs};
    use crate::capture::slot::SourceIdentity;
    use crate::encode::plan::Plan;
    use crate::fanout::progress::Progress;

    fn shown(view: &EngineView) -> Arc<FillView> {
        let identity = SourceIdentity {
            system_identifier: 7,
            timeline: 1,
            slot: "walcast".to_owned(),
            database: "app".to_owned(),
        };
        let (fills, plan) = (Arc::<FillView>::default(), Arc::new(Plan::default()));
        let progress = Progress::new(vec![SinkProgress::new("eu")]);
        view.set_prepared(Prepared { progress, identity, plan, fills: fills.clone(), budgets: Vec::new() });
        fills
    }

    #[tokio::test]
    async fn a_job_whose_table_a_reload_has_taken_out_has_failed_and_says_why() {
        let (view, jobs) = (EngineView::default(), Jobs::default());
        let fills = shown(&view);
        let running = jobs.begin(JobKind::Nuke, JobTarget::default()).unwrap();
        let asked = Refill { tables: vec!["orders".to_owned()], ..Refill::default() };
        assert!(hand_in(&view, &asked, running).await.is_err() && !fills.has_pending());
        let job = jobs.get(1).unwrap();
        assert_eq!(job.state, JobState::Failed);
        assert_eq!(job.outcome.as_deref(), Some("there is no table orders in schema.json"));
    }

    #[tokio::test]
    async fn what_is_asked_while_one_engine_follows_another_is_asked_of_the_one_that_follows() {
        let (view, jobs) = (EngineView::default(), Jobs::default());
        let (before, taken_over) = (shown(&view), FillView::default());
        before.hand_over(&taken_over, Some);
        let running = jobs.begin(JobKind::Backfill, JobTarget::default()).unwrap();
        let asked = Refill::default();
        let asking = hand_in(&view, &asked, running);
        let following = async {
            tokio::task::yield_now().await;
            shown(&view)
        };
        let (handed_in, after) = tokio::join!(asking, following);
        assert!(handed_in.is_ok() && after.has_pending());
        assert!(!before.has_pending() && !taken_over.has_pending());
    }
}
