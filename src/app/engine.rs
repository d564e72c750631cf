//! The engine: prepares source and sinks, keeps one replication session running, and ends in order.
//!
//! One loop owns the state. Everything that can end a session is one [`Ending`]; everything that can end the engine
//! comes out of [`Engine::run`].
//!
//! **Shutdown order.** The stream stops reading; the river finishes what it has; the queues close; the workers apply
//! what is queued; the last position is confirmed; the session ends. All of it within `shutdown.timeout`, during which
//! the session stays alive; what did not get through is sent again at the next start.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::river::{self, RiverOptions};
use super::sinks::{Fanout, OpenSinks};
use super::source::{Source, Survey, read_schema, start_replication};
use crate::Lsn;
use crate::capture::publication::{self, PublicationChange};
use crate::capture::slot::{self, SinkVerdict, SlotVerdict};
use crate::capture::stream::{self, Stream, StreamOptions};
use crate::config::Config;
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::fanout::progress::{Progress, State};
use crate::fanout::retry::{Backoff, full_jitter};
use crate::postgres::socket::Socket;
use crate::telemetry;

/// Frame runs between the socket and the river: enough to keep both busy, few enough to stay small.
const RUNS_QUEUED: usize = 4;
/// How often positions are looked at where there is no event to wait for.
const POLL: Duration = Duration::from_millis(10);
/// Without an upper bound in the configuration's sense: how often an idle server is asked while a run waits to be caught
/// up.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(50);
/// A session that lived this long was a good one: the next failure starts the backoff anew.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How long the server may take to end the stream after everything else is done.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// When a run ends by itself.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Ends once every sink has reached the WAL position that the server had at the start.
    pub until_caught_up: bool,
    /// Ends in order after this time.
    pub max_duration: Option<Duration>,
    /// Sinks without a checkpoint that may start at the slot's position although others are ahead of them.
    pub start_at_slot: BTreeSet<String>,
}

/// A prepared engine: sinks open and running, slot and publication there, no session yet.
pub struct Engine {
    source: Source,
    config: Config,
    plan: Arc<Plan>,
    fanout: Fanout,
    options: RunOptions,
    /// Where `until_caught_up` ends.
    target: Lsn,
    deadline: Arc<OnceLock<Instant>>,
}

/// Why a session ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The operator asked for it, or the time is over.
    Shutdown,
    /// Every sink has reached the target.
    CaughtUp,
    /// A sink lost its open transaction: start again from the slot.
    Replay,
    /// The river is gone; it says why when it is joined.
    River,
}

/// A session's river thread.
struct RiverThread {
    runs: mpsc::Sender<crate::capture::frame::FrameRun>,
    done: oneshot::Receiver<Result<()>>,
}

impl Engine {
    /// Connects, checks, creates what is missing, opens the sinks and starts their workers.
    ///
    /// # Errors
    /// Transient while the source cannot be reached; otherwise what an operator has to resolve, with the next command.
    pub async fn prepare(config: &Config, options: RunOptions) -> Result<Engine> {
        let source = Source::new(&config.source)?;
        let schema = read_schema(&config.schema)?;
        let client = source.connect().await?;
        let survey = Survey::read(&client, &schema).await?;
        let plan = Arc::new(Plan::new(&schema, &survey.tables)?);

        let name = &source.config.publication;
        match publication::ensure(&client, name, &survey.published(&schema), survey.server.version).await? {
            PublicationChange::Created => tracing::info!(publication = name, "publication created"),
            PublicationChange::Altered { reasons } => {
                tracing::info!(publication = name, "publication altered: {}", reasons.join("; "));
            }
            PublicationChange::Accepted { notes } => {
                notes.iter().for_each(|note| tracing::info!(publication = name, "{note}"));
            }
        }

        let identity = source.identity(&survey.server);
        let mut sinks = OpenSinks::open(config, &plan, &identity);
        let checkpoints = sinks.checkpoints();
        let (slot, judgement) = source.judge(&client, &survey.server, &checkpoints).await?;
        if let Some(error) = judgement.slot.error(&identity) {
            return Err(error);
        }
        let start = match (&judgement.slot, slot.as_ref().and_then(|slot| slot.confirmed_flush_lsn)) {
            (SlotVerdict::Create, _) | (_, None) => {
                let start = create_slot(&source, &client, survey.server.version).await?;
                warn_of_existing_rows(&plan);
                start
            }
            (_, Some(confirmed)) => confirmed,
        };
        for (sink, verdict) in &judgement.sinks {
            match verdict.error(sink, &identity) {
                None if *verdict == SinkVerdict::Fresh => sinks.start_at(sink, start),
                None => {}
                Some(_) if *verdict == SinkVerdict::NoCheckpoint && options.start_at_slot.contains(sink) => {
                    tracing::warn!(sink, lsn = %start, "starts at the slot's position: older rows are missing");
                    sinks.start_at(sink, start);
                }
                Some(error) => sinks.stop(sink, &error),
            }
        }

        let target = crate::capture::catalog::read_server(&client).await?.current_wal_lsn;
        let deadline = Arc::new(OnceLock::new());
        let when = deadline.clone();
        let fanout = sinks.spawn(config, move || when.get().copied())?;
        Ok(Engine { source, config: config.clone(), plan, fanout, options, target, deadline })
    }

    /// How far each sink is.
    pub fn progress(&self) -> Progress {
        self.fanout.progress.clone()
    }

    /// Streams until `shutdown` turns true or the options say so.
    ///
    /// # Errors
    /// What an operator has to resolve, also when all that failed is one sink; everything else was finished first.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        let ends = self.options.max_duration.map(|limit| Instant::now() + limit);
        let backoff = Backoff { initial: self.config.retry.initial, max: self.config.retry.max };
        let mut rng = fastrand::Rng::new();
        let mut attempt = 0;
        let outcome = loop {
            let started = Instant::now();
            if self.fanout.progress.running().next().is_none() {
                break Err(Error::halt("no sink is left to stream to").hint("walcast status shows why"));
            }
            let (error, live) = match self.session(&mut shutdown, ends).await {
                Ok((Ending::Shutdown | Ending::CaughtUp, stream)) => break Ok(Some(stream)),
                Ok((Ending::Replay, _)) => {
                    tracing::info!("a sink asked for the stream again from its checkpoint");
                    continue;
                }
                Ok((Ending::River, _)) => (Error::bug("the river ended without a reason"), started.elapsed()),
                Err(error) => (error, started.elapsed()),
            };
            match error.kind() {
                Kind::Transient | Kind::Throttled { .. } | Kind::Replay => {}
                Kind::Rejected | Kind::NeedsBackfill | Kind::Halt | Kind::Config | Kind::Bug => {
                    break Err(error);
                }
            }
            attempt = if live >= GOOD_SESSION { 0 } else { attempt + 1 };
            let wait = full_jitter(attempt, backoff, &mut rng);
            tracing::warn!(
                wait_ms = wait.as_millis() as u64,
                hint = error.hint_text(),
                "replication session failed, retrying: {}",
                error.chain()
            );
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = asked_to_stop(&mut shutdown, ends) => break Ok(None),
            }
        };
        let (stream, failed) = match outcome {
            Ok(stream) => (stream, None),
            Err(error) => (None, Some(error)),
        };
        self.finish(stream).await;
        match failed.or_else(|| self.failed_sink()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// One replication session, until something ends it. Its stream is returned alive, to confirm what still finishes.
    async fn session(
        &self,
        shutdown: &mut watch::Receiver<bool>,
        ends: Option<Instant>,
    ) -> Result<(Ending, Stream<Socket>)> {
        let mut stream = tokio::select! {
            stream = self.start_stream() => stream?,
            () = asked_to_stop(shutdown, ends) => {
                // Nothing to finish: an error of this kind only ends the wait below.
                return Err(Error::transient("stopped while the session was starting"));
            }
        };
        telemetry::session_started();
        tracing::info!(slot = self.source.config.slot, "streaming");
        super::notify::ready();

        let progress = &self.fanout.progress;
        let replays_before = progress.replays_requested();
        let mut river = self.start_river()?;
        let ending = {
            let why = std::cell::Cell::new(Ending::River);
            let stop = async {
                why.set(tokio::select! {
                    () = asked_to_stop(shutdown, ends) => Ending::Shutdown,
                    () = until(|| self.options.until_caught_up && progress.has_reached(self.target)) => {
                        Ending::CaughtUp
                    }
                    () = until(|| progress.replays_requested() > replays_before) => Ending::Replay,
                });
            };
            let streamed = stream.run(&river.runs, stop).await;
            drop(river.runs);
            let ending = why.get();
            // While it finishes, the session stays alive; a shutdown sets its limit from here on.
            if matches!(ending, Ending::Shutdown | Ending::CaughtUp) {
                self.deadline.get_or_init(|| Instant::now() + self.config.shutdown.timeout);
            }
            let mut flowed = Ok(Ok(()));
            let finished = async { flowed = (&mut river.done).await };
            let kept_alive = match streamed.is_ok() {
                true => stream.idle_until(finished).await,
                false => {
                    finished.await;
                    Ok(())
                }
            };
            flowed.unwrap_or_else(|_| Err(Error::bug("the river's thread panicked")))?;
            streamed?;
            kept_alive?;
            ending
        };
        Ok((ending, stream))
    }

    /// Connects, holds the slot against the sinks, starts the stream, and looks at the slot again: an LSN that the server
    /// moved meanwhile must not be behind any sink.
    async fn start_stream(&self) -> Result<Stream<Socket>> {
        let client = self.source.connect().await?;
        self.check_slot(&client, "before the start").await?;
        let replication = self.source.connect_replication().await?;
        let sql = start_replication(&self.source.config.slot, &self.source.config.publication);
        let (socket, buffer) = replication.start_copy_both(&sql).await?;
        self.check_slot(&client, "after the start").await?;
        let config = &self.source.config;
        let options = StreamOptions {
            status_interval: match self.options.until_caught_up {
                true => config.status_interval.min(CATCH_UP_INTERVAL),
                false => config.status_interval,
            },
            keepalive_interval: self.idle_interval(),
            message_bytes_max: config.max_message_bytes,
            nap_max: match socket {
                Socket::Unix(_) => stream::NAP_MAX_UNIX,
                Socket::Tcp(_) | Socket::Tls(_) => stream::NAP_MAX_TCP,
            },
        };
        let progress = self.fanout.progress.clone();
        Ok(Stream::new(socket, buffer, options, move || progress.confirmable()))
    }

    async fn check_slot(&self, client: &tokio_postgres::Client, when: &str) -> Result<()> {
        let name = &self.source.config.slot;
        let Some(slot) = slot::read(client, name).await? else {
            return Err(Error::new(Kind::NeedsBackfill, format!("slot {name} is gone ({when})"))
                .hint("walcast status shows the sinks' checkpoints; walcast check says what to do"));
        };
        if let Some(reason) = slot.invalidation() {
            return Err(Error::new(
                Kind::NeedsBackfill,
                format!("slot {name} was invalidated by the server: {reason} ({when})"),
            )
            .hint("walcast status shows the sinks' checkpoints; walcast check says what to do"));
        }
        let confirmed = slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
        match self.fanout.progress.running().find(|sink| sink.durable_lsn() < confirmed) {
            None => Ok(()),
            Some(sink) => Err(Error::new(
                Kind::NeedsBackfill,
                format!(
                    "slot {name} is at {confirmed}, ahead of sink {} at {} ({when}): somebody else moved it",
                    sink.name,
                    sink.durable_lsn()
                ),
            )
            .hint("walcast status shows slot and checkpoints")),
        }
    }

    fn start_river(&self) -> Result<RiverThread> {
        let (runs, frames) = mpsc::channel(RUNS_QUEUED);
        let (finished, done) = oneshot::channel();
        let (plan, outlets) = (self.plan.clone(), self.fanout.outlets.clone());
        let options = RiverOptions {
            part_bytes_max: self.config.transaction.part_max_bytes,
            idle_interval: match self.options.until_caught_up {
                true => Duration::ZERO,
                false => self.idle_interval(),
            },
        };
        std::thread::Builder::new()
            .name("river".to_owned())
            .spawn(move || {
                let result = river::run(frames, plan, &outlets, options);
                drop(outlets);
                let _ = finished.send(result);
            })
            .map_err(|error| Error::halt("starting the river's thread").because(error))?;
        Ok(RiverThread { runs, done })
    }

    fn idle_interval(&self) -> Duration {
        match self.options.until_caught_up {
            true => CATCH_UP_INTERVAL,
            false => self.source.config.idle_checkpoint_interval,
        }
    }

    /// Lets the workers apply what is queued, confirms it, and ends the session.
    async fn finish(&mut self, stream: Option<Stream<Socket>>) {
        super::notify::stopping();
        let deadline = *self.deadline.get_or_init(|| Instant::now() + self.config.shutdown.timeout);
        self.fanout.outlets = Arc::default();
        let done = &mut self.fanout.done;
        let drained = async {
            if tokio::time::timeout_at(deadline.into(), done.recv()).await.is_err() {
                tracing::warn!("shutdown.timeout is over: what is still queued will be sent again");
            }
        };
        let Some(mut stream) = stream else { return drained.await };
        let ended = match stream.idle_until(drained).await {
            Ok(()) => stream.finish(FINISH_TIMEOUT).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => {
                tracing::info!(confirmed = %self.fanout.progress.confirmable(), "stopped in order");
            }
            Err(error) => tracing::warn!("the last position may not be confirmed: {}", error.chain()),
        }
    }

    /// A sink that is out of action makes the run a failed one.
    fn failed_sink(&self) -> Option<Error> {
        self.fanout.progress.sinks().iter().find_map(|sink| match sink.state() {
            State::Attached => None,
            State::Stopped(reason) | State::Detached(reason) => Some(
                Error::halt(format!("sink {} stopped: {reason}", sink.name))
                    .hint("walcast status shows all sinks"),
            ),
        })
    }
}

async fn create_slot(
    source: &Source,
    client: &tokio_postgres::Client,
    version: crate::capture::catalog::ServerVersion,
) -> Result<Lsn> {
    let name = &source.config.slot;
    let mut replication = source.connect_replication().await?;
    let created =
        slot::create(&mut replication, client, name, true, version, source.config.slot_create_timeout).await;
    replication.close().await;
    let start = created?.consistent_point;
    tracing::info!(slot = name, lsn = %start, "slot created");
    Ok(start)
}

/// What was committed before the slot existed is not in the stream.
fn warn_of_existing_rows(plan: &Plan) {
    for table in plan.tables.iter().filter(|table| table.estimated_rows > 0) {
        tracing::warn!(
            table = %table.source.plain(),
            rows = table.estimated_rows,
            "rows from before the slot are not copied; an update brings a row whole, unless it has unchanged TOAST"
        );
    }
}

/// Resolves when the operator asks for a shutdown or the time is over.
async fn asked_to_stop(shutdown: &mut watch::Receiver<bool>, ends: Option<Instant>) {
    let asked = async {
        if shutdown.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    match ends {
        Some(ends) => drop(tokio::time::timeout_at(ends.into(), asked).await),
        None => asked.await,
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(POLL).await;
    }
}
