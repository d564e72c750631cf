//! The messages around a session's start, over any stream: framing with a size limit, authentication, and the
//! server's errors. Startup parameters and a password go in; the key for cancelling comes out.
//!
//! Authentication offers the password only to a method that the connection's `channel_binding` admits.

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{self, AuthenticationSaslBody, ErrorResponseBody, Header};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::conninfo::ChannelBinding;
use super::sqlstate::{self, ServerError};
use crate::error::{Error, Result};

/// No message of a handshake or of a replication command's answer is longer; more is another protocol or an attack.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Replication's own answer to START_REPLICATION, which postgres-protocol does not know.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// A message that matters to a session's start or to a simple query.
pub(super) enum Reply {
    /// `CopyBothResponse`: the stream begins with the next byte.
    CopyBoth,
    /// Any other.
    Message(backend::Message),
}

/// A stream with the bytes read from it and not yet taken.
pub(super) struct Messages<S> {
    pub(super) stream: S,
    pub(super) buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Messages<S> {
    pub(super) fn new(stream: S) -> Self {
        Messages { stream, buffer: BytesMut::with_capacity(8 << 10) }
    }

    /// The next message; notices and parameter reports are skipped, an ErrorResponse is an error.
    pub(super) async fn next(&mut self, doing: &str) -> Result<Reply> {
        loop {
            match self.read(doing).await? {
                Reply::Message(backend::Message::ErrorResponse(body)) => {
                    return Err(server_error(&body).into_error(doing));
                }
                Reply::Message(
                    backend::Message::NoticeResponse(_)
                    | backend::Message::NotificationResponse(_)
                    | backend::Message::ParameterStatus(_),
                ) => {}
                reply => return Ok(reply),
            }
        }
    }

    async fn read(&mut self, doing: &str) -> Result<Reply> {
        let malformed = |error: io::Error| {
            Error::halt(format!("{doing}: the server sent a malformed message")).because(error)
        };
        loop {
            if let Some(header) = Header::parse(&self.buffer).map_err(malformed)? {
                let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
                if length > MESSAGE_BYTES_MAX {
                    return Err(Error::halt(format!(
                        "{doing}: the server sent a message of {length} bytes, more than {MESSAGE_BYTES_MAX}"
                    ))
                    .hint("check that host and port are those of a Postgres server"));
                }
                if header.tag() == COPY_BOTH_RESPONSE_TAG && self.buffer.len() > length {
                    let _ = self.buffer.split_to(length + 1);
                    return Ok(Reply::CopyBoth);
                }
                if header.tag() != COPY_BOTH_RESPONSE_TAG
                    && let Some(message) = backend::Message::parse(&mut self.buffer).map_err(malformed)?
                {
                    return Ok(Reply::Message(message));
                }
            }
            self.buffer.reserve(4 << 10);
            let count = self.stream.read_buf(&mut self.buffer).await;
            if count.map_err(|error| sqlstate::from_io(error, doing))? == 0 {
                return Err(sqlstate::from_io(io::ErrorKind::UnexpectedEof.into(), doing));
            }
        }
    }

    /// Sends what `write` puts into the buffer.
    pub(super) async fn send(
        &mut self,
        doing: &str,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let mut bytes = BytesMut::new();
        write(&mut bytes).map_err(|error| {
            Error::config(format!("{doing}: a value cannot be sent to the server")).because(error)
        })?;
        let sent = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| sqlstate::from_io(error, doing))
    }
}

/// What a server's ErrorResponse says.
fn server_error(body: &ErrorResponseBody) -> ServerError {
    let mut error = ServerError { sqlstate: String::new(), message: String::new(), detail: None, hint: None };
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => error.sqlstate = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            _ => {}
        }
    }
    error
}

/// What a session says of itself at its start.
pub(super) struct Login<'a> {
    /// Startup parameters; `user` is among them.
    pub(super) parameters: &'a [(&'a str, &'a str)],
    pub(super) user: &'a str,
    pub(super) password: Option<&'a SecretString>,
    pub(super) channel_binding: ChannelBinding,
    /// The TLS session's `tls-server-end-point`, if it has one.
    pub(super) binding: Option<Vec<u8>>,
}

/// Identifies a session's backend towards a cancel request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct BackendKey {
    pub(super) pid: i32,
    pub(super) secret: i32,
}

/// Sends the startup message, authenticates, and waits until the server is ready for a query.
pub(super) async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    messages: &mut Messages<S>,
    login: &Login<'_>,
    doing: &str,
) -> Result<BackendKey> {
    let parameters = login.parameters.iter().copied();
    messages.send(doing, |bytes| frontend::startup_message(parameters, bytes)).await?;
    authenticate(messages, login, doing).await?;
    let mut key = BackendKey { pid: 0, secret: 0 };
    loop {
        match messages.next(doing).await? {
            Reply::Message(backend::Message::BackendKeyData(body)) => {
                key = BackendKey { pid: body.process_id(), secret: body.secret_key() };
            }
            Reply::Message(backend::Message::ReadyForQuery(_)) => return Ok(key),
            _ => return Err(unexpected(doing)),
        }
    }
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    messages: &mut Messages<S>,
    login: &Login<'_>,
    doing: &str,
) -> Result<()> {
    use backend::Message;
    let Reply::Message(request) = messages.next(doing).await? else {
        return Err(unexpected(doing));
    };
    if !matches!(request, Message::AuthenticationSasl(_)) {
        refuse_unbound(login, doing)?;
    }
    match request {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            let password = password(login, doing)?;
            messages.send(doing, |bytes| frontend::password_message(password, bytes)).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(login.user.as_bytes(), password(login, doing)?, body.salt());
            messages.send(doing, |bytes| frontend::password_message(hash.as_bytes(), bytes)).await?;
        }
        Message::AuthenticationSasl(body) => authenticate_scram(messages, login, &body, doing).await?,
        Message::AuthenticationGss
        | Message::AuthenticationSspi
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential => {
            return Err(Error::halt(format!("{doing}: the server asks for GSSAPI or SSPI authentication"))
                .hint("let pg_hba.conf use scram-sha-256, cert or peer for this role"));
        }
        _ => return Err(unexpected(doing)),
    }
    match messages.next(doing).await? {
        Reply::Message(Message::AuthenticationOk) => Ok(()),
        _ => Err(unexpected(doing)),
    }
}

async fn authenticate_scram<S: AsyncRead + AsyncWrite + Unpin>(
    messages: &mut Messages<S>,
    login: &Login<'_>,
    body: &AuthenticationSaslBody,
    doing: &str,
) -> Result<()> {
    use backend::Message;
    let failed = |error: io::Error| {
        Error::halt(format!("{doing}: SCRAM authentication failed: {error}"))
            .hint("check the password, and that nobody sits between walcast and the server")
            .because(error)
    };
    let offered: Vec<&str> = body.mechanisms().collect().map_err(failed)?;
    let binding = login.binding.clone().filter(|_| login.channel_binding != ChannelBinding::Disable);
    let (mechanism, binding) = match binding {
        Some(binding) if offered.contains(&sasl::SCRAM_SHA_256_PLUS) => {
            (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(binding))
        }
        // "I could have": a server that could too sees that somebody took its offer away, and refuses.
        Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    if !offered.contains(&mechanism) {
        return Err(Error::halt(format!("{doing}: the server offers no SASL mechanism that walcast knows"))
            .hint("let pg_hba.conf use scram-sha-256 for this role"));
    }
    if mechanism != sasl::SCRAM_SHA_256_PLUS {
        refuse_unbound(login, doing)?;
    }
    let mut scram = ScramSha256::new(password(login, doing)?, binding);
    messages.send(doing, |bytes| frontend::sasl_initial_response(mechanism, scram.message(), bytes)).await?;
    match messages.next(doing).await? {
        Reply::Message(Message::AuthenticationSaslContinue(body)) => {
            scram.update(body.data()).map_err(failed)?
        }
        _ => return Err(unexpected(doing)),
    }
    messages.send(doing, |bytes| frontend::sasl_response(scram.message(), bytes)).await?;
    match messages.next(doing).await? {
        Reply::Message(Message::AuthenticationSaslFinal(body)) => scram.finish(body.data()).map_err(failed),
        _ => Err(unexpected(doing)),
    }
}

/// `channel_binding=require` admits nothing that is not bound to TLS, not even a server that asks for nothing.
fn refuse_unbound(login: &Login<'_>, doing: &str) -> Result<()> {
    match login.channel_binding {
        ChannelBinding::Disable | ChannelBinding::Prefer => Ok(()),
        ChannelBinding::Require => Err(unbound(doing)),
    }
}

fn password<'a>(login: &Login<'a>, doing: &str) -> Result<&'a [u8]> {
    login.password.map(|password| password.expose_secret().as_bytes()).ok_or_else(|| no_password(doing))
}

/// `channel_binding=require` cannot be had.
pub(super) fn unbound(doing: &str) -> Error {
    Error::halt(format!("{doing}: channel binding is required, but the server does not use it"))
        .hint("use TLS and scram-sha-256 for this role, or set channel_binding=prefer")
}

/// The server asks for a password and there is none.
pub(super) fn no_password(doing: &str) -> Error {
    Error::halt(format!("{doing}: the server asks for a password and none is given"))
        .hint("set PGPASSWORD, or add a line to ~/.pgpass")
}

pub(super) fn unexpected(doing: &str) -> Error {
    Error::halt(format!("{doing}: the server sent a message out of turn"))
        .hint("check that host and port are those of a Postgres server")
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
