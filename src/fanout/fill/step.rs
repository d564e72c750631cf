//! One step of a fill: what a river sends of it, and what a sink then writes. Only data; which sink takes which step is
//! decided in `after`.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{OwedKey, TableFill};
use crate::Lsn;
use crate::capture::chunk::{Key, KeyRange};
use crate::encode::run::Run;
use crate::fanout::stop::Stopped;

/// What a step takes in a queue beside its rows.
const STEP_BYTES: usize = 1024;

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
        /// The range has other rows too, which were not asked for.
        is_partial: bool,
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
