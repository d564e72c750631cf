//! `[admin]`: whether the HTTP API is on, where it listens, and who may use it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::scalar;

/// A shorter secret is refused where others than this machine can reach the API.
pub const SECRET_MIN_CHARS: usize = 32;

/// The HTTP API.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port; port 0 takes a free one, which is logged. Without it the API is off. An address beyond
    /// loopback needs a secret of at least [`SECRET_MIN_CHARS`] characters.
    pub listen: Option<SocketAddr>,
    /// What whoever writes, or reads rows, must show. `WALCAST_ADMIN_SECRET` or `WALCAST_ADMIN_SECRET_FILE` stand in
    /// for it. Without one these routes are closed.
    #[serde(deserialize_with = "scalar::secret")]
    pub secret: Option<SecretString>,
    /// A file that holds the secret; [`Config::load`](super::Config::load) has read it into `secret`.
    pub(super) secret_file: Option<PathBuf>,
    /// Whether every route but `/livez` and `/readyz` needs the secret. Default false.
    #[serde(deserialize_with = "scalar::flag")]
    pub protect_reads: bool,
    /// The names under which the API is reached, besides `localhost` and addresses. A request for any other name is
    /// refused, so that a page on the internet cannot reach the API through a name of its own. Default none.
    pub hosts: Vec<String>,
    /// `/livez` fails when the engine has stood still for this long although there is something to do. Default 60 s;
    /// 1 s to 1 day, and at least twice `source.idle_checkpoint_interval`.
    #[serde(deserialize_with = "scalar::duration")]
    pub stall_timeout: Duration,
    /// `/readyz` fails when a sink holds more dead letters. Default no limit.
    #[serde(deserialize_with = "scalar::some_count")]
    pub max_dead_letters: Option<usize>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            listen: None,
            secret: None,
            secret_file: None,
            protect_reads: false,
            hosts: Vec::new(),
            stall_timeout: Duration::from_secs(60),
            max_dead_letters: None,
        }
    }
}
