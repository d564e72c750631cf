//! What each `[[sink]]` must satisfy: that it has what its type needs and nothing else, that its secrets can be found, and
//! that no two of them write to the same place.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::check::{Checker, KIB, MIB, SLOT_NAME_BYTES_MAX};
use super::sink::{
    D1Database, D1Worker, D1Writing, Secret, Sink, SinkName, SinkTarget, SinkType, WrittenSink,
};
use super::{Requires, slot_copy};
use crate::document::problems::steps;

/// The largest `request_max_bytes` through the API.
const REST_REQUEST_BYTES_MAX: usize = 16 * MIB;
/// The same through a Worker, which has 128 MB of memory and takes 16 MiB of JSON: a transaction may have half as much
/// more before it is split, a row has up to 2 MB, and every character of them may be one that is escaped.
const WORKER_REQUEST_BYTES_MAX: usize = 4 * MIB;
/// Where Cloudflare's API is.
const CLOUDFLARE_API: &str = "https://api.cloudflare.com/client/v4";
/// Stand in where a sink has none of its own.
const API_TOKEN: &str = "CLOUDFLARE_API_TOKEN";
const ACCOUNT_ID: &str = "CLOUDFLARE_ACCOUNT_ID";
const WORKER_KEY: &str = "WALCAST_WORKER_KEY";

/// What no two sinks may share, and the key that says it.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    File(PathBuf),
    Database(String, String),
    Binding(String, String),
}

impl Checker<'_> {
    pub(super) fn sinks(&mut self, written: Vec<WrittenSink>, slot: &str, base: &Path) -> Vec<Sink> {
        if written.is_empty() && self.requires == Requires::Everything {
            self.note(steps!["sink"], "there is no sink: add a [[sink]] with name, type and path");
        }
        let mut names: HashMap<SinkName, usize> = HashMap::new();
        let mut copies: HashMap<String, usize> = HashMap::new();
        let mut places: HashMap<Place, usize> = HashMap::new();
        let mut sinks = Vec::with_capacity(written.len());
        for (number, sink) in written.into_iter().enumerate() {
            if sink.name.is_none() {
                self.note(steps!["sink", number, "name"], "a sink needs a name");
            }
            if let Some(first) = sink.name.as_ref().and_then(|name| names.insert(name.clone(), number)) {
                let message = format!("sink[{first}] has this name already");
                self.note(steps!["sink", number, "name"], message);
            } else if let Some(name) = &sink.name {
                self.copy(number, slot_copy(slot, name.as_str()), &mut copies);
            }
            let Some(kind) = sink.r#type else {
                let message = "a sink needs a type: \"sqlite\", \"d1\", \"d1-worker\" or \"null\"";
                self.note(steps!["sink", number, "type"], message);
                continue;
            };
            for key in sink.written().filter(|key| !kind.keys().contains(key)) {
                self.note(steps!["sink", number, key], format!("a {} sink has no {key}", kind.as_str()));
            }
            let (name, on_rejected) = (sink.name.clone(), sink.on_rejected);
            let target = match kind {
                SinkType::Sqlite => self.file(number, sink, base),
                SinkType::D1 => self.database(number, sink, base),
                SinkType::D1Worker => self.worker(number, sink, base),
                SinkType::Null => Some(SinkTarget::Null),
            };
            let Some(target) = target else { continue };
            if let Some((place, key)) = place(&target)
                && let Some(first) = places.insert(place, number)
            {
                let message = format!("sink[{first}] has this {key} already");
                self.note(steps!["sink", number, key], message);
            }
            sinks.extend(name.map(|name| Sink { name, target, on_rejected }));
        }
        sinks
    }

    /// Whether the sink's copy of the slot can have its name.
    fn copy(&mut self, number: usize, copy: String, copies: &mut HashMap<String, usize>) {
        if copy.len() > SLOT_NAME_BYTES_MAX {
            let message =
                format!("its slot while it catches up would be named {copy}, which is longer than 63 bytes");
            self.note(steps!["sink", number, "name"], message);
        }
        if let Some(first) = copies.insert(copy.clone(), number) {
            let message = format!("sink[{first}]'s slot would have the same name, {copy}");
            self.note(steps!["sink", number, "name"], message);
        }
    }

    fn file(&mut self, number: usize, sink: WrittenSink, base: &Path) -> Option<SinkTarget> {
        let Some(path) = sink.path else {
            self.note(steps!["sink", number, "path"], "a sqlite sink needs a path");
            return None;
        };
        Some(SinkTarget::Sqlite { path: base.join(path).components().collect() })
    }

    fn database(&mut self, number: usize, sink: WrittenSink, base: &Path) -> Option<SinkTarget> {
        let writing = self.writing(number, &sink, REST_REQUEST_BYTES_MAX);
        let WrittenSink { mut account_id, mut database, dsn, api_token, api_token_file, base_url, .. } = sink;
        let api_token = self.secret(
            number,
            ("api_token", api_token),
            ("api_token_file", api_token_file),
            API_TOKEN,
            base,
        );
        if let Some(dsn) = dsn {
            if account_id.is_some() || database.is_some() {
                let message = "account_id or database is set too: say it in one way";
                self.note(steps!["sink", number, "dsn"], message);
            }
            match dsn.strip_prefix("d1://").and_then(|rest| rest.split_once('/')) {
                Some((account, name)) => {
                    (account_id, database) = (Some(account.to_owned()), Some(name.to_owned()));
                }
                None => {
                    self.note(steps!["sink", number, "dsn"], "expected d1://account/database");
                    return None;
                }
            }
        }
        let account_id = account_id.or_else(|| self.environment.get(ACCOUNT_ID).map(str::to_owned));
        match &account_id {
            None => {
                let message = format!("a d1 sink needs an account_id, or {ACCOUNT_ID}");
                self.note(steps!["sink", number, "account_id"], message);
            }
            Some(id) if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                let message = "an account's id is 32 hexadecimal digits";
                self.note(steps!["sink", number, "account_id"], message);
            }
            Some(_) => {}
        }
        let is_name = |name: &String| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        match &database {
            None => self
                .note(steps!["sink", number, "database"], "a d1 sink needs a database: its name or its id"),
            Some(name) if !is_name(name) => {
                let message = "a database's name or id is 1 to 64 of a-z, A-Z, 0-9, _ and -";
                self.note(steps!["sink", number, "database"], message);
            }
            Some(_) => {}
        }
        let base_url = base_url.unwrap_or_else(|| CLOUDFLARE_API.to_owned());
        let base_url = self.https(number, "base_url", base_url);
        let database =
            D1Database { account_id: account_id?, database: database?, api_token: api_token?, base_url };
        Some(SinkTarget::D1(database, writing))
    }

    fn worker(&mut self, number: usize, sink: WrittenSink, base: &Path) -> Option<SinkTarget> {
        let writing = self.writing(number, &sink, WORKER_REQUEST_BYTES_MAX);
        let WrittenSink { url, binding, key, key_file, .. } = sink;
        if url.is_none() {
            self.note(steps!["sink", number, "url"], "a d1-worker sink needs the url of its Worker");
        }
        let url = url.map(|url| self.https(number, "url", url));
        let is_binding = |name: &String| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        match &binding {
            None => {
                let message = "a d1-worker sink needs the binding of its database in wrangler.jsonc";
                self.note(steps!["sink", number, "binding"], message);
            }
            Some(name) if !is_binding(name) => {
                let message = "a binding's name is 1 to 64 of a-z, A-Z, 0-9 and _";
                self.note(steps!["sink", number, "binding"], message);
            }
            Some(_) => {}
        }
        let key = self.secret(number, ("key", key), ("key_file", key_file), WORKER_KEY, base);
        Some(SinkTarget::D1Worker(D1Worker { url: url?, binding: binding?, key: key? }, writing))
    }

    fn writing(&mut self, number: usize, sink: &WrittenSink, bytes_max: usize) -> D1Writing {
        let writing = D1Writing {
            request_max_rows: sink.request_max_rows.unwrap_or(20_000),
            request_max_bytes: sink.request_max_bytes.unwrap_or(4 * MIB),
            skip_unchanged: sink.skip_unchanged.unwrap_or(false),
        };
        self.between(steps!["sink", number, "request_max_rows"], writing.request_max_rows, 50..=100_000);
        let bytes = writing.request_max_bytes;
        self.size(steps!["sink", number, "request_max_bytes"], bytes, 64 * KIB..=bytes_max);
        writing
    }

    /// A secret that is written, lies in a file, or comes from the environment.
    fn secret(
        &mut self,
        number: usize,
        (key, written): (&'static str, Option<SecretString>),
        (file_key, file): (&'static str, Option<PathBuf>),
        variable: &str,
        base: &Path,
    ) -> Option<Secret> {
        match (written, file) {
            (Some(_), Some(_)) => {
                let message = format!("{key} is set too: say one of them");
                self.note(steps!["sink", number, file_key], message);
                None
            }
            (Some(secret), None) => Some(Secret(secret)),
            (None, Some(path)) => match std::fs::read_to_string(base.join(path)) {
                Ok(text) if text.trim().is_empty() => {
                    self.note(steps!["sink", number, file_key], "the file is empty");
                    None
                }
                Ok(text) => Some(Secret::from(text.trim())),
                Err(error) => {
                    let message = format!("the file cannot be read: {error}");
                    self.note(steps!["sink", number, file_key], message);
                    None
                }
            },
            (None, None) => match self.environment.get(variable) {
                Some(text) => Some(Secret::from(text)),
                None => {
                    let message = format!("needed: {key}, {file_key} or the variable {variable}");
                    self.note(steps!["sink", number, key], message);
                    None
                }
            },
        }
    }

    /// A URL that a secret may be sent to: encrypted, unless it stays on this machine.
    fn https(&mut self, number: usize, key: &'static str, url: String) -> String {
        let host = |rest: &str| rest.split(['/', ':', '?']).next().unwrap_or_default().to_owned();
        let is_right = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => !host(rest).is_empty(),
            (_, Some(rest)) => matches!(host(rest).as_str(), "127.0.0.1" | "localhost"),
            (None, None) => false,
        };
        if !is_right {
            let message = "expected a URL that begins with https:// (or http://127.0.0.1, for tests)";
            self.note(steps!["sink", number, key], message);
        }
        url.trim_end_matches('/').to_owned()
    }
}

fn place(target: &SinkTarget) -> Option<(Place, &'static str)> {
    match target {
        SinkTarget::Sqlite { path } => Some((Place::File(path.clone()), "path")),
        SinkTarget::D1(d1, _) => {
            Some((Place::Database(d1.account_id.clone(), d1.database.clone()), "database"))
        }
        SinkTarget::D1Worker(worker, _) => {
            Some((Place::Binding(worker.url.clone(), worker.binding.clone()), "binding"))
        }
        SinkTarget::Null => None,
    }
}
