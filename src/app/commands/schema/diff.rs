//! `walcast schema diff`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::app::cli::Global;
use crate::app::commands::output;
use crate::app::evolution::{self, Left};
use crate::app::replicas::{self, Replica, Unreadable};
use crate::app::source::{Source, read_schema};
use crate::capture::catalog::all_tables;
use crate::capture::table::Table;
use crate::config::{Config, Sink};
use crate::encode::plan::Plan;
use crate::encode::schema_file::SchemaFile;
use crate::error::Result;
use crate::sink::definition::Definition;

const EXAMPLES: &str = "\
Examples:
  walcast schema diff
  walcast schema diff --json | jq '.differences[] | select(.stops)'

Exit codes: 0 nothing stops walcast, 3 something does.";

/// What `walcast schema diff` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The JSON of `walcast schema diff --json`. The field names are stable.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether walcast would start: no difference stops it.
    pub is_ok: bool,
    /// What differs, the source's side first.
    pub differences: Vec<Difference>,
}

/// One difference between `schema.json` and the source or a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where the other side of it is.
    pub side: Side,
    /// The sink's name, where that is the side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// The table: as at the source, or as at the sink; empty where a sink cannot be read at all.
    pub table: String,
    /// The column, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What differs, in one sentence without a full stop.
    pub message: String,
    /// Lines that only the sink's definition has (`-`) or only that of `schema.json` (`+`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Whether walcast, or this sink, does not start with it. Otherwise it is worth knowing.
    pub stops: bool,
}

/// What `schema.json` is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The source's catalog.
    Source,
    /// A replica.
    Sink,
}

/// Compares and prints.
pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let schema = read_schema(&config.schema)?;
    let client = Source::new(&config.source)?.connect().await?;
    let tables = all_tables(&client, &[]).await?;
    let (plan, mut differences) = with_source(&schema, &tables);
    for (sink, replica) in config.sinks.iter().zip(replicas::read_all(&config)) {
        differences.extend(with_sink(&config, sink, replica, &schema, &plan));
    }
    let report = Report { is_ok: differences.iter().all(|difference| !difference.stops), differences };
    match arguments.json {
        true => output::print_json(&report)?,
        false => output::print(&text(&report))?,
    };
    Ok(if report.is_ok { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// What the source has and `schema.json` has not, and the other way round.
fn with_source(schema: &SchemaFile, tables: &[Table]) -> (Plan, Vec<Difference>) {
    let (plan, problems) = Plan::draw(schema, tables);
    let at_source = |table: String, column: Option<String>, message: String| Difference {
        side: Side::Source,
        sink: None,
        table,
        column,
        message,
        details: Vec::new(),
        remedy: None,
        stops: false,
    };
    let mut differences: Vec<Difference> = problems
        .into_iter()
        .map(|problem| Difference {
            stops: problem.is_fatal,
            remedy: problem.remedy,
            ..at_source(problem.table, problem.column, problem.message)
        })
        .collect();
    let schemas: BTreeSet<&str> = schema.tables.keys().map(|name| name.schema.as_str()).collect();
    for table in tables {
        let Some(entry) = schema.tables.get(&table.name) else {
            if schemas.contains(table.name.schema.as_str()) {
                let message = "this table is not mapped".to_owned();
                differences.push(at_source(table.name.plain(), None, message));
            }
            continue;
        };
        for column in table.columns.iter().filter(|column| !entry.columns.contains_key(&column.name)) {
            let generated = if column.is_generated { ", generated" } else { "" };
            let message = format!("this column ({}{generated}) is not mapped", column.type_name);
            differences.push(at_source(table.name.plain(), Some(column.name.clone()), message));
        }
    }
    (plan, differences)
}

/// What a replica was made for and what it should be made for now. Tables that the plan could not take are not compared.
fn with_sink(
    config: &Config,
    sink: &Sink,
    replica: Result<Replica, Unreadable>,
    schema: &SchemaFile,
    plan: &Plan,
) -> Vec<Difference> {
    let at_sink = |table: &str, message: String| Difference {
        side: Side::Sink,
        sink: Some(sink.name.to_string()),
        table: table.to_owned(),
        column: None,
        message,
        details: Vec::new(),
        remedy: None,
        stops: false,
    };
    let stored = replica.as_ref().map_or_else(|_| Vec::new(), |replica| replica.tables.clone());
    let changes = evolution::changes_of(config, sink, replica, plan);
    if let Some(problem) = changes.problem {
        return vec![Difference { stops: true, remedy: changes.hint, ..at_sink("", problem) }];
    }
    if stored.is_empty() {
        return Vec::new();
    }
    let mut differences = Vec::new();
    for step in changes.steps {
        let planned = plan.tables.iter().find(|table| table.target == step.table);
        let known = stored.iter().find(|stored| stored.target == step.table);
        let details = planned.zip(known).map(|(planned, known)| {
            let wanted = Definition::of(planned).text();
            if known.definition == wanted { Vec::new() } else { changed_lines(&known.definition, &wanted) }
        });
        differences.push(Difference {
            details: details.unwrap_or_default(),
            stops: step.stops,
            remedy: step.remedy,
            ..at_sink(&step.table, format!("walcast run: the table {}", step.message))
        });
    }
    let mapped: BTreeSet<String> =
        schema.tables.iter().map(|(name, entry)| schema.target_name(name, entry)).collect();
    let is_left = |left: &Left| left.column.is_some() || !mapped.contains(&left.table);
    differences.extend(changes.left.into_iter().filter(is_left).map(|left| Difference {
        column: left.column,
        ..at_sink(&left.table, "schema.json does not map it: it stays, and is no longer updated".to_owned())
    }));
    differences
}

/// The lines of two definitions that the other has not; every column and index is a line of its own.
fn changed_lines(stored: &str, wanted: &str) -> Vec<String> {
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.trim().trim_end_matches(',').to_owned()).collect()
    };
    let (stored, wanted) = (lines(stored), lines(wanted));
    let gone = stored.iter().filter(|line| !wanted.contains(line)).map(|line| format!("- {line}"));
    let new = wanted.iter().filter(|line| !stored.contains(line)).map(|line| format!("+ {line}"));
    let changed: Vec<String> = gone.chain(new).collect();
    if changed.is_empty() { vec!["the order of the columns".to_owned()] } else { changed }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let place = match &difference.sink {
            Some(sink) => format!("sink {sink}"),
            None => "source".to_owned(),
        };
        let column = difference.column.as_ref().map(|column| format!(".{column}")).unwrap_or_default();
        let name = format!("{}{column}", difference.table);
        let colon = if name.is_empty() { "" } else { ": " };
        let word = if difference.stops { "stops" } else { "info" };
        text.push_str(&format!("{word:<5}  {place}  {name}{colon}{}\n", difference.message));
        for detail in &difference.details {
            text.push_str(&format!("         {detail}\n"));
        }
        if let Some(remedy) = &difference.remedy {
            text.push_str(&format!("         remedy: {remedy}\n"));
        }
    }
    let stopping = report.differences.iter().filter(|difference| difference.stops).count();
    match (report.differences.len(), stopping) {
        (0, _) => text.push_str("schema.json, the source and every sink agree\n"),
        (all, 0) => text.push_str(&format!("{}, none stops walcast\n", output::count(all, "difference"))),
        (all, stopping) => text.push_str(&format!(
            "{}, of which {stopping} {} walcast\n",
            output::count(all, "difference"),
            if stopping == 1 { "stops" } else { "stop" }
        )),
    }
    text
}
