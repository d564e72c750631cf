//! `walcast status`: where the slot and every replica are, with or without an engine running. It reads, and disturbs
//! nothing.

mod gather;
mod report;
mod text;

use std::process::ExitCode;

use clap::Args;

use super::output;
use crate::app::cli::Global;
use crate::error::Result;

pub use gather::Gatherer;
pub use report::{
    CopyStatus, CostStatus, EngineStatus, RequestStatus, SinkInEngine, SinkState, SinkStatus, SlotState,
    SlotStatus, SourceStatus, Status,
};

const EXAMPLES: &str = "\
Examples:
  walcast status
  walcast status --watch
  walcast status --json | jq '.sinks[] | {name, state, lag_bytes}'

Exit codes: 0 all is well, 1 the source cannot be reached, the slot is lost, or a sink needs an
operator. So it can be a container's health check.";

/// What `walcast status` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Print JSON: an object, or with --watch one on each line
    #[arg(long)]
    json: bool,
    /// Look again and again, about once a second (every 20 with D1 sinks), until interrupted
    #[arg(long)]
    watch: bool,
}

/// Looks, prints, and answers with whether all is well.
///
/// # Errors
/// A wrong configuration. Whatever else is wrong is part of the status.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let mut gatherer = Gatherer::new(&config)?;
    loop {
        let status = gatherer.gather().await;
        let is_read = match (arguments.json, arguments.watch) {
            (true, true) => output::print_json_line(&status)?,
            (true, false) => output::print_json(&status)?,
            // Home, then clear to the end: the screen does not flicker.
            (false, true) if output::is_terminal() => {
                output::print(&format!("\x1b[H\x1b[J{}", status.text()))?
            }
            (false, _) => output::print(&status.text())?,
        };
        if !arguments.watch || !is_read {
            return Ok(if status.is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        tokio::time::sleep(gatherer.interval()).await;
    }
}
