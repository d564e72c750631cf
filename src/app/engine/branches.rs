//! The branches: one thread for each sink that is catching up, from when the main river leaves it behind until it has
//! joined again and its copy of the slot is dropped.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    setup: Arc<Setup>,
    main: Arc<Outlets>,
    stop: Stop,
    book: Arc<Mutex<Book>>,
    /// Starts a branch for whoever leaves.
    starter: AbortHandle,
    /// Closes when the last branch has ended.
    done: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

struct Book {
    /// The way of each sink that has a worker.
    ways: HashMap<String, Branch>,
    threads: HashMap<String, JoinHandle<()>>,
    /// Kept by every branch; nothing once none is started any more.
    alive: Option<mpsc::Sender<()>>,
}

impl Branches {
    /// From now on, starts a branch for each sink that is `leaving`.
    pub(super) fn new(
        setup: &Arc<Setup>,
        main: &Arc<Outlets>,
        mut leaving: mpsc::UnboundedReceiver<Arc<SinkProgress>>,
        stop: &Stop,
    ) -> Branches {
        let (alive, done) = mpsc::channel(1);
        let book = Book { ways: HashMap::new(), threads: HashMap::new(), alive: Some(alive) };
        let book = Arc::new(Mutex::new(book));
        let starting = book.clone();
        let starter = tokio::spawn(async move {
            while let Some(sink) = leaving.recv().await {
                lock(&starting).start(&sink);
            }
        });
        Branches {
            setup: setup.clone(),
            main: main.clone(),
            stop: stop.clone(),
            book,
            starter: starter.abort_handle(),
            done: tokio::sync::Mutex::new(done),
        }
    }

    /// Knows the sink's worker from now on, and starts a branch if the sink is catching up already.
    pub(super) fn add(&self, lane: &Lane) {
        let branch = Branch::new(self.setup.clone(), self.main.clone(), lane.clone(), self.stop.clone());
        let mut book = lock(&self.book);
        book.ways.insert(lane.sink.name.clone(), branch);
        if matches!(lane.sink.state(), State::CatchingUp(_)) {
            book.start(&lane.sink);
        }
    }

    /// Forgets a sink that was taken out. The thread that is left ends by itself.
    pub(super) fn remove(&self, sink: &Arc<SinkProgress>) -> Option<JoinHandle<()>> {
        let mut book = lock(&self.book);
        let is_its = |branch: &Branch| Arc::ptr_eq(branch.sink(), sink);
        book.ways.get(&sink.name).is_some_and(is_its).then(|| book.ways.remove(&sink.name));
        book.threads.remove(&sink.name)
    }

    /// Starts no more; those that run end once they are asked to stop.
    pub(super) fn close(&self) {
        self.starter.abort();
        let mut book = lock(&self.book);
        book.alive = None;
        book.ways.clear();
    }

    /// Waits until all have ended, but not beyond `limit`.
    pub(super) async fn end(&self, limit: Instant) {
        let mut done = self.done.lock().await;
        if tokio::time::timeout_at(limit.into(), done.recv()).await.is_err() {
            tracing::warn!(
                "a sink that is catching up did not end in time: what it lacks will be sent again"
            );
        }
    }
}

impl Book {
    fn start(&mut self, sink: &Arc<SinkProgress>) {
        let is_its = |branch: &&Branch| Arc::ptr_eq(branch.sink(), sink);
        let Some(branch) = self.ways.get(&sink.name).filter(is_its).cloned() else { return };
        let Some(alive) = &self.alive else { return };
        match spawn(branch, self.threads.remove(&sink.name), alive) {
            Ok(thread) => drop(self.threads.insert(sink.name.clone(), thread)),
            Err(error) => sinks::stop(sink, &error),
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
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
