//! `[[sink]]`: what the targets are and where, as it is written and as the engine uses it.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_with::DeserializeFromStr;

use super::scalar;
use crate::error::Result;

/// A sink's name: 1 to 32 of `a-z`, `0-9`, `_` and `-`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, DeserializeFromStr)]
pub struct SinkName(Arc<str>);

impl SinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SinkName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        match (1..=32).contains(&text.len()) && text.bytes().all(is_allowed) {
            true => Ok(SinkName(text.into())),
            false => Err("a sink's name is 1 to 32 of a-z, 0-9, _ and -"),
        }
    }
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// Its name, which no other sink has.
    pub name: SinkName,
    /// What it is, and where.
    pub target: SinkTarget,
    /// What happens to a row that it will never take. Default dead letter.
    pub on_rejected: OnRejected,
}

/// What a sink is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkTarget {
    /// An SQLite file, which no other sink has.
    Sqlite {
        /// The database file; it is created where there is none.
        path: PathBuf,
    },
    /// A D1 database, through Cloudflare's REST API.
    D1(D1Database, D1Writing),
    /// A D1 database, through the Worker in `worker/`.
    D1Worker(D1Worker, D1Writing),
    /// Counts and discards, for benchmarks.
    Null,
}

/// A D1 database and how to reach it through the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct D1Database {
    /// The account: 32 hexadecimal digits.
    pub account_id: String,
    /// The database's name or id, which no other sink has.
    pub database: String,
    /// A token that may edit it.
    pub api_token: Secret,
    /// Where the API is, without a slash at the end. Default Cloudflare's.
    pub base_url: String,
}

/// A D1 database and how to reach it through a Worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct D1Worker {
    /// Where the Worker is, without a slash at the end.
    pub url: String,
    /// The database's binding in the Worker, which no other sink has.
    pub binding: String,
    /// The key that requests are signed with.
    pub key: Secret,
}

/// How a D1 database is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct D1Writing {
    /// Rows in a request. Default 20 000; 50 to 100 000.
    pub request_max_rows: usize,
    /// Bytes of rows in a request. Default 4 MiB; 64 KiB to 16 MiB, or 4 MiB through a Worker.
    pub request_max_bytes: usize,
    /// Whether rows that are there already as they come are left alone. Default false.
    pub skip_unchanged: bool,
}

/// A text that is kept from sight.
#[derive(Clone)]
pub struct Secret(pub(super) SecretString);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Secret(SecretString::from(text))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// What happens to a row that a sink will never take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRejected {
    /// The row is kept at the sink with its reason, and the stream goes on.
    #[default]
    DeadLetter,
    /// The sink stops for the operator.
    Halt,
}

/// A sink as it is written: everything may be absent, and some keys are another type's.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WrittenSink {
    pub(super) name: Option<SinkName>,
    pub(super) r#type: Option<SinkType>,
    pub(super) on_rejected: OnRejected,
    pub(super) path: Option<PathBuf>,
    pub(super) account_id: Option<String>,
    pub(super) database: Option<String>,
    pub(super) dsn: Option<String>,
    #[serde(deserialize_with = "scalar::secret")]
    pub(super) api_token: Option<SecretString>,
    pub(super) api_token_file: Option<PathBuf>,
    pub(super) base_url: Option<String>,
    pub(super) url: Option<String>,
    pub(super) binding: Option<String>,
    #[serde(deserialize_with = "scalar::secret")]
    pub(super) key: Option<SecretString>,
    pub(super) key_file: Option<PathBuf>,
    #[serde(deserialize_with = "scalar::some_count")]
    pub(super) request_max_rows: Option<usize>,
    #[serde(deserialize_with = "scalar::some_size")]
    pub(super) request_max_bytes: Option<usize>,
    #[serde(deserialize_with = "scalar::some_flag")]
    pub(super) skip_unchanged: Option<bool>,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SinkType {
    Sqlite,
    D1,
    D1Worker,
    Null,
}

impl SinkType {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            SinkType::Sqlite => "sqlite",
            SinkType::D1 => "d1",
            SinkType::D1Worker => "d1-worker",
            SinkType::Null => "null",
        }
    }

    /// The keys that it has beside those of every sink.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            SinkType::Sqlite => &["path"],
            SinkType::D1 => &[
                "account_id",
                "database",
                "dsn",
                "api_token",
                "api_token_file",
                "base_url",
                "request_max_rows",
                "request_max_bytes",
                "skip_unchanged",
            ],
            SinkType::D1Worker => &[
                "url",
                "binding",
                "key",
                "key_file",
                "request_max_rows",
                "request_max_bytes",
                "skip_unchanged",
            ],
            SinkType::Null => &[],
        }
    }
}

impl WrittenSink {
    /// The keys that only some types have, as far as they are written.
    pub(super) fn written(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("path", self.path.is_some()),
            ("account_id", self.account_id.is_some()),
            ("database", self.database.is_some()),
            ("dsn", self.dsn.is_some()),
            ("api_token", self.api_token.is_some()),
            ("api_token_file", self.api_token_file.is_some()),
            ("base_url", self.base_url.is_some()),
            ("url", self.url.is_some()),
            ("binding", self.binding.is_some()),
            ("key", self.key.is_some()),
            ("key_file", self.key_file.is_some()),
            ("request_max_rows", self.request_max_rows.is_some()),
            ("request_max_bytes", self.request_max_bytes.is_some()),
            ("skip_unchanged", self.skip_unchanged.is_some()),
        ];
        keys.into_iter().filter(|(_, is_written)| *is_written).map(|(key, _)| key)
    }
}
