//! The plan as it is now. Which tables there are, with which columns and types at the sinks, never changes while an
//! engine runs; what they are read from at the source does, when a table is created anew or a column put back.
//!
//! Mappers tell here which transactions they left changes out of, and whoever lets a table go on asks: see
//! [`CurrentPlan::renew`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::plan::{Plan, PlannedTable};
use crate::Lsn;

/// A plan that can be renewed.
#[derive(Debug)]
pub struct CurrentPlan {
    plan: RwLock<Arc<Plan>>,
    /// How often a table was renewed, or its misfits were to be told again.
    generation: AtomicU64,
    /// By table: the last transaction that changes were left out of, by the position of its commit record.
    left_out: Vec<AtomicU64>,
}

impl CurrentPlan {
    /// The plan at the start.
    pub fn new(plan: Arc<Plan>) -> Self {
        let left_out = plan.tables.iter().map(|_| AtomicU64::new(0)).collect();
        CurrentPlan { plan: RwLock::new(plan), generation: AtomicU64::new(0), left_out }
    }

    /// The plan.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Grows when mappers have to look again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Reads a table from what was found at the source now. It goes on from a position that is read afterwards, unless
    /// [`is_sound_from`](Self::is_sound_from) says no.
    pub fn renew(&self, table: usize, found: PlannedTable) {
        let mut current = self.plan.write().unwrap_or_else(PoisonError::into_inner);
        let mut plan = Plan::clone(&current);
        if let Some(planned) = plan.tables.get_mut(table) {
            *planned = found;
        }
        *current = Arc::new(plan);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether no transaction that was committed at `from` or behind has lost changes of the table. From here on mappers
    /// tell their misfits again, so one that comes later is told behind whatever the answer leads to.
    pub fn is_sound_from(&self, table: usize, from: Lsn) -> bool {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.left_out.get(table).is_some_and(|last| last.load(Ordering::SeqCst) < from.0)
    }

    /// A mapper leaves changes of the table out; asks for the generation afterwards.
    pub(super) fn leave_out(&self, table: usize, commit_lsn: Lsn) {
        if let Some(last) = self.left_out.get(table) {
            last.fetch_max(commit_lsn.0, Ordering::SeqCst);
        }
    }
}
