//! `GET /status/{table}/{key}`: where is my row.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::extract::Segments;
use super::problem::Problem;
use crate::app::source::Source;
use crate::app::trace::{self, Trace};
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::Kind;

/// Where is my row
///
/// The source's row in the regions' form, each region's row, whether they are equal, and what the regions did not take
/// of it. What `walcast trace` prints.
#[utoipa::path(
    get,
    path = "/status/{table}/{key}",
    tag = "rows",
    params(
        ("table" = String, Path, description = "The table, as schema.json names it"),
        ("key" = String, Path, description = "The row's key; of several columns a JSON array of their values as text"),
    ),
    security(("signature" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "Where it is", body = Trace),
        (status = 400, body = Problem, description = "The key has another form"),
        (status = 401, description = "The secret is missing or wrong", body = Problem),
        (status = 404, body = Problem, description = "There is no such table"),
        (status = 503, body = Problem, description = "The source cannot be reached"),
    )
)]
pub(super) async fn row(
    State(shared): State<Arc<Shared>>,
    Segments((table, key)): Segments<(String, String)>,
) -> Result<Json<Trace>, Problem> {
    let prepared = shared.prepared()?;
    let (plan, config) = (&prepared.plan, shared.config());
    let key = key_parts(planned(plan, &table)?, &key)?;
    let client = Source::new(&config.source)?.connect().await?;
    let traced = trace::trace(&config, plan, &client, &table, &key).await;
    traced.map(Json).map_err(|error| match error.kind() {
        Kind::Config => Problem::bad_request(error.to_string()),
        _ => Problem::from(error),
    })
}

/// The table that a request names.
pub(super) fn planned<'a>(plan: &'a Plan, name: &str) -> Result<&'a PlannedTable, Problem> {
    let index = plan.named(name).ok_or_else(|| Problem::not_found("schema.json has no such table"))?;
    Ok(&plan.tables[index])
}

/// The values of a key, in key order, as a request writes it.
pub(super) fn key_parts(table: &PlannedTable, key: &str) -> Result<Vec<String>, Problem> {
    let parts = match table.key.len() {
        1 => vec![key.to_owned()],
        _ => serde_json::from_str(key)
            .map_err(|_| Problem::bad_request("a key of several columns is a JSON array of texts"))?,
    };
    if parts.len() != table.key.len() {
        let names: Vec<&str> = table.key_columns().map(|column| &*column.source).collect();
        let (table, names) = (table.source.plain(), names.join(", "));
        return Err(Problem::bad_request(format!(
            "the key of table {table} is ({names}): {} given",
            parts.len()
        )));
    }
    Ok(parts)
}
