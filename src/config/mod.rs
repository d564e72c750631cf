//! The configuration: `walcast.toml`, then the environment over it. Text and variables enter; a checked [`Config`] or
//! every mistake at once leaves. Secrets never enter an error or `Debug`.
//!
//! A string may contain `${VAR}` or `${VAR:-default}`. A variable `WALCAST_SECTION__KEY` stands in for `key` in
//! `[section]`, `WALCAST_SINK__0__PATH` for `path` in the first `[[sink]]`. An empty variable counts as not set.
//! Relative paths, also those from the environment, start at the file's directory.

mod admin;
mod check;
mod check_sinks;
mod difference;
mod environment;
#[cfg(test)]
mod readme_tests;
mod scalar;
mod schedule;
mod sink;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use secrecy::SecretString;
use serde::Deserialize;

use crate::document::Document;
use crate::document::problems::Problems;
use crate::error::{Error, Result};
pub use admin::{Admin, SECRET_MIN_CHARS};
use check::Checker;
pub use difference::Difference;
pub use environment::Environment;
pub use schedule::{Heartbeat, Schedule};
use sink::WrittenSink;
pub use sink::{D1Database, D1Worker, D1Writing, OnRejected, Secret, Sink, SinkName, SinkTarget};

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "walcast.toml";

/// What stands between a slot's name and a sink's in the name of the sink's own copy of the slot. Two underscores,
/// because `walcast_eu` may well be the slot of another pipeline, and copies are dropped by name.
pub const COPY_INFIX: &str = "__";

const MIB: usize = 1 << 20;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where `schema.json` is. Default `schema.json`.
    pub schema: PathBuf,
    /// Whether a start changes tables of replicas that were made for another `schema.json`. Default `auto`.
    pub schema_changes: SchemaChanges,
    /// `[source]`: the Postgres server.
    pub source: Source,
    /// `[[sink]]`: the targets, at least one, with distinct names.
    pub sinks: Vec<Sink>,
    /// `[batch]`: what one `apply` takes at most.
    pub batch: Batch,
    /// `[queue]`: what waits for a sink at most.
    pub queue: Queue,
    /// `[catch_up]`: what a sink that falls behind may cost.
    pub catch_up: CatchUp,
    /// `[backfill]`: the rows from before the stream.
    pub backfill: Backfill,
    /// `[transaction]`: how large transactions travel.
    pub transaction: Transaction,
    /// `[retry]`: the pauses between attempts.
    pub retry: Retry,
    /// `[shutdown]`: how the engine ends.
    pub shutdown: Shutdown,
    /// `[schedule]`: when it streams. Default none: all the time.
    pub schedule: Option<Schedule>,
    /// `[heartbeat]`: whether delays are measured.
    pub heartbeat: Heartbeat,
    /// `[d1]`: what all D1 sinks share.
    pub d1: D1,
    /// `[log]`: what is logged, and how.
    pub log: Log,
    /// `[admin]`: the HTTP API.
    pub admin: Admin,
}

/// Who says when tables of replicas are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchemaChanges {
    /// A start does it.
    #[default]
    Auto,
    /// A start stops a sink whose tables would have to be changed, until an operator lets them be changed.
    Manual,
}

/// The Postgres server and what is read from it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// The connection URL. `DATABASE_URL` or `DATABASE_URL_FILE` stand in for it; without any, the `PG*` variables
    /// rule.
    #[serde(deserialize_with = "scalar::secret")]
    pub url: Option<SecretString>,
    /// A file that holds the URL; [`Config::load`] has read it into `url`.
    url_file: Option<PathBuf>,
    /// The replication slot: 1 to 63 of `a-z`, `0-9` and `_`. Default `walcast`.
    pub slot: String,
    /// The publication: an identifier of 1 to 63 bytes. Default `walcast`.
    pub publication: String,
    /// How long creating the slot may wait for transactions that began before. Default 30 s; 1 s to 1 day.
    #[serde(deserialize_with = "scalar::duration")]
    pub slot_create_timeout: Duration,
    /// The confirmed position is sent at most this often. Default 1 s; 10 ms to 30 s, since the server ends a
    /// connection that it does not hear from for its `wal_sender_timeout` (60 s by default).
    #[serde(deserialize_with = "scalar::duration")]
    pub status_interval: Duration,
    /// How often the position of an idle stream is written to the sinks' checkpoints. Default 10 s; 100 ms to 1 h.
    #[serde(deserialize_with = "scalar::duration")]
    pub idle_checkpoint_interval: Duration,
    /// The URL of a standby from which rows are read for a fill. Default none: the primary.
    #[serde(deserialize_with = "scalar::secret")]
    pub backfill_url: Option<SecretString>,
    /// A larger single replication message stops the engine, in bytes. Default 256 MiB; 1 MiB to 1 GiB, which is what
    /// the server can send.
    #[serde(deserialize_with = "scalar::size")]
    pub max_message_bytes: usize,
}

impl Default for Source {
    fn default() -> Self {
        Source {
            url: None,
            url_file: None,
            slot: "walcast".to_owned(),
            publication: "walcast".to_owned(),
            slot_create_timeout: Duration::from_secs(30),
            status_interval: Duration::from_secs(1),
            idle_checkpoint_interval: Duration::from_secs(10),
            backfill_url: None,
            max_message_bytes: 256 * MIB,
        }
    }
}

/// The name of the copy of `slot` that the named sink reads while it catches up.
pub fn slot_copy(slot: &str, sink: &str) -> String {
    format!("{slot}{COPY_INFIX}{}", sink.replace('-', "_"))
}

/// What one `apply` takes at most.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Batch {
    /// Rows in a batch. Default 5000; 1 to 1 000 000.
    #[serde(deserialize_with = "scalar::count")]
    pub max_rows: usize,
    /// Bytes of row values in a batch. Default 1 MiB; 4 KiB to 1 GiB.
    #[serde(deserialize_with = "scalar::size")]
    pub max_bytes: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { max_rows: 5000, max_bytes: MIB }
    }
}

/// What waits for a sink at most.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Bytes that wait for one sink; twice as many while it re-joins the others. Default 8 MiB; 64 KiB to 1 GiB.
    #[serde(deserialize_with = "scalar::size")]
    pub max_bytes: usize,
    /// How long, in sum, a sink may keep sinks that have nothing to do waiting for room in its full queue, before the
    /// stream goes on without it. Default 2 s; 10 ms to 1 h.
    #[serde(deserialize_with = "scalar::duration")]
    pub patience: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { max_bytes: 8 * MIB, patience: Duration::from_secs(2) }
    }
}

/// What a sink that falls behind may cost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatchUp {
    /// A sink further behind the server than this, in bytes of WAL, is detached and must be filled anew. Default none:
    /// the server keeps what it lacks for as long as its disk, or its own limit, allows. At least 1 MiB.
    #[serde(deserialize_with = "scalar::maybe_size")]
    pub max_wal: Option<u64>,
}

/// The rows from before the stream: of a first start, a new region, a new table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backfill {
    /// Whether they are brought. Default `initial`.
    pub mode: BackfillMode,
    /// The same for single tables, by their name in `schema.json`.
    pub tables: IndexMap<String, BackfillMode>,
    /// How many connections read at once. Default 2; 1 to 16.
    #[serde(deserialize_with = "scalar::count")]
    pub connections: usize,
    /// Bytes that one read takes at most. Default 1 MiB; 32 KiB to 64 MiB.
    #[serde(deserialize_with = "scalar::size")]
    pub chunk_max_bytes: usize,
}

/// Whether rows from before the stream are brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackfillMode {
    /// They are, while the stream flows.
    #[default]
    Initial,
    /// A replica begins with what the stream brings.
    Never,
}

impl Backfill {
    /// Whether rows of a table from before the stream are brought; `names` are the ways to write its name.
    pub fn is_wanted(&self, names: [&str; 2]) -> bool {
        let mode = names.iter().find_map(|name| self.tables.get(*name)).unwrap_or(&self.mode);
        *mode == BackfillMode::Initial
    }
}

impl Default for Backfill {
    fn default() -> Self {
        Backfill {
            mode: BackfillMode::default(),
            tables: IndexMap::new(),
            connections: 2,
            chunk_max_bytes: MIB,
        }
    }
}

/// How large transactions travel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transaction {
    /// A transaction larger than this travels in parts of this size, in bytes. Default 1 MiB; 4 KiB to
    /// `queue.max_bytes`.
    #[serde(deserialize_with = "scalar::size")]
    pub part_max_bytes: usize,
}

impl Default for Transaction {
    fn default() -> Self {
        Transaction { part_max_bytes: MIB }
    }
}

/// The pauses between attempts; each is up to twice the one before.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// The first pause. Default 50 ms; 1 ms to `retry.max`.
    #[serde(deserialize_with = "scalar::duration")]
    pub initial: Duration,
    /// The longest pause. Default 30 s; 1 ms to 1 h.
    #[serde(deserialize_with = "scalar::duration")]
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { initial: Duration::from_millis(50), max: Duration::from_secs(30) }
    }
}

/// How the engine ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long the sinks may finish what is queued. Default 10 s; 100 ms to 1 h. What is not finished is replayed
    /// at the next start.
    #[serde(deserialize_with = "scalar::duration")]
    pub timeout: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { timeout: Duration::from_secs(10) }
    }
}

/// What all D1 sinks share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct D1 {
    /// Requests to Cloudflare's API in five minutes, for all sinks of one token together. Default 1000; 10 to
    /// 1 000 000. At 1200 Cloudflare blocks a token, whoever uses it, for the rest of the five minutes, unless it has
    /// raised yours.
    #[serde(deserialize_with = "scalar::count")]
    pub requests_per_5_minutes: usize,
}

impl Default for D1 {
    fn default() -> Self {
        D1 { requests_per_5_minutes: 1000 }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives such as `info,walcast=debug`. `RUST_LOG`, then `LOG_LEVEL` stand in for it. Default
    /// `info`.
    pub level: String,
    /// The form of a line. `LOG_FORMAT` stands in for it. Default text.
    pub format: LogFormat,
    /// The SQLite file that keeps what each sink took when, and what failed. Default none: not kept.
    pub sync_file: Option<PathBuf>,
    /// Older entries of that file are removed. Default 7 days; 1 min to 10 years.
    #[serde(deserialize_with = "scalar::duration")]
    pub retention: Duration,
    /// More entries are not kept. Default 200 000; 1000 to 100 000 000.
    #[serde(deserialize_with = "scalar::count")]
    pub max_entries: usize,
    /// Bytes of that file for hashes of the keys that were touched, four for each key and entry, by which `/logs` finds
    /// the entries of a row; the oldest are removed. Whoever can read the file can test with them whether a row was
    /// there. Default 32 MiB; 0, which keeps none, to 4 GiB.
    #[serde(deserialize_with = "scalar::size")]
    pub max_key_bytes: usize,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".to_owned(),
            format: LogFormat::Text,
            sync_file: None,
            retention: Duration::from_secs(7 * 86_400),
            max_entries: 200_000,
            max_key_bytes: 32 * MIB,
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The configuration as it is written: everything may be absent.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Written {
    schema: Option<PathBuf>,
    schema_changes: SchemaChanges,
    source: Source,
    sink: Vec<WrittenSink>,
    batch: Batch,
    queue: Queue,
    catch_up: CatchUp,
    backfill: Backfill,
    transaction: Transaction,
    retry: Retry,
    shutdown: Shutdown,
    schedule: Option<Schedule>,
    heartbeat: Heartbeat,
    d1: D1,
    log: Log,
    admin: Admin,
}

/// What must be there for the configuration to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requires {
    /// At least one sink.
    Everything,
    /// No sink.
    Source,
}

impl Config {
    /// Reads the file and the environment. Without a `path`, [`DEFAULT_FILE`] is read where there is one, and else
    /// the environment must say everything. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](crate::error::Kind::Config), with every mistake on its own line:
    /// `walcast.toml:3:9: source.slot: …` or `WALCAST_SOURCE__SLOT: …`.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self> {
        Self::load_with(path, environment, Requires::Everything)
    }

    /// As [`load`](Self::load), but the sinks may be missing: for commands that only look at the source, so that
    /// `DATABASE_URL` alone is enough for them.
    pub fn load_for_source(path: Option<&Path>, environment: &Environment) -> Result<Self> {
        Self::load_with(path, environment, Requires::Source)
    }

    fn load_with(path: Option<&Path>, environment: &Environment, requires: Requires) -> Result<Self> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::read(Some((file, &text)), environment, requires),
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Self::read(None, environment, requires).map_err(|error| {
                    error.hint(format!(
                        "there is no {DEFAULT_FILE} here: write one, or name one with --config"
                    ))
                })
            }
            Err(error) => Err(Error::config(format!("{} cannot be read", file.display())).because(error)),
        }
    }

    fn read(file: Option<(&Path, &str)>, environment: &Environment, requires: Requires) -> Result<Self> {
        let mut problems = Problems::default();
        let document = match file {
            Some((path, text)) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                Document::toml(&name, text, &mut problems)
            }
            None => Some(Document::empty("the configuration")),
        };
        let Some(mut document) = document else {
            return problems.finish().and(Err(Error::bug("a configuration without syntax has no problems")));
        };
        environment.apply(&mut document, &mut problems);
        document.replace_strings(&mut problems, &|text| environment.fill(text));
        let written: Written = document.read(&mut problems).unwrap_or_default();
        let base = file.and_then(|(path, _)| path.parent()).unwrap_or(Path::new(""));
        let config =
            Checker { document, problems: &mut problems, requires, environment }.check(written, base);
        problems.finish()?;
        Ok(config)
    }
}
