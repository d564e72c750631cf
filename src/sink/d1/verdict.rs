//! What to do about a call that failed: the retry table, as one pure function of what came back.

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
    /// Not applied: token, account or database is wrong, and an operator has to look.
    Refused,
}
