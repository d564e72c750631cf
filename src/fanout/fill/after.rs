//! Which step a sink takes, and what its table is afterwards. A step that is for other sinks, that was taken before, or
//! that comes too late for where the sink is, changes nothing. Pure; what comes out is written by the sink.

use super::{Action, FillStep, OwedKey, TableFill, TableState};
use crate::Lsn;
use crate::fanout::stop::Stopped;

/// With more rows owed, the whole table is filled anew.
pub(super) const OWED_MAX: usize = 1000;
/// How often the limit is doubled: each time that it was met, so that a table whose rows are owed quickly gets through.
const DOUBLINGS_MAX: u32 = 6;

/// How far each table of one sink is, by its index in the plan; `None` for one that never had to be filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fills(pub Vec<Option<TableFill>>);

impl Fills {
    /// How far the table is.
    pub fn get(&self, table: usize) -> Option<&TableFill> {
        self.0.get(table)?.as_ref()
    }

    /// Puts it there.
    pub fn set(&mut self, table: usize, fill: TableFill) {
        if self.0.len() <= table {
            self.0.resize(table + 1, None);
        }
        self.0[table] = Some(fill);
    }

    /// How far the table is in a sink whose checkpoint is at `position`.
    pub fn state(&self, table: usize, position: Lsn) -> TableState {
        self.get(table).map_or(TableState::Live, |fill| fill.state(position))
    }

    /// The table after the step; `None` where the step is not for this sink, whose checkpoint is at `position`, or was
    /// taken before.
    pub fn after(&self, sink: &str, position: Lsn, step: &FillStep) -> Option<TableFill> {
        let before = self.get(step.table);
        match &step.action {
            Action::Begin { fill, sinks: Some(sinks) } => {
                let is_beside = before.is_some_and(|fill| fill.is_beside);
                // What makes a row owed may not be visible yet, and the row then not be among those that are read.
                let owed = before.map(|fill| fill.owed.clone()).unwrap_or_default();
                let is_meant = sinks.iter().any(|name| name == sink);
                let is_stopped = before.is_some_and(|fill| fill.stopped.is_some());
                let (from, relation) = origin(before);
                let begun = || TableFill { owed, clears: false, is_beside, from, relation, ..fill.clone() };
                (is_meant && !is_stopped).then(begun)
            }
            Action::Begin { fill, sinks: None } => {
                let before = before.filter(|fill| fill.state(position) == TableState::Waiting)?;
                // What has been owed since is not in doubt.
                let TableFill { is_beside, is_partial, overflows, .. } = *before;
                let (owed, (from, relation)) = (before.owed.clone(), origin(Some(before)));
                let clears = false;
                Some(TableFill {
                    owed,
                    overflows,
                    clears,
                    is_beside,
                    is_partial,
                    from,
                    relation,
                    ..fill.clone()
                })
            }
            Action::Chunk { .. } | Action::Paid { .. } if position > step.sent_at => None,
            Action::Chunk { rest, last_key, is_last, run, seen_lsn, is_partial } => {
                let mut fill = before.filter(|fill| fill.is_partial || !is_partial)?.clone();
                let range = fill.ranges.iter_mut().find(|range| !range.is_done && range.rest == *rest)?;
                range.is_done = *is_last;
                if let Some(last) = last_key {
                    range.rest.after = Some(last.clone());
                }
                fill.rows += run.all_changes().len() as u64;
                fill.filled_lsn = fill.filled_lsn.max(*seen_lsn);
                fill.seen_lsn = fill.seen_lsn.max(*seen_lsn);
                Some(fill)
            }
            // Where rows may be newer than the stream, the row that moves may be another one by now.
            Action::Owe(owed) => match before?.state(position) {
                TableState::Live | TableState::Incomplete | TableState::Left | TableState::Stopped => None,
                // What is read once it begins sees it.
                TableState::Waiting => None,
                TableState::Filling | TableState::CatchingUp => before?.owing(std::slice::from_ref(owed)),
            },
            Action::Miss(owed) => missing(before, owed),
            Action::Stop { sinks: None, stopped } if position > stopped.since => None,
            Action::Stop { stopped, sinks } => {
                let is_meant = sinks.as_ref().is_none_or(|sinks| sinks.iter().any(|name| name == sink));
                let complete = TableFill::complete();
                is_meant.then(|| before.unwrap_or(&complete).stopped(stopped)).flatten()
            }
            Action::Resume { fill, sinks } => {
                let is_meant = sinks.iter().any(|name| name == sink);
                is_meant.then(|| before?.resumed(fill)).flatten()
            }
            Action::Retry { owed, sinks } => {
                let is_meant = sinks.iter().any(|name| name == sink);
                let is_wanted = is_meant && before.is_none_or(|fill| !fill.is_left_empty);
                is_wanted.then(|| missing(before, owed)).flatten()
            }
            Action::Paid { owed, seen_lsn, .. } => {
                let mut fill = before?.clone();
                fill.owed.retain(|one| !owed.contains(one));
                if fill.owed.len() == before?.owed.len() {
                    return None;
                }
                fill.seen_lsn = fill.seen_lsn.max(*seen_lsn);
                Some(fill)
            }
        }
    }
}

/// From where on changes are applied, and whose: what a fill that begins keeps.
fn origin(before: Option<&TableFill>) -> (Lsn, Option<u32>) {
    before.map_or((Lsn::ZERO, None), |fill| (fill.from, fill.relation))
}

/// The table once these rows are known to be missing; `None` if they all were before, or it is stopped.
fn missing(before: Option<&TableFill>, owed: &[OwedKey]) -> Option<TableFill> {
    let complete = TableFill::complete();
    let before = before.unwrap_or(&complete);
    if before.stopped.is_some() { None } else { before.owing(owed) }
}

impl TableFill {
    /// The table that takes its readers' place, if it can do so in a sink whose checkpoint is at `position`.
    pub fn swapped(&self, position: Lsn) -> Option<TableFill> {
        // Asked after every batch, and hardly ever so.
        let swapped = self.is_beside.then(|| TableFill { is_beside: false, ..self.clone() })?;
        matches!(swapped.state(position), TableState::Live | TableState::Incomplete).then_some(swapped)
    }

    /// The same with rows that are owed; `None` if they are already. With too many the fill begins anew: what it reads
    /// then sees all that was delivered before, so none of them is owed any more.
    fn owing(&self, owed: &[OwedKey]) -> Option<TableFill> {
        let mut fill = self.clone();
        fill.owed.extend(owed.iter().filter(|one| !self.owed.contains(one)).cloned());
        if fill.owed.len() == self.owed.len() {
            return None;
        }
        if fill.owed.len() <= OWED_MAX << self.overflows.min(DOUBLINGS_MAX) {
            return Some(fill);
        }
        let waiting = TableFill::waiting(fill.rows.max(fill.rows_estimated));
        let TableFill { is_beside, from, relation, .. } = fill;
        Some(TableFill { overflows: self.overflows + 1, is_beside, from, relation, ..waiting })
    }

    /// The table once it is stopped; `None` where it is already, or was read behind that.
    pub fn stopped(&self, stopped: &Stopped) -> Option<TableFill> {
        let is_known = self.stopped.is_some() || self.is_left || self.from > stopped.since;
        (!is_known).then(|| TableFill {
            stopped: Some(stopped.clone()),
            relation: self.relation,
            from: self.from,
            is_left_empty: self.is_left_empty,
            is_beside: self.is_beside,
            ..TableFill::waiting(self.rows.max(self.rows_estimated))
        })
    }

    /// The table once it goes on as `fill` says; `None` where it is not stopped.
    pub(super) fn resumed(&self, fill: &TableFill) -> Option<TableFill> {
        self.stopped.as_ref()?;
        let is_left_empty = self.is_left_empty || fill.is_left_empty;
        // What readers see need not be taken from them, unless nothing is to come in its place.
        let is_beside = self.is_beside || fill.is_beside && !is_left_empty;
        Some(TableFill { is_left_empty, is_beside, clears: false, ..fill.clone() })
    }
}
