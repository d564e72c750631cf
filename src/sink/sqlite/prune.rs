//! Drops what walcast has made in a file and `schema.json` does not name any more. Never anything else: what is to be
//! dropped is held against what the file itself says was left.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{BUSY_TIMEOUT, failure, shapes, state, tables};
use crate::error::Result;
use crate::sink::alter::{self, Prune};

/// Drops it, all or nothing, while no engine writes the file.
///
/// # Errors
/// The file is not ours or cannot be written, or does not say that this was left; nothing was dropped then.
pub fn prune(path: &Path, prunes: &[Prune]) -> Result<()> {
    if state::open_ours(path)?.is_none() {
        return Ok(());
    }
    let pruning = |error| failure(error, format!("pruning {}", path.display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(pruning)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(pruning)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(pruning)?;
    let kept = shapes::kept(&transaction)?;
    for statements in alter::prune(&kept, prunes, &path.display().to_string())? {
        tables::run(&transaction, &statements).map_err(pruning)?;
    }
    transaction.commit().map_err(pruning)
}
