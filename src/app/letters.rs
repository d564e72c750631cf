//! Dead letters across sinks: listed page by page, and forgotten. Works with and without an engine.

use serde::Serialize;
use utoipa::ToSchema;

use super::d1::Transports;
use super::replicas;
use crate::config::{self, Config, SinkTarget};
use crate::error::{Error, Result};
use crate::sink::reading::{DeadLetter, Letters};
use crate::sink::{d1, sqlite};

/// A dead letter, and the sink that keeps it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SinkLetter {
    /// The sink.
    pub sink: String,
    /// The letter.
    #[serde(flatten)]
    pub letter: DeadLetter,
}

/// A page of dead letters.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page {
    /// Sinks in the configuration's order, and of each the oldest first.
    pub letters: Vec<SinkLetter>,
    /// What `after` has to be for the next page; null on the last one.
    pub next: Option<String>,
}

/// A sink's dead letters, the oldest first.
///
/// # Errors
/// The target cannot be read.
pub fn of_sink(
    sink: &config::Sink,
    transports: &Transports,
    which: &Letters,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    match &sink.target {
        SinkTarget::Sqlite { path } => sqlite::dead_letters(path, which, limit),
        SinkTarget::D1(..) | SinkTarget::D1Worker(..) => {
            let (mut transport, place) = replicas::connect(&sink.target, transports)?;
            d1::dead_letters(&mut *transport, &place, which, limit)
        }
        SinkTarget::Null => Ok(Vec::new()),
    }
}

/// Forgets dead letters of a sink, and returns how many.
///
/// # Errors
/// The target cannot be written.
pub fn drop(sink: &config::Sink, transports: &Transports, which: &Letters) -> Result<usize> {
    match &sink.target {
        SinkTarget::Sqlite { path } => sqlite::drop_dead_letters(path, which),
        SinkTarget::D1(..) | SinkTarget::D1Worker(..) => {
            let (mut transport, place) = replicas::connect(&sink.target, transports)?;
            d1::drop_dead_letters(&mut *transport, &place, which)
        }
        SinkTarget::Null => Ok(0),
    }
}

/// The sinks that are meant: one, or all.
///
/// # Errors
/// There is none of that name.
pub fn sinks<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a config::Sink>> {
    let meant = |sink: &&config::Sink| name.is_none_or(|name| sink.name.as_str() == name);
    let sinks: Vec<&config::Sink> = config.sinks.iter().filter(meant).collect();
    match (name, sinks.is_empty()) {
        (Some(name), true) => Err(Error::config(format!("there is no sink {name:?}"))),
        _ => Ok(sinks),
    }
}

/// One page, beginning behind `after`, which is a former page's `next`.
///
/// # Errors
/// `after` is none, or a target cannot be read.
pub fn page(
    sinks: &[&config::Sink],
    transports: &Transports,
    which: &Letters,
    after: Option<&str>,
    limit: usize,
) -> Result<Page> {
    let invalid = || Error::config("after is not the next of a page");
    let (first, mut id) = match after {
        None => (0, 0),
        Some(after) => {
            let (name, id) = after.split_once(':').ok_or_else(invalid)?;
            let first = sinks.iter().position(|sink| sink.name.as_str() == name).ok_or_else(invalid)?;
            (first, id.parse().map_err(|_| invalid())?)
        }
    };
    let mut letters = Vec::new();
    for sink in &sinks[first..] {
        // One more than fits says whether there is a next page.
        let which = Letters { after: std::mem::take(&mut id), ..which.clone() };
        let found = of_sink(sink, transports, &which, limit + 1 - letters.len())?;
        letters.extend(found.into_iter().map(|letter| SinkLetter { sink: sink.name.to_string(), letter }));
        if letters.len() > limit {
            letters.truncate(limit);
            let next = letters.last().map(|last| format!("{}:{}", last.sink, last.letter.id));
            return Ok(Page { letters, next });
        }
    }
    Ok(Page { letters, next: None })
}
