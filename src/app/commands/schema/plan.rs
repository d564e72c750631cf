//! `walcast schema plan`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::app::cli::Global;
use crate::app::commands::output;
use crate::app::evolution::{self, Left, SinkChanges};
use crate::app::source::{Source, Survey, read_schema};
use crate::config::Config;
use crate::encode::plan::Plan;
use crate::error::Result;

const EXAMPLES: &str = "\
Examples:
  walcast schema plan
  walcast schema plan --json | jq '.sinks[].steps[]'

Rows are the planner's estimate at the source. Exit codes: 0 nothing is to be done, 3 something is.";

/// What `walcast schema plan` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The JSON of `walcast schema plan --json`. The field names are stable.
#[derive(Serialize)]
struct Report<'a> {
    /// Whether nothing is to be done and every sink can be read.
    is_ok: bool,
    sinks: &'a [SinkChanges],
}

/// Looks and prints.
pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let (_, sinks) = changes(&config).await?;
    let is_ok = sinks.iter().all(|sink| sink.steps.is_empty() && sink.problem.is_none());
    match arguments.json {
        true => output::print_json(&Report { is_ok, sinks: &sinks })?,
        false => output::print(&text(&sinks))?,
    };
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// What a start would do to every sink, as the source is now.
pub(super) async fn changes(config: &Config) -> Result<(Plan, Vec<SinkChanges>)> {
    let schema = read_schema(&config.schema)?;
    let client = Source::new(&config.source)?.connect().await?;
    let survey = Survey::read(&client, &schema).await?;
    let plan = Plan::new(&schema, &survey.tables)?;
    let changes = evolution::changes(config, &plan);
    Ok((plan, changes))
}

fn text(sinks: &[SinkChanges]) -> String {
    let mut text = String::new();
    let (mut rows, mut dollars) = (0, 0.0);
    for sink in sinks {
        let name = &sink.sink;
        if let Some(problem) = &sink.problem {
            text.push_str(&format!("sink {name}  cannot be read: {problem}\n"));
        }
        for step in &sink.steps {
            let cost = step.dollars.map(|dollars| format!(", ${dollars:.2}")).unwrap_or_default();
            let word = if step.stops { "stops, " } else { "" };
            text.push_str(&format!(
                "sink {name}  table {}  {}  ({word}about {}{cost})\n",
                step.table,
                step.message,
                output::count(usize::try_from(step.rows).unwrap_or(usize::MAX), "row")
            ));
            if let Some(remedy) = &step.remedy {
                text.push_str(&format!("         remedy: {remedy}\n"));
            }
            rows += step.rows;
            dollars += step.dollars.unwrap_or_default();
        }
        for left in &sink.left {
            text.push_str(&format!("sink {name}  {}  stays, and is not fed any more\n", name_of(left)));
        }
    }
    if sinks.iter().all(|sink| sink.steps.is_empty()) {
        text.push_str("nothing is to be done\n");
    } else {
        let rows = output::count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
        let cost = if dollars > 0.0 { format!(", ${dollars:.2} at D1") } else { String::new() };
        text.push_str(&format!("all in all about {rows}{cost}\n"));
    }
    if sinks.iter().any(|sink| !sink.left.is_empty()) {
        text.push_str("what stays is dropped by: walcast schema apply --prune\n");
    }
    text
}

/// What stays, in words.
pub(super) fn name_of(left: &Left) -> String {
    match &left.column {
        Some(column) => format!("column {}.{column}", left.table),
        None => format!("table {}", left.table),
    }
}
