//! The branches: one thread for each sink that is catching up, from when the main river leaves it behind until it has
//! joined again and its copy of the slot is dropped.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::branch::Branch;
use super::{Setup, Stop};
use crate::app::sinks::{self, Lane};
use crate::error::{Error, Result};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{SinkProgress, State};

/// All branches of an engine.
pub(super) struct Branches {
    /// Starts a branch for whoever leaves.
    starter: AbortHandle,
    /// Closes when the last branch has ended.
    done: mpsc::Receiver<()>,
}

impl Branches {
    /// Starts branches for the sinks that are catching up already, and from now on for each that leaves.
    ///
    /// # Errors
    /// Halts when a thread cannot be started.
    pub(super) fn start(
        setup: &Arc<Setup>,
        main: &Arc<Outlets>,
        mut leaving: mpsc::UnboundedReceiver<Arc<SinkProgress>>,
        lanes: &[Lane],
        stop: &Stop,
    ) -> Result<Branches> {
        let (alive, done) = mpsc::channel(1);
        let mut threads = HashMap::new();
        let branch = |lane: &Lane| Branch::new(setup.clone(), main.clone(), lane.clone(), stop.clone());
        for lane in lanes.iter().filter(|lane| matches!(lane.sink.state(), State::CatchingUp(_))) {
            spawn(branch(lane), None, &alive).map(|thread| threads.insert(lane.sink.name.clone(), thread))?;
        }
        let waiting: HashMap<String, Branch> =
            lanes.iter().map(|lane| (lane.sink.name.clone(), branch(lane))).collect();
        let starter = tokio::spawn(async move {
            while let Some(sink) = leaving.recv().await {
                let Some(branch) = waiting.get(&sink.name).cloned() else { continue };
                let before = threads.remove(&sink.name);
                match spawn(branch, before, &alive) {
                    Ok(thread) => drop(threads.insert(sink.name.clone(), thread)),
                    Err(error) => sinks::stop(&sink, &error),
                }
            }
        });
        Ok(Branches { starter: starter.abort_handle(), done })
    }

    /// Starts no more; those that run end once they are asked to stop.
    pub(super) fn close(&self) {
        self.starter.abort();
    }

    /// Waits until all have ended, but not beyond `limit`.
    pub(super) async fn end(mut self, limit: Instant) {
        if tokio::time::timeout_at(limit.into(), self.done.recv()).await.is_err() {
            tracing::warn!(
                "a sink that is catching up did not end in time: what it lacks will be sent again"
            );
        }
    }
}

/// Starts the branch's thread. It waits for the sink's branch `before`, which may still be dropping its copy.
fn spawn(branch: Branch, before: Option<JoinHandle<()>>, alive: &mpsc::Sender<()>) -> Result<JoinHandle<()>> {
    let (alive, sink) = (alive.clone(), branch.sink().clone());
    std::thread::Builder::new()
        .name(format!("branch-{}", sink.name))
        .spawn(move || {
            // One that panicked has said so.
            before.map(JoinHandle::join);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(branch.run())));
                    if ran.is_err() {
                        sinks::stop(&sink, &Error::bug("the sink's branch panicked"));
                    }
                }
                Err(error) => {
                    let error = Error::halt("starting the runtime of a branch").because(error);
                    sinks::stop(&sink, &error);
                }
            }
            drop(alive);
        })
        .map_err(|error| Error::halt("starting the thread of a sink that catches up").because(error))
}
