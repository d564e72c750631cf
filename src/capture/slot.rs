//! The replication slot: its state ([`read`]), its creation ([`create`]), its copies ([`copy`]), its end ([`drop`]), and
//! the decision whether the sinks can go on from it ([`judge`]). A slot is the only thing walcast leaves at the source that costs the
//! source something while walcast is away: the WAL it holds back.
//!
//! Nothing here ever advances a slot or peeks into it.

mod copy;
mod create;
mod judge;
mod remedy;

use std::time::Duration;

use pgwire_replication::Lsn;
use tokio_postgres::{Client, Row};

pub use copy::{copy, read_copies};
pub use create::{Blocker, Created, blockers, create, create_statement};
pub use judge::{
    Judgement, SinkCheckpoint, SinkVerdict, SlotVerdict, SourceIdentity, TimelineHistory, judge,
};

pub use remedy::ANEW;

use super::catalog::lsn;
use super::query::{field, rows};
use crate::error::{Error, Result};
use crate::postgres::sqlstate::sqlstate;
use crate::postgres::wire::ReplicationSession;

/// The output plugin that walcast decodes.
pub const PLUGIN: &str = "pgoutput";

/// A row of `pg_replication_slots`, and the WAL position it was read at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The database it decodes; `None` for a physical slot.
    pub database: Option<String>,
    /// Whether it ends with the session that made it.
    pub is_temporary: bool,
    /// The backend that uses it now.
    pub active_pid: Option<i32>,
    /// The oldest WAL it holds back; `None` once it is invalidated.
    pub restart_lsn: Option<Lsn>,
    /// What it has been told is durable; nothing before it is ever sent again. `None` while it is being created.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// How many more bytes of WAL it may hold back before it is in danger; `None` without a limit.
    pub safe_wal_size: Option<i64>,
    /// Whether it decodes prepared transactions at PREPARE.
    pub two_phase: bool,
    /// Whether it is synchronised to standbys (17).
    pub failover: bool,
    /// Whether it is itself such a copy, unusable until its server is promoted (17).
    pub is_synced: bool,
    /// Whether recovery on a standby removed what it needs (16).
    pub is_conflicting: bool,
    /// Why it was invalidated (17).
    pub invalidation_reason: Option<String>,
    /// How long nothing has used it (17).
    pub inactive: Option<Duration>,
    /// The server's WAL position when this was read.
    pub current_wal_lsn: Lsn,
    /// The WAL it holds back, in bytes; `None` once it is invalidated.
    pub retained_bytes: Option<i64>,
}

impl Slot {
    /// Why the slot can never be used again, as the server's versions state it in their different ways; `None` for a
    /// slot that can.
    pub fn invalidation(&self) -> Option<&str> {
        match (&self.invalidation_reason, self.wal_status.as_deref()) {
            (Some(reason), _) => Some(reason),
            (None, Some("lost")) => Some("wal_removed"),
            (None, _) if self.is_conflicting => Some("conflict with recovery"),
            (None, _) => None,
        }
    }

    /// How much WAL the sinks have not confirmed, in bytes.
    pub fn lag_bytes(&self) -> Option<u64> {
        self.confirmed_flush_lsn.map(|confirmed| self.current_wal_lsn.0.saturating_sub(confirmed.0))
    }
}

/// Whether a slot may have this name. `START_REPLICATION` gets it unquoted, so nothing else is let through.
///
/// # Errors
///
/// A configuration error that states the rule.
pub fn check_name(name: &str) -> Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(Error::config(format!(
        "slot name {name:?} is not 1 to 63 lower-case letters, digits and underscores"
    )))
}

/// The slot of that name, or `None`.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read(client: &Client, name: &str) -> Result<Option<Slot>> {
    let doing = format!("reading slot {name}");
    let sql = include_str!("../../sql/slot.sql");
    let found = rows(client, sql, &[&Some(name), &None::<&str>], &doing).await?;
    found.first().map(from_row).transpose()
}

fn from_row(row: &Row) -> Result<Slot> {
    Ok(Slot {
        name: field(row, "name")?,
        plugin: field(row, "plugin")?,
        database: field(row, "database")?,
        is_temporary: field(row, "is_temporary")?,
        active_pid: field(row, "active_pid")?,
        restart_lsn: lsn(row, "restart_lsn")?,
        confirmed_flush_lsn: lsn(row, "confirmed_flush_lsn")?,
        wal_status: field(row, "wal_status")?,
        safe_wal_size: field(row, "safe_wal_size")?,
        two_phase: field(row, "two_phase")?,
        failover: field(row, "failover")?,
        is_synced: field(row, "is_synced")?,
        is_conflicting: field(row, "is_conflicting")?,
        invalidation_reason: field(row, "invalidation_reason")?,
        inactive: field::<Option<i64>>(row, "inactive_s")?
            .map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs())),
        current_wal_lsn: lsn(row, "current_wal_lsn")?.unwrap_or(Lsn::ZERO),
        retained_bytes: field(row, "retained_bytes")?,
    })
}

/// The ancestors of the server's current timeline. Empty, so that nothing of another timeline resumes, where the server
/// has none (timeline 1) or no longer has the history file.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read_history(session: &mut ReplicationSession, timeline: u32) -> Result<TimelineHistory> {
    if timeline == 1 {
        return Ok(TimelineHistory::default());
    }
    match session.simple_query(&format!("TIMELINE_HISTORY {timeline}")).await {
        // One row: the file's name and its content.
        Ok(rows) => {
            let content = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
            Ok(content.map(TimelineHistory::parse).unwrap_or_default())
        }
        Err(error) if sqlstate(&error).is_some() => {
            tracing::warn!(timeline, "no timeline history: {}", error.chain());
            Ok(TimelineHistory::default())
        }
        Err(error) => Err(error),
    }
}

/// Drops the slot if there is one. Every sink that was fed by it needs a backfill afterwards.
///
/// # Errors
///
/// Halts when something still uses it, naming the backend.
pub async fn drop(client: &Client, name: &str) -> Result<()> {
    if let Some(pid) = read(client, name).await?.and_then(|slot| slot.active_pid) {
        return Err(Error::halt(format!("slot {name} is in use by backend {pid}"))
            .hint(format!("stop the walcast that uses it, or run: SELECT pg_terminate_backend({pid})")));
    }
    let sql = include_str!("../../sql/slot_drop.sql");
    rows(client, sql, &[&name], &format!("dropping slot {name}")).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_name_that_would_need_quotes_is_refused() {
        for name in ["walcast", "a", "w_1", &"x".repeat(63)] {
            check_name(name).expect(name);
        }
        for name in ["", "Walcast", "a-b", "a b", "a;drop", "é", &"x".repeat(64)] {
            check_name(name).expect_err(name);
        }
    }

    #[test]
    fn invalidation_is_seen_in_every_version_s_columns() {
        let lost = Slot { wal_status: Some("lost".into()), ..Slot::default() };
        assert_eq!(lost.invalidation(), Some("wal_removed"));
        let idle = Slot { invalidation_reason: Some("idle_timeout".into()), ..lost };
        assert_eq!(idle.invalidation(), Some("idle_timeout"));
        let conflicting = Slot { is_conflicting: true, ..Slot::default() };
        assert_eq!(conflicting.invalidation(), Some("conflict with recovery"));
        assert_eq!(Slot { wal_status: Some("unreserved".into()), ..Slot::default() }.invalidation(), None);
    }
}
