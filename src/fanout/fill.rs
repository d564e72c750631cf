//! What a sink holds of a table that is being filled: which ranges of keys, which single rows it still lacks, and from
//! when on the table is complete. Pure: a fill and a step go in, the fill after the step comes out. The sink keeps it
//! beside the rows and changes both in one transaction, so a fill goes on wherever it was interrupted.
//!
//! A step goes to every sink of a stream, in the order of the queue; each takes what fits where it is, and passes over
//! the rest. So one read at the source serves all sinks that need it, and a sink that is elsewhere is never harmed.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};
use tokio::sync::oneshot;

use super::stop::Stopped;
use crate::Lsn;
use crate::capture::chunk::{Key, KeyRange};
use crate::encode::plan::PlannedTable;
use crate::encode::run::Run;

/// With more rows owed, the whole table is filled anew.
const OWED_MAX: usize = 1000;
/// How often the limit is doubled: each time that it was met, so that a table whose rows are owed quickly gets through.
const DOUBLINGS_MAX: u32 = 6;

/// What a step takes in a queue beside its rows.
const STEP_BYTES: usize = 1024;

/// How far one table of one sink is, as the sink keeps it.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFill {
    /// The key's columns at the source, in the order of every [`Key`]; without meaning while it waits.
    pub key_columns: Vec<String>,
    /// What there is to fill; none while it waits to begin.
    pub ranges: Vec<RangeFill>,
    /// Rows that were brought.
    pub rows: u64,
    /// How many rows the source was thought to have at the beginning.
    pub rows_estimated: u64,
    /// When it began, in seconds since 1970-01-01 UTC; 0 while it waits.
    pub began: u64,
    /// What the ranges were read from ends at or before this: until the checkpoint is there, a row may be newer than the
    /// stream, or gone already.
    #[serde_as(as = "DisplayFromStr")]
    pub filled_lsn: Lsn,
    /// The same with the rows that were read by themselves: a checkpoint behind it makes the table right.
    #[serde_as(as = "DisplayFromStr")]
    pub seen_lsn: Lsn,
    /// Rows that must be read by themselves.
    pub owed: Vec<OwedKey>,
    /// How often it began anew because too many rows were owed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overflows: u32,
    /// What is in the table goes when the fill begins.
    pub clears: bool,
    /// The operator has emptied it and wants it so.
    pub is_left_empty: bool,
    /// What is filled stands beside the table that readers see, and takes its place once it is live.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_beside: bool,
    /// `schema.json` does not name the table any more: it stays as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_left: bool,
    /// Why its changes are not applied any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Changes of transactions that were committed before this are left out: whatever is read of the table has them.
    #[serde_as(as = "DisplayFromStr")]
    #[serde(default = "zero", skip_serializing_if = "is_from_the_start")]
    pub from: Lsn,
    /// The OID of the relation that its rows are from; `None` where that was never noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<u32>,
}

fn zero() -> Lsn {
    Lsn::ZERO
}

fn is_from_the_start(lsn: &Lsn) -> bool {
    *lsn == Lsn::ZERO
}

/// A range of keys, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeFill {
    /// What is left to be read.
    #[serde(flatten)]
    pub rest: KeyRange,
    /// Nothing is.
    pub is_done: bool,
}

/// A row that must be read by itself. `Debug` does not show its key.
#[serde_as]
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedKey {
    /// The key's values as the source writes them, in the plan's key order.
    pub key: Vec<String>,
    /// The change that makes it so: a read that does not see it is not enough.
    #[serde_as(as = "DisplayFromStr")]
    pub commit_lsn: Lsn,
    /// That transaction's id.
    pub xid: u32,
}

impl fmt::Debug for OwedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwedKey").field("commit_lsn", &self.commit_lsn).finish_non_exhaustive()
    }
}

/// What operators read of a table that is filled beside the one that readers see, to take its place.
pub const REBUILDING: &str = "rebuilding";

/// How far a table is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableState {
    /// Its fill has not begun.
    Waiting,
    /// Rows are being brought.
    Filling,
    /// All rows are there; the stream has not come to where they were read.
    CatchingUp,
    /// It is what the source was at the checkpoint.
    Live,
    /// It was emptied, or rows from before are not wanted.
    Incomplete,
    /// `schema.json` does not name it any more.
    Left,
    /// What the source has does not fit the plan: its changes are not applied.
    Stopped,
}

impl TableState {
    /// The state as `--json` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            TableState::Waiting => "waiting",
            TableState::Filling => "filling",
            TableState::CatchingUp => "catching-up",
            TableState::Live => "live",
            TableState::Incomplete => "incomplete",
            TableState::Left => "left",
            TableState::Stopped => "stopped",
        }
    }
}

impl TableFill {
    /// A fill that waits to begin.
    pub fn waiting(rows_estimated: u64) -> Self {
        TableFill {
            key_columns: Vec::new(),
            ranges: Vec::new(),
            rows: 0,
            rows_estimated,
            began: 0,
            filled_lsn: Lsn::ZERO,
            seen_lsn: Lsn::ZERO,
            owed: Vec::new(),
            overflows: 0,
            clears: false,
            is_left_empty: false,
            is_beside: false,
            is_left: false,
            stopped: None,
            from: Lsn::ZERO,
            relation: None,
        }
    }

    /// The same for a table of the plan.
    pub fn of(table: &PlannedTable) -> Self {
        let rows_estimated = table.estimated_rows.max(0).unsigned_abs();
        let relation = table.problem.is_none().then_some(table.oid.0);
        TableFill { relation, ..TableFill::waiting(rows_estimated) }
    }

    /// A table that lacks nothing.
    pub fn complete() -> Self {
        let ranges = vec![RangeFill { rest: KeyRange::default(), is_done: true }];
        TableFill { ranges, ..TableFill::waiting(0) }
    }

    /// How far it is in a sink whose checkpoint is at `position`.
    pub fn state(&self, position: Lsn) -> TableState {
        if self.is_left {
            TableState::Left
        } else if self.stopped.is_some() {
            TableState::Stopped
        } else if self.is_left_empty {
            TableState::Incomplete
        } else if self.ranges.is_empty() {
            TableState::Waiting
        } else if !self.owed.is_empty() || self.ranges.iter().any(|range| !range.is_done) {
            TableState::Filling
        } else if position < self.seen_lsn || self.is_beside {
            TableState::CatchingUp
        } else {
            TableState::Live
        }
    }

    /// The state as operators read it: [`REBUILDING`] for a table that is filled beside the one that readers see.
    pub fn shown(&self, position: Lsn) -> &'static str {
        match self.state(position) {
            TableState::Waiting | TableState::Filling | TableState::CatchingUp if self.is_beside => {
                REBUILDING
            }
            state => state.as_str(),
        }
    }

    /// The table that takes its readers' place, if it can do so in a sink whose checkpoint is at `position`.
    pub fn swapped(&self, position: Lsn) -> Option<TableFill> {
        // Asked after every batch, and hardly ever so.
        let swapped = self.is_beside.then(|| TableFill { is_beside: false, ..self.clone() })?;
        matches!(swapped.state(position), TableState::Live | TableState::Incomplete).then_some(swapped)
    }

    /// Seconds until all rows will be there if it goes on as it did until `now`, in seconds since 1970-01-01 UTC; `None`
    /// where nothing can be said.
    pub fn seconds_left(&self, now: u64) -> Option<u64> {
        let is_running = self.ranges.iter().any(|range| !range.is_done);
        let elapsed = now.checked_sub(self.began).filter(|_| is_running && self.began > 0)?;
        let left = self.rows_estimated.saturating_sub(self.rows);
        left.saturating_mul(elapsed.max(1)).checked_div(self.rows)
    }

    /// Whether rows may be missing that come with a range, in a sink whose checkpoint is at `position`.
    pub fn may_lack(&self, position: Lsn) -> bool {
        self.is_left_empty
            || self.ranges.is_empty()
            || self.ranges.iter().any(|range| !range.is_done)
            || position < self.filled_lsn
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

    /// What is left of its ranges.
    pub fn open_ranges(&self) -> impl Iterator<Item = &KeyRange> {
        self.ranges.iter().filter(|range| !range.is_done).map(|range| &range.rest)
    }
}

/// One step of a fill on its way to the sinks.
#[derive(Debug)]
pub struct FillStep {
    /// Index of the table in the plan.
    pub table: usize,
    /// What it brings.
    pub action: Action,
    /// Everything up to here was sent to the sinks before it. Rows that were read are passed over by a sink that is
    /// further already, from a stream of its own: what it has may be newer.
    pub sent_at: Lsn,
    /// Closes once every sink is done with the step, or has lost it.
    pub receipt: Option<oneshot::Sender<()>>,
}

/// What a step brings.
#[derive(Debug)]
pub enum Action {
    /// The fill begins.
    Begin {
        /// With this.
        fill: TableFill,
        /// In these sinks, wherever they are, and what clears does so at once; or, without names, where it waits to begin.
        sinks: Option<Vec<String>>,
    },
    /// Rows of a range, which may be none.
    Chunk {
        /// What of the range was left before.
        rest: KeyRange,
        /// Where the next chunk goes on; unchanged without rows.
        last_key: Option<Key>,
        /// Nothing is left of the range.
        is_last: bool,
        /// Upserts and rejections.
        run: Arc<Run>,
        /// Every commit that the read saw ends at or before this.
        seen_lsn: Lsn,
    },
    /// The stream brings a row in part that a sink can have only where its table is live. Comes before that change.
    Owe(OwedKey),
    /// Updates found no row in this sink, although the table should have them. Never sent: the worker takes it for
    /// itself.
    Miss(Vec<OwedKey>),
    /// What the source has of the table does not fit the plan. Comes before what is left out because of that.
    Stop {
        /// Why, and since when.
        stopped: Stopped,
        /// In these sinks, wherever they are; without names, in those that are not past it.
        sinks: Option<Vec<String>>,
    },
    /// A stopped table goes on.
    Resume {
        /// With this; what clears does so at once.
        fill: TableFill,
        /// In these sinks.
        sinks: Vec<String>,
    },
    /// Rows that these sinks lack or hold wrongly although they are past them: they are to be read by themselves.
    Retry {
        /// The rows.
        owed: Vec<OwedKey>,
        /// The sinks.
        sinks: Vec<String>,
    },
    /// Rows were read by themselves: each as an upsert, or a removal where it is not there any more.
    Paid {
        /// What was owed.
        owed: Vec<OwedKey>,
        /// The rows.
        run: Arc<Run>,
        /// Every commit that the read saw ends at or before this.
        seen_lsn: Lsn,
    },
}

impl FillStep {
    /// How much room it takes in a queue. One without rows takes a little too, so that they do not pile up.
    pub fn bytes(&self) -> usize {
        self.run().map_or(STEP_BYTES, |run| STEP_BYTES + run.bytes())
    }

    /// The rows, in a step that has some.
    pub fn run(&self) -> Option<&Arc<Run>> {
        match &self.action {
            Action::Chunk { run, .. } | Action::Paid { run, .. } => Some(run),
            Action::Begin { .. }
            | Action::Owe(_)
            | Action::Miss(_)
            | Action::Stop { .. }
            | Action::Resume { .. }
            | Action::Retry { .. } => None,
        }
    }

    /// Whether it has to be taken before the changes behind it, and may come inside a transaction.
    pub fn comes_first(&self) -> bool {
        matches!(self.action, Action::Owe(_) | Action::Stop { .. })
    }
}

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
                let (owed, is_beside, overflows) = (before.owed.clone(), before.is_beside, before.overflows);
                let (from, relation) = origin(Some(before));
                let begun =
                    TableFill { owed, overflows, clears: false, is_beside, from, relation, ..fill.clone() };
                Some(begun)
            }
            Action::Chunk { .. } | Action::Paid { .. } if position > step.sent_at => None,
            Action::Chunk { rest, last_key, is_last, run, seen_lsn } => {
                let mut fill = before?.clone();
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a sink writes in one step of a fill, all or nothing.
#[derive(Debug, Clone, Copy)]
pub struct FillWrite<'a> {
    /// Index of the table in the plan.
    pub table: usize,
    /// How far it is afterwards.
    pub fill: &'a TableFill,
    /// Rows to write over what is there, removals of such that are gone, and rejections. Where removing means marking,
    /// only what is not marked yet is.
    pub run: Option<&'a Run>,
    /// Everything in the table goes first.
    pub clears: bool,
    /// What stands beside the table takes its place, at once and for all its readers.
    pub swaps: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> Option<Key> {
        Some(Key(vec![id.to_string()]))
    }

    fn step(action: Action) -> FillStep {
        FillStep { table: 0, action, sent_at: Lsn(1), receipt: None }
    }

    fn chunk(after: Option<Key>, last: Option<Key>, is_last: bool, seen: u64) -> FillStep {
        step(Action::Chunk {
            rest: KeyRange { after, up_to: None },
            last_key: last,
            is_last,
            run: Arc::default(),
            seen_lsn: Lsn(seen),
        })
    }

    fn begin(sinks: Option<&[&str]>) -> FillStep {
        let ranges = vec![RangeFill { rest: KeyRange::default(), is_done: false }];
        let sinks = sinks.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        step(Action::Begin { fill: TableFill { ranges, clears: true, ..TableFill::waiting(9) }, sinks })
    }

    fn taken(fills: &mut Fills, step: &FillStep) -> bool {
        match fills.after("eu", Lsn(1), step) {
            Some(fill) => {
                fills.set(step.table, fill);
                true
            }
            None => false,
        }
    }

    #[test]
    fn a_table_waits_is_filled_catches_up_and_is_live() {
        let mut fills = Fills::default();
        assert_eq!(fills.state(0, Lsn(1)), TableState::Live, "it never had to be filled");
        fills.set(0, TableFill::waiting(9));
        assert_eq!(fills.state(0, Lsn(1)), TableState::Waiting);
        assert!(taken(&mut fills, &begin(None)));
        assert!(!taken(&mut fills, &begin(None)), "it has begun");
        assert_eq!(fills.state(0, Lsn(1)), TableState::Filling);
        assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
        assert!(!taken(&mut fills, &chunk(None, key(5), false, 100)), "it has that one");
        assert!(taken(&mut fills, &chunk(key(5), None, true, 90)));
        assert_eq!(fills.state(0, Lsn(99)), TableState::CatchingUp);
        assert_eq!(fills.state(0, Lsn(100)), TableState::Live);
    }

    #[test]
    fn a_row_that_is_owed_keeps_the_table_from_being_live_until_it_is_paid() {
        let mut fills = Fills::default();
        let owed = OwedKey { key: vec!["7".to_owned()], commit_lsn: Lsn(50), xid: 4 };
        assert!(!taken(&mut fills, &step(Action::Owe(owed.clone()))), "the table has all its rows");
        fills.set(0, TableFill::complete());
        assert!(!taken(&mut fills, &step(Action::Owe(owed.clone()))), "still");
        assert!(taken(&mut fills, &step(Action::Miss(vec![owed.clone()]))), "but it proved wrong");
        assert!(!taken(&mut fills, &step(Action::Miss(vec![owed.clone()]))));
        assert_eq!(fills.state(0, Lsn(60)), TableState::Filling);
        let paid = step(Action::Paid { owed: vec![owed], run: Arc::default(), seen_lsn: Lsn(70) });
        assert!(taken(&mut fills, &paid));
        assert!(!taken(&mut fills, &paid));
        assert_eq!(
            (fills.state(0, Lsn(60)), fills.state(0, Lsn(70))),
            (TableState::CatchingUp, TableState::Live)
        );
    }

    #[test]
    fn a_row_that_is_retried_is_owed_by_the_named_sinks_and_leaves_what_is_being_filled_as_it_is() {
        let owed = OwedKey { key: vec!["7".to_owned()], commit_lsn: Lsn(50), xid: 4 };
        let retry = |sinks: &[&str]| {
            let sinks = sinks.iter().map(|name| (*name).to_owned()).collect();
            step(Action::Retry { owed: vec![owed.clone()], sinks })
        };
        let mut fills = Fills::default();
        assert!(!taken(&mut fills, &retry(&["na"])));
        assert!(taken(&mut fills, &retry(&["na", "eu"])));
        assert_eq!(fills.state(0, Lsn(60)), TableState::Filling);
        assert!(!taken(&mut fills, &retry(&["eu"])), "it is owed already");
        assert!(taken(&mut fills, &begin(Some(&["eu"]))));
        assert!(!taken(&mut fills, &retry(&["eu"])), "it still is: what makes it so may not be visible yet");
        assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
        let other = OwedKey { key: vec!["8".to_owned()], ..owed.clone() };
        let other = step(Action::Retry { owed: vec![other], sinks: vec!["eu".to_owned()] });
        assert!(taken(&mut fills, &other));
        assert_eq!(fills.get(0).unwrap().open_ranges().count(), 1, "the fill goes on");
        fills.set(0, TableFill { is_left_empty: true, ..TableFill::complete() });
        assert!(!taken(&mut fills, &retry(&["eu"])), "it is wanted empty");
    }

    #[test]
    fn a_table_that_owes_too_many_rows_begins_anew_and_may_owe_more_the_next_time() {
        let owed = |id: usize| OwedKey { key: vec![id.to_string()], commit_lsn: Lsn(50), xid: 4 };
        let mut fills = Fills::default();
        fills.set(0, TableFill { is_beside: true, ..TableFill::waiting(9) });
        for limit in [OWED_MAX, 2 * OWED_MAX] {
            assert!(!taken(&mut fills, &step(Action::Owe(owed(0)))), "what is read once it begins sees it");
            assert!(taken(&mut fills, &begin(None)));
            for id in 0..limit {
                assert!(taken(&mut fills, &step(Action::Owe(owed(id)))));
            }
            assert_eq!(fills.get(0).unwrap().owed.len(), limit);
            assert!(taken(&mut fills, &step(Action::Owe(owed(limit)))));
            let fill = fills.get(0).unwrap();
            assert_eq!(
                (fill.state(Lsn(60)), fill.owed.len(), fill.is_beside),
                (TableState::Waiting, 0, true)
            );
        }
    }

    #[test]
    fn a_sink_that_is_further_than_the_rows_that_come_passes_them_over() {
        let mut fills = Fills::default();
        fills.set(0, TableFill::waiting(9));
        assert!(taken(&mut fills, &begin(None)));
        let early = FillStep { sent_at: Lsn::ZERO, ..chunk(None, key(5), false, 100) };
        assert!(!taken(&mut fills, &early), "it has changes that were not looked at");
        assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
    }

    #[test]
    fn a_fill_that_is_asked_for_begins_in_the_named_sinks_only() {
        let mut fills = Fills::default();
        assert!(!taken(&mut fills, &begin(Some(&["na"]))));
        assert!(taken(&mut fills, &begin(Some(&["na", "eu"]))));
        assert!(taken(&mut fills, &begin(Some(&["eu"]))), "and anew");
    }

    #[test]
    fn a_table_beside_another_takes_its_place_once_it_would_be_live() {
        let mut fills = Fills::default();
        fills.set(0, TableFill { is_beside: true, ..TableFill::waiting(9) });
        assert!(taken(&mut fills, &begin(None)));
        assert!(taken(&mut fills, &begin(Some(&["eu"]))), "also if it is begun anew on the way");
        assert!(taken(&mut fills, &chunk(None, None, true, 100)));
        let fill = fills.get(0).unwrap();
        assert_eq!(fill.swapped(Lsn(99)), None);
        assert_eq!(fill.state(Lsn(100)), TableState::CatchingUp, "its readers do not see it");
        let swapped = fill.swapped(Lsn(100)).unwrap();
        assert_eq!((swapped.state(Lsn(100)), swapped.swapped(Lsn(100))), (TableState::Live, None));
    }

    #[test]
    fn a_fill_is_the_same_after_it_was_kept() {
        let mut fills = Fills::default();
        fills.set(0, TableFill::waiting(9));
        assert!(taken(&mut fills, &begin(None)));
        assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
        let fill = fills.get(0).unwrap();
        let text = serde_json::to_string(fill).unwrap();
        assert_eq!(serde_json::from_str::<TableFill>(&text).unwrap(), *fill);
    }
}
