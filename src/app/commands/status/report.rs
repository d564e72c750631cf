//! What `walcast status` reports, as it is in JSON. It is gathered and shown elsewhere.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::fanout::fill::TableState;

/// The JSON of `walcast status --json`. The field names are stable; LSNs are written as Postgres writes them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Status {
    /// Whether nothing needs an operator.
    pub is_ok: bool,
    /// The engine that answers; null where `walcast status` looks from outside.
    pub engine: Option<EngineStatus>,
    /// The server.
    pub source: SourceStatus,
    /// The slot; null where the source cannot be reached.
    pub slot: Option<SlotStatus>,
    /// Every sink, in the configuration's order.
    pub sinks: Vec<SinkStatus>,
    /// Copies of the slot whose sinks are not configured any more: they hold back WAL for nobody.
    pub abandoned_copies: Vec<CopyStatus>,
}

/// A sink's own copy of the slot.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CopyStatus {
    /// Its name.
    pub name: String,
    /// The backend that uses it: the sink catches up now.
    pub active_pid: Option<i32>,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: Option<String>,
    /// What the sink has; nothing before it is sent again.
    pub confirmed_flush_lsn: Option<String>,
    /// The WAL that it holds back.
    pub retained_bytes: Option<u64>,
    /// How much more WAL may be written before the server gives it up; null without a limit.
    pub safe_bytes: Option<u64>,
}

/// The engine that answers.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EngineStatus {
    /// `preparing`, `streaming`, `waiting`, `resting` or `stopping`.
    pub phase: &'static str,
    /// When the next scheduled run is due, in RFC 3339; null unless it rests.
    pub next_run: Option<String>,
    /// When the process began, in RFC 3339.
    pub started: String,
    /// Why it waits, and what stands still.
    pub problems: Vec<String>,
}

/// The server.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct SourceStatus {
    /// `user@host:port/database`.
    pub address: String,
    /// Whether it answered.
    pub is_reachable: bool,
    /// Its version.
    pub version: Option<String>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// The WAL's write position.
    pub current_wal_lsn: Option<String>,
    /// How much WAL it writes now.
    pub wal_bytes_per_second: Option<u64>,
    /// Why it did not answer.
    pub problem: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
}

/// The slot.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub state: SlotState,
    /// The backend that uses it: an engine is running.
    pub active_pid: Option<i32>,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: Option<String>,
    /// What every sink has; nothing before it is sent again.
    pub confirmed_flush_lsn: Option<String>,
    /// From there to the server's position.
    pub lag_bytes: Option<u64>,
    /// The WAL that it holds back.
    pub retained_bytes: Option<u64>,
    /// `max_slot_wal_keep_size`; null for no limit.
    pub limit_bytes: Option<u64>,
    /// How much more WAL may be written before the server gives the slot up; null without a limit.
    pub safe_bytes: Option<u64>,
    /// When that will be, at the present rate; null without a limit, or while no WAL is written.
    pub seconds_until_lost: Option<u64>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
}

/// What the slot is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// It can be streamed from.
    Ready,
    /// It is not there, and no sink was ever fed: `walcast run` creates it.
    NotCreated,
    /// It cannot be streamed from: gone, given up by the server, or another tool's.
    Lost,
}

/// One sink.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Its relation to the stream.
    pub state: SinkState,
    /// Everything up to here is in it.
    pub checkpoint_lsn: Option<String>,
    /// From there to the server's position, whatever it is that was written there.
    pub lag_bytes: Option<u64>,
    /// 0 at the WAL's end; else how long ago its last transaction was committed at the source. So it is an upper bound:
    /// where nothing that is published has been committed since, nothing is missing.
    pub lag_seconds: Option<u64>,
    /// Transactions applied since it was created.
    pub transactions: Option<u64>,
    /// Rows that it did not take, in `_walcast_dead_letters`.
    pub dead_letters: Option<u64>,
    /// Its own copy of the slot, while it catches up.
    pub copy: Option<CopyStatus>,
    /// Its replicated tables.
    pub tables: Vec<TableStatus>,
    /// What it costs; null for a sink that is no D1 database.
    pub cost: Option<CostStatus>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// What the engine that answers knows of it.
    pub engine: Option<SinkInEngine>,
}

/// One table of one sink.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TableStatus {
    /// Its name at the source.
    pub name: String,
    /// Its name in the sink.
    pub target: String,
    /// `waiting`, `filling`, `catching-up` (filled, and the stream is not where its rows were read yet), `live`,
    /// `rebuilding` (filled beside the one that readers see, because it was changed), `incomplete` (emptied, and not to be
    /// filled), `stopped` (it cannot be filled, or what the source has of it does not fit `schema.json`: its changes are not
    /// applied).
    pub state: &'static str,
    /// Rows that the fill has brought.
    pub rows: u64,
    /// How many there were thought to be.
    pub rows_estimated: u64,
    /// Rows that have to be read by themselves.
    pub rows_owed: u64,
    /// How long the fill will take at the rate so far; null where that cannot be said.
    pub seconds_left: Option<u64>,
    /// Why it is stopped.
    pub problem: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
}

impl TableStatus {
    /// Whether it gets no further without somebody's doing, or without another table at the source.
    pub fn is_stopped(&self) -> bool {
        self.state == TableState::Stopped.as_str()
    }
}

impl Status {
    /// Whether nothing that it shows needs an operator.
    pub fn needs_no_operator(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.state != SlotState::Lost)
            && !self.sinks.iter().any(SinkStatus::needs_operator)
            && self.abandoned_copies.is_empty()
    }
}

impl SinkStatus {
    /// Whether it, or a table of it, stays as it is until somebody does something.
    pub fn needs_operator(&self) -> bool {
        self.state.needs_operator() || self.tables.iter().any(TableStatus::is_stopped)
    }
}

/// What the engine that answers has done for a sink since it started.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SinkInEngine {
    /// Row changes written.
    pub changes: u64,
    /// Transactions applied.
    pub transactions: u64,
    /// Rows set aside with a reason.
    pub dead_letters: u64,
    /// Failed attempts.
    pub retries: u64,
    /// Failed attempts in a row; 0 after one that succeeded.
    pub failed_attempts: u32,
    /// When the first of these failed, in RFC 3339.
    pub failing_since: Option<String>,
    /// Row changes written a second, over the last ten; null at first.
    pub changes_per_second: Option<f64>,
    /// Bytes that wait in its queue or are being applied.
    pub queue_bytes: usize,
    /// How long a commit takes to it, by the last heartbeat or the one on its way; null without `[heartbeat]`.
    pub delay_seconds: Option<f64>,
    /// What its API token may still send; null for a sink that has no such limit.
    pub requests: Option<RequestStatus>,
}

/// Requests to the D1 API, for all sinks of a token together.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RequestStatus {
    /// How many may be sent at once.
    pub available: u32,
    /// For how long nothing may be sent, because the API said so.
    pub paused_seconds: Option<f64>,
    /// Sinks that wait for their turn.
    pub waiting: usize,
    /// Sent since the engine started.
    pub sent: u64,
    /// How often the API turned the token away since then.
    pub throttled: u64,
}

/// What a D1 database has cost since it was first fed, but for the last request of each engine.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CostStatus {
    /// Rows written as Cloudflare bills them: with index entries, and walcast's own.
    pub rows_written: u64,
    /// Requests.
    pub requests: u64,
    /// Row changes at the source.
    pub changes: u64,
    /// The share of the changes, from 0 to 1, that were never written because a later one replaced them.
    pub folded: Option<f64>,
    /// Dollars for a million row changes at the source.
    pub dollars_per_million_changes: Option<f64>,
    /// Dollars for 30 days at the mean rate so far; null while there is less than ten minutes of it.
    pub dollars_per_month: Option<f64>,
    /// Rows written by replicated table.
    pub tables: BTreeMap<String, u64>,
    /// The database's size.
    pub database_bytes: Option<u64>,
    /// What D1 takes.
    pub database_bytes_max: u64,
}

/// A sink's relation to the stream, as far as it can be told from its checkpoint and the slot, or
/// as the engine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SinkState {
    /// The slot holds everything that it lacks: it goes on from its checkpoint while an engine runs.
    Attached,
    /// The slot went on without it, because it was slower than the others; a copy of the slot holds everything that it
    /// lacks, and it comes back to the others while an engine runs.
    CatchingUp,
    /// The engine's last attempt failed, and is made again.
    Failing,
    /// An operator paused it in the engine.
    Paused,
    /// The engine has taken it out of action.
    Stopped,
    /// It was never fed; `walcast run` creates it.
    NotCreated,
    /// It lacks changes that the slot does not hold any more.
    NeedsBackfill,
    /// Its rows are of another source, slot or timeline.
    Halted,
    /// Its place holds something that walcast did not make.
    Foreign,
    /// It cannot be read.
    Unreadable,
    /// The source cannot be reached, so nothing can be said but its checkpoint.
    Unknown,
    /// It keeps nothing: a null sink.
    Discards,
}

impl SinkState {
    /// The state as `--json` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            SinkState::Attached => "attached",
            SinkState::CatchingUp => "catching-up",
            SinkState::Failing => "failing",
            SinkState::Paused => "paused",
            SinkState::Stopped => "stopped",
            SinkState::NotCreated => "not-created",
            SinkState::NeedsBackfill => "needs-backfill",
            SinkState::Halted => "halted",
            SinkState::Foreign => "foreign",
            SinkState::Unreadable => "unreadable",
            SinkState::Unknown => "unknown",
            SinkState::Discards => "discards",
        }
    }

    /// Whether it stays as it is until an operator does something.
    pub fn needs_operator(self) -> bool {
        match self {
            SinkState::Paused
            | SinkState::Stopped
            | SinkState::NeedsBackfill
            | SinkState::Halted
            | SinkState::Foreign
            | SinkState::Unreadable => true,
            SinkState::Attached
            | SinkState::CatchingUp
            | SinkState::Failing
            | SinkState::NotCreated
            | SinkState::Unknown
            | SinkState::Discards => false,
        }
    }
}
