//! The plan of a start. A table of `schema.json` that the source does not have as it says is an error, unless the sinks
//! have been fed exactly so: then it is the source that has changed, and only that table stops.
//! And what a sink keeps because of it.

use crate::Lsn;
use crate::app::replicas;
use crate::app::source::Survey;
use crate::config::Config;
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Result};
use crate::fanout::fill::{TableFill, TableState};
use crate::fanout::stop::Stopped;
use crate::sink::definition::Definition;
use crate::sink::replica::StoredTable;

/// Draws the plan.
///
/// # Errors
/// A configuration error where `schema.json` is not what the sinks were fed by, and does not fit the source.
pub(super) fn draw(config: &Config, schema: &SchemaFile, survey: &mut Survey) -> Result<Plan> {
    let error = match (survey.errors.is_empty(), Plan::new(schema, &survey.tables)) {
        (true, Ok(plan)) => return Ok(plan),
        (true, Err(error)) => error,
        (false, _) => survey.errors.remove(0),
    };
    let plan = Plan::draw_all(schema, &survey.tables);
    let unfit = |table: &&PlannedTable| table.problem.is_some();
    let fed = fed_tables(config);
    let is_fed = |table: &PlannedTable| {
        let definition = Definition::of(table).text();
        fed.iter().any(|fed| fed.target == table.target && fed.definition == definition)
    };
    match plan.tables.iter().filter(unfit).all(is_fed) {
        true => Ok(plan),
        false => Err(error),
    }
}

/// The tables of sinks that were fed, as far as these can be read.
fn fed_tables(config: &Config) -> Vec<StoredTable> {
    let replicas = replicas::read_all(config).into_iter().flatten();
    let fed = replicas.filter(|replica| replica.checkpoint.is_some()).flat_map(|replica| replica.tables);
    fed.filter(|table| table.fill.as_ref().is_none_or(|fill| !fill.is_left)).collect()
}

/// What a sink has to keep of a table at a start, where it is at `position` and keeps `fill`: that it is stopped, or where
/// its rows are from. `was_unpublished`: the publication did not have the table until now.
pub(super) fn settled(
    table: &PlannedTable,
    fill: Option<&TableFill>,
    position: Lsn,
    was_unpublished: bool,
) -> Option<TableFill> {
    let complete = TableFill::complete();
    let fill = fill.unwrap_or(&complete);
    let plain = table.source.plain();
    let stopped = |reason: String, hint: String, returns| {
        fill.stopped(&Stopped { reason, hint, since: position.max(fill.from), returns })
    };
    if let Some(problem) = &table.problem {
        let reason = format!("table {} does not fit schema.json any more: {problem}", table.source);
        let hint = format!(
            "undo what was changed and run `walcast backfill --table {plain}`, or correct schema.json (see `walcast \
             schema diff`) and start walcast again"
        );
        return stopped(reason, hint, false);
    }
    let by_itself = "it is filled anew by itself".to_owned();
    match fill.relation {
        Some(relation) if relation != table.oid.0 => {
            let reason = format!("table {} was dropped and created anew at the source", table.source);
            stopped(reason, by_itself, true)
        }
        _ if was_unpublished && fill.state(position) != TableState::Waiting => {
            stopped(format!("table {} was not in the publication", table.source), by_itself, true)
        }
        None if fill.stopped.is_none() && !fill.is_left => {
            Some(TableFill { relation: Some(table.oid.0), ..fill.clone() })
        }
        Some(_) | None => None,
    }
}

/// There is nothing to stream.
pub(super) fn nothing_fits() -> Error {
    Error::config("no table of schema.json fits the source, and there is no publication")
        .hint("walcast check lists what is wrong")
}
