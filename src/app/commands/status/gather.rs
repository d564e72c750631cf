//! Reads the status: first the slots, then the sinks, which are never behind what was confirmed before, then the WAL's
//! end, which is never behind the sinks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use super::report::{
    CopyStatus, CostStatus, SinkState, SinkStatus, SlotState, SlotStatus, SourceStatus, Status, TableStatus,
};
use crate::Lsn;
use crate::app::replicas::{self, D1Facts, Replica, Unreadable};
use crate::app::source::{Judged, Source};
use crate::capture::catalog::{Server, read_server};
use crate::capture::slot::{SinkVerdict, Slot, SlotVerdict, SourceIdentity};
use crate::config::{self, BackfillMode, Config, SinkTarget};
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::TableState;
use crate::fanout::sink::Checkpoint;
use crate::sink::d1::limits::DATABASE_BYTES_MAX;
use crate::sink::replica::StoredTable;

/// For how long, at least, the rate at which WAL is written is watched.
const SAMPLE: Duration = Duration::from_secs(1);
/// The pause between two looks where there are D1 databases: a look takes three requests of each, and the engine needs
/// those that a token has.
const D1_INTERVAL: Duration = Duration::from_secs(20);
/// An older look says nothing about the rate now.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(30);
/// How long the source may take to answer one question. Replicas have limits of their own.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);
/// A sink this close to the WAL's end is at it: an idle server writes some small records of its own, and a sink's
/// checkpoint follows them only now and then. Hardly a transaction is as small.
const AT_END_BYTES: u64 = 256;

/// Reads the status again and again over one session.
pub struct Gatherer {
    config: Arc<Config>,
    source: Source,
    client: Option<Client>,
    /// Where the WAL was at the last look.
    sample: Option<(Instant, Lsn)>,
}

/// What the source answered.
struct Answer {
    server: Server,
    wal_bytes_per_second: u64,
    judged: Judged,
}

/// A sink as its target shows it.
struct Found {
    status: SinkStatus,
    checkpoint: Option<Checkpoint>,
}

impl Gatherer {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A URL that libpq would not accept either.
    pub fn new(config: &Config) -> Result<Self> {
        let source = Source::new(&config.source)?;
        Ok(Gatherer { config: Arc::new(config.clone()), source, client: None, sample: None })
    }

    /// How long to leave between two looks, so that looking takes nothing from the engine.
    pub fn interval(&self) -> Duration {
        let is_d1 =
            |sink: &config::Sink| matches!(sink.target, SinkTarget::D1(..) | SinkTarget::D1Worker(..));
        if self.config.sinks.iter().any(is_d1) { D1_INTERVAL } else { SAMPLE }
    }

    /// The status now. Takes about a second, over which the WAL's rate is taken, unless it was read not long ago. What
    /// cannot be read is part of it.
    pub async fn gather(&mut self) -> Status {
        let address = self.source.info.to_string();
        match self.ask().await {
            Ok((found, answer)) => self.judged(address, found, answer),
            Err(error) => {
                self.client = None;
                let mut status = Status::without_source(&error);
                status.source.address = address;
                let found = self.look_at_sinks().await.unwrap_or_default();
                status.sinks = found.into_iter().map(|found| found.status).collect();
                status
            }
        }
    }

    async fn look_at_sinks(&self) -> Result<Vec<Found>> {
        let config = self.config.clone();
        let look_at_all = move || {
            let replicas = replicas::read_all(&config);
            config.sinks.iter().zip(replicas).map(|(sink, replica)| look(sink, replica)).collect()
        };
        tokio::task::spawn_blocking(look_at_all)
            .await
            .map_err(|error| Error::bug("looking at the sinks").because(error))
    }

    async fn ask(&mut self) -> Result<(Vec<Found>, Answer)> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            Some(_) | None => in_time(self.source.connect()).await?,
        };
        let is_of_use = |(at, _): &(Instant, Lsn)| (SAMPLE..=SAMPLE_AGE_MAX).contains(&at.elapsed());
        let (started, before) = match self.sample.take().filter(is_of_use) {
            Some(sample) => sample,
            None => {
                let sample = (Instant::now(), in_time(read_server(&client)).await?.current_wal_lsn);
                tokio::time::sleep(SAMPLE).await;
                sample
            }
        };

        let server = in_time(read_server(&client)).await?;
        let slots = in_time(self.source.slots(&client, &server)).await?;
        let mut found = self.look_at_sinks().await?;
        let server = in_time(read_server(&client)).await?;
        let elapsed = started.elapsed();
        self.sample = Some((Instant::now(), server.current_wal_lsn));
        let identity = self.source.identity(&server);
        let mut held = Vec::new();
        for (sink, found) in self.config.sinks.iter().zip(&mut found) {
            if let Some(checkpoint) = &found.checkpoint
                && let Err(error) = replicas::check_source(sink, checkpoint, &identity)
            {
                found.status.set(SinkState::Halted, Some(&error));
            }
            if found.status.state == SinkState::Unknown {
                held.push((sink.name.to_string(), found.checkpoint.clone()));
            }
        }
        let judged = in_time(self.source.judge(&client, &server, slots, &held)).await?;
        self.client = Some(client);
        let written = server.current_wal_lsn.0.saturating_sub(before.0);
        let wal_bytes_per_second = (written as f64 / elapsed.as_secs_f64()) as u64;
        Ok((found, Answer { server, wal_bytes_per_second, judged }))
    }

    fn judged(&self, address: String, found: Vec<Found>, answer: Answer) -> Status {
        let Answer { server, wal_bytes_per_second, judged } = answer;
        let Judged { slot, copies, judgement, current_wal_lsn: current } = judged;
        let identity = self.source.identity(&server);
        let now_micros = unix_micros() + server.clock_ahead_us;
        let mut sinks = Vec::with_capacity(found.len());
        for Found { mut status, checkpoint } in found {
            if let Some(checkpoint) = &checkpoint {
                status.set_lag(checkpoint, current, now_micros);
            }
            let copy = self.source.copy_of(&status.name, &copies);
            status.copy = copy.map(CopyStatus::new);
            if status.state == SinkState::Unknown {
                let verdict = judgement.sinks.iter().find(|(name, _)| *name == status.name);
                // What a start fills by itself needs nobody.
                let is_filled = self.config.backfill.mode == BackfillMode::Initial;
                let wrong =
                    verdict.filter(|(_, verdict)| !(is_filled && *verdict == SinkVerdict::NoCheckpoint));
                let error = wrong.and_then(|(name, verdict)| verdict.error(name, &identity));
                let state = match (&error, verdict, &judgement.slot) {
                    (Some(error), _, _) if error.kind() == Kind::NeedsBackfill => SinkState::NeedsBackfill,
                    (Some(_), _, _) => SinkState::Halted,
                    (None, None, SlotVerdict::Invalidated { .. }) if checkpoint.is_some() => {
                        SinkState::NeedsBackfill
                    }
                    (None, _, _) if checkpoint.is_none() => SinkState::NotCreated,
                    (None, Some((_, SinkVerdict::CatchUp { .. })), _) => SinkState::CatchingUp,
                    // Where the slot is not ahead of it, it is still read while an engine brings the sink back.
                    (None, Some(_), _) if copy.is_some_and(|copy| copy.active_pid.is_some()) => {
                        SinkState::CatchingUp
                    }
                    (None, Some(_), _) => SinkState::Attached,
                    (None, None, _) => SinkState::Unknown,
                };
                status.set(state, error.as_ref());
            }
            sinks.push(status);
        }
        let abandoned_copies: Vec<CopyStatus> =
            self.source.abandoned(&self.config.sinks, &copies).into_iter().map(CopyStatus::new).collect();
        let slot = slot_status(&identity, &server, slot, wal_bytes_per_second, &judgement.slot);
        Status {
            is_ok: slot.state != SlotState::Lost
                && !sinks.iter().any(SinkStatus::needs_operator)
                && abandoned_copies.is_empty(),
            engine: None,
            source: SourceStatus {
                address,
                is_reachable: true,
                version: Some(server.version.to_string()),
                timeline: Some(server.timeline),
                current_wal_lsn: Some(current.to_string()),
                wal_bytes_per_second: Some(wal_bytes_per_second),
                problem: None,
                hint: None,
            },
            slot: Some(slot),
            sinks,
            abandoned_copies,
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(SOURCE_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(Error::transient(format!("no answer within {} s", SOURCE_TIMEOUT.as_secs()))))
}

fn slot_status(
    identity: &SourceIdentity,
    server: &Server,
    slot: Option<Slot>,
    wal_bytes_per_second: u64,
    verdict: &SlotVerdict,
) -> SlotStatus {
    let error = verdict.error(identity);
    let state = match (verdict, &error) {
        (SlotVerdict::Create, _) => SlotState::NotCreated,
        (_, None) => SlotState::Ready,
        (_, Some(_)) => SlotState::Lost,
    };
    let slot = slot.unwrap_or_default();
    let unsigned = |bytes: i64| bytes.max(0).unsigned_abs();
    let safe_bytes = slot.safe_wal_size.map(unsigned);
    SlotStatus {
        name: identity.slot.clone(),
        state,
        active_pid: slot.active_pid,
        confirmed_flush_lsn: slot.confirmed_flush_lsn.map(|lsn| lsn.to_string()),
        lag_bytes: slot.lag_bytes(),
        retained_bytes: slot.retained_bytes.map(unsigned),
        limit_bytes: server.max_slot_wal_keep_bytes,
        safe_bytes,
        seconds_until_lost: safe_bytes.and_then(|safe| safe.checked_div(wal_bytes_per_second)),
        wal_status: slot.wal_status,
        problem: error.as_ref().map(Error::chain),
        hint: error.as_ref().and_then(|error| error.hint_text().map(str::to_owned)),
    }
}

/// A sink by itself, before the source has been asked: `Unknown`, unless something is wrong with it already.
fn look(sink: &config::Sink, replica: Result<Replica, Unreadable>) -> Found {
    let mut status = SinkStatus {
        name: sink.name.to_string(),
        state: SinkState::Unknown,
        checkpoint_lsn: None,
        lag_bytes: None,
        lag_seconds: None,
        transactions: None,
        dead_letters: None,
        copy: None,
        tables: Vec::new(),
        cost: None,
        problem: None,
        hint: None,
        engine: None,
    };
    if sink.target == SinkTarget::Null {
        status.state = SinkState::Discards;
        return Found { status, checkpoint: None };
    }
    let checkpoint = match replica {
        Ok(Replica { checkpoint, dead_letters, d1, tables }) => {
            let position = checkpoint.as_ref().map_or(Lsn::ZERO, |checkpoint| checkpoint.lsn);
            // One that is not fed any more is a matter of `walcast schema plan`.
            let is_fed = |stored: &&StoredTable| stored.fill.as_ref().is_none_or(|fill| !fill.is_left);
            status.tables = tables.iter().filter(is_fed).map(|stored| table(stored, position)).collect();
            status.cost = d1.as_ref().filter(|_| checkpoint.is_some()).map(cost);
            if let Some(checkpoint) = &checkpoint {
                status.checkpoint_lsn = Some(checkpoint.lsn.to_string());
                status.transactions = Some(checkpoint.transactions);
                status.dead_letters = Some(dead_letters);
            }
            checkpoint
        }
        Err(Unreadable { is_foreign, error }) => {
            let state = if is_foreign { SinkState::Foreign } else { SinkState::Unreadable };
            status.set(state, Some(&error));
            None
        }
    };
    Found { status, checkpoint }
}

impl Status {
    /// What there is to say where the source cannot be asked.
    pub fn without_source(error: &Error) -> Status {
        let source = SourceStatus {
            problem: Some(error.chain()),
            hint: error.hint_text().map(str::to_owned),
            ..SourceStatus::default()
        };
        let (sinks, abandoned_copies) = (Vec::new(), Vec::new());
        Status { is_ok: false, engine: None, source, slot: None, sinks, abandoned_copies }
    }
}

impl CopyStatus {
    fn new(copy: &Slot) -> Self {
        let unsigned = |bytes: i64| bytes.max(0).unsigned_abs();
        CopyStatus {
            name: copy.name.clone(),
            active_pid: copy.active_pid,
            wal_status: copy.wal_status.clone(),
            confirmed_flush_lsn: copy.confirmed_flush_lsn.map(|lsn| lsn.to_string()),
            retained_bytes: copy.retained_bytes.map(unsigned),
            safe_bytes: copy.safe_wal_size.map(unsigned),
        }
    }
}

fn table(stored: &StoredTable, position: Lsn) -> TableStatus {
    let fill = stored.fill.as_ref();
    TableStatus {
        name: stored.source.clone(),
        target: stored.target.clone(),
        state: fill.map_or(TableState::Live.as_str(), |fill| fill.shown(position)),
        rows: fill.map_or(0, |fill| fill.rows),
        rows_estimated: fill.map_or(0, |fill| fill.rows_estimated),
        rows_owed: fill.map_or(0, |fill| fill.owed.len() as u64),
        seconds_left: fill
            .and_then(|fill| fill.seconds_left((unix_micros() / 1_000_000).max(0).unsigned_abs())),
        problem: fill.and_then(|fill| Some(fill.stopped.as_ref()?.reason.clone())),
        hint: fill.and_then(|fill| Some(fill.stopped.as_ref()?.hint.clone())),
    }
}

fn cost(D1Facts { usage, bytes, .. }: &D1Facts) -> CostStatus {
    CostStatus {
        rows_written: usage.rows_written,
        requests: usage.requests,
        changes: usage.changes,
        folded: usage.folded(),
        dollars_per_million_changes: usage.dollars_per_million_changes(),
        dollars_per_month: usage.dollars_per_month((unix_micros() / 1_000_000).max(0).unsigned_abs()),
        tables: usage.tables.clone(),
        database_bytes: *bytes,
        database_bytes_max: DATABASE_BYTES_MAX,
    }
}

impl SinkStatus {
    fn set(&mut self, state: SinkState, error: Option<&Error>) {
        self.state = state;
        self.problem = error.map(Error::chain);
        self.hint = error.and_then(|error| error.hint_text().map(str::to_owned));
    }

    fn set_lag(&mut self, checkpoint: &Checkpoint, current: Lsn, now_micros: i64) {
        let behind = current.0.saturating_sub(checkpoint.lsn.0);
        self.lag_bytes = Some(behind);
        self.lag_seconds = match checkpoint.commit_time_micros {
            _ if behind <= AT_END_BYTES => Some(0),
            Some(commit) => Some((now_micros - commit).max(0).unsigned_abs() / 1_000_000),
            None => None,
        };
    }
}

fn unix_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
