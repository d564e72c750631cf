//! `walcast trace`: where one row is.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::output;
use crate::app::cli::Global;
use crate::app::source::{Source, Survey, read_schema};
use crate::app::trace::{self, Trace};
use crate::encode::plan::Plan;
use crate::error::Result;

const EXAMPLES: &str = "\
Examples:
  walcast trace apps 17
  walcast trace sales.invoices 9b2e4b0c-0e0f-4c1e-8f5a-0d4a3a1c2b3d
  walcast trace versions 17 1.0.2          a key of two columns
  walcast trace apps 17 --json

Exit codes: 0 the row is as it should be in every replica, 1 it is not, or not yet.";

/// What `walcast trace` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The table, as schema.json names it
    table: String,
    /// The row's key: the values of its columns, in order
    #[arg(required = true, allow_hyphen_values = true)]
    key: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Looks, prints, and answers with whether the row is everywhere as it should be.
///
/// # Errors
/// No such table, a key of another form, or a source that cannot be read.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let source = Source::new(&config.source)?;
    let schema = read_schema(&config.schema)?;
    let client = source.connect().await?;
    let survey = Survey::read(&client, &schema).await?;
    let plan = Arc::new(Plan::new(&schema, &survey.tables)?);
    let trace = trace::trace(&Arc::new(config), &plan, &client, &arguments.table, &arguments.key).await?;
    match arguments.json {
        true => output::print_json(&trace)?,
        false => output::print(&text(&trace))?,
    };
    Ok(if trace.is_equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(trace: &Trace) -> String {
    let presence = if trace.source.row.is_some() { "there" } else { "not there" };
    let mut text = format!(
        "{} ({}): {presence} at the source, read at {}\n",
        trace.table,
        trace.key.join(", "),
        trace.source.lsn
    );
    for rejected in &trace.source.rejected {
        text.push_str(&format!("  no form in a replica: {rejected}\n"));
    }
    text.push('\n');
    let header = ["SINK", "VERDICT", "ROW", "CHECKPOINT", "DIFFERS IN", "DEAD LETTERS"];
    let rows = trace.regions.iter().map(|region| {
        vec![
            region.sink.clone(),
            match region.table_state {
                Some(state) => format!("{} (table {state})", region.verdict.as_str()),
                None => region.verdict.as_str().to_owned(),
            },
            if region.row.is_some() { "there" } else { "not there" }.to_owned(),
            output::or_dash(region.checkpoint_lsn.as_ref()),
            match region.differing.is_empty() {
                true => "-".to_owned(),
                false => region.differing.join(", "),
            },
            region.dead_letters.len().to_string(),
        ]
    });
    text.push_str(&output::table(&header, &[5], rows));
    for region in &trace.regions {
        if let Some(problem) = &region.problem {
            text.push_str(&format!("\nsink {}: {problem}\n", region.sink));
        }
        for letter in &region.dead_letters {
            text.push_str(&format!(
                "\nsink {}, dead letter {} of {}: {} at {}: {}\n",
                region.sink, letter.id, letter.recorded, letter.operation, letter.commit_lsn, letter.reason
            ));
        }
    }
    text
}
