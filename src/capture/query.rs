//! How the catalog, publication and slot statements of `sql/` are sent: each bounded in time, each error saying what
//! was being done. No statement text lives here.

use std::time::Duration;

use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Row};

use crate::error::{Error, Result};
use crate::postgres::session::from_sql;

/// Longest that one statement about the catalog may take; they read a few rows each.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a changing statement waits for locks before it gives up, so that it never queues the application's own
/// statements up behind it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10s'";

/// The rows of one statement of `sql/`.
///
/// # Errors
///
/// What [`from_sql`] makes of the server's answer; transient when the server does not answer in time.
pub(crate) async fn rows(
    client: &Client,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
    doing: &str,
) -> Result<Vec<Row>> {
    bounded(client.query(sql, parameters), doing).await
}

/// Runs one statement that changes something, in a transaction of its own that waits only briefly for locks.
pub(crate) async fn change(client: &Client, sql: &str, doing: &str) -> Result<()> {
    // Statements sent together in one simple query are one transaction, so SET LOCAL ends with it.
    let sql = format!("{LOCK_TIMEOUT};\n{sql}");
    bounded(client.batch_execute(&sql), doing).await
}

/// The named column of a row.
///
/// # Errors
///
/// A bug where the column is not there or has another type: the statement is our own.
pub(crate) fn field<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T> {
    row.try_get(name)
        .map_err(|error| Error::bug(format!("reading column {name} of our own query")).because(error))
}

/// The statement of a template of `sql/` with its `{placeholders}` replaced, without the comment head. Replaced text is
/// not looked at again, so a table may well be named `{options}`.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let statement: Vec<&str> = template.lines().filter(|line| !line.starts_with("--")).collect();
    let mut rest = statement.join("\n");
    let mut filled = String::with_capacity(rest.len());
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').map_or(rest.len(), |length| open + length);
        let value = values.iter().find(|(name, _)| *name == &rest[open + 1..close]);
        filled.push_str(&rest[..open]);
        filled.push_str(value.map_or("", |(_, value)| value));
        rest = rest.split_off((close + 1).min(rest.len()));
    }
    filled.push_str(&rest);
    filled
}

async fn bounded<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    doing: &str,
) -> Result<T> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| from_sql(error, doing)),
        Err(_) => {
            Err(Error::transient(format!("{doing}: no answer within {} s", STATEMENT_TIMEOUT.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn a_template_loses_its_comments_and_takes_values_that_look_like_placeholders() {
        let template = "-- {b} is explained here\nALTER {a} SET {b};";
        assert_eq!(fill(template, &[("a", "\"{b}\""), ("b", "x")]), "ALTER \"{b}\" SET x;");
    }
}
