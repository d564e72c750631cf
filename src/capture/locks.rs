//! Who writes to a table at the source.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::query::{field, rows};
use super::table::Oid;
use crate::error::{Error, Result};

/// How long writers are awaited.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often they are looked at.
const POLL: Duration = Duration::from_millis(50);

/// Waits until the transactions have ended that may have written to the table until now. Where the publication has the
/// table, or a column of it, only since just now, what they wrote before is not in the stream, and not in what is read
/// before they end.
///
/// # Errors
/// Transient when the connection fails, and after half a minute, naming a transaction that still runs.
pub async fn await_writers(client: &Client, table: Oid) -> Result<()> {
    let (started, first) = (Instant::now(), writers_of(client, table).await?);
    loop {
        let now = writers_of(client, table).await?;
        let Some((_, pid)) = first.iter().find(|writer| now.contains(writer)) else { return Ok(()) };
        if started.elapsed() > PATIENCE {
            let whose = pid.map_or_else(|| "is prepared".to_owned(), |pid| format!("runs in backend {pid}"));
            let message = format!("a transaction that may have written to it before {whose}");
            return Err(Error::transient(message).hint("commit it, or roll it back"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The transactions, by their virtual ids and backends, that may have written to the table and have not ended.
async fn writers_of(client: &Client, table: Oid) -> Result<Vec<(String, Option<i32>)>> {
    let sql = include_str!("../../sql/writers.sql");
    let found = rows(client, sql, &[&table.0], "looking up who writes to a table").await?;
    found.iter().map(|row| Ok((field(row, "virtualtransaction")?, field(row, "pid")?))).collect()
}
