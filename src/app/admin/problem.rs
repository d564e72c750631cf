//! What an answer that is no success says: `{kind, message, hint}`, as `error` has it, under a fitting HTTP status.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Error, Kind};

/// Why a request was not answered with what it asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    #[serde(skip)]
    retry_after: Option<Duration>,
    /// Where what is in the way is shown.
    #[serde(skip)]
    location: Option<String>,
    /// One lower-case word: what to do about it.
    pub(super) kind: &'static str,
    /// One sentence.
    pub(super) message: String,
    /// The next step.
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Problem { status, retry_after: None, location: None, kind, message: message.into(), hint: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(super) fn conflict(message: impl Into<String>, location: String) -> Self {
        Problem { location: Some(location), ..Problem::new(StatusCode::CONFLICT, "conflict", message) }
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    pub(super) fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", message);
        Problem { retry_after: Some(retry_after), ..problem }
    }

    /// What was asked for cannot be done as it is now: the error that says why is the caller's.
    pub(super) fn refused(error: &Error) -> Self {
        let status = match error.kind() {
            Kind::Transient | Kind::Throttled { .. } | Kind::Replay | Kind::Replaced => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Kind::Rejected | Kind::NeedsBackfill | Kind::Halt | Kind::Config => StatusCode::BAD_REQUEST,
            Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, error.kind().as_str(), error.chain());
        Problem { hint: error.hint_text().map(str::to_owned), ..problem }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            Kind::Transient | Kind::Throttled { .. } | Kind::Replay | Kind::Replaced => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Kind::Rejected => StatusCode::BAD_REQUEST,
            Kind::NeedsBackfill | Kind::Halt | Kind::Config | Kind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, error.kind().as_str(), error.chain());
        Problem { hint: error.hint_text().map(str::to_owned), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.status, self.retry_after);
        let location = self.location.as_deref().and_then(|location| HeaderValue::from_str(location).ok());
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if let Some(wait) = retry_after {
            let seconds = HeaderValue::from(wait.as_secs_f64().ceil() as u64);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
