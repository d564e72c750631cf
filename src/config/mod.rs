//! The configuration: `walcast.toml`, then the environment over it. Text and variables enter; a checked [`Config`] or
//! every mistake at once leaves. Secrets never enter an error or `Debug`.
//!
//! A string may contain `${VAR}` or `${VAR:-default}`. A variable `WALCAST_SECTION__KEY` stands in for `key` in
//! `[section]`, `WALCAST_SINK__0__PATH` for `path` in the first `[[sink]]`. An empty variable counts as not set.
//! Relative paths, also those from the environment, start at the file's directory.

pub(crate) mod document;
mod environment;
mod scalar;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;
use serde::Deserialize;
use serde_with::DeserializeFromStr;

use crate::error::{Error, Result};
use document::{Document, Problems, steps};
pub use environment::Environment;

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "walcast.toml";

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where `schema.json` is. Default `schema.json`.
    pub schema: PathBuf,
    /// `[source]`: the Postgres server.
    pub source: Source,
    /// `[[sink]]`: the targets, at least one, with distinct names.
    pub sinks: Vec<Sink>,
    /// `[batch]`: what one `apply` takes at most.
    pub batch: Batch,
    /// `[queue]`: what waits for a sink at most.
    pub queue: Queue,
    /// `[transaction]`: how large transactions travel.
    pub transaction: Transaction,
    /// `[retry]`: the pauses between attempts.
    pub retry: Retry,
    /// `[shutdown]`: how the engine ends.
    pub shutdown: Shutdown,
    /// `[log]`: what is logged, and how.
    pub log: Log,
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
            max_message_bytes: 256 * MIB,
        }
    }
}

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
    /// Counts and discards, for benchmarks.
    Null,
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

/// What one `apply` takes at most.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Bytes that wait for one sink. Default 8 MiB; 64 KiB to 1 GiB.
    #[serde(deserialize_with = "scalar::size")]
    pub max_bytes: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { max_bytes: 8 * MIB }
    }
}

/// How large transactions travel.
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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
#[derive(Debug, Clone, Deserialize)]
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

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives such as `info,walcast=debug`. `RUST_LOG`, then `LOG_LEVEL` stand in for it. Default
    /// `info`.
    pub level: String,
    /// The form of a line. `LOG_FORMAT` stands in for it. Default text.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".to_owned(), format: LogFormat::Text }
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
    source: Source,
    sink: Vec<WrittenSink>,
    batch: Batch,
    queue: Queue,
    transaction: Transaction,
    retry: Retry,
    shutdown: Shutdown,
    log: Log,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct WrittenSink {
    name: Option<SinkName>,
    r#type: Option<SinkType>,
    path: Option<PathBuf>,
    on_rejected: OnRejected,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum SinkType {
    Sqlite,
    Null,
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
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::read(Some((file, &text)), environment),
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Self::read(None, environment).map_err(|error| {
                    error.hint(format!(
                        "there is no {DEFAULT_FILE} here: write one, or name one with --config"
                    ))
                })
            }
            Err(error) => Err(Error::config(format!("{} cannot be read", file.display())).because(error)),
        }
    }

    fn read(file: Option<(&Path, &str)>, environment: &Environment) -> Result<Self> {
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
        let config = Checker { document, problems: &mut problems }.check(written, base);
        problems.finish()?;
        Ok(config)
    }
}

struct Checker<'a> {
    document: Document,
    problems: &'a mut Problems,
}

impl Checker<'_> {
    fn note(&mut self, path: document::Path, message: impl Display) {
        self.problems.add(&self.document, &path, message);
    }

    fn check(&mut self, written: Written, base: &Path) -> Config {
        let Written { schema, mut source, sink, batch, queue, transaction, retry, shutdown, log } = written;
        self.source(&mut source, base);
        let sinks = self.sinks(sink, base);
        self.between(steps!["batch", "max_rows"], batch.max_rows, 1..=1_000_000);
        self.size(steps!["batch", "max_bytes"], batch.max_bytes, 4 * KIB..=GIB);
        self.size(steps!["queue", "max_bytes"], queue.max_bytes, 64 * KIB..=GIB);
        let part = steps!["transaction", "part_max_bytes"];
        self.size(part.clone(), transaction.part_max_bytes, 4 * KIB..=GIB);
        if transaction.part_max_bytes > queue.max_bytes {
            let queue = ByteSize(queue.max_bytes as u64);
            self.note(part, format!("must not be more than queue.max_bytes, which is {queue}"));
        }
        self.duration(steps!["retry", "initial"], retry.initial, "1ms", "1h");
        self.duration(steps!["retry", "max"], retry.max, "1ms", "1h");
        if retry.initial > retry.max {
            let max = humantime::format_duration(retry.max);
            self.note(steps!["retry", "initial"], format!("must not be more than retry.max, which is {max}"));
        }
        self.duration(steps!["shutdown", "timeout"], shutdown.timeout, "100ms", "1h");
        self.log(&log);
        let schema = base.join(schema.unwrap_or_else(|| PathBuf::from("schema.json")));
        Config { schema, source, sinks, batch, queue, transaction, retry, shutdown, log }
    }

    fn source(&mut self, source: &mut Source, base: &Path) {
        let url_file = source.url_file.take();
        if url_file.is_some() && source.url.is_some() {
            self.note(steps!["source", "url_file"], "url is set too: say one of them");
        } else if let Some(path) = url_file {
            match std::fs::read_to_string(base.join(&path)) {
                Ok(url) if url.trim().is_empty() => {
                    self.note(steps!["source", "url_file"], "the file is empty");
                }
                Ok(url) => source.url = Some(SecretString::from(url.trim())),
                Err(error) => {
                    self.note(steps!["source", "url_file"], format!("the file cannot be read: {error}"));
                }
            }
        }
        let is_slot_byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if !(1..=63).contains(&source.slot.len()) || !source.slot.bytes().all(is_slot_byte) {
            self.note(steps!["source", "slot"], "a slot's name is 1 to 63 of a-z, 0-9 and _");
        }
        if !(1..=63).contains(&source.publication.len()) || source.publication.contains('\0') {
            self.note(steps!["source", "publication"], "a publication's name has 1 to 63 bytes");
        }
        self.duration(steps!["source", "slot_create_timeout"], source.slot_create_timeout, "1s", "1day");
        self.duration(steps!["source", "status_interval"], source.status_interval, "10ms", "30s");
        let idle = source.idle_checkpoint_interval;
        self.duration(steps!["source", "idle_checkpoint_interval"], idle, "100ms", "1h");
        self.size(steps!["source", "max_message_bytes"], source.max_message_bytes, MIB..=GIB);
    }

    fn sinks(&mut self, written: Vec<WrittenSink>, base: &Path) -> Vec<Sink> {
        if written.is_empty() {
            self.note(steps!["sink"], "there is no sink: add a [[sink]] with name, type and path");
        }
        let mut names: HashMap<SinkName, usize> = HashMap::new();
        let mut paths: HashMap<PathBuf, usize> = HashMap::new();
        let mut sinks = Vec::with_capacity(written.len());
        for (number, sink) in written.into_iter().enumerate() {
            let at = |key: &str| steps!["sink", number, key];
            if sink.name.is_none() {
                self.note(at("name"), "a sink needs a name");
            }
            if let Some(first) = sink.name.as_ref().and_then(|name| names.insert(name.clone(), number)) {
                self.note(at("name"), format!("sink[{first}] has this name already"));
            }
            let target = match (sink.r#type, sink.path) {
                (None, _) => {
                    self.note(at("type"), "a sink needs a type: \"sqlite\" or \"null\"");
                    None
                }
                (Some(SinkType::Sqlite), None) => {
                    self.note(at("path"), "a sqlite sink needs a path");
                    None
                }
                (Some(SinkType::Sqlite), Some(path)) => {
                    let path: PathBuf = base.join(path).components().collect();
                    if let Some(first) = paths.insert(path.clone(), number) {
                        self.note(at("path"), format!("sink[{first}] has this path already"));
                    }
                    Some(SinkTarget::Sqlite { path })
                }
                (Some(SinkType::Null), Some(_)) => {
                    self.note(at("path"), "a null sink has no path");
                    None
                }
                (Some(SinkType::Null), None) => Some(SinkTarget::Null),
            };
            if let (Some(name), Some(target)) = (sink.name, target) {
                sinks.push(Sink { name, target, on_rejected: sink.on_rejected });
            }
        }
        sinks
    }

    fn log(&mut self, log: &Log) {
        // A lone unknown word would be a directive for a module of that name, so a misspelt level would hide.
        let is_directives = log.level.contains(['=', ',', '[']);
        let is_level = log.level.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let is_right =
            is_level || is_directives && tracing_subscriber::EnvFilter::try_new(&log.level).is_ok();
        if !is_right {
            let message =
                "expected off, error, warn, info, debug, trace, or directives such as info,walcast=debug";
            self.note(steps!["log", "level"], message);
        }
    }

    fn between<T: PartialOrd + Display>(&mut self, at: document::Path, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.note(at, format!("must be from {} to {}", range.start(), range.end()));
        }
    }

    fn size(&mut self, at: document::Path, value: usize, range: RangeInclusive<usize>) {
        let size = |bytes: usize| ByteSize(bytes as u64);
        self.between(at, size(value), size(*range.start())..=size(*range.end()));
    }

    /// `min` and `max` are written as the file writes them.
    fn duration(&mut self, at: document::Path, value: Duration, min: &str, max: &str) {
        let limit = |text: &str| humantime::parse_duration(text).expect("the limits are written right");
        if !(limit(min)..=limit(max)).contains(&value) {
            self.note(at, format!("must be from {min} to {max}"));
        }
    }
}
