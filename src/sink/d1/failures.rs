//! What a failed call means to the worker that made it: an error whose kind says whether, and after how long, to try again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::transport::Failure;
use super::verdict::Verdict;
use crate::error::{Error, Kind};

/// The shortest pause when a database has too much to do; each further one is twice as long.
const OVERLOADED_WAIT: Duration = Duration::from_secs(1);
/// The longest.
const OVERLOADED_WAIT_MAX: Duration = Duration::from_secs(30);
/// The shortest and the longest pause while an import or export has the database.
const BUSY_WAITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
/// A database that is no longer what this engine wrote: nothing continues from there.
pub(super) fn lost(what: &str) -> Error {
    Error::new(Kind::NeedsBackfill, format!("the database was restored or made anew: {what}"))
        .hint("walcast status shows slot and checkpoints; the replica has to be filled anew")
}

/// A failure as one of ours. `complaints`: how many there were since the last success.
pub(super) fn error_of(failure: &Failure, complaints: u32) -> Error {
    let message = &failure.message;
    let doubling = |first: Duration, max: Duration| {
        first.saturating_mul(2u32.saturating_pow(complaints.saturating_sub(1).min(16))).min(max)
    };
    let throttled = |retry_after| Kind::Throttled { retry_after };
    match failure.verdict {
        Verdict::Unknown | Verdict::TooMuch => Error::transient(message),
        Verdict::Throttled { retry_after } => Error::new(throttled(retry_after), message),
        Verdict::Overloaded => Error::new(throttled(doubling(OVERLOADED_WAIT, OVERLOADED_WAIT_MAX)), message),
        Verdict::Busy => {
            let [first, max] = BUSY_WAITS;
            Error::new(throttled(doubling(first, max)), message)
        }
        Verdict::DailyLimit => {
            let midnight = 86_400 - unix_seconds() % 86_400;
            Error::new(throttled(Duration::from_secs(midnight)), message)
                .hint("the free plan's rows for today are used up; the paid plan has no such limit")
        }
        Verdict::Full => Error::halt(format!("the database is full: {message}"))
            .hint("D1 takes 10 GB: delete rows at the source, or replicate fewer tables to this region"),
        Verdict::Gone => Error::new(Kind::NeedsBackfill, format!("the database is not there: {message}")).hint(
            "was it deleted? correct this sink in walcast.toml, or make a database with `npx wrangler d1 create` and name \
             that; a new one has to be filled",
        ),
        Verdict::Refused => Error::halt(format!("Cloudflare refuses the request: {message}"))
            .hint("check api_token (it needs D1 Edit), account_id and database of this sink in walcast.toml"),
        Verdict::SchemaMissing | Verdict::TooLarge | Verdict::Fenced | Verdict::Rejected => {
            Error::halt(format!("D1 does not take walcast's own statements: {message}"))
        }
    }
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
