//! Who writes to a table at the source.

use tokio_postgres::Client;

use super::query::{field, rows};
use super::table::Oid;
use crate::error::Result;

/// The transactions, by their virtual ids, that may have written to the table and have not ended.
///
/// # Errors
/// Transient when the connection fails.
pub async fn writers_of(client: &Client, table: Oid) -> Result<Vec<String>> {
    let sql = include_str!("../../sql/writers.sql");
    let found = rows(client, sql, &[&table.0], "looking up who writes to a table").await?;
    found.iter().map(|row| field(row, "virtualtransaction")).collect()
}
