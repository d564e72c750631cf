//! What a river sends to its sinks. It says how much room it takes in their queues, and where whoever has taken it is
//! then. Nothing is sent or taken here.

use std::sync::Arc;

use super::fill::FillStep;
use crate::Lsn;
use crate::encode::run::Run;

/// What a river sends to a sink.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// Changes, in commit order.
    Run(Arc<Run>),
    /// Nothing else was committed up to this position.
    Idle(Lsn),
    /// A step of a fill; only one that says what is owed comes inside a transaction.
    Fill(Arc<FillStep>),
    /// The stream starts again at or before the sink's checkpoint, or goes on in another queue between two transactions:
    /// forget one that has not ended.
    Restart,
}

impl Delivery {
    /// How much room it takes in the queue.
    pub fn bytes(&self) -> usize {
        match self {
            Delivery::Run(run) => run.bytes(),
            Delivery::Fill(step) => step.bytes(),
            Delivery::Idle(_) | Delivery::Restart => 0,
        }
    }

    /// The position up to which everything was sent once this was; `None` inside a transaction, at a restart, and for a
    /// step of a fill.
    pub fn end_lsn(&self) -> Option<Lsn> {
        match self {
            Delivery::Run(run) => run.spans().last()?.end_lsn,
            Delivery::Idle(lsn) => Some(*lsn),
            Delivery::Fill(_) | Delivery::Restart => None,
        }
    }
}
