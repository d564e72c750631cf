//! What to do about a call that failed: the retry table, as one pure function of what came back.
//!
//! Status, code, message and pause enter, a [`Verdict`] leaves. It never looks at a clock and never at a row.
//!
//! Nobody promises these messages. D1's own documentation lists some of them
//! (<https://developers.cloudflare.com/d1/observability/debug-d1/>), issues and captures the rest; bindings put
//! `D1_ERROR: ` in front and SQLite its result code behind. So they are found inside the text. What is not known counts
//! as unknown where the server is to blame, so that nothing is lost, and as rejected where the statement
//! is.

use std::time::Duration;

/// What a failed call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may have been applied or not: send the same again.
    Unknown,
    /// Not applied: send the same again, not before this.
    Throttled {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Not applied, too much is queued at the database: wait at least a second, and send less.
    Overloaded,
    /// The database gave up on the amount of work; perhaps applied: send half.
    TooMuch,
    /// Not applied, an import or export has the database: wait.
    Busy,
    /// Not applied, a value, a row or a statement is above a limit: split, down to the row.
    TooLarge,
    /// Not applied, the checkpoint's fence held: read it to learn why.
    Fenced,
    /// Not applied, a table or column is not there.
    SchemaMissing,
    /// Not applied and never will be: find the row.
    Rejected,
    /// Not applied, there is no room left.
    Full,
    /// Not applied, the day's free row writes are used up: wait until the next day begins, UTC.
    DailyLimit,
    /// Not applied, the database is not there: deleted, or never made.
    Gone,
    /// Not applied: token, account or request is wrong, and an operator has to look.
    Refused,
}

/// What came back of a call that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status; `None` where no answer came or it broke off.
    pub status: Option<u16>,
    /// What the answer's envelope says; `None` where it has another form, such as the page of a gateway.
    pub error: Option<ApiError>,
    /// How long the answer asks to wait.
    pub retry_after: Option<Duration>,
}

/// An error of the envelope in which the API and the Worker answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Its code, such as 7500.
    pub code: u32,
    /// Its message.
    pub message: String,
}

/// The pause after a 429 that does not ask for one.
const THROTTLED_WAIT: Duration = Duration::from_secs(1);
/// Codes of the API's rate limits.
const THROTTLED_CODES: [u32; 2] = [971, 1015];
/// The code for a database that is not there.
const GONE_CODE: u32 = 7404;
/// Codes of what only an operator can put right: authentication, the account, the number of databases, a route or method
/// that does not exist, a request of another form.
const REFUSED_CODES: [u32; 8] = [6003, 7000, 7003, 7400, 7403, 7406, 10000, 10405];

/// Messages and what they mean; the first that is in the text decides. What names tables or columns comes first, since
/// a name can be anything.
const MESSAGES: [(&str, Verdict); 47] = [
    // A binding that could not read what the database answered, and quotes it.
    ("Failed to parse body as JSON", Verdict::Unknown),
    ("NOT NULL constraint failed: _walcast_checkpoint.", Verdict::Fenced),
    ("SQLITE_CONSTRAINT", Verdict::Rejected),
    ("constraint failed", Verdict::Rejected),
    ("no such table", Verdict::SchemaMissing),
    ("no such column", Verdict::SchemaMissing),
    ("has no column named", Verdict::SchemaMissing),
    ("SQLITE_TOOBIG", Verdict::TooLarge),
    ("string or blob too big", Verdict::TooLarge),
    ("statement too long", Verdict::TooLarge),
    ("too many SQL variables", Verdict::TooLarge),
    ("SQLITE_NOMEM", Verdict::TooLarge),
    ("database or disk is full", Verdict::Full),
    ("SQLITE_FULL", Verdict::Full),
    ("Exceeded maximum DB size", Verdict::Full),
    ("maximum account storage limit", Verdict::Full),
    ("free tier daily", Verdict::DailyLimit),
    ("D1 DB is overloaded", Verdict::Overloaded),
    ("Requests queued for too long", Verdict::Overloaded),
    ("Too many requests queued", Verdict::Overloaded),
    ("storage operation exceeded timeout", Verdict::TooMuch),
    ("exceeded its memory limit", Verdict::TooMuch),
    ("exceeded its CPU time limit", Verdict::TooMuch),
    ("Currently processing a long-running", Verdict::Busy),
    ("Network connection lost", Verdict::Unknown),
    ("reset because its code was updated", Verdict::Unknown),
    ("caused object to be reset", Verdict::Unknown),
    ("Replica disconnected from primary", Verdict::Unknown),
    ("because client disconnected", Verdict::Unknown),
    ("Cannot resolve D1 DB due to transient issue", Verdict::Unknown),
    ("internal error", Verdict::Unknown),
    // Of the file, not of a row.
    ("SQLITE_BUSY", Verdict::Unknown),
    ("SQLITE_LOCKED", Verdict::Unknown),
    ("SQLITE_IOERR", Verdict::Unknown),
    ("SQLITE_INTERRUPT", Verdict::Unknown),
    ("SQLITE_CANTOPEN", Verdict::Unknown),
    ("SQLITE_CORRUPT", Verdict::Refused),
    ("SQLITE_NOTADB", Verdict::Refused),
    ("SQLITE_READONLY", Verdict::Refused),
    ("SQLITE_AUTH", Verdict::Refused),
    ("SQLITE_MISMATCH", Verdict::Rejected),
    ("SQLITE_RANGE", Verdict::Rejected),
    ("SQLITE_ERROR", Verdict::Rejected),
    ("Wrong number of parameter bindings", Verdict::Rejected),
    ("D1_TYPE_ERROR", Verdict::Rejected),
    ("malformed JSON", Verdict::Rejected),
    ("syntax error", Verdict::Rejected),
];

/// The verdict on a response.
///
/// In this order: no answer at all; rate limits and refusals, which the front of the API gives and the database never
/// saw; what the database says; and last the status alone.
pub fn verdict(response: &Response) -> Verdict {
    let Some(status) = response.status else { return Verdict::Unknown };
    let code = response.error.as_ref().map(|error| error.code);
    let is_one_of = |codes: &[u32]| code.is_some_and(|code| codes.contains(&code));

    if status == 429 || is_one_of(&THROTTLED_CODES) {
        return Verdict::Throttled { retry_after: response.retry_after.unwrap_or(THROTTLED_WAIT) };
    }
    if code == Some(GONE_CODE) {
        return Verdict::Gone;
    }
    if matches!(status, 300..=399 | 401 | 403 | 404 | 405) || is_one_of(&REFUSED_CODES) {
        return Verdict::Refused;
    }
    if status == 413 {
        return Verdict::TooLarge;
    }
    let Some(error) = &response.error else { return Verdict::Unknown };
    let said = MESSAGES.iter().find(|(part, _)| error.message.contains(part));
    match said {
        Some(&(_, verdict)) => verdict,
        // The API gives 400 to what SQLite refuses, and 500 to what went wrong inside.
        None if status == 400 => Verdict::Rejected,
        None => Verdict::Unknown,
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
