//! One reader: it works on one job after the other over a connection of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::Filler;
use super::gate::Offered;
use super::job::{Job, OWED_MAX, can_take};
use super::pace::{Pace, yield_to_stream};
use super::pending::Pending;
use super::request::{FillRequest, RowRequest};
use super::resume::How;
use super::stops;
use super::tables::Tables;
use crate::Lsn;
use crate::capture::chunk::{Chunk, ChunkReader, ChunkTable, KeyRange, Selection};
use crate::capture::query::rows;
use crate::capture::snapshot::CommitId;
use crate::encode::chunk;
use crate::encode::run::Run;
use crate::encode::touched::Ticket;
use crate::error::{Error, Result};
use crate::fanout::fill::{Action, FillStep, Fills, OwedKey, RangeFill, TableFill};
use crate::fanout::progress::{SinkProgress, State};

/// Chunks of one range that the sinks have not done yet while the next one is read.
const AHEAD: usize = 2;
/// How long a chunk waits for a sink that is slower than others.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a request waits for the sinks that it names.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);
/// Reads of a chunk in a row that are of no use, before the table begins with doubt again.
const USELESS_MAX: u32 = 1000;
/// How often it is looked where the sinks are.
const LOOK: Duration = Duration::from_millis(100);
/// How often a chunk is offered while the river is inside a transaction, and an old read is repeated.
const POLL: Duration = Duration::from_millis(5);

pub(super) struct Reader<'a> {
    filler: &'a Filler,
    pending: &'a Pending,
    pace: Pace,
    connections: BTreeMap<usize, ChunkReader>,
    /// How many rows are read by themselves at once.
    owed_max: usize,
}

/// A chunk that was read, while it is open.
struct Read {
    run: Option<Run>,
    chunk: Chunk,
    seen_lsn: Lsn,
    ticket: Ticket,
    generation: u64,
}

/// A chunk that the sinks have not done yet.
struct Sent {
    /// Where they are once they have; nothing for what has no place.
    rest: Option<KeyRange>,
    bytes: usize,
    at: Instant,
    done: oneshot::Receiver<()>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(filler: &'a Filler, pending: &'a Pending) -> Self {
        Reader { filler, pending, pace: Pace::new(filler), connections: BTreeMap::new(), owed_max: OWED_MAX }
    }

    /// Does a job, or as much of it as the sinks go along with.
    ///
    /// # Errors
    /// The source fails. Nothing is lost: what the sinks lack they still say.
    pub(super) async fn run(&mut self, tables: &Tables, job: &Job) -> Result<()> {
        let table = job.table();
        let read_by = tables.ready(self.filler, table).await?;
        match job {
            Job::Begin(_) => self.begin(table, &read_by).await,
            Job::Range(_, rest) => self.range(table, &read_by, rest.clone()).await,
            Job::Owed(_, owed) => self.pay(table, &read_by, owed).await,
        }
    }

    /// Cuts the table into ranges, and lets the fill begin where it waits.
    async fn begin(&mut self, table: usize, read_by: &ChunkTable) -> Result<()> {
        let client = self.filler.source.connect().await?;
        let ranges = read_by.ranges(&client, self.filler.config.connections).await?;
        let planned = &self.filler.plan.tables[table];
        tracing::info!(
            table = %planned.source.plain(),
            rows = planned.estimated_rows,
            ranges = ranges.len(),
            "the fill begins"
        );
        let fill = TableFill {
            key_columns: read_by.key_columns().map(str::to_owned).collect(),
            ranges: ranges.into_iter().map(|rest| RangeFill { rest, is_done: false }).collect(),
            began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            ..TableFill::waiting(planned.estimated_rows.max(0).unsigned_abs())
        };
        let done = self.send_step(table, Action::Begin { fill, sinks: None }).await;
        self.sent(Job::Begin(table));
        taken(done).await;
        Ok(())
    }

    /// Waits until the sinks take the main stream, but not for ever.
    async fn await_attached(&self, names: &[String]) {
        let started = Instant::now();
        let is_away = |sink: &Arc<SinkProgress>| sink.is_running() && !can_take(sink);
        let named = || self.filler.progress.sinks().into_iter().filter(|sink| names.contains(&sink.name));
        while named().any(|sink| is_away(&sink)) && started.elapsed() < REQUEST_PATIENCE {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets tables begin anew, as an operator has asked; returns once the sinks have it.
    pub(super) async fn begin_anew(&self, known: &Tables, request: FillRequest) {
        let FillRequest { sinks, tables, clears, is_left_empty, filter } = request;
        let is_partial = filter.is_some();
        self.await_attached(&sinks).await;
        for table in tables {
            let planned = &self.filler.plan.tables[table];
            if let Some((_, stopped)) = stops::stopped(&self.filler.progress).remove(&table) {
                let meant: Vec<String> = stopped.into_iter().filter(|sink| sinks.contains(sink)).collect();
                if !meant.is_empty()
                    && let Err(error) =
                        self.filler.resume(known, table, meant, How { clears, is_left_empty }).await
                {
                    tracing::error!(
                        table = %planned.source.plain(),
                        hint = error.hint_text(),
                        "the table stays stopped: {}",
                        error.chain()
                    );
                    self.filler.view.set_failure(table, Some(&error));
                }
            }
            let estimated = planned.estimated_rows.max(0).unsigned_abs();
            tracing::info!(
                table = %planned.source.plain(),
                sinks = sinks.join(", "),
                clears,
                "the table is filled anew, as it was asked for"
            );
            let fill = TableFill { clears, is_left_empty, is_partial, ..TableFill::waiting(estimated) };
            let done = self.send_step(table, Action::Begin { fill, sinks: Some(sinks.clone()) }).await;
            // Whoever asked is told that it is done when no sink lacks anything.
            let _ = tokio::time::timeout(REQUEST_PATIENCE, done).await;
        }
    }

    /// Lets sinks owe the rows that are asked for.
    pub(super) async fn owe(&self, request: RowRequest) {
        let RowRequest { sinks, table, rows } = request;
        tracing::info!(
            table = %self.filler.plan.tables[table].source.plain(),
            sinks = sinks.join(", "),
            rows = rows.len(),
            "rows are read again, as it was asked for"
        );
        let done = self.send_step(table, Action::Retry { owed: rows, sinks }).await;
        taken(done).await;
    }

    /// Reads what is left of a range, chunk by chunk, while the sinks take it.
    async fn range(&mut self, table: usize, read_by: &ChunkTable, mut rest: KeyRange) -> Result<()> {
        self.forget_other_keys(table, read_by).await;
        let mut sent: VecDeque<Sent> = VecDeque::new();
        let (mut useless, mut seen) = (0, Lsn::ZERO);
        loop {
            if useless > USELESS_MAX {
                return Err(Error::transient("what was read is too old, again and again"));
            }
            while sent.len() >= AHEAD {
                if !self.take_receipt(table, sent.pop_front()).await {
                    return Ok(());
                }
            }
            yield_to_stream(self.filler).await;
            let Some(read) = self.read(table, read_by, &Selection::Range(rest.clone())).await? else {
                useless += 1;
                tokio::time::sleep(POLL).await;
                continue;
            };
            let (is_last, last_key, seen_lsn) =
                (read.chunk.is_last, read.chunk.last_key.clone(), read.seen_lsn);
            let bytes = read.run.as_ref().map_or(0, Run::bytes);
            let before = rest.clone();
            let (receipt, done) = oneshot::channel();
            let after = last_key.clone();
            let is_partial = read_by.source().filter.is_some();
            let action = move |run| Action::Chunk {
                rest: before,
                last_key: after,
                is_last,
                run,
                seen_lsn,
                is_partial,
            };
            if self.offer(table, read, receipt, action).await == Offered::Stale {
                useless += 1;
                tokio::time::sleep(POLL).await;
                continue;
            }
            (useless, seen) = (0, seen.max(seen_lsn));
            self.sent(Job::Range(table, rest.clone()));
            if last_key.is_some() {
                rest.after = last_key;
            }
            let there = (!is_last).then(|| rest.clone());
            sent.push_back(Sent { rest: there, bytes, at: Instant::now(), done });
            if is_last {
                break;
            }
        }
        for one in sent {
            self.take_receipt(table, Some(one)).await;
        }
        self.flush(table, seen).await;
        Ok(())
    }

    /// Lets the stream come to where rows were read, also where nobody writes: the table is live only then. The server
    /// sends what it has flushed, and such a position can lie in WAL that it flushes with the next commit.
    async fn flush(&self, table: usize, seen: Lsn) {
        if self.filler.outlets.position() >= seen {
            return;
        }
        let flush = async {
            let primary = self.filler.source.connect().await?;
            rows(&primary, include_str!("../../../sql/flush.sql"), &[&seen.to_string()], "flushing the WAL")
                .await
        };
        if let Err(error) = flush.await {
            // It is live with the next commit, then.
            tracing::debug!(table, "the WAL is not flushed: {}", error.chain());
        }
    }

    /// Waits until the sinks are done with a chunk, but not for long where others are: a sink that is stuck has its own
    /// queue. False if no sink has gone along: another range is more use.
    async fn take_receipt(&mut self, table: usize, sent: Option<Sent>) -> bool {
        let Some(Sent { rest, bytes, at, mut done }) = sent else { return true };
        loop {
            let is_done = tokio::time::timeout(LOOK, &mut done).await.is_ok();
            let has_gone_along = rest.as_ref().is_none_or(|rest| self.is_anybody_at(table, rest));
            if is_done {
                tracing::debug!(table, bytes, took_ms = at.elapsed().as_millis() as u64, "a chunk is done");
                self.pace.took(bytes, at.elapsed());
                return has_gone_along;
            }
            if at.elapsed() >= PATIENCE {
                return has_gone_along;
            }
        }
    }

    /// Whether a sink is where it is once it has taken a chunk.
    fn is_anybody_at(&self, table: usize, rest: &KeyRange) -> bool {
        self.filler.progress.sinks().iter().any(|sink| {
            let is_at = |fills: &Fills| {
                fills.get(table).is_some_and(|fill| fill.open_ranges().any(|open| open == rest))
            };
            sink.look_at_fills(is_at)
        })
    }

    /// A fill that was begun under another key cannot go on; it begins anew.
    async fn forget_other_keys(&self, table: usize, read_by: &ChunkTable) {
        let is_other = |fills: &Fills| {
            let begun = fills.get(table).filter(|fill| !fill.ranges.is_empty());
            begun.is_some_and(|fill| !read_by.key_columns().eq(fill.key_columns.iter().map(String::as_str)))
        };
        let attached =
            self.filler.progress.sinks().into_iter().filter(|sink| sink.state() == State::Attached);
        let sinks = attached.filter(|sink| sink.look_at_fills(is_other)).map(|sink| sink.name.clone());
        let sinks: Vec<String> = sinks.collect();
        if !sinks.is_empty() {
            let estimated = self.filler.plan.tables[table].estimated_rows.max(0).unsigned_abs();
            let action = Action::Begin { fill: TableFill::waiting(estimated), sinks: Some(sinks) };
            taken(self.send_step(table, action).await).await;
        }
    }

    /// Reads rows by themselves, from a snapshot that sees why. More of them than fit a chunk follow.
    async fn pay(&mut self, table: usize, read_by: &ChunkTable, owed: &[OwedKey]) -> Result<()> {
        let is_seen = |read: &Read| {
            let cause = |owed: &OwedKey| CommitId { xid: owed.xid, commit_lsn: owed.commit_lsn };
            owed.iter().all(|owed| read.chunk.read_point.sees(cause(owed)))
        };
        for _ in 0..USELESS_MAX {
            let owed = &owed[..owed.len().min(self.owed_max)];
            let selection = Selection::Rows(owed.iter().map(|owed| read_by.key_from(&owed.key)).collect());
            let Some(mut read) = self.read(table, read_by, &selection).await?.filter(is_seen) else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            if !read.chunk.is_last && owed.len() > 1 {
                // They are too large to come together.
                self.owed_max = owed.len() / 2;
                continue;
            }
            if let Some(run) = read.run.as_mut().filter(|_| read.chunk.is_last) {
                let keys = owed.iter().map(|owed| owed.key.as_slice());
                chunk::push_gone(run, keys, table, &self.filler.plan);
            }
            let (paid, seen_lsn) = (owed.to_vec(), read.seen_lsn);
            let (receipt, done) = oneshot::channel();
            let action = move |run| Action::Paid { owed: paid, run, seen_lsn };
            if self.offer(table, read, receipt, action).await == Offered::Sent {
                self.sent(Job::Owed(table, owed.to_vec()));
                let sent = Sent { rest: None, bytes: 0, at: Instant::now(), done };
                self.take_receipt(table, Some(sent)).await;
                self.flush(table, seen_lsn).await;
                return Ok(());
            }
        }
        Err(Error::transient("what was read is too old, again and again"))
    }

    /// Reads a chunk. Nothing where it came from a server that lags behind: it must be read again.
    async fn read(
        &mut self,
        table: usize,
        read_by: &ChunkTable,
        selection: &Selection,
    ) -> Result<Option<Read>> {
        let Some((horizon, generation)) = self.filler.gate.horizon() else {
            return Err(Error::transient("what is visible must be found out anew"));
        };
        let ticket = horizon.open();
        let info = self.filler.source.backfill_info()?;
        // A reader of other rows of the table is of no use.
        self.connections.retain(|of, reader| *of != table || reader.table() == read_by);
        let reader = self.connections.entry(table).or_insert_with(|| ChunkReader::new(info, read_by.clone()));
        let limits = self.pace.limits(self.filler);
        let started = Instant::now();
        let chunk = reader.read(selection, &limits).await?;
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::debug!(
            table,
            rows = chunk.rows.len(),
            bytes_max = limits.bytes_max,
            took_ms,
            "a chunk was read"
        );
        if !ticket.saw(&chunk.read_point) {
            return Ok(None);
        }
        let seen_lsn = match chunk.wal_lsn {
            Some(lsn) => lsn,
            // A standby does not know.
            None => {
                let primary = self.filler.source.connect().await?;
                crate::capture::catalog::read_server(&primary).await?.current_wal_lsn
            }
        };
        let run = Some(chunk::encode(&chunk.rows, table, &self.filler.current.plan())?);
        Ok(Some(Read { run, chunk, seen_lsn, ticket, generation }))
    }

    /// What does this job is on its way to every sink that takes the main stream.
    fn sent(&self, job: Job) {
        let sinks = self.filler.progress.sinks().into_iter();
        self.pending.sent(job, sinks.filter(|sink| sink.state() == State::Attached));
    }

    /// Puts a chunk among the stream's deliveries.
    async fn offer(
        &self,
        table: usize,
        mut read: Read,
        receipt: oneshot::Sender<()>,
        action: impl FnOnce(Arc<Run>) -> Action + Send + 'static,
    ) -> Offered {
        let mut make = Some(move |run| FillStep {
            table,
            action: action(run),
            sent_at: Lsn::ZERO,
            receipt: Some(receipt),
        });
        loop {
            let gate = self.filler.gate.clone();
            // It may wait for room in a queue.
            let offering = tokio::task::spawn_blocking(move || {
                let offered =
                    gate.offer(table, &mut read.run, (&read.chunk.read_point, read.generation), |run| {
                        let make = make.take().expect("it is made once");
                        make(run)
                    });
                (offered, read, make)
            });
            let Ok((offered, back, unused)) = offering.await else { return Offered::Stale };
            if offered != Offered::NotNow {
                drop(back.ticket);
                return offered;
            }
            (read, make) = (back, unused);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends a step without rows, and returns what closes once the sinks are done with it.
    async fn send_step(&self, table: usize, action: Action) -> oneshot::Receiver<()> {
        let (receipt, done) = oneshot::channel();
        let mut step = Some(FillStep { table, action, sent_at: Lsn::ZERO, receipt: Some(receipt) });
        loop {
            let gate = self.filler.gate.clone();
            let sending = tokio::task::spawn_blocking(move || {
                let is_sent = gate.send_step(|| step.take().expect("it is sent once"));
                (is_sent, step)
            });
            match sending.await {
                Ok((false, unsent)) => step = unsent,
                Ok((true, _)) | Err(_) => return done,
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Waits until the last sink is done with a step, but not for one that is stuck: it takes the step when it goes on.
async fn taken(done: oneshot::Receiver<()>) {
    let _ = tokio::time::timeout(PATIENCE, done).await;
}
