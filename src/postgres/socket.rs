//! Sockets to a server, plain or in TLS, and the order in which `Attempts` tries them: every server, every address
//! of its name, and the encryptions that `sslmode` allows. Sessions start on top; a failed start goes back in, so that
//! the next attempt follows.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::slice;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::conninfo::{ConnectionInfo, Host, Keepalive, Server, SslMode};
use super::{binding, sqlstate, tls};
use crate::error::{Error, Kind, Result};

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A unix socket.
    Unix(UnixStream),
}

impl Socket {
    /// What binds SCRAM to this TLS session; `None` without TLS, or where the certificate allows no binding.
    pub(super) fn channel_binding(&self) -> Option<Vec<u8>> {
        match self {
            Socket::Tls(stream) => {
                let certificates = stream.get_ref().1.peer_certificates()?;
                binding::tls_server_end_point(certificates.first()?)
            }
            Socket::Tcp(_) | Socket::Unix(_) => None,
        }
    }
}

/// The descriptor below any TLS, for socket options.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Tls(stream) => stream.get_ref().0.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Where exactly a socket goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What an attempt does about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Nothing.
    Plain,
    /// Asks, and goes on in plain text if the server says no.
    IfOffered,
    /// Asks, and fails if the server says no.
    Required,
}

impl Encryption {
    /// What `sslmode` tries over TCP, in order. Only a refusal of the first leads to the second.
    fn ladder(mode: SslMode) -> &'static [Encryption] {
        match mode {
            SslMode::Disable => &[Encryption::Plain],
            SslMode::Allow => &[Encryption::Plain, Encryption::Required],
            SslMode::Prefer => &[Encryption::IfOffered, Encryption::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Required],
        }
    }
}

/// One server at one address with one encryption.
#[derive(Debug, Clone)]
pub(super) struct Attempt<'a> {
    pub(super) info: &'a ConnectionInfo,
    pub(super) server: &'a Server,
    pub(super) address: Address,
    encryption: Encryption,
    tls: Option<Arc<ClientConfig>>,
}

impl Attempt<'_> {
    /// What is being done, for messages.
    pub(super) fn doing(&self) -> String {
        format!("connecting to {}@{}/{}", self.info.user, self.server, self.info.database)
    }

    /// Bounds all of an attempt by `connect_timeout`.
    ///
    /// # Errors
    ///
    /// Those of the start; `Transient` when the time is up.
    pub(super) async fn bounded<T>(&self, start: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.info.connect_timeout;
        timeout(limit, start).await.unwrap_or_else(|_| {
            let message = format!("{}: no answer within {} s", self.doing(), limit.as_secs());
            Err(Error::transient(message).hint("check host, port and firewall, or raise connect_timeout"))
        })
    }

    /// Opens the socket, and TLS on it.
    ///
    /// # Errors
    ///
    /// `Transient` for what may pass, `Halt` for a refused certificate or refused TLS, `Config` for a name that no
    /// certificate can have.
    pub(super) async fn open(&self) -> Result<Socket> {
        let failed = |error| sqlstate::from_io(error, &self.doing());
        match &self.address {
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await.map_err(failed)?)),
            Address::Tcp(address) => {
                let start = Instant::now();
                let stream = TcpStream::connect(address).await.map_err(failed)?;
                tune(&stream, &self.info.keepalive, start.elapsed()).map_err(failed)?;
                self.encrypt(stream).await
            }
        }
    }

    async fn encrypt(&self, mut stream: TcpStream) -> Result<Socket> {
        let failed = |error| sqlstate::from_io(error, &self.doing());
        let Some(tls) = self.tls.clone().filter(|_| self.encryption != Encryption::Plain) else {
            return Ok(Socket::Tcp(stream));
        };
        if !self.info.is_tls_direct {
            let mut request = BytesMut::new();
            frontend::ssl_request(&mut request);
            stream.write_all(&request).await.map_err(failed)?;
            // Exactly one byte: whatever else came before TLS would not be the server's word.
            match (stream.read_u8().await.map_err(failed)?, self.encryption) {
                (b'S', _) => {}
                (b'N', Encryption::IfOffered) => return Ok(Socket::Tcp(stream)),
                (b'N', _) => {
                    return Err(Error::halt(format!("{}: the server does not offer TLS", self.doing()))
                        .hint("set ssl = on on the server, or choose a weaker sslmode"));
                }
                (b'E', _) => return Err(Error::transient(format!("{}: the server is busy", self.doing()))),
                _ => return Err(Error::halt(format!("{}: it does not speak Postgres", self.doing()))),
            }
        }
        let name = match &self.server.host {
            Host::Tcp { name, .. } => ServerName::try_from(name.clone()).map_err(|error| {
                Error::config(format!("{}: not a host name", self.doing())).because(error)
            })?,
            Host::Unix(_) => return Err(Error::bug("TLS was asked for over a unix socket")),
        };
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(failed)?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// A server that answers sooner than this is near.
const NEAR: Duration = Duration::from_millis(1);
/// The receive buffer for a near server. The kernel would let it grow to megabytes, of which most holds the overhead of
/// a walsender's small pieces; a small one makes the pieces join while they wait. A far server needs the window.
const NEAR_RECEIVE_BYTES: usize = 128 * 1024;

fn tune(stream: &TcpStream, keepalive: &Keepalive, round_trip: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if round_trip < NEAR {
        socket.set_recv_buffer_size(NEAR_RECEIVE_BYTES)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(keepalive.user_timeout)?;
    if !keepalive.is_enabled {
        return Ok(());
    }
    socket.set_keepalive(true)?;
    let mut settings = TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        settings = settings.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        settings = settings.with_interval(interval);
    }
    if let Some(count) = keepalive.count {
        settings = settings.with_retries(count);
    }
    socket.set_tcp_keepalive(&settings)
}

/// What is left to try. Names are looked up when their turn comes.
pub(super) struct Attempts<'a> {
    info: &'a ConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
    servers: slice::Iter<'a, Server>,
    queue: VecDeque<Attempt<'a>>,
    error: Option<Error>,
}

impl<'a> Attempts<'a> {
    /// All that may be tried for these connections.
    ///
    /// # Errors
    ///
    /// `Config` for unusable TLS files.
    pub(super) fn new(info: &'a ConnectionInfo) -> Result<Self> {
        let has_tcp = info.servers.iter().any(|server| matches!(server.host, Host::Tcp { .. }));
        let tls = if has_tcp { tls::client_config(info)? } else { None };
        Ok(Attempts { info, tls, servers: info.servers.iter(), queue: VecDeque::new(), error: None })
    }

    /// Only what may be tried at one address of one server.
    ///
    /// # Errors
    ///
    /// As [`Attempts::new`].
    pub(super) fn at(info: &'a ConnectionInfo, server: usize, address: Address) -> Result<Self> {
        let mut attempts = Attempts::new(info)?;
        if let Some(server) = info.servers.get(server) {
            attempts.enqueue(server, vec![address]);
        }
        attempts.servers = [].iter();
        Ok(attempts)
    }

    /// The next attempt, or `None` when all have failed.
    pub(super) async fn next(&mut self) -> Option<Attempt<'a>> {
        loop {
            if let Some(attempt) = self.queue.pop_front() {
                return Some(attempt);
            }
            let server = self.servers.next()?;
            match look_up(server, self.info).await {
                Ok(addresses) => self.enqueue(server, addresses),
                Err(error) => self.keep(error),
            }
        }
    }

    fn enqueue(&mut self, server: &'a Server, addresses: Vec<Address>) {
        for address in addresses {
            let ladder = match address {
                Address::Tcp(_) => Encryption::ladder(self.info.ssl_mode),
                Address::Unix(_) => &[Encryption::Plain],
            };
            self.queue.extend(ladder.iter().map(|encryption| Attempt {
                info: self.info,
                server,
                address: address.clone(),
                encryption: *encryption,
                tls: self.tls.clone(),
            }));
        }
    }

    /// Notes why an attempt failed. The other encryption at the same address stays in the queue only if this one was
    /// refused; a wrong password is not tried again in plain text.
    pub(super) fn failed(&mut self, attempt: &Attempt<'_>, error: Error) {
        let is_refused = sqlstate::sqlstate(&error) == Some("28000") || sqlstate::tls_error(&error).is_some();
        if !is_refused && self.queue.front().is_some_and(|next| next.address == attempt.address) {
            self.queue.pop_front();
        }
        self.keep(error);
    }

    /// A transient error outlives the others: while one server may come back, a retry is worth it.
    fn keep(&mut self, error: Error) {
        if self.error.as_ref().is_none_or(|kept| kept.kind() != Kind::Transient) {
            self.error = Some(error);
        }
    }

    /// Why none succeeded.
    pub(super) fn into_error(self) -> Error {
        self.error.unwrap_or_else(|| Error::bug("there was no server to connect to"))
    }
}

async fn look_up(server: &Server, info: &ConnectionInfo) -> Result<Vec<Address>> {
    let name = match &server.host {
        Host::Unix(directory) => {
            return Ok(vec![Address::Unix(directory.join(format!(".s.PGSQL.{}", server.port)))]);
        }
        Host::Tcp { address: Some(address), .. } => {
            return Ok(vec![Address::Tcp(SocketAddr::new(*address, server.port))]);
        }
        Host::Tcp { name, address: None } => name,
    };
    let found = timeout(info.connect_timeout, tokio::net::lookup_host((name.as_str(), server.port))).await;
    match found {
        Ok(Ok(addresses)) => Ok(addresses.map(Address::Tcp).collect()),
        Ok(Err(error)) => {
            Err(Error::transient(format!("looking up the host {name}: {error}")).because(error))
        }
        Err(_) => Err(Error::transient(format!("looking up the host {name}: no answer"))),
    }
}
