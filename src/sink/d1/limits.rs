//! What D1 takes, and what the sink therefore sends at most. Everything is checked before it is sent, because an answer
//! that names a limit costs a request and says nothing about the row.
//!
//! Sources: the platform's limits (<https://developers.cloudflare.com/d1/platform/limits/>), and what workerd, which D1
//! is built on, does.

use super::transport::Statement;
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::sink::Whole;
use crate::fanout::worker::BatchLimits;

/// A string, a blob or a row, in bytes of UTF-8: "2,000,000 bytes (2 MB)".
pub const VALUE_BYTES_MAX: usize = 2_000_000;
/// The text of one statement: "100,000 bytes (100 KB)".
pub const SQL_BYTES_MAX: usize = 100_000;
/// Parameters of one statement: "100".
pub const PARAMS_MAX: usize = 100;
/// Columns of a table: "100".
pub const COLUMNS_MAX: usize = 100;
/// Statements in one call. The documented "100 SQL statements per query" may or may not hold for a batch; half of it is
/// on the safe side.
pub const STATEMENTS_MAX: usize = 50;
/// A database, in bytes: "10 GB (Workers Paid), cannot be increased".
pub const DATABASE_BYTES_MAX: u64 = 10_000_000_000;

/// Rows in one parameter. Throughput is at its plateau from 2,000 on.
pub(super) const STATEMENT_ROWS: usize = 5_000;
/// Bytes of one parameter, unless a single row has more: half of what is allowed.
pub(super) const PARAM_BYTES: usize = 1_000_000;
/// Bytes of all parameters of a call, at most: twice the largest that is asked for, which a row of the largest size may
/// still exceed. As JSON in JSON they grow by half, and a Worker takes 100 MB.
pub(super) const CALL_BYTES_MAX: usize = 32 << 20;
/// What a row's text and what D1 stores for it may differ by: a REAL takes 8 bytes, and `0.5` three.
const ROW_MARGIN: usize = 1_000;
/// A row as it is stored, in bytes of its values.
pub(super) const ROW_BYTES_MAX: usize = VALUE_BYTES_MAX - ROW_MARGIN;
/// A row's text, as part of a parameter that is an array of rows.
pub(super) const ROW_TEXT_BYTES_MAX: usize = VALUE_BYTES_MAX - ROW_MARGIN;
/// The statements that a change may still add once a request counts as full: a stage of its own in each kind.
const STATEMENTS_MARGIN: usize = 8;
/// Fewer rows than this are not asked for: what fails then is no matter of size.
pub(super) const ROWS_FLOOR: usize = 50;

/// How large requests are, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Rows that a request writes. Whole transactions are added until it has as many; one transaction alone may have
    /// half as many more before it is split.
    pub rows_max: usize,
    /// The same for the bytes of the rows, as JSON.
    pub bytes_max: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits { rows_max: 20_000, bytes_max: 4 << 20 }
    }
}

impl RequestLimits {
    /// How much a worker takes at once for a sink with these limits: two requests, one to send and one to compose
    /// meanwhile. They are measured by their text; rows in memory take about twice as much.
    pub fn batch(self) -> BatchLimits {
        BatchLimits { rows_max: self.rows_max * 2, bytes_max: self.bytes_max * 4 }
    }

    /// Up to which size the sink wants a transaction whole. In memory a row of small numbers takes several times its
    /// text.
    pub(super) fn whole(self) -> Whole {
        Whole { rows_max: self.rows_max, bytes_max: self.bytes_max * 4 }
    }
}

/// How large requests are now: as configured, or less after the database complained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    configured: RequestLimits,
    /// Whole transactions are added to a request until it has as much.
    pub(super) grouped: RequestLimits,
    /// A transaction is split when it has more.
    pub(super) split: RequestLimits,
    /// Bytes and rows of one parameter.
    pub(super) param: RequestLimits,
    successes: u32,
}

/// Requests that succeed before the next one is larger again.
const SUCCESSES_TO_GROW: u32 = 4;

impl Pace {
    pub(super) fn new(configured: RequestLimits) -> Self {
        let most = |limits: RequestLimits| RequestLimits {
            rows_max: limits.rows_max + limits.rows_max / 2,
            bytes_max: limits.bytes_max + limits.bytes_max / 2,
        };
        Pace {
            configured,
            grouped: configured,
            split: most(configured),
            param: RequestLimits { rows_max: STATEMENT_ROWS, bytes_max: PARAM_BYTES },
            successes: 0,
        }
    }

    /// Fewer transactions at once; none is split for it.
    pub(super) fn group_less(&mut self) {
        self.successes = 0;
        halve(&mut self.grouped);
    }

    /// Less of everything. False once that is no longer possible.
    pub(super) fn split_more(&mut self) -> bool {
        self.group_less();
        halve(&mut self.split)
    }

    /// Smaller parameters. False once that is no longer possible.
    pub(super) fn bind_less(&mut self) -> bool {
        self.successes = 0;
        halve(&mut self.param)
    }

    /// Back to what is configured, step by step.
    pub(super) fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= SUCCESSES_TO_GROW {
            let full = Pace::new(self.configured);
            self.successes = 0;
            for (now, most) in [
                (&mut self.grouped, full.grouped),
                (&mut self.split, full.split),
                (&mut self.param, full.param),
            ] {
                now.rows_max = (now.rows_max * 2).min(most.rows_max);
                now.bytes_max = (now.bytes_max * 2).min(most.bytes_max);
            }
        }
    }
}

/// Halves both, down to the floor. False where that changes nothing.
fn halve(limits: &mut RequestLimits) -> bool {
    let before = *limits;
    limits.rows_max = (limits.rows_max / 2).max(ROWS_FLOOR.min(limits.rows_max));
    limits.bytes_max = (limits.bytes_max / 2).max((64 << 10).min(limits.bytes_max));
    *limits != before
}

/// Whether a request of so many statements is full: the next change could be a truncate, which makes indexes anew.
pub(super) fn is_full(statements: usize, plan: &Plan) -> bool {
    let indexes = plan.tables.iter().map(|table| table.indexes.len()).max().unwrap_or(0);
    statements + STATEMENTS_MARGIN + indexes >= STATEMENTS_MAX
}

/// Checks what is about to be sent against every documented limit.
///
/// # Errors
/// A bug, since it was composed to fit.
pub(super) fn check(statements: &[Statement]) -> Result<()> {
    check_count(statements.len())?;
    let mut bytes = 0;
    for statement in statements {
        bytes += statement.sql.len();
        if statement.sql.len() > SQL_BYTES_MAX {
            return broken("bytes of SQL in a statement", statement.sql.len(), SQL_BYTES_MAX);
        }
        if statement.params.len() > PARAMS_MAX {
            return broken("parameters in a statement", statement.params.len(), PARAMS_MAX);
        }
        for param in &statement.params {
            bytes += param.len();
            if param.len() > VALUE_BYTES_MAX {
                return broken("bytes in a parameter", param.len(), VALUE_BYTES_MAX);
            }
        }
    }
    if bytes > CALL_BYTES_MAX {
        return broken("bytes", bytes, CALL_BYTES_MAX);
    }
    Ok(())
}

/// The same for the number of statements alone.
///
/// # Errors
/// As [`check`].
pub(super) fn check_count(statements: usize) -> Result<()> {
    match statements > STATEMENTS_MAX {
        true => broken("statements", statements, STATEMENTS_MAX),
        false => Ok(()),
    }
}

fn broken(what: &str, found: usize, max: usize) -> Result<()> {
    Err(Error::bug(format!("a request to D1 would have {found} {what}; {max} are allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_shrink_to_a_floor_and_grow_back() {
        let configured = RequestLimits { rows_max: 1_000, bytes_max: 4 << 20 };
        let mut pace = Pace::new(configured);
        assert_eq!(pace.split.rows_max, 1_500);
        pace.group_less();
        assert_eq!((pace.grouped.rows_max, pace.split.rows_max), (500, 1_500));
        while pace.split_more() {}
        assert_eq!((pace.grouped.rows_max, pace.split.rows_max), (ROWS_FLOOR, ROWS_FLOOR));
        (0..100).for_each(|_| pace.succeeded());
        assert_eq!(pace, Pace { successes: pace.successes, ..Pace::new(configured) });
    }

    #[test]
    fn each_documented_limit_is_checked_and_its_last_allowed_value_passes() {
        let statement = |sql: usize, params: Vec<String>| Statement { sql: "x".repeat(sql).into(), params };
        let is_right = |statements: &[Statement]| check(statements).is_ok();
        assert!(is_right(&[statement(SQL_BYTES_MAX, vec![])]));
        assert!(!is_right(&[statement(SQL_BYTES_MAX + 1, vec![])]));
        assert!(is_right(&[statement(1, vec![String::new(); PARAMS_MAX])]));
        assert!(!is_right(&[statement(1, vec![String::new(); PARAMS_MAX + 1])]));
        // In bytes, not characters.
        assert!(is_right(&[statement(1, vec!["ü".repeat(VALUE_BYTES_MAX / 2)])]));
        assert!(!is_right(&[statement(1, vec!["ü".repeat(VALUE_BYTES_MAX / 2 + 1)])]));
        assert!(is_right(&vec![statement(1, vec![]); STATEMENTS_MAX]));
        assert!(!is_right(&vec![statement(1, vec![]); STATEMENTS_MAX + 1]));
        let param = "x".repeat(VALUE_BYTES_MAX);
        assert!(is_right(&vec![statement(1, vec![param.clone()]); CALL_BYTES_MAX / VALUE_BYTES_MAX]));
        assert!(!is_right(&vec![statement(1, vec![param]); CALL_BYTES_MAX / VALUE_BYTES_MAX + 1]));
    }
}
