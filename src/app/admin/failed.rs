//! `GET /failed`: the dead letters, page by page.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Shared;
use super::extract::Parameters;
use super::problem::Problem;
use crate::app::d1::Transports;
use crate::app::letters::{self, Page};
use crate::error::{Error, Kind};
use crate::sink::reading::Letters;

/// Dead letters on a page where the request does not say.
const LIMIT: usize = 100;
/// The most on a page.
const LIMIT_MAX: usize = 1_000;

/// Which dead letters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Failed {
    /// Of this sink; without it, of every sink.
    sink: Option<String>,
    /// Of this table, as the sinks name it.
    table: Option<String>,
    /// Behind the page whose `next` this is.
    after: Option<String>,
    /// How many at most: 1 to 1000, 100 without it.
    limit: Option<usize>,
}

/// Rows that a region did not take
///
/// Each with its key and the reason. A page at a time, the oldest first.
#[utoipa::path(
    get,
    path = "/failed",
    tag = "rows",
    params(Failed),
    security(("signature" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "A page", body = Page),
        (status = 400, description = "A parameter is wrong", body = Problem),
        (status = 401, description = "The secret is missing or wrong", body = Problem),
        (status = 404, body = Problem, description = "There is no such sink"),
    )
)]
pub(super) async fn failed(
    State(shared): State<Arc<Shared>>,
    Parameters(Failed { sink, table, after, limit }): Parameters<Failed>,
) -> Result<Json<Page>, Problem> {
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be from 1 to {LIMIT_MAX}")));
    }
    let which = Letters { target: table, ..Letters::default() };
    let config = shared.config();
    let page = tokio::task::spawn_blocking(move || {
        let sinks = letters::sinks(&config, sink.as_deref())
            .map_err(|error| Problem::not_found(error.to_string()))?;
        letters::page(&sinks, &Transports::new(&config), &which, after.as_deref(), limit).map_err(|error| {
            match error.kind() {
                Kind::Config => Problem::bad_request(error.to_string()),
                _ => Problem::from(error),
            }
        })
    });
    page.await.map_err(|error| Error::bug("reading dead letters").because(error))?.map(Json)
}
