//! What a sink has to keep of a table when an engine starts, or the sink comes: the plan that was drawn then goes in, and
//! what the sink kept before. Pure.

use crate::Lsn;
use crate::encode::misfit::Why;
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
    let stopped = |Why { reason, hint, returns }| {
        fill.stopped(&Stopped { reason, hint, since: position.max(fill.from), returns })
    };
    if let Some(problem) = &table.problem {
        return stopped(Why::misplanned(table, problem));
    }
    match fill.relation {
        Some(relation) if relation != table.oid.0 => stopped(Why::another(table)),
        _ if was_unpublished && fill.state(position) != TableState::Waiting => stopped(Why {
            reason: format!("table {} was not in the publication", table.source),
            hint: "it is filled anew by itself".to_owned(),
            returns: true,
        }),
        None if fill.stopped.is_none() && !fill.is_left => {
            Some(TableFill { relation: Some(table.oid.0), ..fill.clone() })
        }
        Some(_) | None => None,
    }
}
