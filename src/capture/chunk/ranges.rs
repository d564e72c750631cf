//! Cutting a table into ranges of keys of about the same size, so that several connections read it at once.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::key::{Key, KeyRange};
use super::table::ChunkTable;
use crate::capture::query::fill;
use crate::error::{Error, Result};
use crate::postgres::quote_identifier;
use crate::postgres::session::from_sql;

/// Pages of the sample. What it reads of a table is bounded by this, whatever the table's size.
const SAMPLE_PAGES: u64 = 1000;
/// A range is at least this many pages, or another connection would cost more than it brings.
const RANGE_PAGES_MIN: u64 = 256;
/// How long sampling may take.
const TIME_MAX: Duration = Duration::from_secs(60);

impl ChunkTable {
    /// Up to `ranges_max` ranges that together are the whole table, in order; fewer for a small table. They are a guess
    /// at equal sizes, never at what belongs to the table.
    ///
    /// # Errors
    ///
    /// Transient when the connection fails or the server does not answer in time. The session is not to be used again
    /// then.
    pub async fn ranges(&self, client: &Client, ranges_max: usize) -> Result<Vec<KeyRange>> {
        let ranges = (self.pages / RANGE_PAGES_MIN).clamp(1, ranges_max.max(1) as u64);
        if ranges == 1 {
            return Ok(vec![KeyRange::default()]);
        }
        let doing = format!("sampling the keys of table {}", self.source.name);
        let names: Vec<String> = (1..=self.key.len()).map(|number| format!("k{number}")).collect();
        let columns = self.key.iter().zip(&names);
        let columns = columns.map(|(part, name)| format!("{} AS {name}", quote_identifier(&part.name)));
        let percent = (100.0 * SAMPLE_PAGES as f64 / self.pages as f64).min(100.0);
        let sql = fill(
            include_str!("../../../sql/chunk_ranges.sql"),
            &[
                ("names", &names.join(", ")),
                ("columns", &columns.collect::<Vec<_>>().join(", ")),
                ("order", &self.order().collect::<Vec<_>>().join(", ")),
                ("table", &self.relation()),
                ("percent", &percent.to_string()),
                ("ranges", &ranges.to_string()),
            ],
        );
        let sql = format!(
            "BEGIN READ ONLY; SET LOCAL row_security = off; SET LOCAL statement_timeout = {}; {} {sql} COMMIT",
            TIME_MAX.as_millis(),
            self.search_path()
        );
        let answer = timeout(TIME_MAX, client.simple_query(&sql)).await;
        let messages = answer
            .map_err(|_| Error::transient(format!("{doing}: no answer within {} s", TIME_MAX.as_secs())))?
            .map_err(|error| from_sql(error, &doing))?;
        let keys = messages.iter().filter_map(|message| match message {
            // Other statements of ours return rows of another width, or none.
            SimpleQueryMessage::Row(row)
                if row.columns().first().is_some_and(|column| column.name() == "k1") =>
            {
                (0..names.len())
                    .map(|index| row.get(index).map(str::to_owned))
                    .collect::<Option<Vec<_>>>()
                    .map(Key)
            }
            _ => None,
        });
        Ok(KeyRange::between(keys.collect()))
    }
}
