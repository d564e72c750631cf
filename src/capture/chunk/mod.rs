//! Reading a table for a backfill: in chunks by key, each in a short transaction of its own, so that nothing at the
//! source waits for a fill and no snapshot stays open.
//!
//! A [`ChunkTable`] says by which index a table is read, [`ChunkTable::ranges`] cuts it so that several connections read
//! at once, a [`ChunkReader`] reads one [`Chunk`] after the other, and a chunk's last key says where to go on. What was
//! delivered before the fill began must be visible first: [`InDoubt`].
//!
//! The session is an ordinary one and pins the settings of the replication session, so a value has the same text here
//! and in the stream. Bounds travel as typed literals and are only ever compared by the server, with the index's own
//! operators and collation.
//!
//! **A standby** may be read. It lacks what it has not replayed, and [`ReadPoint`] knows; which LSN is to be awaited
//! after a chunk, only the primary can say.
//!
//! Never writes, takes no lock but that of SELECT, and holds at most a chunk in memory.

mod in_doubt;
mod key;
mod ranges;
mod table;

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::copy_text::CopyRows;
use super::query::fill;
use super::snapshot::ReadPoint;
use crate::Lsn;
use crate::error::{Error, Result};
use crate::postgres::conninfo::ConnectionInfo;
use crate::postgres::session::{self, from_sql};

pub use in_doubt::InDoubt;
pub use key::{Key, KeyRange, Selection};
pub use table::{ChunkSource, ChunkTable};

/// What a reader of chunks calls itself in `pg_stat_activity`.
const APPLICATION_NAME: &str = "walcast backfill";
/// Rows of a reader's first chunk, which shows how wide they are.
const FIRST_ROWS: usize = 1000;

/// How much one chunk may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Rows.
    pub rows_max: usize,
    /// Bytes of COPY text; one row alone may be more.
    pub bytes_max: usize,
    /// Bytes of one row: a longer one ends the fill, as it would end the stream.
    pub row_bytes_max: usize,
    /// How long a chunk may take, and so how long its transaction may be open.
    pub time_max: Duration,
}

/// Rows of one table in the order of its key, and what they are the state of.
#[derive(Debug)]
pub struct Chunk {
    /// The rows, with the columns that [`ChunkSource::columns`] names.
    pub rows: CopyRows,
    /// What the read saw.
    pub read_point: ReadPoint,
    /// Every commit that the read saw ends at or before this. `None` on a standby: ask the primary, afterwards.
    pub wal_lsn: Option<Lsn>,
    /// The key of the last row: where the next chunk goes on. `None` without rows.
    pub last_key: Option<Key>,
    /// Nothing is left of what was selected.
    pub is_last: bool,
}

/// Reads the chunks of one table, one at a time, over a connection of its own.
pub struct ChunkReader {
    info: ConnectionInfo,
    table: ChunkTable,
    client: Option<Client>,
    /// Bytes of an average row of the last chunk.
    row_bytes: Option<usize>,
}

/// What a chunk's transaction begins with.
struct Head {
    read_point: ReadPoint,
    wal_lsn: Option<Lsn>,
    /// The backend's process id.
    pid: i32,
}

impl ChunkReader {
    /// A reader that connects when it reads.
    pub fn new(info: ConnectionInfo, table: ChunkTable) -> Self {
        ChunkReader { info, table, client: None, row_bytes: None }
    }

    /// The table that it reads.
    pub fn table(&self) -> &ChunkTable {
        &self.table
    }

    /// The first rows of `selection`, as many as the limits allow. After an error the reader connects anew.
    ///
    /// # Errors
    ///
    /// Transient when the connection fails, or when a lock or the server takes longer than the limits allow; halt when
    /// the table is no longer the one it was, may not be read, or has a row above the limit.
    pub async fn read(&mut self, selection: &Selection, limits: &ChunkLimits) -> Result<Chunk> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => session::connect(&self.info, APPLICATION_NAME).await?,
        };
        let rows_max = self.rows_max(limits);
        let read = timeout(limits.time_max, self.transaction(&client, selection, rows_max, limits)).await;
        let (chunk, running) = read
            .unwrap_or_else(|_| {
                Err(Error::transient(format!("no end within {} s", limits.time_max.as_secs_f32())))
            })
            .map_err(|error| error.context(format!("reading a chunk of table {}", self.table.source.name)))?;
        if !chunk.rows.is_empty() {
            self.row_bytes = Some(chunk.rows.bytes() / chunk.rows.len());
        }
        self.client = match running {
            None => Some(client),
            Some(pid) => self.cancel(pid).await,
        };
        Ok(chunk)
    }

    /// Ends a COPY that has more rows than are wanted, over a new session that then takes the place of the old one:
    /// the driver would read all the rest.
    async fn cancel(&self, pid: i32) -> Option<Client> {
        let client = session::connect(&self.info, APPLICATION_NAME).await.ok()?;
        // Whatever fails here fails again with the next chunk, and the old session's own time limit stands.
        client.query("SELECT pg_cancel_backend($1)", &[&pid]).await.ok()?;
        Some(client)
    }

    /// How many rows are asked for: such that they are not much more than the limit of bytes if they are as wide as the
    /// last ones were.
    fn rows_max(&self, limits: &ChunkLimits) -> usize {
        let fitting = self.row_bytes.map_or(FIRST_ROWS, |bytes| limits.bytes_max / bytes.max(1) * 7 / 8);
        fitting.min(limits.rows_max).max(1)
    }

    /// One chunk, and if it was cut short by its size, which backend still copies.
    async fn transaction(
        &self,
        client: &Client,
        selection: &Selection,
        rows_max: usize,
        limits: &ChunkLimits,
    ) -> Result<(Chunk, Option<i32>)> {
        let sql = self.table.copy(selection, rows_max);
        // Sent at once: two round trips a chunk.
        let (head, copy) = tokio::join!(self.begin(client, limits), client.prepare(&sql));
        let Head { read_point, wal_lsn, pid } = head?;
        let copy = copy.map_err(|error| from_sql(error, "preparing to copy"))?;
        let stream = client.copy_out(&copy).await.map_err(|error| from_sql(error, "starting to copy"))?;

        let mut rows = CopyRows::default();
        let mut is_cut = false;
        {
            let mut stream = pin!(stream);
            while let Some(line) = stream.try_next().await.map_err(|error| from_sql(error, "copying"))? {
                if line.len() > limits.row_bytes_max {
                    return Err(Error::halt(format!(
                        "a row of {} bytes is above the limit of {} bytes",
                        line.len(),
                        limits.row_bytes_max
                    ))
                    .hint("raise max_message_bytes in [source]; the stream could not carry the row either"));
                }
                if !rows.is_empty() && rows.bytes() + line.len() > limits.bytes_max {
                    is_cut = true;
                    break;
                }
                rows.push(&line);
            }
        }
        if !is_cut {
            client.batch_execute("COMMIT").await.map_err(|error| from_sql(error, "ending"))?;
        }
        let last_key = rows.last().map(|row| self.table.key_of(row)).transpose()?;
        let is_last = !is_cut && (rows.len() < rows_max || matches!(selection, Selection::Rows(_)));
        Ok((Chunk { rows, read_point, wal_lsn, last_key, is_last }, is_cut.then_some(pid)))
    }

    async fn begin(&self, client: &Client, limits: &ChunkLimits) -> Result<Head> {
        let begin = fill(
            include_str!("../../../sql/chunk_begin.sql"),
            &[
                ("limit_ms", &limits.time_max.as_millis().clamp(1, 86_400_000).to_string()),
                ("search_path", self.table.search_path()),
                ("table", &self.table.relation()),
                ("literal", &crate::postgres::quote_literal(&self.table.source.name.to_string())),
            ],
        );
        let replayed = include_str!("../../../sql/chunk_replayed.sql");
        let (replayed, head) = tokio::join!(client.simple_query(replayed), client.simple_query(&begin));
        let (replayed, head) = (row(replayed)?, row(head)?);
        let read_point = match lsn(&replayed, "replayed")? {
            Some(replayed) => ReadPoint::Standby { replayed },
            None => ReadPoint::Primary(
                text(&head, "snapshot")?
                    .unwrap_or_default()
                    .parse()
                    .map_err(|error| Error::bug("the server's snapshot cannot be read").because(error))?,
            ),
        };
        // A table that is gone fails at its lock, so this is another one of that name.
        if text(&head, "oid")? != Some(&self.table.source.oid.0.to_string()) {
            return Err(Error::halt(
                "it was dropped and created anew, or renamed and its name given to another",
            )
            .hint("start walcast again: it will take the table for a new one and fill it"));
        }
        let pid = text(&head, "pid")?.and_then(|pid| pid.parse().ok());
        Ok(Head { read_point, wal_lsn: lsn(&head, "wal_lsn")?, pid: pid.unwrap_or_default() })
    }
}

/// The one row that simple queries returned.
fn row(answer: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>) -> Result<SimpleQueryRow> {
    let messages = answer.map_err(|error| from_sql(error, "beginning"))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.last().ok_or_else(|| Error::bug("our own query returned no row"))
}

fn text<'a>(row: &'a SimpleQueryRow, column: &str) -> Result<Option<&'a str>> {
    row.try_get(column)
        .map_err(|error| Error::bug(format!("reading column {column} of our own query")).because(error))
}

fn lsn(row: &SimpleQueryRow, column: &str) -> Result<Option<Lsn>> {
    text(row, column)?.map(parse_lsn).transpose()
}

fn parse_lsn(text: &str) -> Result<Lsn> {
    text.parse().map_err(|_| Error::bug(format!("the server's LSN {text} cannot be read")))
}
