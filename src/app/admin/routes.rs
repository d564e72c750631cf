//! What there is: every route with its limits, and the description of them all.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::description::{self, Frame};
use super::problem::Problem;
use super::{
    Shared, events, failed, guard, health, jobs, logs, page, refill, reload, retry, row, status, steer, sync,
    wait,
};
use crate::error::{Error, Kind};

/// The longest body of a request.
const BODY_BYTES_MAX: usize = 64 * 1024;

type Routes = OpenApiRouter<Arc<Shared>>;

/// Answered without a secret, because probes have none, and a browser that is given an address.
fn open() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(page::root))
}

/// Closed by `protect_reads`.
fn readable() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::metrics))
        .routes(routes!(events::events))
        .routes(routes!(logs::logs))
        .routes(routes!(jobs::jobs))
        .routes(routes!(jobs::job))
        .routes(routes!(description::openapi))
}

/// As [`readable`], and has a time limit of its own.
fn patient() -> Routes {
    OpenApiRouter::new().routes(routes!(wait::wait))
}

/// Needs the secret: it shows rows, or changes something.
fn closed() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(failed::failed))
        .routes(routes!(retry::retry_failed))
        .routes(routes!(row::row))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::resume))
        .routes(routes!(refill::backfill))
        .routes(routes!(refill::nuke))
}

/// As [`closed`], and may wait for as long as the request says.
fn closed_and_patient() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(sync::sync))
        .routes(routes!(sync::webhook))
        .routes(routes!(reload::reload))
}

/// What all routes say of themselves.
pub(super) fn description() -> utoipa::openapi::OpenApi {
    let all = OpenApiRouter::with_openapi(Frame::openapi());
    all.merge(open())
        .merge(readable())
        .merge(patient())
        .merge(closed())
        .merge(closed_and_patient())
        .into_openapi()
}

/// The API.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let with = |routes: Routes| -> Router<Arc<Shared>> { routes.into() };
    let in_time = || middleware::from_fn(guard::in_time);
    let readable = with(readable()).route_layer(in_time()).merge(with(patient()));
    Router::new()
        .merge(with(open()).route_layer(in_time()))
        .merge(readable.route_layer(middleware::from_fn_with_state(shared.clone(), guard::readable)))
        .merge(
            with(closed())
                .route_layer(in_time())
                .merge(with(closed_and_patient()))
                .route_layer(middleware::from_fn_with_state(shared.clone(), guard::closed)),
        )
        .fallback(|| async { Problem::not_found("there is no such route") })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CatchPanicLayer::custom(|_| panicked()))
        .layer(middleware::from_fn_with_state(shared.clone(), guard::outermost))
        .with_state(shared.clone())
}

async fn method_not_allowed(method: Method, _: Request) -> Problem {
    let status = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    Problem::new(status, "method-not-allowed", format!("{method} means nothing on this route"))
}

fn panicked() -> Response {
    Problem::from(Error::new(Kind::Bug, "answering this request panicked")).into_response()
}
