//! The engine: prepares source and sinks, keeps one replication session running, and ends in order.
//!
//! One loop owns the state. Everything that can end a session is one `Ending`; everything that can end the engine
//! comes out of [`Engine::run`]. `prepare` makes an engine, `session` is one life of its replication session.
//!
//! **Shutdown order.** The stream stops reading; the river finishes what it has; the queues close; the workers apply
//! what is queued; the last position is confirmed; the session ends. All of it within `shutdown.timeout`, during which
//! the session stays alive; what did not get through is sent again at the next start.

mod prepare;
mod session;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::session::Ending;
use super::sinks::Fanout;
use super::source::Source;
use super::view::{EngineView, Phase};
use crate::Lsn;
use crate::capture::stream::Stream;
use crate::capture::table::{Oid, TableName};
use crate::config::Config;
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::fanout::progress::{Progress, State};
use crate::fanout::retry::{Backoff, full_jitter};
use crate::postgres::socket::Socket;

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
    /// Where the engine shows what it is about.
    pub view: Arc<EngineView>,
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

impl Engine {
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
            self.options.view.set_waiting(&error);
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

    /// From here on the time to finish runs.
    fn start_deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| Instant::now() + self.config.shutdown.timeout)
    }

    /// Lets the workers apply what is queued, confirms it, and ends the session.
    async fn finish(&mut self, stream: Option<Stream<Socket>>) {
        super::notify::stopping();
        self.options.view.set_phase(Phase::Stopping);
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
