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
use crate::app::engine::RunOptions;
use crate::app::reload::Reloads;
use crate::app::source::read_schema;
use crate::app::supervisor::Supervisor;
use crate::app::view::EngineView;
use crate::app::{heartbeat, notify};
use crate::error::{Error, Result};
use crate::telemetry::sync_log::{Bounds, SyncLog};

const EXAMPLES: &str = "\
Examples:
  walcast run                                        stream until SIGTERM or SIGINT
  walcast run --until-caught-up                      bring every replica up to date, then end
  walcast run --until-caught-up --max-duration 25s   the same, but never longer (cron, serverless)

SIGHUP, or walcast reload, reads walcast.toml and schema.json again. A second SIGTERM or SIGINT ends the process at once;
nothing is lost, what was not applied is sent again.";

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
    let demand = Arc::new(Demand::default());
    let (reloads, requests) = Reloads::new();
    let in_force = watch::Sender::new(Arc::new(config));
    // Before the source is asked for anything: what keeps an engine from starting can be seen there too.
    let _admin = AdminServer::start(&in_force.subscribe(), &view, &demand, reloads.clone())?;
    let (beating, watched) = (in_force.subscribe(), view.clone());
    let _heartbeat = tokio::spawn(heartbeat::run(beating, watched));
    let options = RunOptions {
        until_caught_up: arguments.until_caught_up,
        ends: arguments.max_duration.map(|limit| Instant::now() + limit),
        start_at_slot: BTreeSet::from_iter(arguments.start_at_slot),
        refill: None,
        view,
        demand,
        ..RunOptions::default()
    };
    let shutdown = shutdown_on_signal()?;
    reload_on_signal(reloads)?;
    let _watchdog = tokio::spawn(notify::watchdog());
    let schema = Arc::new(read_schema(&in_force.borrow().schema)?);
    Supervisor { load: || global.load(), in_force, schema, options, requests, shutdown }.run().await?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for the configuration to be read again at each SIGHUP.
fn reload_on_signal(reloads: Reloads) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Error::halt("installing a signal handler").because(error))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // What comes of it, the log says.
            if let Ok(accepted) = reloads.ask().await {
                let _ = accepted.done().await;
            }
        }
    });
    Ok(())
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
