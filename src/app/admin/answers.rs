//! What several routes answer alike, for the description of the API: each list stands here once.

#![expect(dead_code, reason = "they describe answers; nobody makes one")]

use utoipa::IntoResponses;

use super::problem::Problem;
use crate::app::jobs::Job;

/// Of every route that begins a job.
#[derive(IntoResponses)]
pub(super) enum JobAnswers {
    /// The job runs
    #[response(status = 202)]
    Runs(Job),
    /// The secret is missing or wrong
    #[response(status = 401)]
    Unauthorized(Problem),
    /// A job does this already (`Location` says where to look), the sink is not attached, or a nuke has no way back
    #[response(status = 409)]
    InTheWay(Problem),
}

/// Of a route whose body names sinks or tables.
#[derive(IntoResponses)]
pub(super) enum NamingAnswers {
    /// The body is wrong
    #[response(status = 400)]
    Wrong(Problem),
    /// There is no such sink or table
    #[response(status = 404)]
    Nothing(Problem),
}

/// Of a route that waits for every region to be somewhere.
#[derive(IntoResponses)]
pub(super) enum SyncAnswers {
    /// Every region is there (with `wait`)
    #[response(status = 200)]
    There(Job),
    /// A parameter is wrong
    #[response(status = 400)]
    Wrong(Problem),
    /// Too many requests wait
    #[response(status = 429)]
    TooMany(Problem),
    /// The source cannot be asked, or (with `wait`) a region does not get there
    #[response(status = 503)]
    Unavailable(Problem),
    /// The source does not answer
    #[response(status = 504)]
    Silent(Problem),
}

/// Of a route that steers one sink.
#[derive(IntoResponses)]
pub(super) enum SinkAnswers {
    /// The secret is missing or wrong
    #[response(status = 401)]
    Unauthorized(Problem),
    /// There is no such sink
    #[response(status = 404)]
    Nothing(Problem),
}
