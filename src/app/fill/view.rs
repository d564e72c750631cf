//! What is known of the fills beside what the sinks keep: which tables are wanted, and which cannot go on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::fanout::fill::TableState;
use crate::fanout::progress::SinkProgress;

/// Which tables are filled, and what keeps others from it.
#[derive(Debug, Default)]
pub struct FillView {
    /// By table: whether rows from before the stream are wanted.
    wanted: Vec<bool>,
    failed: Mutex<BTreeMap<usize, Problem>>,
}

/// Why a table's fill does not go on.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The error with its causes.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl FillView {
    /// By table: whether rows from before the stream are wanted.
    pub fn new(wanted: Vec<bool>) -> Self {
        FillView { wanted, failed: Mutex::default() }
    }

    /// Whether rows of the table from before the stream are wanted.
    pub fn is_wanted(&self, table: usize) -> bool {
        self.wanted.get(table).copied().unwrap_or_default()
    }

    /// What keeps the table from being filled.
    pub fn failure(&self, table: usize) -> Option<Problem> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(&table).cloned()
    }

    /// Says what keeps the table from being filled.
    pub fn set_failure(&self, table: usize, error: Option<&Error>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => {
                let hint = error.hint_text().map(str::to_owned);
                failed.insert(table, Problem { problem: error.chain(), hint });
            }
            None => {
                failed.remove(&table);
            }
        }
    }

    /// How far a table of the sink is; one that is not to be filled is as live as it gets.
    pub fn state(&self, sink: &SinkProgress, table: usize) -> TableState {
        match sink.fills().state(table, sink.durable_lsn()) {
            TableState::Waiting if !self.is_wanted(table) => TableState::Live,
            state => state,
        }
    }

    /// Whether everything that can be brought to the sink is there.
    pub fn has_all(&self, sink: &SinkProgress) -> bool {
        (0..self.wanted.len()).all(|table| {
            matches!(self.state(sink, table), TableState::Live | TableState::Incomplete)
                || self.failure(table).is_some()
        })
    }
}
