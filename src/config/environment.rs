//! The environment variables, and what they change in the configuration.

use std::collections::BTreeMap;

use crate::document::Document;
use crate::document::problems::{Path, Problems, Step, steps};

const PREFIX: &str = "WALCAST_";

/// The sections that a variable may reach into. Other `WALCAST_…` variables are not ours: Kubernetes makes
/// `WALCAST_SERVICE_HOST` and the like for a service of that name.
const SECTIONS: [&str; 14] = [
    "source",
    "sink",
    "batch",
    "queue",
    "catch_up",
    "backfill",
    "transaction",
    "retry",
    "shutdown",
    "schedule",
    "heartbeat",
    "d1",
    "log",
    "admin",
];

/// What stands outside of all sections.
const ALONE: [&str; 2] = ["schema", "schema_changes"];

/// Variables that have a meaning elsewhere too, in the order in which they win over the file.
const WELL_KNOWN: [(&str, [&str; 2]); 7] = [
    ("LOG_LEVEL", ["log", "level"]),
    ("RUST_LOG", ["log", "level"]),
    ("LOG_FORMAT", ["log", "format"]),
    ("DATABASE_URL", ["source", "url"]),
    ("DATABASE_URL_FILE", ["source", "url_file"]),
    ("WALCAST_ADMIN_SECRET", ["admin", "secret"]),
    ("WALCAST_ADMIN_SECRET_FILE", ["admin", "secret_file"]),
];

/// Two ways to say one secret: itself, or the file that holds it.
const SECRETS: [[[&str; 2]; 2]; 2] =
    [[["source", "url"], ["source", "url_file"]], [["admin", "secret"], ["admin", "secret_file"]]];

/// The environment variables that are set and not empty. It has no `Debug`, because they hold secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The variable's value, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Puts the variables over what the file says. A variable for a secret also wins over the file's other way to
    /// say it, and one of our own over a well-known one.
    pub(super) fn apply(&self, document: &mut Document, problems: &mut Problems) {
        let own = self.own_paths();
        let mut overruled = Vec::new();
        for ways in SECRETS {
            let paths = ways.map(|[section, key]| steps![section, key]);
            let own_says = paths.iter().any(|path| own.contains_key(path));
            let says =
                |(variable, way): &(&str, [&str; 2])| ways.contains(way) && self.get(variable).is_some();
            if own_says || WELL_KNOWN.iter().any(says) {
                for path in &paths {
                    document.remove(path);
                }
            }
            if own_says {
                overruled.extend(paths);
            }
        }
        for (variable, [section, key]) in WELL_KNOWN {
            let path = steps![section, key];
            if let (Some(value), false) = (self.get(variable), overruled.contains(&path)) {
                document.set(&path, value, variable, problems);
            }
        }
        for (path, variable) in own {
            document.set(&path, &self.0[variable], variable, problems);
        }
    }

    /// The paths of our own variables, in their order, so that sinks come one after the other.
    fn own_paths(&self) -> BTreeMap<Path, &str> {
        let names = self.0.keys().filter_map(|variable| Some((variable, variable.strip_prefix(PREFIX)?)));
        let paths = names.filter_map(|(variable, name)| {
            let path: Path = name.split("__").map(step).collect();
            let is_ours = match path.as_slice() {
                [Step::Key(key)] => ALONE.contains(&key.as_str()),
                [Step::Key(section), _, ..] => SECTIONS.contains(&section.as_str()),
                _ => false,
            };
            is_ours.then_some((path, variable.as_str()))
        });
        paths.collect()
    }

    /// Replaces `${VAR}` and `${VAR:-default}` in a string of the file. `$${` stands for `${`.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                filled.push_str(before);
                filled.push_str("${");
                rest = after;
                continue;
            }
            filled.push_str(before);
            let Some((inside, after)) = after.split_once('}') else {
                return Err("a ${ has no }; write $${ for the characters themselves".to_owned());
            };
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            match self.get(name).or(default) {
                Some(value) => filled.push_str(value),
                None => return Err(format!("the environment variable {name} is not set")),
            }
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Environment(variables.filter(|(_, value)| !value.is_empty()).collect())
    }
}

fn step(segment: &str) -> Step {
    match segment.parse() {
        Ok(index) => Step::Index(index),
        Err(_) => Step::Key(segment.to_ascii_lowercase()),
    }
}
