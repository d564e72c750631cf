//! The engine: prepares source and sinks, keeps one replication session running, and ends in order.
//!
//! One loop owns the state. Everything that can end a session is one `Ending`; everything that can end the engine
//! comes out of [`Engine::run`].
//!
//! **Shutdown order.** The stream stops reading; the river finishes what it has; the queues close; the workers apply
//! what is queued; the last position is confirmed; the session ends. All of it within `shutdown.timeout`, during which
//! the session stays alive; what did not get through is sent again at the next start.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::river::{self, RiverOptions};
use super::sinks::{Fanout, OpenSinks};
use super::source::{Source, Survey, read_schema, start_replication};
use crate::Lsn;
use crate::capture::catalog;
use crate::capture::frame::FrameRun;
use crate::capture::publication::{self, PublicationChange};
use crate::capture::slot::{self, SinkVerdict, SlotVerdict};
use crate::capture::stream::{Stream, StreamOptions};
use crate::capture::table::{Oid, TableName};
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
/// How often an idle server is asked for its position while a run waits to be caught up.
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
    /// Ends in order at this time.
    pub ends: Option<Instant>,
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
    /// The planned tables that the publication has.
    published: Vec<(Oid, TableName)>,
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
    /// A table left the publication; it is this one of `Engine::published`.
    Unpublished(usize),
    /// The river is gone; it says why when it is joined.
    River,
}

/// A session's river thread.
struct RiverThread {
    /// Where the stream hands its frames on; dropping it ends the river.
    runs: mpsc::Sender<FrameRun>,
    /// What the river ended with.
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
                let reasons = reasons.join("; ");
                tracing::warn!(
                    publication = name,
                    "publication altered; earlier changes are missing: {reasons}"
                );
            }
            PublicationChange::Accepted { notes } => {
                notes.iter().for_each(|note| tracing::info!(publication = name, "{note}"));
            }
        }

        let members = publication::describe(&client, name).await?.map_or_else(Vec::new, |found| found.tables);
        let published =
            plan.tables.iter().filter(|table| members.iter().any(|member| member.oid == table.oid));
        let published = published.map(|table| (table.oid, table.source.clone())).collect();

        // Before the sinks are opened, because opening takes their fencing tokens: a second engine waits its turn here.
        if let Some(pid) = slot::read(&client, &source.config.slot).await?.and_then(|slot| slot.active_pid) {
            return Err(Error::transient(format!("slot {} is in use by backend {pid}", source.config.slot))
                .hint("another walcast streams from it: stop that one, or give this one a slot of its own"));
        }

        let identity = source.identity(&survey.server);
        let mut sinks = OpenSinks::open(config, &plan, &identity);
        let checkpoints = sinks.checkpoints();
        if checkpoints.is_empty() {
            // A slot that feeds nobody would only hold back WAL.
            return Err(no_sink_left());
        }
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
                None if *verdict == SinkVerdict::Fresh => {
                    if judgement.slot != SlotVerdict::Create {
                        tracing::warn!(sink, lsn = %start, "new replica of an old slot: what it has fed is missing");
                    }
                    sinks.start_at(sink, start);
                }
                None => {}
                Some(_) if *verdict == SinkVerdict::NoCheckpoint && options.start_at_slot.contains(sink) => {
                    tracing::warn!(sink, lsn = %start, "starts at the slot's position: older rows are missing");
                    sinks.start_at(sink, start);
                }
                Some(error) => sinks.stop(sink, &error),
            }
        }

        let target = catalog::read_server(&client).await?.current_wal_lsn;
        let deadline = Arc::new(OnceLock::new());
        let when = deadline.clone();
        let fanout = sinks.spawn(config, move || when.get().copied())?;
        Ok(Engine { source, config: config.clone(), plan, fanout, options, target, deadline, published })
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
        let ends = self.options.ends;
        let backoff = Backoff { initial: self.config.retry.initial, max: self.config.retry.max };
        let mut rng = fastrand::Rng::new();
        let mut attempt = 0;
        let outcome = loop {
            let started = Instant::now();
            if self.fanout.progress.running().next().is_none() {
                break Err(no_sink_left());
            }
            let error = match self.session(&mut shutdown, ends).await {
                Ok((Ending::Shutdown | Ending::CaughtUp, stream)) => break Ok(stream),
                Ok((Ending::Replay, _)) => {
                    tracing::info!("a sink asked for the stream again from its checkpoint");
                    continue;
                }
                Ok((Ending::Unpublished(index), _)) => self.unpublished(index),
                Ok((Ending::River, _)) => Error::bug("the river ended without a reason"),
                Err(error) => error,
            };
            match error.kind() {
                Kind::Transient | Kind::Throttled { .. } | Kind::Replay => {}
                Kind::Rejected | Kind::NeedsBackfill | Kind::Halt | Kind::Config | Kind::Bug => {
                    break Err(error);
                }
            }
            attempt = if started.elapsed() >= GOOD_SESSION { 0 } else { attempt + 1 };
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

    /// One replication session, until something ends it. Its stream is returned alive, if it started, to confirm what
    /// still finishes.
    async fn session(
        &self,
        shutdown: &mut watch::Receiver<bool>,
        ends: Option<Instant>,
    ) -> Result<(Ending, Option<Stream<Socket>>)> {
        let mut stream = tokio::select! {
            stream = self.start_stream() => stream?,
            () = asked_to_stop(shutdown, ends) => return Ok((Ending::Shutdown, None)),
        };
        telemetry::session_started();
        tracing::info!(slot = self.source.config.slot, "streaming");
        super::notify::ready();

        let RiverThread { runs, done } = self.start_river()?;
        let why = Cell::new(Ending::River);
        let streamed = stream.run(&runs, async { why.set(self.ending(shutdown, ends).await) }).await;
        drop(runs);

        // The river finishes what it has; the session stays alive meanwhile.
        let mut flowed = Ok(Ok(()));
        let finished = async {
            let mut done = pin!(done);
            tokio::select! {
                result = &mut done => flowed = result,
                () = asked_to_stop(shutdown, ends) => {
                    self.start_deadline();
                    flowed = done.await;
                }
            }
        };
        let kept_alive = match streamed {
            Ok(()) => stream.idle_until(finished).await,
            Err(_) => {
                finished.await;
                Ok(())
            }
        };
        flowed.unwrap_or_else(|_| Err(Error::bug("the river's thread panicked")))?;
        streamed?;
        kept_alive?;
        Ok((why.get(), Some(stream)))
    }

    /// Resolves when something other than an error ends the session.
    async fn ending(&self, shutdown: &mut watch::Receiver<bool>, ends: Option<Instant>) -> Ending {
        let progress = &self.fanout.progress;
        let replays_before = progress.replays_requested();
        let noticed = async {
            loop {
                if self.options.until_caught_up && progress.has_reached(self.target) {
                    return Ending::CaughtUp;
                }
                if progress.replays_requested() > replays_before {
                    return Ending::Replay;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            () = asked_to_stop(shutdown, ends) => Ending::Shutdown,
            ending = noticed => ending,
            index = self.leaves_publication() => Ending::Unpublished(index),
        }
    }

    /// Resolves when a table is no longer published. The stream does not say so, it only falls silent: after DROP
    /// TABLE, ALTER PUBLICATION, or DROP COLUMN … CASCADE of a column that the publication names.
    async fn leaves_publication(&self) -> usize {
        let mut client = None;
        loop {
            tokio::time::sleep(self.source.config.idle_checkpoint_interval).await;
            // A failure here is the session's matter; this only looks again.
            let Ok(connected) = (match client.take() {
                Some(connected) => Ok(connected),
                None => self.source.connect().await,
            }) else {
                continue;
            };
            // A publication that is gone as a whole ends the stream by itself.
            if let Ok(described) = publication::describe(&connected, &self.source.config.publication).await {
                let gone = described.and_then(|now| {
                    self.published
                        .iter()
                        .position(|(oid, _)| now.tables.iter().all(|member| member.oid != *oid))
                });
                if let Some(index) = gone {
                    return index;
                }
                client = Some(connected);
            }
        }
    }

    fn unpublished(&self, index: usize) -> Error {
        Error::halt(format!(
            "table {} is no longer in publication {}: what changed in it since then is not in the replicas",
            self.published[index].1, self.source.config.publication
        ))
        .hint("walcast check says how to publish it again; rows that changed meanwhile must be written once more")
    }

    /// From here on the time to finish runs.
    fn start_deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| Instant::now() + self.config.shutdown.timeout)
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
            needed_from: self.fanout.progress.needed_from(),
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
        let deadline = self.start_deadline();
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

fn no_sink_left() -> Error {
    Error::halt("no sink is left to stream to").hint("walcast status shows why")
}

async fn create_slot(
    source: &Source,
    client: &tokio_postgres::Client,
    version: catalog::ServerVersion,
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
