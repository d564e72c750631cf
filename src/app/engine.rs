//! The engine: prepares source and sinks, keeps the replication sessions running, and ends in order.
//!
//! One loop owns the main stream. Everything that can end a session is one `Ending`; everything that can end the engine
//! comes out of [`Engine::run`]. `prepare` makes an engine, `session` is one life of a replication session, `main_stream`
//! and `branch` are the two streams that have such lives: everybody's, and that of a sink that catches up. `schedule` says
//! when the first one rests.
//!
//! **Shutdown order.** The streams stop reading; the rivers finish what they have; the queues close; the workers apply
//! what is queued; the last positions are confirmed; the sessions end. All of it within `shutdown.timeout`, during which
//! the sessions stay alive; what did not get through is sent again at the next start.

mod blueprint;
mod branch;
mod branches;
mod crew;
mod entrance;
mod main_stream;
mod plan;
mod prepare;
mod schedule;
mod session;
mod tables;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

pub use self::blueprint::Blueprint;
use self::branches::Branches;
use self::crew::Crew;
use self::main_stream::MainStream;
use self::schedule::Schedule;
use self::session::Ending;
use self::tables::{KnownColumns, Tables};
use super::demand::Demand;
use super::fill::Filler;
use super::fill::gate::Gate;
use super::fill::request::Refill;
use super::fill::view::{FillView, Problem};
use super::sinks::{Fanout, Lane, Turns};
use super::source::Source;
use super::view::{EngineView, Phase};
use crate::Lsn;
use crate::capture::stream::Stream;
use crate::config::Config;
use crate::encode::current::CurrentPlan;
use crate::encode::plan::Plan;
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Kind, Result};
use crate::fanout::outlets::Outlets;
use crate::fanout::progress::{Progress, State};
use crate::fanout::retry::{Backoff, full_jitter};
use crate::postgres::socket::Socket;

/// A session that lived this long was a good one: the next failure starts the backoff anew.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How long the sinks may finish what is queued when another engine follows in the same process.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server may take to end a stream after everything else is done.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// When a run ends by itself.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Ends once every sink has reached the WAL position that the server had at the start.
    pub until_caught_up: bool,
    /// Ends in order at this time.
    pub ends: Option<Instant>,
    /// Sinks without a checkpoint that may start at the slot's position although others are ahead of them.
    pub start_at_slot: BTreeSet<String>,
    /// Tables to be filled once more, or emptied.
    pub refill: Option<Refill>,
    /// Where the engine shows what it is about.
    pub view: Arc<EngineView>,
    /// What is asked of it while it runs.
    pub demand: Arc<Demand>,
    /// Who may open a sink: the same for engines that follow each other.
    pub turns: Arc<Turns>,
}

/// A prepared engine: sinks open and running, slot and publication there, no session yet.
pub struct Engine {
    setup: Arc<Setup>,
    fanout: Fanout,
    /// Where `until_caught_up` ends.
    target: Lsn,
    /// By table: whether the publication has it.
    published: Vec<bool>,
    /// The columns that the planned tables had at the source.
    columns: KnownColumns,
    orders: mpsc::UnboundedReceiver<Order>,
}

/// What all streams of an engine share.
struct Setup {
    source: Source,
    config: Config,
    plan: Arc<Plan>,
    /// The same as it is now.
    current: Arc<CurrentPlan>,
    /// What it is made from.
    schema: Arc<SchemaFile>,
    /// Where the server was once the publication covered the plan.
    planned_at: Lsn,
    /// Which tables are filled, and what keeps others from it.
    fills: Arc<FillView>,
    options: RunOptions,
    /// Until when the workers try to finish; set once the engine ends.
    deadline: Arc<OnceLock<Instant>>,
    /// By table: whether rows from before the stream are wanted.
    wanted: Vec<bool>,
    /// By table: whether the publication did not have it before the start.
    came: Vec<bool>,
    /// Turns true when another engine is to follow.
    replaced: watch::Sender<bool>,
    /// Where other sinks are asked for.
    orders: mpsc::UnboundedSender<Order>,
}

/// A way to an engine while it runs.
#[derive(Clone)]
pub struct Handle(Arc<Setup>);

/// The sinks are to be those of another configuration.
struct Order {
    config: Arc<Config>,
    followed: oneshot::Sender<Result<String>>,
}

/// What asks a stream to end in order.
#[derive(Clone)]
struct Stop {
    /// The operator.
    shutdown: watch::Receiver<bool>,
    /// Another engine is to follow.
    replaced: watch::Receiver<bool>,
    /// The time is over.
    ends: Option<Instant>,
    /// The engine ends for another reason.
    over: watch::Receiver<bool>,
}

/// The pauses after failed sessions.
struct Pauses {
    backoff: Backoff,
    attempt: u32,
    rng: fastrand::Rng,
}

impl Engine {
    /// How far each sink is.
    pub fn progress(&self) -> Progress {
        self.fanout.progress.clone()
    }

    /// A way to it while it runs.
    pub fn handle(&self) -> Handle {
        Handle(self.setup.clone())
    }

    /// Streams until `shutdown` turns true, another engine is to follow, or the options say so.
    ///
    /// # Errors
    /// What an operator has to resolve, also when all that failed is one sink; everything else was finished first.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<()> {
        let Engine { setup, fanout, target, published, columns, mut orders } = self;
        let Fanout { outlets, leaving, progress, lanes, away, opener } = fanout;
        let (over, is_over) = watch::channel(false);
        let replaced = setup.replaced.subscribe();
        let mut stop = Stop { shutdown, replaced, ends: setup.options.ends, over: is_over };
        let branches = Branches::new(&setup, &outlets, leaving, &stop);
        lanes.iter().for_each(|lane| branches.add(lane));
        let crew = Crew::new(&setup, &progress, &outlets, opener, branches, lanes, &stop);
        away.into_iter().for_each(|away| crew.await_opening(away));
        let following = crew.clone();
        let follower = tokio::spawn(async move {
            while let Some(Order { config, followed }) = orders.recv().await {
                // Whoever asked may be gone.
                let _ = followed.send(following.follow(&config).await);
            }
        });
        let gate = Arc::new(Gate::new(outlets.clone(), setup.current.clone()));
        let (fill_over, is_fill_over) = watch::channel(false);
        let fill = setup.filler(&gate, &outlets, &progress).start(is_fill_over)?;
        let main = MainStream::new(setup, outlets, gate, progress, target, Tables::new(published, columns));

        let mut pauses = Pauses::new(&main.setup.config);
        let mut schedule = Schedule::of(&main.setup);
        let outcome = loop {
            let started = Instant::now();
            let error = match main.session(&mut stop, schedule.as_mut()).await {
                Ok((Ending::Shutdown | Ending::CaughtUp, stream)) => break Ok(stream),
                Ok((Ending::Replay, _)) => {
                    tracing::info!("a sink asked for the stream again from its checkpoint");
                    continue;
                }
                Ok((Ending::Rest, stream)) => {
                    main.let_go(stream).await;
                    let Some(schedule) = &mut schedule else { continue };
                    match schedule.rest(&main.setup, &main.route.progress, &mut stop).await {
                        true => continue,
                        false => break Ok(None),
                    }
                }
                Ok((Ending::Deserted, _)) => break Err(no_sink_left()),
                Ok((Ending::River | Ending::Rejoined | Ending::Stalled, _)) => {
                    Error::bug("the stream ended without a reason")
                }
                Err(error) => error,
            };
            if !is_passing(&error) {
                break Err(error);
            }
            let wait = pauses.after(started);
            main.setup.options.view.set_waiting(&error);
            tracing::warn!(
                wait_ms = wait.as_millis() as u64,
                hint = error.hint_text(),
                "replication session failed, retrying: {}",
                error.chain()
            );
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = main.setup.options.demand.asked() => {}
                () = stop.asked() => break Ok(None),
            }
        };
        let (stream, failed) = match outcome {
            Ok(stream) => (stream, None),
            Err(error) => (None, Some(error)),
        };
        over.send_replace(true);
        fill_over.send_replace(true);
        follower.abort();
        finish(&main, crew.close(), stream).await;
        crew.end(main.setup.start_deadline() + 2 * FINISH_TIMEOUT).await;
        if fill.is_finished() && fill.join().is_err() {
            tracing::error!("the thread of the fills panicked");
        }
        let failed = failed.or_else(|| failed_sink(&main.route.progress));
        match failed.or_else(|| unfinished_table(&main)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Handle {
    /// Ends the engine in order, but soon: what its sinks have not applied by then, the next one sends again.
    pub fn replace(&self) {
        self.0.replaced.send_replace(true);
    }

    /// Goes on with the sinks of a configuration in which only they are different. Returns who comes and who goes; those
    /// that come are opened in the background.
    ///
    /// # Errors
    /// Transient where the source cannot be asked, or the engine ends: nothing has changed then.
    pub async fn follow(&self, config: &Arc<Config>) -> Result<String> {
        let ends = || Error::transient("the engine ends");
        let (followed, answer) = oneshot::channel();
        self.0.orders.send(Order { config: config.clone(), followed }).map_err(|_| ends())?;
        answer.await.unwrap_or_else(|_| Err(ends()))
    }
}

impl Setup {
    fn is_replaced(&self) -> bool {
        *self.replaced.borrow()
    }

    fn filler(&self, gate: &Arc<Gate>, outlets: &Arc<Outlets>, progress: &Progress) -> Filler {
        Filler {
            source: self.source.clone(),
            config: self.config.backfill.clone(),
            row_bytes_max: self.source.config.max_message_bytes,
            queue_bytes_max: self.config.queue.max_bytes,
            plan: self.plan.clone(),
            current: self.current.clone(),
            schema: self.schema.clone(),
            planned_at: self.planned_at,
            gate: gate.clone(),
            outlets: outlets.clone(),
            progress: progress.clone(),
            view: self.fills.clone(),
        }
    }

    /// From here on the time to finish runs.
    fn start_deadline(&self) -> Instant {
        let timeout = self.config.shutdown.timeout;
        let limit = if self.is_replaced() { timeout.min(REPLACE_TIMEOUT) } else { timeout };
        *self.deadline.get_or_init(|| Instant::now() + limit)
    }
}

/// Lets the workers apply what is queued, confirms it, and ends the main session.
async fn finish(main: &MainStream, lanes: Vec<Lane>, stream: Option<Stream<Socket>>) {
    if main.setup.is_replaced() {
        main.setup.options.view.set_phase(Phase::Preparing);
    } else {
        super::notify::stopping();
        main.setup.options.view.set_phase(Phase::Stopping);
    }
    let deadline = main.setup.start_deadline();
    // First, so that a worker whose queue is empty knows that no other will come.
    let ends: Vec<_> = lanes.into_iter().map(Lane::end).collect();
    main.route.outlets.close();
    let drained = async {
        let all = async {
            for end in ends {
                end.await;
            }
        };
        if tokio::time::timeout_at(deadline.into(), all).await.is_err() {
            let limit = if main.setup.is_replaced() { "the time for a reload" } else { "shutdown.timeout" };
            tracing::warn!("{limit} is over: what is still queued will be sent again");
        }
    };
    let Some(stream) = stream else { return drained.await };
    match confirm(stream, drained).await {
        Ok(()) => tracing::info!(confirmed = %main.route.progress.confirmable(), "stopped in order"),
        Err(error) => tracing::warn!("the last position may not be confirmed: {}", error.chain()),
    }
}

/// Keeps the session alive until the workers are done, confirms what they did, and ends it.
async fn confirm(mut stream: Stream<Socket>, drained: impl Future<Output = ()>) -> Result<()> {
    stream.idle_until(drained).await?;
    stream.finish(FINISH_TIMEOUT).await
}

/// A sink that is out of action makes the run a failed one.
fn failed_sink(progress: &Progress) -> Option<Error> {
    progress.sinks().iter().find_map(|sink| match sink.state() {
        State::Attached | State::CatchingUp(_) => None,
        State::Stopped(reason) | State::Detached(reason) => Some(
            Error::halt(format!("sink {} stopped: {reason}", sink.name))
                .hint("walcast status shows all sinks"),
        ),
    })
}

/// A table that is stopped, or cannot be filled, makes a run that ends by itself a failed one.
fn unfinished_table(main: &MainStream) -> Option<Error> {
    let options = &main.setup.options;
    if !options.until_caught_up && options.ends.is_none() {
        return None;
    }
    main.route.progress.running().find_map(|sink| {
        let fills = sink.fills();
        main.setup.plan.tables.iter().enumerate().find_map(|(index, table)| {
            let fill = fills.get(index)?;
            let (position, name, sink) = (sink.durable_lsn(), table.source.plain(), &sink.name);
            let failure = main.setup.fills.failure(index);
            let Some(stopped) = fill.stopped.as_ref() else {
                let Problem { problem, hint } = failure.filter(|_| fill.lacks_rows(position))?;
                let error = Error::halt(format!("table {name} cannot be filled in sink {sink}: {problem}"));
                return Some(hint.into_iter().fold(error, Error::hint));
            };
            let (since, reason) = (stopped.since, &stopped.reason);
            let error =
                Error::halt(format!("table {name} is stopped in sink {sink} since {since}: {reason}"));
            let hint = failure.and_then(|failure| failure.hint);
            Some(error.hint(hint.unwrap_or_else(|| stopped.hint.clone())))
        })
    })
}

fn no_sink_left() -> Error {
    Error::halt("no sink is left to stream to").hint("walcast status shows why")
}

/// Whether a session that failed so is worth another one.
fn is_passing(error: &Error) -> bool {
    match error.kind() {
        Kind::Transient | Kind::Throttled { .. } | Kind::Replay => true,
        Kind::Rejected | Kind::NeedsBackfill | Kind::Replaced | Kind::Halt | Kind::Config | Kind::Bug => {
            false
        }
    }
}

impl Pauses {
    fn new(config: &Config) -> Self {
        let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
        Pauses { backoff, attempt: 0, rng: fastrand::Rng::new() }
    }

    /// The pause after a session, or an attempt, that began at `started`.
    fn after(&mut self, started: Instant) -> Duration {
        self.attempt = if started.elapsed() >= GOOD_SESSION { 0 } else { self.attempt + 1 };
        full_jitter(self.attempt, self.backoff, &mut self.rng)
    }
}

impl Stop {
    /// Resolves when the stream is to end in order.
    async fn asked(&mut self) {
        async fn turns_true(asked: &mut watch::Receiver<bool>) {
            if asked.wait_for(|asked| *asked).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let time_is_over = async {
            match self.ends {
                Some(ends) => tokio::time::sleep_until(ends.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = turns_true(&mut self.shutdown) => {}
            () = turns_true(&mut self.replaced) => {}
            () = turns_true(&mut self.over) => {}
            () = time_is_over => {}
        }
    }
}
