//! Reads the status: first the sinks, then the source, which so is never behind them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use super::report::{
    CopyStatus, CostStatus, SinkState, SinkStatus, SlotState, SlotStatus, SourceStatus, Status,
};
use crate::Lsn;
use crate::app::replicas::{self, D1Facts, Replica, Unreadable};
use crate::app::source::{Judged, Source};
use crate::capture::catalog::{Server, read_server};
use crate::capture::slot::{SinkVerdict, Slot, SlotVerdict, SourceIdentity};
use crate::config::{self, Config, SinkTarget};
use crate::error::{Error, Kind, Result};
use crate::fanout::sink::Checkpoint;
use crate::sink::d1::limits::DATABASE_BYTES_MAX;

/// How long the rate at which WAL is written is watched.
pub(super) const SAMPLE: Duration = Duration::from_secs(1);
/// A sink this close to the WAL's end is at it: an idle server writes some small records of its own, and a sink's
/// checkpoint follows them only now and then. Hardly a transaction is as small.
const AT_END_BYTES: u64 = 256;

/// Reads the status again and again over one session.
pub struct Gatherer<'a> {
    config: &'a Config,
    source: Source,
    client: Option<Client>,
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

impl<'a> Gatherer<'a> {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// A URL that libpq would not accept either.
    pub fn new(config: &'a Config) -> Result<Self> {
        Ok(Gatherer { config, source: Source::new(&config.source)?, client: None })
    }

    /// The status now. Takes about a second, over which the WAL's rate is taken. What cannot be read is part of it.
    pub async fn gather(&mut self) -> Status {
        let address = self.source.info.to_string();
        match self.ask().await {
            Ok((found, answer)) => self.judged(address, found, answer),
            Err(error) => {
                self.client = None;
                let source = SourceStatus {
                    address,
                    problem: Some(error.chain()),
                    hint: error.hint_text().map(str::to_owned),
                    ..SourceStatus::default()
                };
                let sinks = self.look_at_sinks().into_iter().map(|found| found.status).collect();
                Status { is_ok: false, source, slot: None, sinks, abandoned_copies: Vec::new() }
            }
        }
    }

    fn look_at_sinks(&self) -> Vec<Found> {
        let replicas = replicas::read_all(self.config);
        self.config.sinks.iter().zip(replicas).map(|(sink, replica)| look(sink, replica)).collect()
    }

    async fn ask(&mut self) -> Result<(Vec<Found>, Answer)> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            Some(_) | None => self.source.connect().await?,
        };
        let before = read_server(&client).await?;
        let started = Instant::now();
        tokio::time::sleep(SAMPLE).await;

        let mut found = self.look_at_sinks();
        let server = read_server(&client).await?;
        let elapsed = started.elapsed();
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
        let judged = self.source.judge(&client, &server, &held).await?;
        self.client = Some(client);
        let written = server.current_wal_lsn.0.saturating_sub(before.current_wal_lsn.0);
        let wal_bytes_per_second = (written as f64 / elapsed.as_secs_f64()) as u64;
        Ok((found, Answer { server, wal_bytes_per_second, judged }))
    }

    fn judged(&self, address: String, found: Vec<Found>, answer: Answer) -> Status {
        let Answer { server, wal_bytes_per_second, judged: Judged { slot, copies, judgement } } = answer;
        let identity = self.source.identity(&server);
        let current = slot.as_ref().map_or(server.current_wal_lsn, |slot| slot.current_wal_lsn);
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
                let error = verdict.and_then(|(name, verdict)| verdict.error(name, &identity));
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
                && !sinks.iter().any(|sink| sink.state.needs_operator())
                && abandoned_copies.is_empty(),
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
        cost: None,
        problem: None,
        hint: None,
    };
    if sink.target == SinkTarget::Null {
        status.state = SinkState::Discards;
        return Found { status, checkpoint: None };
    }
    let checkpoint = match replica {
        Ok(Replica { checkpoint, dead_letters, d1, .. }) => {
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

fn cost(D1Facts { usage, bytes }: &D1Facts) -> CostStatus {
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
