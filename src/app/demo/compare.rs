//! Compares every row of every replica with Postgres. The rows of both sides come ordered by key, as texts that each
//! side spells for itself (see [`Rendering`]), and are merged: nothing is sampled, hashed or taken from walcast.
//!
//! The source must be at rest and the replicas caught up; otherwise what is compared are two different moments.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio_postgres::Row;

use super::replica::{Address, Replica, Texts};
use super::session::Session;
use super::store::{Rendering, Table};
use crate::error::{Error, Result};

/// Rows that are fetched from Postgres at a time, and handed to all regions together.
const PAGE_ROWS: usize = 1_000;
/// Rows that are read from a region at a time.
const REGION_PAGE_ROWS: usize = 2_000;
/// Pages that may wait for a region.
const PAGES_QUEUED: usize = 2;
/// How many differences of a region are described; all are counted.
const DESCRIBED_MAX: usize = 5;
/// A longer value is described by its length.
const SHOWN_CHARS_MAX: usize = 40;

/// What the comparison of one region with Postgres has found.
#[derive(Debug, Clone, Default)]
pub(super) struct Comparison {
    /// Rows of Postgres that were looked for.
    pub rows: u64,
    /// Rows that are missing, too many, or differ in a column.
    pub differences: u64,
    /// The first differences, each with table, key and column.
    pub described: Vec<String>,
}

impl Comparison {
    fn differ(&mut self, describe: impl FnOnce() -> String) {
        self.differences += 1;
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(describe());
        }
    }
}

/// A message to a region's thread: the next rows of a table, or its end.
#[derive(Clone)]
enum Page {
    Rows(Arc<Vec<Row>>),
    End,
}

/// Compares the tables in each file with those of the source; the results are in the order of `regions`. Each region has
/// a thread of its own, and Postgres is read once for all of them.
///
/// # Errors
/// Where a side cannot be read. A difference is no error.
pub(super) fn compare(source: &Session, tables: &[Table], regions: &[Address]) -> Result<Vec<Comparison>> {
    thread::scope(|scope| {
        let (mut senders, mut threads) = (Vec::new(), Vec::new());
        for region in regions {
            let (sender, pages) = bounded(PAGES_QUEUED);
            senders.push(sender);
            threads.push(scope.spawn(move || compare_region(tables, region, pages)));
        }
        let fetched = fetch(source, tables, senders);
        let compared: Result<Vec<Comparison>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Error::bug("a comparing thread panicked"))))
            .collect();
        fetched.and(compared)
    })
}

/// Reads all tables, ordered by key, and sends every page to every region. A region that has failed takes no more.
fn fetch(source: &Session, tables: &[Table], mut regions: Vec<Sender<Page>>) -> Result<()> {
    source.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    for table in tables {
        source.execute(&format!("DECLARE compared NO SCROLL CURSOR FOR {}", postgres_query(table)))?;
        let next = source.prepare(&format!("FETCH {PAGE_ROWS} FROM compared"))?;
        loop {
            let rows = source.run(&next)?;
            let is_end = rows.is_empty();
            let page = if is_end { Page::End } else { Page::Rows(Arc::new(rows)) };
            regions.retain(|region| region.send(page.clone()).is_ok());
            if is_end {
                break;
            }
        }
        source.execute("CLOSE compared")?;
    }
    source.execute("COMMIT")
}

fn compare_region(tables: &[Table], region: &Address, pages: Receiver<Page>) -> Result<Comparison> {
    let replica = region.open()?;
    let mut comparison = Comparison::default();
    for table in tables {
        compare_table(table, &replica, &pages, &mut comparison)?;
    }
    Ok(comparison)
}

/// Merges the table's rows of both sides by key.
fn compare_table(
    table: &Table,
    replica: &Replica,
    pages: &Receiver<Page>,
    comparison: &mut Comparison,
) -> Result<()> {
    let query = sqlite_query(table);
    let is_float = |index: &usize| matches!(table.columns[*index].1, Rendering::Real);
    let floats: Vec<usize> = (0..table.columns.len()).filter(is_float).collect();
    let (mut read, mut page) = (0, Vec::new().into_iter());
    let mut next = || -> Result<Option<Texts>> {
        if page.len() == 0 {
            let sql = format!("{query} LIMIT {REGION_PAGE_ROWS} OFFSET {read}");
            let rows = replica.rows_with_floats(&sql, &floats)?;
            read += rows.len();
            page = rows.into_iter();
        }
        Ok(page.next())
    };
    let mut actual = next()?;
    while let Ok(Page::Rows(page)) = pages.recv() {
        for row in page.iter() {
            let expected = expected(row)?;
            comparison.rows += 1;
            while let Some(extra) = &actual
                && order(table, extra, &expected) == Ordering::Less
            {
                comparison.differ(|| format!("{} is in the replica only", key_of(table, extra)));
                actual = next()?;
            }
            match &actual {
                Some(found) if order(table, found, &expected) == Ordering::Equal => {
                    compare_row(table, &expected, found, comparison);
                    actual = next()?;
                }
                _ => comparison.differ(|| format!("{} is missing", key_of(table, &expected))),
            }
        }
    }
    while let Some(extra) = actual {
        comparison.differ(|| format!("{} is in the replica only", key_of(table, &extra)));
        actual = next()?;
    }
    Ok(())
}

fn expected(row: &Row) -> Result<Texts> {
    (0..row.len())
        .map(|index| {
            row.try_get(index).map_err(|error| Error::bug("reading an expected value").because(error))
        })
        .collect()
}

fn compare_row(table: &Table, expected: &Texts, actual: &Texts, comparison: &mut Comparison) {
    let values = table.columns.iter().zip(expected.iter().zip(actual));
    let is_same = |rendering: Rendering, expected: &Option<String>, actual: &Option<String>| {
        expected == actual || rendering.is_json() && is_same_json(expected, actual)
    };
    let mut differing =
        values.filter(|((_, rendering), (expected, actual))| !is_same(*rendering, expected, actual));
    if let Some(((column, _), (wanted, found))) = differing.next() {
        comparison.differ(|| {
            let key = key_of(table, expected);
            format!("{key}: {column} is {}, should be {}", shown(found), shown(wanted))
        });
    }
}

/// Compares by the key: numbers as such, all else byte by byte, as both queries order them.
fn order(table: &Table, left: &Texts, right: &Texts) -> Ordering {
    let parts = table.columns[..table.key].iter().zip(left.iter().zip(right));
    parts.fold(Ordering::Equal, |so_far, ((_, rendering), (left, right))| {
        so_far.then_with(|| match (rendering.is_number(), number(left), number(right)) {
            (true, Some(left), Some(right)) => left.cmp(&right),
            _ => left.cmp(right),
        })
    })
}

fn number(text: &Option<String>) -> Option<i64> {
    text.as_ref().and_then(|text| text.parse().ok())
}

fn is_same_json(expected: &Option<String>, actual: &Option<String>) -> bool {
    let parse = |text: &Option<String>| -> Option<serde_json::Value> {
        text.as_ref().and_then(|text| serde_json::from_str(text).ok())
    };
    parse(expected).is_some_and(|expected| Some(expected) == parse(actual))
}

/// `apps (id=17)`.
fn key_of(table: &Table, row: &Texts) -> String {
    let parts = table.columns[..table.key].iter().zip(row);
    let parts: Vec<String> = parts.map(|((column, _), value)| format!("{column}={}", shown(value))).collect();
    format!("{} ({})", table.name, parts.join(", "))
}

/// A value for a message: a long one only by its length.
fn shown(value: &Option<String>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) if text.chars().count() <= SHOWN_CHARS_MAX => text.clone(),
        Some(text) => format!("a text of {} bytes", text.len()),
    }
}

fn postgres_query(table: &Table) -> String {
    // With the table's name before it, ORDER BY means the column and not the text that is selected under its name.
    let order = table.columns[..table.key].iter().map(|(column, rendering)| match rendering.is_number() {
        true => format!("{}.{column}", table.name),
        // The bytes' order whatever the database's collation is; SQLite knows no other.
        false => format!("{}.{column}::text COLLATE \"C\"", table.name),
    });
    query(table, Rendering::in_postgres, order.collect())
}

fn sqlite_query(table: &Table) -> String {
    let order = table.columns[..table.key].iter().map(|(column, _)| format!("{}.{column}", table.name));
    query(table, Rendering::in_sqlite, order.collect())
}

fn query(table: &Table, spell: impl Fn(Rendering, &str) -> String, order: Vec<String>) -> String {
    let values: Vec<String> =
        table.columns.iter().map(|(column, rendering)| spell(*rendering, column)).collect();
    format!("SELECT {} FROM {} ORDER BY {}", values.join(", "), table.name, order.join(", "))
}
