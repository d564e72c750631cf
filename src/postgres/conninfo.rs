//! How to reach a server, as one [`ConnectionInfo`] with libpq's notions: servers to try, credentials, encryption.
//! [`ConnectionInfo::resolve`] makes it from a connection string and the environment.
//!
//! The password lives in `SecretString`s only: no `Debug`, `Display` or error here can show it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

/// What bounds one attempt to connect where nothing else is said, or where `0` asks for no limit at all.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Where Debian's and Red Hat's packages, and the official images, keep the server's unix socket.
pub(super) const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// Whether and how a session is encrypted, as libpq's `sslmode` means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server refuses plain sessions.
    Allow,
    /// If the server can; else plain.
    Prefer,
    /// Always; the certificate is checked only if root certificates are there.
    Require,
    /// Always, with a certificate that chains to a root certificate.
    VerifyCa,
    /// Always, with a certificate that chains to a root certificate and names the host.
    VerifyFull,
}

/// Whether SCRAM is to be bound to the TLS session (`channel_binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    Prefer,
    /// Always; any other authentication is refused.
    Require,
}

/// What a server must be for its session to be kept (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Anything.
    Any,
    /// Transactions may write.
    ReadWrite,
    /// Transactions may not write.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
}

/// Which TLS protocol versions may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    Any,
    /// 1.2 only (`ssl_max_protocol_version=TLSv1.2`).
    Only12,
    /// 1.3 only (`ssl_min_protocol_version=TLSv1.3`).
    Only13,
}

/// Where root certificates come from (`sslrootcert`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// Nowhere: none was named and `~/.postgresql/root.crt` does not exist.
    None,
    /// A PEM file.
    File(PathBuf),
    /// The system's own store (`sslrootcert=system`).
    System,
}

/// A server's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or address, and the address to use instead of a look-up if `hostaddr` gave one.
    Tcp {
        /// The name that TLS checks.
        name: String,
        /// `hostaddr`.
        address: Option<IpAddr>,
    },
    /// The directory of a unix socket.
    Unix(PathBuf),
}

/// One server of the list to be tried.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it is.
    pub host: Host,
    /// Its port, which is part of a unix socket's name as well.
    pub port: u16,
    /// The password for this server; the password file may have another for each.
    pub password: Option<SecretString>,
}

/// TCP keepalive and timeout settings; `None` leaves the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether probes are sent at all.
    pub is_enabled: bool,
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Pause between probes.
    pub interval: Option<Duration>,
    /// Probes without an answer before the connection is dead.
    pub count: Option<u32>,
    /// How long sent data may stay unacknowledged (`tcp_user_timeout`).
    pub user_timeout: Option<Duration>,
}

/// Everything needed to open a session, resolved as libpq does. `Display` is `user@host:port/database`.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The servers to try, in order; never empty.
    pub servers: Vec<Server>,
    /// The role to log in as.
    pub user: String,
    /// The database.
    pub database: String,
    /// What the user asked for with `application_name`; it goes before what the caller would call the session.
    pub application_name: Option<String>,
    /// Startup `options`: the user's, then [`super::PINNED_OPTIONS`], so that the pinned ones win.
    pub options: String,
    /// The limit for one attempt at one address, handshakes included.
    pub connect_timeout: Duration,
    /// TCP keepalive; on unless `keepalives=0`.
    pub keepalive: Keepalive,
    /// What a server must be.
    pub target_session_attrs: TargetSessionAttrs,
    /// Whether SCRAM is bound to TLS.
    pub channel_binding: ChannelBinding,
    /// Whether and how sessions are encrypted.
    pub ssl_mode: SslMode,
    /// TLS starts without asking first (`sslnegotiation=direct`, Postgres 17 and later).
    pub is_tls_direct: bool,
    /// The server's name is sent in the TLS handshake (`sslsni`).
    pub has_sni: bool,
    /// Which TLS versions may be used.
    pub tls_versions: TlsVersions,
    /// Where root certificates come from.
    pub root_certificates: RootCertificates,
    /// The client's certificate and key files.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

impl ConnectionInfo {
    /// Whether this looks like a connection pooler's address, through which no replication is possible.
    pub fn is_pooler_like(&self) -> bool {
        self.servers.iter().any(|server| match &server.host {
            Host::Tcp { name, .. } => server.port == 6543 || name.to_ascii_lowercase().contains("pooler"),
            Host::Unix(_) => false,
        })
    }
}

impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (index, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if index > 0 { "," } else { "" })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl Server {
    /// What the password file calls this host: `localhost` for the default unix socket.
    pub(super) fn passfile_host(&self) -> String {
        match &self.host {
            Host::Tcp { name, .. } => name.clone(),
            Host::Unix(path) if path == Path::new(SOCKET_DIRECTORY) => "localhost".to_owned(),
            Host::Unix(path) => path.display().to_string(),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Host::Unix(path) => write!(f, "{}:{}", path.display(), self.port),
        }
    }
}
