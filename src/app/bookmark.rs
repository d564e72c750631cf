//! The way back from what drops rows in a D1 database: a Time Travel bookmark, and the command that restores it.
//!
//! Taken before a nuke, because that empties what readers see. Not before a table is built anew and swapped: what takes
//! the place is full, and Time Travel finds a moment by its time as well.

use super::d1::Transports;
use super::replicas::{ask_all, connect};
use crate::config::{self, Config, SinkTarget};
use crate::error::{Error, Result};
use crate::sink::d1::transport::Bookmark;

/// How one sink's database can be brought back to where it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack {
    /// The sink.
    pub sink: String,
    /// The command; `None` where there is no way back.
    pub command: Option<String>,
}

impl WayBack {
    /// The same in words.
    pub fn sentence(&self) -> String {
        let sink = &self.sink;
        match &self.command {
            Some(command) => format!("sink {sink}: to go back, stop walcast and run: {command}"),
            None => format!(
                "sink {sink}: there is no way back, because Time Travel can only be asked through Cloudflare's REST API"
            ),
        }
    }
}

/// Takes a bookmark of the D1 database of each of these sinks, or of all without names. Other sinks have none.
///
/// # Errors
/// A database does not answer.
pub fn ways_back(config: &Config, sinks: &[String]) -> Result<Vec<WayBack>> {
    let is_meant =
        |sink: &config::Sink| sinks.is_empty() || sinks.iter().any(|name| sink.name.as_str() == name);
    let ask = |sink: &config::Sink, transports: &Transports| match is_meant(sink) {
        true => way_back(sink, transports),
        false => Ok(None),
    };
    let ways: Vec<Option<WayBack>> =
        ask_all(config, ask).into_iter().map(|way| way?).collect::<Result<_>>()?;
    Ok(ways.into_iter().flatten().collect())
}

fn way_back(sink: &config::Sink, transports: &Transports) -> Result<Option<WayBack>> {
    if !matches!(sink.target, SinkTarget::D1(..) | SinkTarget::D1Worker(..)) {
        return Ok(None);
    }
    let (mut transport, place) = connect(&sink.target, transports)?;
    let bookmark = transport.bookmark().map_err(|failure| {
        Error::transient(format!("{place} gives no Time Travel bookmark: {}", failure.message))
            .hint("nothing was touched; try again")
    })?;
    let command = bookmark.map(|Bookmark { database, bookmark }| {
        format!("npx wrangler d1 time-travel restore {database} --bookmark={bookmark}")
    });
    Ok(Some(WayBack { sink: sink.name.to_string(), command }))
}
