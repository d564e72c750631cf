//! What is to be read from a [`TableFill`]: the word for how far it is, what it still lacks, whether a change may miss
//! its row or is left out. A sink's checkpoint goes in where the answer depends on it. Nothing is changed here.

use super::TableFill;
use crate::Lsn;
use crate::capture::chunk::KeyRange;

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

    /// Seconds until all rows will be there if it goes on as it did until `now`, in seconds since 1970-01-01 UTC; `None`
    /// where nothing can be said.
    pub fn seconds_left(&self, now: u64) -> Option<u64> {
        let is_running = self.ranges.iter().any(|range| !range.is_done);
        let elapsed = now.checked_sub(self.began).filter(|_| is_running && self.began > 0)?;
        // A table that was never analysed, or has grown since, has more rows than was thought.
        let left = self.rows_estimated.checked_sub(self.rows).filter(|&left| left > 0)?;
        left.saturating_mul(elapsed.max(1)).checked_div(self.rows)
    }

    /// Whether rows may be missing that come with a range, in a sink whose checkpoint is at `position`.
    pub fn may_lack(&self, position: Lsn) -> bool {
        self.is_left_empty
            || self.ranges.is_empty()
            || self.ranges.iter().any(|range| !range.is_done)
            || position < self.filled_lsn
    }

    /// Whether changes of a transaction that was committed at `commit_lsn` are left out.
    pub fn leaves_out(&self, commit_lsn: Lsn) -> bool {
        self.stopped.is_some() || commit_lsn < self.from
    }

    /// Whether rows are still to be read for it, in a sink whose checkpoint is at `position`.
    pub fn lacks_rows(&self, position: Lsn) -> bool {
        matches!(self.state(position), TableState::Waiting | TableState::Filling)
    }

    /// What is left of its ranges.
    pub fn open_ranges(&self) -> impl Iterator<Item = &KeyRange> {
        self.ranges.iter().filter(|range| !range.is_done).map(|range| &range.rest)
    }
}
