//! What the configuration must satisfy beyond its shape. Every broken rule is noted, none stops the check.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;

use super::{Config, Environment, Log, Requires, Source, Written};
use crate::document::Document;
use crate::document::problems::{self, Problems, steps};

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Postgres cuts longer names.
pub(super) const SLOT_NAME_BYTES_MAX: usize = 63;

/// Notes what is wrong while it builds the configuration.
pub(super) struct Checker<'a> {
    pub(super) document: Document,
    pub(super) problems: &'a mut Problems,
    pub(super) requires: Requires,
    pub(super) environment: &'a Environment,
}

impl Checker<'_> {
    pub(super) fn note(&mut self, path: problems::Path, message: impl Display) {
        self.problems.add(&self.document, &path, message);
    }

    /// Checks everything and builds the configuration, which is of use only if nothing was noted. Relative paths start
    /// at `base`.
    pub(super) fn check(&mut self, written: Written, base: &Path) -> Config {
        let Written {
            schema,
            mut source,
            sink,
            batch,
            queue,
            catch_up,
            transaction,
            retry,
            shutdown,
            d1,
            log,
        } = written;
        self.source(&mut source, base);
        let sinks = self.sinks(sink, &source.slot, base);
        self.between(steps!["batch", "max_rows"], batch.max_rows, 1..=1_000_000);
        self.size(steps!["batch", "max_bytes"], batch.max_bytes, 4 * KIB..=GIB);
        self.size(steps!["queue", "max_bytes"], queue.max_bytes, 64 * KIB..=GIB);
        self.duration(steps!["queue", "patience"], queue.patience, "10ms", "1h");
        if catch_up.max_wal.is_some_and(|bytes| bytes < MIB as u64) {
            self.note(steps!["catch_up", "max_wal"], format!("must be at least {}", ByteSize(MIB as u64)));
        }
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
        let requests = steps!["d1", "requests_per_5_minutes"];
        self.between(requests, d1.requests_per_5_minutes, 10..=1_000_000);
        self.log(&log);
        let schema = base.join(schema.unwrap_or_else(|| PathBuf::from("schema.json")));
        Config { schema, source, sinks, batch, queue, catch_up, transaction, retry, shutdown, d1, log }
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

    pub(super) fn between<T: PartialOrd + Display>(
        &mut self,
        at: problems::Path,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            self.note(at, format!("must be from {} to {}", range.start(), range.end()));
        }
    }

    pub(super) fn size(&mut self, at: problems::Path, value: usize, range: RangeInclusive<usize>) {
        let size = |bytes: usize| ByteSize(bytes as u64);
        self.between(at, size(value), size(*range.start())..=size(*range.end()));
    }

    /// `min` and `max` are written as the file writes them.
    pub(super) fn duration(&mut self, at: problems::Path, value: Duration, min: &str, max: &str) {
        let limit = |text: &str| humantime::parse_duration(text).expect("the limits are written right");
        if !(limit(min)..=limit(max)).contains(&value) {
            self.note(at, format!("must be from {min} to {max}"));
        }
    }
}
