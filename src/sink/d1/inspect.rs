//! A database as `walcast status` and `walcast check` see it: read, and left alone.

use std::collections::BTreeMap;

use super::contents::{Contents, stored};
use super::cost::Usage;
use super::open::ask;
use super::state::Row;
use super::transport::{Statement, Transport};
use crate::error::{Error, Result};
use crate::fanout::sink::Checkpoint;
use crate::sink::replica::StoredTable;
use crate::sink::shape::Kept;

/// What a database holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspected {
    /// How far it is; `None` where it was never fed.
    pub checkpoint: Option<Checkpoint>,
    /// Rows that it did not take.
    pub dead_letters: u64,
    /// What was written and paid for.
    pub usage: Usage,
    /// Its replicated tables, by name.
    pub tables: Vec<StoredTable>,
    /// The same with their shapes, and with what is built beside them.
    pub kept: BTreeMap<String, Kept>,
    /// Its size, where the answer says so.
    pub bytes: Option<u64>,
}

/// Reads a database; errors call it `place`.
///
/// # Errors
/// It cannot be reached, or, with `true`, holds something that walcast did not make.
pub fn inspect(transport: &mut dyn Transport, place: &str) -> Result<Inspected, (Error, bool)> {
    let contents = Contents::read(transport).map_err(|error| (error, false))?;
    contents.check_ours(place).map_err(|error| (error, true))?;
    rest(transport, contents).map_err(|error| (error, false))
}

fn rest(transport: &mut dyn Transport, contents: Contents) -> Result<Inspected> {
    let Contents { state, kept, .. } = contents;
    let (mut dead_letters, mut bytes) = (0, None);
    if state.is_some() {
        let sql = "SELECT CAST(count(*) AS TEXT) AS letters FROM _walcast_dead_letters";
        let answers = ask(transport, &[Statement::plain(sql)])?;
        if let Some(answer) = answers.first() {
            bytes = answer.size_after;
            if let Some(row) = answer.rows.first() {
                dead_letters = Row(row).required("letters")?;
            }
        }
    }
    let usage = state.as_ref().map(|state| state.usage.clone()).unwrap_or_default();
    let checkpoint = state.map(|state| state.checkpoint);
    Ok(Inspected { checkpoint, dead_letters, usage, tables: stored(&kept), kept, bytes })
}
