//! What a sink has to keep of a table when an engine starts, or the sink comes: the plan that was drawn then goes in, and
//! what the sink kept before. Pure.

use crate::Lsn;
use crate::encode::plan::PlannedTable;
use crate::fanout::fill::{TableFill, TableState};
use crate::fanout::stop::Stopped;

/// What a sink has to keep of a table at a start, where it is at `position` and keeps `fill`: that it is stopped, or where
/// its rows are from. `was_unpublished`: the publication did not have the table until now.
pub fn settled(
    table: &PlannedTable,
    fill: Option<&TableFill>,
    position: Lsn,
    was_unpublished: bool,
) -> Option<TableFill> {
    let complete = TableFill::complete();
    let fill = fill.unwrap_or(&complete);
    let plain = table.source.plain();
    let stopped = |reason: String, hint: String, returns| {
        fill.stopped(&Stopped { reason, hint, since: position.max(fill.from), returns })
    };
    if let Some(problem) = &table.problem {
        let reason = format!("table {} does not fit schema.json any more: {problem}", table.source);
        let hint = format!(
            "undo what was changed and run `walcast backfill --table {plain}`, or correct schema.json (see `walcast \
             schema diff`) and start walcast again"
        );
        return stopped(reason, hint, false);
    }
    let by_itself = "it is filled anew by itself".to_owned();
    match fill.relation {
        Some(relation) if relation != table.oid.0 => {
            let reason = format!("table {} was dropped and created anew at the source", table.source);
            stopped(reason, by_itself, true)
        }
        _ if was_unpublished && fill.state(position) != TableState::Waiting => {
            stopped(format!("table {} was not in the publication", table.source), by_itself, true)
        }
        None if fill.stopped.is_none() && !fill.is_left => {
            Some(TableFill { relation: Some(table.oid.0), ..fill.clone() })
        }
        Some(_) | None => None,
    }
}
