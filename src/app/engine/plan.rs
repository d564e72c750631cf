//! The plan of a start. A table of `schema.json` that the source does not have as it says is an error, unless the sinks
//! have been fed exactly so: then it is the source that has changed, and only that table stops.

use crate::app::replicas;
use crate::app::source::Survey;
use crate::config::Config;
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Result};
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

/// There is nothing to stream.
pub(super) fn nothing_fits() -> Error {
    Error::config("no table of schema.json fits the source, and there is no publication")
        .hint("walcast check lists what is wrong")
}
