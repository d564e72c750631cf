//! `walcast run`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::app::admin::AdminServer;
use crate::app::cli::{Global, Telemetry};
use crate::app::demand::Demand;
use crate::app::engine::{Engine, RunOptions};
use crate::app::view::EngineView;
use crate::app::{heartbeat, notify};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::fanout::retry::{Backoff, full_jitter};
use crate::telemetry::sync_log::{Bounds, SyncLog};

const EXAMPLES: &str = "\
Examples:
  walcast run                                        stream until SIGTERM or SIGINT
  walcast run --until-caught-up                      bring every replica up to date, then end
  walcast run --until-caught-up --max-duration 25s   the same, but never longer (cron, serverless)

A second signal ends the process at once; nothing is lost, what was not applied is sent again.";

/// How long a run that ends by itself waits for a source that is not ready, such as a slot that a killed run still
/// holds.
const ONE_SHOT_PATIENCE: Duration = Duration::from_secs(10);

/// What `walcast run` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// End once every sink has reached the WAL position that the server has now
    #[arg(long)]
    until_caught_up: bool,
    /// End in order after this time, for example 25s or 5m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    max_duration: Option<Duration>,
    /// Where backfill.mode is never: let this sink, which has no checkpoint, start at the slot's position, although rows
    /// from before are missing in it. May be given several times
    #[arg(long, value_name = "SINK")]
    start_at_slot: Vec<String>,
}

/// Runs the engine until it ends.
///
/// # Errors
/// What an operator has to resolve.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    let config = global.load()?;
    let _telemetry = Telemetry::start(&config.log)?;
    for name in &arguments.start_at_slot {
        if !config.sinks.iter().any(|sink| sink.name.as_str() == name) {
            return Err(Error::config(format!("--start-at-slot {name}: there is no such sink")));
        }
    }
    let bounds = Bounds {
        retention: config.log.retention,
        entries_max: config.log.max_entries,
        key_bytes_max: config.log.max_key_bytes,
    };
    let _log = config.log.sync_file.as_ref().map(|path| SyncLog::start(path, bounds)).transpose()?;
    let view = Arc::new(EngineView::default());
    // Before the source is asked for anything: what keeps an engine from starting can be seen there too.
    let demand = Arc::new(Demand::default());
    let _admin = AdminServer::start(&config, &view, &demand)?;
    let (beating, watched) = (config.clone(), view.clone());
    let _heartbeat = tokio::spawn(async move { heartbeat::run(&beating, &watched).await });
    let options = RunOptions {
        until_caught_up: arguments.until_caught_up,
        ends: arguments.max_duration.map(|limit| Instant::now() + limit),
        start_at_slot: BTreeSet::from_iter(arguments.start_at_slot),
        refill: None,
        view,
        demand,
    };
    let mut shutdown = shutdown_on_signal()?;
    let _watchdog = tokio::spawn(notify::watchdog());
    let engine = tokio::select! {
        engine = prepare(&config, options) => engine?,
        _ = shutdown.wait_for(|asked| *asked) => return Ok(ExitCode::SUCCESS),
    };
    engine.run(shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prepares the engine. One that runs on waits for a source that is not there yet, or for the engine that it follows;
/// one that ends by itself soon says so.
pub(super) async fn prepare(config: &Config, options: RunOptions) -> Result<Engine> {
    let patience = options.until_caught_up.then(|| Instant::now() + ONE_SHOT_PATIENCE);
    let gives_up = [patience, options.ends].into_iter().flatten().min();
    let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
    let mut rng = fastrand::Rng::new();
    for attempt in 0.. {
        match Engine::prepare(config, options.clone()).await {
            Err(error) if error.kind() == Kind::Transient => {
                let wait = full_jitter(attempt, backoff, &mut rng);
                if gives_up.is_some_and(|gives_up| Instant::now() + wait > gives_up) {
                    return Err(error);
                }
                options.view.set_waiting(&error);
                tracing::warn!(
                    wait_ms = wait.as_millis() as u64,
                    hint = error.hint_text(),
                    "the source is not ready, retrying: {}",
                    error.chain()
                );
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = options.demand.asked() => {}
                }
            }
            prepared => return prepared,
        }
    }
    unreachable!("the loop returns")
}

/// Turns true at the first SIGTERM or SIGINT; the second ends the process.
pub(super) fn shutdown_on_signal() -> Result<watch::Receiver<bool>> {
    let install =
        |kind| signal(kind).map_err(|error| Error::halt("installing a signal handler").because(error));
    let (mut terminate, mut interrupt) =
        (install(SignalKind::terminate())?, install(SignalKind::interrupt())?);
    let (asked, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("shutting down; a second signal ends at once");
        let _ = asked.send(true);
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    Ok(shutdown)
}
