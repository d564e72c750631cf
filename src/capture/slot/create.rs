//! The slot's creation, which waits for every transaction that is open at the source and so needs a limit.
//!
//! `CREATE_REPLICATION_SLOT` takes its starting point where no transaction is half done, so it waits for those that
//! have written, one after the other, and new ones make it wait again. `lock_timeout` bounds one such wait, not their
//! sum. So the limit is kept here: the waiting is reported, and in the end the backend is cancelled *at the server*,
//! because a backend that waits for a lock does not notice that its client has gone; it would go on and leave a
//! slot that nobody knows of. `lock_timeout` is set as well, for the case that walcast itself dies meanwhile.

use std::fmt;
use std::pin::Pin;
use std::time::{Duration, Instant};

use pgwire_replication::Lsn;
use tokio_postgres::Client;

use super::{check_name, read};
use crate::capture::catalog::ServerVersion;
use crate::capture::query::{field, fill, rows};
use crate::error::{Error, Result};
use crate::postgres::wire::ReplicationSession;

/// How long the creation may take before it says what it waits for, and between two such reports.
const REPORT_AFTER: Duration = Duration::from_secs(2);
/// How long a cancelled backend gets to answer before it is cancelled again.
const CANCEL_WAIT: Duration = Duration::from_secs(2);
/// How often it is cancelled: a cancel that arrives between two waits is lost.
const CANCELS_MAX: usize = 3;

/// What [`create`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Every transaction that commits after this is streamed, and none that committed before.
    pub consistent_point: Lsn,
}

/// A transaction that the creation of a slot waits for. `Display` names it as an operator looks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The backend; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The prepared transaction's identifier.
    pub gid: Option<String>,
    /// Its role.
    pub user: Option<String>,
    /// What the client calls itself.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, …; `None` where walcast's role may not see it.
    pub state: Option<String>,
    /// How long it has been open; `None` where walcast's role may not see it.
    pub age: Option<Duration>,
}

impl Blocker {
    /// The SQL that ends it.
    pub fn end_sql(&self) -> String {
        match (self.pid, &self.gid) {
            (Some(pid), _) => format!("SELECT pg_terminate_backend({pid})"),
            (None, gid) => {
                let gid = gid.as_deref().unwrap_or_default();
                format!("ROLLBACK PREPARED {}", crate::postgres::quote_literal(gid))
            }
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.gid) {
            (Some(pid), _) => write!(f, "pid {pid}")?,
            (None, gid) => write!(f, "prepared transaction {:?}", gid.as_deref().unwrap_or_default())?,
        }
        let application = self.application.as_deref().filter(|name| !name.is_empty());
        let details: Vec<String> = [
            self.user.as_ref().map(|user| format!("user {user}")),
            application.map(|name| format!("application {name}")),
            self.state.clone().filter(|state| state != "prepared"),
            self.age.map(|age| format!("open for {} s", age.as_secs())),
        ]
        .into_iter()
        .flatten()
        .collect();
        if details.is_empty() { Ok(()) } else { write!(f, " ({})", details.join(", ")) }
    }
}

/// The transactions that the creation of a slot would wait for now, the oldest first.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn blockers(client: &Client) -> Result<Vec<Blocker>> {
    let sql = include_str!("../../../sql/slot_blockers.sql");
    let found = rows(client, sql, &[], "looking for transactions that block the slot").await?;
    let blocker = |row| {
        Ok(Blocker {
            pid: field(row, "pid")?,
            gid: field(row, "gid")?,
            user: field(row, "user_name")?,
            application: field(row, "application")?,
            state: field(row, "state")?,
            age: field::<Option<i64>>(row, "age_s")?
                .map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs())),
        })
    };
    found.iter().map(blocker).collect()
}

/// The replication command that creates the slot, in the grammar of the server's version. `failover` is left out before
/// 17, where it does not exist.
pub fn create_statement(name: &str, failover: bool, version: ServerVersion) -> String {
    let options = if version.major() < 15 {
        "NOEXPORT_SNAPSHOT"
    } else if failover && version.has_failover_slots() {
        "(SNAPSHOT 'nothing', FAILOVER)"
    } else {
        "(SNAPSHOT 'nothing')"
    };
    fill(include_str!("../../../sql/slot_create.sql"), &[("slot", name), ("options", options)])
}

/// Creates the slot on `session` within `timeout`, and says meanwhile which transactions it waits for. The publication
/// must exist already. `client` is an SQL session on the same server. After an error, `session` is to be closed.
///
/// # Errors
///
/// Transient when the time is over: the half-made slot is gone, and the message names who was waited for.
pub async fn create(
    session: &mut ReplicationSession,
    client: &Client,
    name: &str,
    failover: bool,
    version: ServerVersion,
    timeout: Duration,
) -> Result<Created> {
    check_name(name)?;
    let net = timeout + CANCEL_WAIT * CANCELS_MAX as u32;
    session.simple_query(&format!("SET lock_timeout = {}", net.as_millis())).await?;
    let statement = create_statement(name, failover, version);
    let pid = session.backend_pid();
    bounded(Box::pin(session.simple_query(&statement)), client, pid, name, timeout).await?;
    session.simple_query("RESET lock_timeout").await?;

    let slot = read(client, name).await?;
    match slot.and_then(|slot| slot.confirmed_flush_lsn) {
        Some(consistent_point) => Ok(Created { consistent_point }),
        None => Err(Error::transient(format!("slot {name} was created and is already gone"))),
    }
}

/// Waits for the creation's answer until the time is over, then cancels it and leaves nothing behind.
async fn bounded<T>(
    mut creation: Pin<Box<impl Future<Output = Result<T>>>>,
    client: &Client,
    pid: i32,
    name: &str,
    timeout: Duration,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        if let Ok(answer) = tokio::time::timeout(left.min(REPORT_AFTER), &mut creation).await {
            return answer.map(|_| ()).map_err(|error| error.context(format!("creating slot {name}")));
        }
        let waited_for = blockers(client).await?;
        if started.elapsed() < timeout {
            tracing::warn!(
                slot = name,
                waited_s = started.elapsed().as_secs(),
                "the slot's creation waits for open transactions: {}",
                list(&waited_for)
            );
            continue;
        }
        return match cancel(creation, client, pid, name).await? {
            // The last transaction ended just now.
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(timed_out(name, timeout, &waited_for)),
        };
    }
}

/// Cancels the backend that creates the slot; the answer it gave to that, if any.
async fn cancel<T>(
    mut creation: Pin<Box<impl Future<Output = Result<T>>>>,
    client: &Client,
    pid: i32,
    name: &str,
) -> Result<Option<Result<T>>> {
    let doing = format!("cancelling the creation of slot {name}");
    for _ in 0..CANCELS_MAX {
        rows(client, include_str!("../../../sql/slot_cancel.sql"), &[&pid], &doing).await?;
        if let Ok(answer) = tokio::time::timeout(CANCEL_WAIT, &mut creation).await {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn timed_out(name: &str, timeout: Duration, waited_for: &[Blocker]) -> Error {
    let error = Error::transient(format!(
        "slot {name} could not be created within {} s, because these transactions are still open: {}",
        timeout.as_secs(),
        list(waited_for)
    ));
    match waited_for.first() {
        Some(oldest) => error.hint(format!("let them end, or end the oldest: {}", oldest.end_sql())),
        None => error.hint("run it again: the last of them has just ended"),
    }
}

fn list(blockers: &[Blocker]) -> String {
    const SHOWN: usize = 10;
    let mut text: Vec<String> = blockers.iter().take(SHOWN).map(Blocker::to_string).collect();
    if blockers.len() > SHOWN {
        text.push(format!("{} more", blockers.len() - SHOWN));
    }
    if text.is_empty() { "none that is still open".to_owned() } else { text.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_follows_the_grammar_of_each_version() {
        let statement = |failover, version| create_statement("w", failover, ServerVersion(version));
        assert_eq!(statement(true, 140_012), "CREATE_REPLICATION_SLOT w LOGICAL pgoutput NOEXPORT_SNAPSHOT;");
        assert_eq!(
            statement(true, 160_004),
            "CREATE_REPLICATION_SLOT w LOGICAL pgoutput (SNAPSHOT 'nothing');"
        );
        assert_eq!(
            statement(true, 170_000),
            "CREATE_REPLICATION_SLOT w LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER);"
        );
        assert_eq!(
            statement(false, 180_001),
            "CREATE_REPLICATION_SLOT w LOGICAL pgoutput (SNAPSHOT 'nothing');"
        );
    }

    #[test]
    fn a_blocker_is_named_by_what_an_operator_can_see_of_it() {
        let session = Blocker {
            pid: Some(7),
            gid: None,
            user: Some("app".into()),
            application: Some("psql".into()),
            state: Some("idle in transaction".into()),
            age: Some(Duration::from_secs(90)),
        };
        assert_eq!(
            session.to_string(),
            "pid 7 (user app, application psql, idle in transaction, open for 90 s)"
        );
        let hidden =
            Blocker { user: None, application: Some(String::new()), state: None, age: None, ..session };
        assert_eq!(hidden.to_string(), "pid 7");
        let prepared =
            Blocker { pid: None, gid: Some("it's".into()), state: Some("prepared".into()), ..hidden };
        assert_eq!(prepared.to_string(), "prepared transaction \"it's\"");
        assert_eq!(prepared.end_sql(), "ROLLBACK PREPARED 'it''s'");
    }
}
