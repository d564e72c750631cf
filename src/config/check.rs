//! What the configuration must satisfy beyond its shape. Every broken rule is noted, none stops the check.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};

use super::{Admin, Config, Environment, Log, Requires, SECRET_MIN_CHARS, Schedule, Source, Written};
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
            schema_changes,
            mut source,
            sink,
            batch,
            queue,
            catch_up,
            backfill,
            transaction,
            retry,
            shutdown,
            schedule,
            heartbeat,
            d1,
            mut log,
            mut admin,
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
        self.between(steps!["backfill", "connections"], backfill.connections, 1..=16);
        self.size(steps!["backfill", "chunk_max_bytes"], backfill.chunk_max_bytes, 32 * KIB..=64 * MIB);
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
        self.schedule(schedule.as_ref());
        if let Some(interval) = heartbeat.interval {
            self.duration(steps!["heartbeat", "interval"], interval, "1s", "1h");
        }
        let requests = steps!["d1", "requests_per_5_minutes"];
        self.between(requests, d1.requests_per_5_minutes, 10..=1_000_000);
        self.log(&mut log, base);
        self.admin(&mut admin, base);
        self.stall_timeout(&admin, source.idle_checkpoint_interval, queue.patience);
        let schema = base.join(schema.unwrap_or_else(|| PathBuf::from("schema.json")));
        Config {
            schema,
            schema_changes,
            source,
            sinks,
            batch,
            queue,
            catch_up,
            backfill,
            transaction,
            retry,
            shutdown,
            schedule,
            heartbeat,
            d1,
            log,
            admin,
        }
    }

    fn schedule(&mut self, schedule: Option<&Schedule>) {
        let Some(schedule) = schedule else { return };
        self.duration(steps!["schedule", "every"], schedule.every, "1s", "1day");
        let at = || steps!["schedule", "max_duration"];
        self.duration(at(), schedule.max_duration, "100ms", "1day");
        if schedule.max_duration > schedule.every {
            let every = humantime::format_duration(schedule.every);
            self.note(at(), format!("must not be more than schedule.every, which is {every}"));
        }
    }

    fn source(&mut self, source: &mut Source, base: &Path) {
        let written = (source.url_file.take(), source.url.is_some());
        if let Some(url) = self.secret_file(["source", "url", "url_file"], written, base) {
            source.url = Some(url);
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

    /// The secret in a file; `keys` are the section and the two ways to say it, `written` what was said.
    fn secret_file(
        &mut self,
        [section, plain, file]: [&str; 3],
        written: (Option<PathBuf>, bool),
        base: &Path,
    ) -> Option<SecretString> {
        let (Some(path), is_said_plainly) = written else { return None };
        if is_said_plainly {
            self.note(steps![section, file], format!("{plain} is set too: say one of them"));
            return None;
        }
        match std::fs::read_to_string(base.join(&path)) {
            Ok(text) if text.trim().is_empty() => self.note(steps![section, file], "the file is empty"),
            Ok(text) => return Some(SecretString::from(text.trim())),
            Err(error) => self.note(steps![section, file], format!("the file cannot be read: {error}")),
        }
        None
    }

    fn admin(&mut self, admin: &mut Admin, base: &Path) {
        let written = (admin.secret_file.take(), admin.secret.is_some());
        let has_file = written.0.is_some();
        if let Some(secret) = self.secret_file(["admin", "secret", "secret_file"], written, base) {
            admin.secret = Some(secret);
        }
        let key = if has_file { "secret_file" } else { "secret" };
        let secret = admin.secret.as_ref().map(|secret| secret.expose_secret());
        let is_header_text = |secret: &str| secret.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
        if secret.is_some_and(|secret| !is_header_text(secret)) {
            self.note(steps!["admin", key], "only visible ASCII characters can travel in a header");
        }
        let reaches_beyond = admin.listen.is_some_and(|address| !address.ip().is_loopback());
        let length = secret.map(|secret| secret.chars().count());
        if reaches_beyond && length.is_none() {
            let message = format!(
                "an address beyond loopback needs admin.secret (or WALCAST_ADMIN_SECRET) of at least \
                 {SECRET_MIN_CHARS} characters: openssl rand -hex 32"
            );
            self.note(steps!["admin", "listen"], message);
        } else if reaches_beyond && length.is_some_and(|length| length < SECRET_MIN_CHARS) {
            let message = format!("beyond loopback it must have at least {SECRET_MIN_CHARS} characters");
            self.note(steps!["admin", key], message);
        }
        for (number, host) in admin.hosts.iter_mut().enumerate() {
            host.make_ascii_lowercase();
            let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
            if host.is_empty() || !host.bytes().all(is_allowed) {
                self.note(steps!["admin", "hosts", number], "expected a host name, without scheme and port");
            }
        }
    }

    /// A stall is not called for what is meant to take a while.
    fn stall_timeout(&mut self, admin: &Admin, idle_checkpoint_interval: Duration, patience: Duration) {
        let at = || steps!["admin", "stall_timeout"];
        self.duration(at(), admin.stall_timeout, "1s", "1day");
        if admin.listen.is_none() {
            return;
        }
        if admin.stall_timeout < idle_checkpoint_interval * 2 {
            let message = "must be at least twice source.idle_checkpoint_interval: until then an idle stream moves nothing";
            self.note(at(), message);
        }
        if admin.stall_timeout < patience * 2 {
            let message =
                "must be at least twice queue.patience: so long a stuck sink may hold up the others";
            self.note(at(), message);
        }
    }

    fn log(&mut self, log: &mut Log, base: &Path) {
        log.sync_file = log.sync_file.take().map(|path| base.join(path));
        self.duration(steps!["log", "retention"], log.retention, "1min", "10years");
        self.between(steps!["log", "max_entries"], log.max_entries, 1_000..=100_000_000);
        self.size(steps!["log", "max_key_bytes"], log.max_key_bytes, 0..=4 << 30);
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
