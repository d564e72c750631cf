//! What the rest of the process may see of its engine: before it is prepared, while it runs, and while it ends. The
//! engine writes; the HTTP API reads. Nothing here can steer anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::fill::view::FillView;
use super::heartbeat::Delays;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::error::Error;
use crate::fanout::progress::Progress;
use crate::sink::d1::budget::{Budget, Standing};

/// An engine as it is seen from beside.
#[derive(Debug, Default)]
pub struct EngineView {
    phase: Mutex<Phase>,
    prepared: watch::Sender<Option<Arc<Prepared>>>,
    /// How long a commit takes to each sink, where that is measured.
    pub delays: Delays,
}

/// What the engine is about.
#[derive(Debug, Clone, Default)]
pub enum Phase {
    /// It connects, checks and opens. Set at the start, and when a reload begins anew; `Streaming` or `Waiting` follows.
    #[default]
    Preparing,
    /// A session streams. `Waiting`, `Resting` or `Stopping` follows.
    Streaming,
    /// An attempt failed; the next one follows after a pause. Set where an error is logged and retried.
    Waiting {
        /// The error with its causes.
        problem: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Between two scheduled runs: nothing streams, and nobody uses the slot. `Streaming`, `Waiting` or `Stopping`
    /// follows.
    Resting {
        /// When the next run is due, unless somebody asks for one before.
        until: SystemTime,
    },
    /// It finishes what it has, and ends.
    Stopping,
}

impl Phase {
    /// The phase as one lower-case word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Phase::Preparing => "preparing",
            Phase::Streaming => "streaming",
            Phase::Waiting { .. } => "waiting",
            Phase::Resting { .. } => "resting",
            Phase::Stopping => "stopping",
        }
    }
}

/// What there is once the engine is prepared.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// How far each sink is.
    pub progress: Progress,
    /// The source that it reads.
    pub identity: SourceIdentity,
    /// What is replicated.
    pub plan: Arc<Plan>,
    /// Which tables are filled, and what keeps others from it.
    pub fills: Arc<FillView>,
    /// The budgets of requests that sinks keep to, by sink; one for all sinks of a token.
    pub budgets: Vec<(String, Arc<Budget>)>,
}

impl Prepared {
    /// How much of its budget of requests a sink has left; `None` for one without.
    pub fn standing(&self, sink: &str) -> Option<Standing> {
        self.budgets.iter().find(|(name, _)| name == sink).map(|(_, budget)| budget.standing())
    }
}

impl EngineView {
    /// What the engine is about now.
    pub fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what the engine is about from now on.
    pub fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Says that the engine will try again after this error.
    pub fn set_waiting(&self, error: &Error) {
        let hint = error.hint_text().map(str::to_owned);
        self.set_phase(Phase::Waiting { problem: error.chain(), hint });
    }

    /// Shows the prepared engine, in the place of the one before it, or of what that one was.
    pub fn set_prepared(&self, prepared: Prepared) {
        self.prepared.send_replace(Some(Arc::new(prepared)));
    }

    /// The engine's progress and plan as they are now, once it is prepared.
    pub fn prepared(&self) -> Option<Arc<Prepared>> {
        self.prepared.borrow().clone()
    }

    /// The same, and what comes in its place.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Prepared>>> {
        self.prepared.subscribe()
    }
}
