//! Copies of the slot, which single sinks read while they catch up: named after slot and sink, so that they are found
//! again by whoever starts next.

use tokio_postgres::Client;

use super::{PLUGIN, Slot, check_name, from_row, read};
use crate::Lsn;
use crate::capture::query::rows;
use crate::config::COPY_INFIX;
use crate::error::{Error, Kind, Result};

/// All copies of the slot in the session's database, also those of sinks that are not configured any more.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read_copies(client: &Client, slot: &str, database: &str) -> Result<Vec<Slot>> {
    let prefix = format!("{slot}{COPY_INFIX}");
    let doing = format!("reading the copies of slot {slot}");
    let sql = include_str!("../../../sql/slot.sql");
    let found = rows(client, sql, &[&None::<&str>, &Some(prefix)], &doing).await?;
    let copies: Vec<Slot> = found.iter().map(from_row).collect::<Result<_>>()?;
    let is_ours =
        |copy: &Slot| copy.plugin.as_deref() == Some(PLUGIN) && copy.database.as_deref() == Some(database);
    Ok(copies.into_iter().filter(is_ours).collect())
}

/// Makes a copy of `slot` named `copy` for a sink whose checkpoint is `checkpoint`, or takes one that is there and
/// serves as well. Until this has returned, and while it runs, `slot` must not be confirmed past the checkpoint.
///
/// # Errors
///
/// Whatever the server says, mostly that it has no slot to spare; nothing has changed then that the next call would not
/// put right. Halts where the name is taken by a slot that is not ours.
pub async fn copy(client: &Client, slot: &str, copy: &str, checkpoint: Lsn) -> Result<()> {
    check_name(copy)?;
    let doing = format!("copying slot {slot} to {copy}");
    if let Some(found) = read(client, copy).await? {
        if found.plugin.as_deref() != Some(PLUGIN) {
            return Err(Error::halt(format!(
                "{doing}: there is a slot of that name, which is not walcast's"
            ))
            .hint("drop that slot, or rename the sink"));
        }
        if serves(&found, checkpoint) {
            return Ok(());
        }
        super::drop(client, copy).await?;
    }
    let sql = include_str!("../../../sql/slot_copy.sql");
    rows(client, sql, &[&slot, &copy], &doing).await.map_err(|error| {
        match (error.hint_text(), error.kind()) {
            // "all replication slots are in use"; 53400 is a limit of the configuration.
            (_, Kind::Transient) if error.chain().contains("53400") => error
                .hint("raise max_replication_slots and restart the server; or drop a slot that nobody needs"),
            _ => error,
        }
    })?;
    match read(client, copy).await? {
        Some(made) if serves(&made, checkpoint) => Ok(()),
        _ => Err(Error::transient(format!("{doing}: the copy does not begin at the sink's checkpoint"))),
    }
}

/// Whether everything after `checkpoint` can be read from it.
fn serves(copy: &Slot, checkpoint: Lsn) -> bool {
    copy.invalidation().is_none() && copy.confirmed_flush_lsn.is_some_and(|lsn| lsn <= checkpoint)
}
