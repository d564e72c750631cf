//! `walcast reload`: the engine that runs is asked over its HTTP API to read its configuration again.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::output;
use crate::app::admin::client::Client;
use crate::app::cli::Global;
use crate::config::Config;
use crate::error::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  walcast reload
  walcast reload --json | jq -r .outcome

Both files are checked, also against the source, before anything is touched. With a mistake in either, everything stays
as it is, and the exit code is not 0.

Sinks come and go while the others stream on; a new one is filled. Tables and all other settings begin the pipeline anew,
from its checkpoints. [log], source.slot, another database, and of [admin] listen, secret, protect_reads and hosts take a
restart.

Without [admin], the same: kill -HUP, and what comes of it is in the log.";

/// How often it is looked whether the new configuration is in force.
const TICK: Duration = Duration::from_millis(100);

/// What `walcast reload` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Waits until the new configuration is in force, or refused.
///
/// # Errors
/// No engine can be asked, or it refuses.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let asked = tokio::task::spawn_blocking(move || ask(&config));
    let job = asked.await.map_err(|error| Error::bug("asking the engine").because(error))??;
    if arguments.json {
        output::print_json(&job)?;
    } else {
        let text = |field: &str| job[field].as_str().unwrap_or_default().to_owned();
        output::print(&format!("{}: {}\n", text("state"), text("outcome")))?;
        if let Some(hint) = job["hint"].as_str() {
            output::print(&format!(" hint: {hint}\n"))?;
        }
    }
    Ok(if job["state"] == "done" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(config: &Config) -> Result<Value> {
    let client = Client::new(&config.admin).filter(Client::is_there).ok_or_else(|| {
        Error::halt("no engine can be asked at [admin] listen, with a secret")
            .hint("send SIGHUP to the process: kill -HUP, or systemctl reload")
    })?;
    let mut job = client.post("/reload", &json!({}))?;
    while job["state"] == "running" {
        std::thread::sleep(TICK);
        job = client.get(&format!("/jobs/{}", job["id"]))?;
    }
    Ok(job)
}
