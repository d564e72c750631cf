//! `walcast schema apply`: what `walcast schema plan` shows is done, and, where it is asked for, what stays is dropped.

use std::process::ExitCode;

use clap::Args;

use super::plan::{changes, name_of};
use crate::app::cli::Global;
use crate::app::commands::refill::{asked, run_until_filled};
use crate::app::d1::{Transports, place};
use crate::app::evolution::{Left, SinkChanges};
use crate::config::{Config, SchemaChanges, SinkTarget};
use crate::error::Result;
use crate::sink::alter::Prune;
use crate::sink::{d1, sqlite};

const EXAMPLES: &str = "\
Examples:
  walcast schema apply                           runs until every table is what schema.json says, and full
  walcast schema apply --prune                   and drops what schema.json does not name any more, after asking

Only what walcast made is ever dropped.";

/// What `walcast schema apply` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Drop columns and tables that walcast made and schema.json does not name any more
    #[arg(long)]
    prune: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs an engine until everything is there, then prunes.
pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let Arguments { prune, yes, json } = arguments;
    let config = Config { schema_changes: SchemaChanges::Auto, ..global.load()? };
    if prune {
        // Before anything is done: what is to be dropped can be said now.
        let (_, sinks) = changes(&config).await?;
        if !yes && !is_confirmed(&sinks)? {
            eprintln!("nothing was touched");
            return Ok(ExitCode::FAILURE);
        }
    }
    let code = run_until_filled(&config, None, json).await?;
    if prune && code == ExitCode::SUCCESS {
        let (_, sinks) = changes(&config).await?;
        drop_left(&config, &sinks)?;
    }
    Ok(code)
}

fn is_confirmed(sinks: &[SinkChanges]) -> Result<bool> {
    let names: Vec<String> = sinks
        .iter()
        .flat_map(|sink| sink.left.iter().map(|left| format!("  sink {}: {}", sink.sink, name_of(left))))
        .collect();
    if names.is_empty() {
        return Ok(true);
    }
    asked(
        &format!("This drops, for good:\n{}", names.join("\n")),
        "prune",
        "walcast schema apply --prune --yes",
    )
}

fn drop_left(config: &Config, sinks: &[SinkChanges]) -> Result<()> {
    let transports = Transports::new(config);
    for (sink, changes) in config.sinks.iter().zip(sinks) {
        if changes.left.is_empty() {
            continue;
        }
        let prunes: Vec<Prune> = changes.left.iter().map(prune_of).collect();
        match &sink.target {
            SinkTarget::Sqlite { path } => sqlite::prune(path, &prunes)?,
            SinkTarget::D1(..) | SinkTarget::D1Worker(..) => {
                // Dropping may take as long as D1 lets it.
                if let Some(mut transport) = transports.connect(&sink.target, None)? {
                    d1::prune(&mut *transport, &place(&sink.target), &prunes)?;
                }
            }
            SinkTarget::Null => {}
        }
        changes.left.iter().for_each(|left| eprintln!("sink {}: {} is dropped", sink.name, name_of(left)));
    }
    Ok(())
}

fn prune_of(left: &Left) -> Prune {
    Prune { table: left.table.clone(), column: left.column.clone() }
}
