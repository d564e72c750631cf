//! The sinks of a running engine: who has a worker, who is still being opened, who comes and who goes. The main stream
//! goes on meanwhile, and a sink that stays notices nothing.
//!
//! **Coming.** The main slot waits for a sink from before it is opened. Once it is open it is held against the slot, as at
//! the start of an engine, and gets its worker as one that was left behind: it reads a copy of the slot at its own pace
//! and joins the main stream where it has caught up.
//!
//! **Lost.** A sink whose target was deleted or replaced under its worker goes and comes again, by itself.
//!
//! **Going.** The slot waits for the sink no more, its queues close, and its worker ends without what they held. The copy
//! of the slot is dropped; the replica stays as it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle as Thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use super::branches::Branches;
use super::entrance::Entrance;
use super::{Pauses, Setup, Stop};
use crate::Lsn;
use crate::app::sinks::{self, AwaySink, Lane, OpenedSink, Opener};
use crate::app::view::Prepared;
use crate::capture::slot;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, SinkProgress};

/// How often a sink that goes is looked at.
const POLL: Duration = Duration::from_millis(10);
/// How long the worker of a sink that goes may take to end, before another one of that name is opened.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// All sinks of an engine.
pub(super) struct Crew {
    pub(super) setup: Arc<Setup>,
    pub(super) progress: Progress,
    outlets: Arc<Outlets>,
    opener: Opener,
    stop: Stop,
    branches: Branches,
    book: Mutex<Book>,
}

struct Book {
    /// As they are configured now.
    sinks: Vec<config::Sink>,
    lanes: Vec<Lane>,
    /// What is being opened.
    coming: Vec<AbortHandle>,
    /// What has not ended yet, by name.
    going: HashMap<String, JoinHandle<()>>,
    /// Nobody comes any more.
    is_closed: bool,
}

impl Crew {
    pub(super) fn new(
        setup: &Arc<Setup>,
        progress: &Progress,
        outlets: &Arc<Outlets>,
        opener: Opener,
        branches: Branches,
        lanes: Vec<Lane>,
        stop: &Stop,
    ) -> Arc<Self> {
        let book = Book {
            sinks: setup.config.sinks.clone(),
            lanes,
            coming: Vec::new(),
            going: HashMap::new(),
            is_closed: false,
        };
        let crew = Arc::new(Crew {
            setup: setup.clone(),
            progress: progress.clone(),
            outlets: outlets.clone(),
            opener,
            stop: stop.clone(),
            branches,
            book: Mutex::new(book),
        });
        crew.book().lanes.iter().for_each(|lane| crew.watch(lane));
        crew
    }

    /// Lets a sink come once it is open. The main slot has waited for it since before anything was confirmed.
    pub(super) fn await_opening(self: &Arc<Self>, AwaySink { progress, opened }: AwaySink) {
        self.spawn(Entrance { crew: self.clone(), progress, is_held: true }, None, move |_| opened);
    }

    /// Opens a sink, behind one of that name that goes, and lets it come.
    fn open(
        self: &Arc<Self>,
        config: config::Sink,
        progress: Arc<SinkProgress>,
        going: Option<JoinHandle<()>>,
    ) {
        let entrance = Entrance { crew: self.clone(), progress: progress.clone(), is_held: false };
        self.spawn(entrance, going, move |crew| crew.opener.open(&config, &progress));
    }

    fn spawn(
        self: &Arc<Self>,
        entrance: Entrance,
        going: Option<JoinHandle<()>>,
        open: impl FnOnce(&Crew) -> oneshot::Receiver<Result<OpenedSink>> + Send + 'static,
    ) {
        let crew = self.clone();
        let task = tokio::spawn(async move {
            if let Some(going) = going {
                let _ = tokio::time::timeout(FAREWELL_TIMEOUT, going).await;
            }
            entrance.run(open(&crew)).await;
        });
        let mut book = self.book();
        book.coming.retain(|task| !task.is_finished());
        book.coming.push(task.abort_handle());
    }

    /// Gives a sink that was opened and held against the slot its worker, and lets it catch up.
    pub(super) fn admit(self: &Arc<Self>, sink: OpenedSink, at: Lsn, is_held: bool) {
        let progress = sink.progress.clone();
        let mut book = self.book();
        if book.is_closed {
            return;
        }
        if !progress.arrive(at, is_held) {
            return;
        }
        let setup = self.setup.clone();
        match sink.start(move || setup.deadline.get().copied()) {
            Ok(lane) => {
                self.branches.add(&lane);
                self.watch(&lane);
                book.lanes.push(lane);
            }
            Err(error) => sinks::stop(&progress, &error),
        }
    }

    /// Goes on with the sinks of this configuration. Those that are in both, and have not stopped, stay as they are.
    /// Returns who comes and who goes.
    ///
    /// # Errors
    /// Transient where the source cannot be asked: nothing has changed then.
    pub(super) async fn follow(self: &Arc<Self>, next: &Config) -> Result<String> {
        let held_at = self.confirmed().await?;
        let mut book = self.book();
        let stays = |sink: &config::Sink| {
            book.sinks.contains(sink)
                && self.progress.find(sink.name.as_str()).is_some_and(|one| one.is_running())
        };
        let (mut all, mut come, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for sink in &next.sinks {
            let before = self.progress.find(sink.name.as_str());
            match before {
                Some(before) if stays(sink) => all.push(before),
                before => {
                    words.push(match before {
                        Some(_) => format!("{} begins anew", sink.name),
                        None => format!("{} comes", sink.name),
                    });
                    let progress = SinkProgress::new(sink.name.as_str());
                    progress.set_paused(before.is_some_and(|before| before.is_paused()));
                    progress.await_opening(held_at);
                    all.push(progress.clone());
                    come.push((sink.clone(), progress));
                }
            }
        }
        let gone: Vec<Arc<SinkProgress>> = self
            .progress
            .sinks()
            .into_iter()
            .filter(|sink| !all.iter().any(|other| Arc::ptr_eq(sink, other)))
            .collect();
        self.progress.set_sinks(all);
        book.sinks.clone_from(&next.sinks);
        book.going.retain(|_, task| !task.is_finished());
        for sink in gone {
            if !next.sinks.iter().any(|one| one.name.as_str() == sink.name) {
                words.push(format!("{} goes", sink.name));
            }
            tracing::info!(
                sink = sink.name,
                checkpoint = %sink.durable_lsn(),
                "the sink is taken out; its replica stays as it is"
            );
            let task = self.dismiss(&mut book, &sink);
            book.going.insert(sink.name.clone(), task);
        }
        let come: Vec<_> = come
            .into_iter()
            .map(|(sink, progress)| {
                let going = book.going.remove(sink.name.as_str());
                (sink, progress, going)
            })
            .collect();
        drop(book);
        for (sink, progress, going) in come {
            self.open(sink, progress, going);
        }
        self.show(next);
        Ok(match words.is_empty() {
            true => "the sinks are in another order".to_owned(),
            false => format!("sinks: {}", words.join(", ")),
        })
    }

    /// Lets a sink begin anew, if its worker ends because the target is gone.
    fn watch(self: &Arc<Self>, lane: &Lane) {
        let (crew, mut done, sink) = (Arc::downgrade(self), lane.done.clone(), lane.sink.clone());
        tokio::spawn(async move {
            while done.changed().await.is_ok() {}
            if sink.is_lost()
                && let Some(crew) = crew.upgrade()
            {
                crew.begin_anew(&sink).await;
            }
        });
    }

    /// Opens a sink once more whose target is gone: what stands in its place is held against the slot as that of a sink
    /// that comes. The others notice nothing.
    async fn begin_anew(self: &Arc<Self>, sink: &Arc<SinkProgress>) {
        let mut pauses = Pauses::new(&self.setup.config);
        let held_at = loop {
            let started = Instant::now();
            match self.confirmed().await {
                Ok(held_at) => break held_at,
                Err(_) if sink.is_retired() || self.book().is_closed => return,
                Err(_) => tokio::time::sleep(pauses.after(started)).await,
            }
        };
        let mut book = self.book();
        let mut all = self.progress.sinks();
        let at = all.iter().position(|other| Arc::ptr_eq(other, sink));
        let config = book.sinks.iter().find(|config| config.name.as_str() == sink.name).cloned();
        let (Some(at), Some(config), false) = (at, config, book.is_closed) else { return };
        let progress = SinkProgress::new(&sink.name);
        progress.set_paused(sink.is_paused());
        progress.await_opening(held_at);
        all[at] = progress.clone();
        self.progress.set_sinks(all);
        let going = self.dismiss(&mut book, sink);
        drop(book);
        self.open(config, progress, Some(going));
    }

    /// Takes a sink out. The task ends once nothing of it is left.
    fn dismiss(&self, book: &mut Book, sink: &Arc<SinkProgress>) -> JoinHandle<()> {
        sink.retire();
        self.outlets.let_go();
        let branch = self.branches.remove(sink);
        let at = book.lanes.iter().position(|lane| Arc::ptr_eq(&lane.sink, sink));
        let lane = at.map(|at| book.lanes.remove(at));
        let farewell =
            Farewell { setup: self.setup.clone(), stop: self.stop.clone(), sink: sink.name.clone() };
        tokio::spawn(farewell.run(lane, branch))
    }

    /// Where the slot is.
    async fn confirmed(&self) -> Result<Lsn> {
        let client = self.setup.source.connect().await?;
        let slot = slot::read(&client, &self.setup.source.config.slot).await?;
        slot.and_then(|slot| slot.confirmed_flush_lsn)
            .ok_or_else(|| Error::transient(format!("slot {} is gone", self.setup.source.config.slot)))
    }

    /// Shows the sinks that there are now.
    fn show(&self, next: &Config) {
        let Some(before) = self.setup.options.view.prepared() else { return };
        let budgets = self.opener.budgets(&next.sinks);
        self.setup.options.view.set_prepared(Prepared { budgets, ..Prepared::clone(&before) });
    }

    /// Lets nobody come any more, and hands over the workers.
    pub(super) fn close(&self) -> Vec<Lane> {
        self.branches.close();
        let mut book = self.book();
        book.is_closed = true;
        book.coming.drain(..).for_each(|task| task.abort());
        std::mem::take(&mut book.lanes)
    }

    /// Waits until the branches have ended, but not beyond `limit`, and ends what waits for requests.
    pub(super) async fn end(&self, limit: Instant) {
        self.branches.end(limit).await;
        self.opener.transports.close();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of a sink that goes.
struct Farewell {
    setup: Arc<Setup>,
    stop: Stop,
    sink: String,
}

impl Farewell {
    async fn run(self, lane: Option<Lane>, branch: Option<Thread<()>>) {
        let ended = async {
            if let Some(lane) = lane {
                lane.end().await;
            }
            while branch.as_ref().is_some_and(|branch| !branch.is_finished()) {
                tokio::time::sleep(POLL).await;
            }
        };
        // One that hangs is passed over: whatever it still writes, its successor's token refuses.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, ended).await;
        let (mut pauses, mut stop) = (Pauses::new(&self.setup.config), self.stop.clone());
        loop {
            let started = Instant::now();
            let dropped = tokio::select! {
                dropped = self.drop_copy() => dropped,
                () = stop.asked() => return,
            };
            let Err(error) = dropped else { return };
            tracing::debug!(
                sink = self.sink,
                "the copy of the slot cannot be dropped yet: {}",
                error.chain()
            );
            tokio::select! {
                () = tokio::time::sleep(pauses.after(started)) => {}
                () = stop.asked() => return,
            }
        }
    }

    async fn drop_copy(&self) -> Result<()> {
        let source = &self.setup.source;
        let name = config::slot_copy(&source.config.slot, &self.sink);
        let client = source.connect().await?;
        if slot::read(&client, &name).await?.is_some() {
            slot::drop(&client, &name).await?;
            tracing::info!(sink = self.sink, slot = name, "the copy of the slot is dropped");
        }
        Ok(())
    }
}
