//! Replication sessions: Postgres' protocol in walsender mode (`replication=database`), which tokio-postgres does
//! not have. A session runs replication commands, and ends by giving its socket away to the stream that
//! START_REPLICATION begins.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{self, DataRowBody};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::conninfo::ConnectionInfo;
use super::handshake::{self, BackendKey, Login, Messages, Reply};
use super::session::{check_role, role_query};
pub use super::socket::Socket;
use super::socket::{Address, Attempt, Attempts};
use super::sqlstate;
use crate::error::{Error, Result};

/// How long START_REPLICATION may take to answer: it reads the slot and its saved snapshot first.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A session in walsender mode, ready for a command.
pub struct ReplicationSession {
    messages: Messages<Socket>,
    cancel_key: CancelKey,
}

/// Reaches a session's backend from outside, to cancel what it does. Keep it before a command that may block.
#[derive(Clone)]
pub struct CancelKey {
    key: BackendKey,
    server: usize,
    address: Address,
}

impl ReplicationSession {
    /// A new replication session with the first server that takes it.
    ///
    /// # Errors
    ///
    /// `Transient` for whatever may pass by waiting, `Halt` with a hint for a refused role, database or certificate,
    /// `Config` for unusable TLS files.
    pub async fn connect(info: &ConnectionInfo, application_name: &str) -> Result<Self> {
        let mut attempts = Attempts::new(info)?;
        while let Some(attempt) = attempts.next().await {
            match attempt.bounded(Self::start(&attempt, application_name)).await {
                Ok(session) => return Ok(session),
                Err(error) => attempts.failed(&attempt, error),
            }
        }
        Err(attempts.into_error())
    }

    async fn start(attempt: &Attempt<'_>, application_name: &str) -> Result<Self> {
        let (info, doing) = (attempt.info, attempt.doing());
        let socket = attempt.open().await?;
        let login = Login {
            parameters: &[
                ("user", info.user.as_str()),
                ("database", info.database.as_str()),
                ("replication", "database"),
                ("application_name", info.application_name.as_deref().unwrap_or(application_name)),
                ("client_encoding", "UTF8"),
                ("options", info.options.as_str()),
            ],
            user: &info.user,
            password: attempt.server.password.as_ref(),
            channel_binding: info.channel_binding,
            binding: socket.channel_binding(),
        };
        let mut messages = Messages::new(socket);
        let key = handshake::log_in(&mut messages, &login, &doing).await?;
        let server = info.servers.iter().position(|server| std::ptr::eq(server, attempt.server));
        let cancel_key =
            CancelKey { key, server: server.unwrap_or_default(), address: attempt.address.clone() };
        let mut session = ReplicationSession { messages, cancel_key };
        if let Some(query) = role_query(info.target_session_attrs) {
            let rows = session.simple_query(query).await?;
            let answer = rows.first().and_then(|row| row.first()).and_then(|value| value.as_deref());
            check_role(info.target_session_attrs, answer, &doing)?;
        }
        Ok(session)
    }

    /// The rows that a replication command or a simple SQL statement answers with, as text.
    ///
    /// It waits as long as the server takes, and CREATE_REPLICATION_SLOT waits for every running transaction: bound
    /// it, and cancel what was given up with [`ReplicationSession::cancel_key`]. Once dropped half-way, the session
    /// is of no further use.
    ///
    /// # Errors
    ///
    /// The server's, by SQLSTATE; after one of those the session can go on.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        use backend::Message;
        let doing = doing(sql);
        self.messages.send(&doing, |bytes| frontend::query(sql, bytes)).await?;
        let mut rows = Vec::new();
        loop {
            match self.messages.next(&doing).await {
                Ok(Reply::Message(Message::DataRow(body))) => rows.push(values(&body, &doing)?),
                Ok(Reply::Message(Message::ReadyForQuery(_))) => return Ok(rows),
                Ok(Reply::Message(
                    Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse,
                )) => {}
                Ok(_) => return Err(handshake::unexpected(&doing)),
                Err(error) if sqlstate::sqlstate(&error).is_some() => {
                    self.until_ready(&doing).await;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads up to the ReadyForQuery that follows an error. What goes wrong here shows at the next command.
    async fn until_ready(&mut self, doing: &str) {
        while let Ok(reply) = self.messages.next(doing).await {
            if matches!(reply, Reply::Message(backend::Message::ReadyForQuery(_))) {
                return;
            }
        }
    }

    /// Sends START_REPLICATION and waits until the stream begins. Gives the socket away, with the bytes of the stream
    /// that were read already: they come before any that the socket gives.
    ///
    /// # Errors
    ///
    /// The server's, by SQLSTATE: `Transient` for a slot that is active for another PID, `NeedsBackfill` for one that
    /// is missing or invalidated.
    pub async fn start_copy_both(mut self, sql: &str) -> Result<(Socket, BytesMut)> {
        let doing = doing(sql);
        let started = async {
            self.messages.send(&doing, |bytes| frontend::query(sql, bytes)).await?;
            match self.messages.next(&doing).await? {
                Reply::CopyBoth => Ok(()),
                Reply::Message(_) => Err(handshake::unexpected(&doing)),
            }
        };
        match timeout(START_TIMEOUT, started).await {
            Ok(result) => result?,
            Err(_) => {
                return Err(Error::transient(format!("{doing}: no answer within {START_TIMEOUT:?}")));
            }
        }
        Ok((self.messages.stream, self.messages.buffer))
    }

    /// The process id of this session's walsender, as in `pg_stat_replication` and `pg_stat_activity`.
    pub fn backend_pid(&self) -> i32 {
        self.cancel_key.backend_pid()
    }

    /// What it takes to cancel this session's command from elsewhere.
    pub fn cancel_key(&self) -> CancelKey {
        self.cancel_key.clone()
    }

    /// Ends the session in order; dropping it ends it too, with a line in the server's log.
    pub async fn close(mut self) {
        let terminate = self.messages.send("closing", |bytes| {
            frontend::terminate(bytes);
            Ok(())
        });
        // Whoever closes a session has no use for it, nor for the reason why it could not be closed.
        let _ = timeout(Duration::from_secs(1), terminate).await;
    }
}

impl CancelKey {
    /// The process id of the backend that a cancel would reach.
    pub fn backend_pid(&self) -> i32 {
        self.key.pid
    }

    /// Asks the server to cancel the session's command, over a connection of its own, and waits until the server has
    /// taken the request. The command then fails with SQLSTATE 57014, unless it ended before. `info` must be that of
    /// the session.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn cancel(&self, info: &ConnectionInfo) -> Result<()> {
        let mut attempts = Attempts::at(info, self.server, self.address.clone())?;
        while let Some(attempt) = attempts.next().await {
            match attempt.bounded(self.request(&attempt)).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.failed(&attempt, error),
            }
        }
        Err(attempts.into_error().context("cancelling a replication command"))
    }

    async fn request(&self, attempt: &Attempt<'_>) -> Result<()> {
        let failed = |error| sqlstate::from_io(error, &attempt.doing());
        let mut socket = attempt.open().await?;
        let mut bytes = BytesMut::new();
        frontend::cancel_request(self.key.pid, self.key.secret, &mut bytes);
        socket.write_all(&bytes).await.map_err(failed)?;
        socket.flush().await.map_err(failed)?;
        // The server closes once it has signalled the backend; how it closes does not matter.
        let _ = socket.read_u8().await;
        Ok(())
    }
}

impl fmt::Debug for ReplicationSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicationSession").field("backend_pid", &self.backend_pid()).finish_non_exhaustive()
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey").field("pid", &self.key.pid).finish_non_exhaustive()
    }
}

/// The command's first words, for messages: they name the command and its slot.
fn doing(sql: &str) -> String {
    sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn values(body: &DataRowBody, doing: &str) -> Result<Vec<Option<String>>> {
    let malformed =
        |error: io::Error| Error::halt(format!("{doing}: the server sent a malformed row")).because(error);
    let buffer = body.buffer();
    body.ranges()
        .map(|range| Ok(range.map(|range| String::from_utf8_lossy(&buffer[range]).into_owned())))
        .collect()
        .map_err(malformed)
}
