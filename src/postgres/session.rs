//! SQL sessions: a tokio-postgres client on a socket of ours, so that hosts, TLS and its fallbacks are the same as
//! for replication. The connection's task ends when the client is dropped.

use std::error::Error as StdError;
use std::future::{Ready, ready};
use std::io;

use secrecy::ExposeSecret;
use tokio_postgres::config::{ChannelBinding as ClientBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding as StreamBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::conninfo::{ChannelBinding, ConnectionInfo, TargetSessionAttrs};
use super::handshake::{no_password, unbound};
use super::socket::{Attempt, Attempts, Socket};
use super::sqlstate::{self, ServerError};
use crate::error::{Error, Result};

/// A new SQL session with the first server that takes it. Must be called within a tokio runtime, which runs the
/// connection's task.
///
/// The client knows no address: to cancel a query, use `statement_timeout` or `pg_cancel_backend` from another
/// session, not its cancel token.
///
/// # Errors
///
/// `Transient` for whatever may pass by waiting, `Halt` with a hint for a refused role, database or certificate,
/// `Config` for unusable TLS files.
pub async fn connect(info: &ConnectionInfo, application_name: &str) -> Result<Client> {
    let mut attempts = Attempts::new(info)?;
    while let Some(attempt) = attempts.next().await {
        match attempt.bounded(start(&attempt, application_name)).await {
            Ok(client) => return Ok(client),
            Err(error) => attempts.failed(&attempt, error),
        }
    }
    Err(attempts.into_error())
}

async fn start(attempt: &Attempt<'_>, application_name: &str) -> Result<Client> {
    let (info, doing) = (attempt.info, attempt.doing());
    let mut config = Config::new();
    config
        .user(&info.user)
        .dbname(&info.database)
        .options(&info.options)
        .application_name(info.application_name.as_deref().unwrap_or(application_name))
        .channel_binding(match info.channel_binding {
            ChannelBinding::Disable => ClientBinding::Disable,
            ChannelBinding::Prefer => ClientBinding::Prefer,
            ChannelBinding::Require => ClientBinding::Require,
        })
        // TLS is settled when tokio-postgres gets the socket; so much as this makes it ask nothing more.
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    if let Some(password) = &attempt.server.password {
        config.password(password.expose_secret());
    }
    let socket = attempt.open().await?;
    let (client, connection) =
        config.connect_raw(socket, Settled).await.map_err(|error| from_sql(error, &doing))?;
    tokio::spawn(async move {
        // Every query of the client fails with it as well, and is handled there.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an SQL session ended");
        }
    });
    if let Some(query) = role_query(info.target_session_attrs) {
        let rows = client.simple_query(query).await.map_err(|error| from_sql(error, &doing))?;
        let answer = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        check_role(info.target_session_attrs, answer, &doing)?;
    }
    Ok(client)
}

/// What to ask a server to know whether it is what `target_session_attrs` wants.
pub(super) fn role_query(attrs: TargetSessionAttrs) -> Option<&'static str> {
    match attrs {
        TargetSessionAttrs::Any => None,
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::ReadOnly => Some("SHOW transaction_read_only"),
        // Not pg_is_in_recovery(): SHOW needs no snapshot and works in a walsender too.
        TargetSessionAttrs::Primary | TargetSessionAttrs::Standby => Some("SHOW in_hot_standby"),
    }
}

/// Whether the answer to [`role_query`] is the wanted one. Another may become so after a failover: `Transient`.
pub(super) fn check_role(attrs: TargetSessionAttrs, answer: Option<&str>, doing: &str) -> Result<()> {
    let (is_right, wanted) = match attrs {
        TargetSessionAttrs::Any => (true, "any"),
        TargetSessionAttrs::ReadWrite => (answer == Some("off"), "read-write"),
        TargetSessionAttrs::ReadOnly => (answer == Some("on"), "read-only"),
        TargetSessionAttrs::Primary => (answer == Some("off"), "primary"),
        TargetSessionAttrs::Standby => (answer == Some("on"), "standby"),
    };
    match is_right {
        true => Ok(()),
        false => Err(Error::transient(format!("{doing}: the server is not {wanted}"))
            .hint("see target_session_attrs in the connection string")),
    }
}

/// walcast's error for one of tokio-postgres, saying what was being done (`reading the catalog`).
pub fn from_sql(error: tokio_postgres::Error, doing: &str) -> Error {
    if let Some(reported) = error.as_db_error() {
        let reported = ServerError {
            sqlstate: reported.code().code().to_owned(),
            message: reported.message().to_owned(),
            detail: reported.detail().map(str::to_owned),
            hint: reported.hint().map(str::to_owned),
        };
        return reported.into_error(doing);
    }
    if error.is_closed() {
        return Error::transient(format!("{doing}: the connection is closed")).because(error);
    }
    match error.source() {
        // Only their texts tell these two; should those change, the hints are lost.
        Some(cause) if cause.to_string() == "password missing" => no_password(doing),
        Some(cause) if cause.to_string() == "server did not use channel binding" => unbound(doing),
        Some(cause) if cause.is::<io::Error>() => match error.into_source().map(|cause| cause.downcast()) {
            Some(Ok(cause)) => sqlstate::from_io(*cause, doing),
            _ => Error::bug(format!("{doing}: the cause of an error is gone")),
        },
        // What is left is no fault of the network: a refused authentication, or a value or answer of a kind that
        // was not expected. The cause's text names types and columns, never values.
        Some(cause) => Error::halt(format!("{doing}: {error}: {cause}")).because(error),
        None => Error::halt(format!("{doing}: {error}")).because(error),
    }
}

/// Hands on a socket on which TLS is settled already.
struct Settled;

impl TlsConnect<Socket> for Settled {
    type Stream = Socket;
    type Error = io::Error;
    type Future = Ready<io::Result<Socket>>;

    fn connect(self, socket: Socket) -> Self::Future {
        ready(Ok(socket))
    }
}

impl TlsStream for Socket {
    fn channel_binding(&self) -> StreamBinding {
        Socket::channel_binding(self).map_or_else(StreamBinding::none, StreamBinding::tls_server_end_point)
    }
}
