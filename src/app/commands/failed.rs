//! `walcast failed`: the rows that a replica did not take.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::output;
use crate::app::cli::Global;
use crate::app::d1::Transports;
use crate::app::letters;
use crate::app::retry::{self, Which};
use crate::app::source::{Source, Survey, read_schema};
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::sink::reading::Letters;

const EXAMPLES: &str = "\
Examples:
  walcast failed list                      of every replica, the oldest first
  walcast failed list --sink eu --json
  walcast failed show eu 17                one of them, whole
  walcast failed retry                     look at each row again, and close what is right by now
  walcast failed retry --table apps --key 17
  walcast failed drop eu 17 18             forget these
  walcast failed drop eu --all

A row that was written again since, or corrected, is in the replica although its dead letter stays:
walcast trace TABLE KEY shows which, and retry closes it. Exit code of retry: 0 nothing is left, 1 something is.";

/// What can be done about dead letters.
#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Command {
    /// Show the dead letters, one a line
    List(ListArguments),
    /// Show one dead letter whole
    Show {
        /// The sink that keeps it
        sink: String,
        /// Its number at that sink
        id: i64,
    },
    /// Look at the rows again, and forget the dead letters of those that are right
    Retry(RetryArguments),
    /// Forget dead letters
    Drop(DropArguments),
}

/// What `walcast failed list` takes.
#[derive(Args)]
pub struct ListArguments {
    /// Only of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only of this table, as the replicas name it
    #[arg(long)]
    table: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `walcast failed retry` takes.
#[derive(Args)]
pub struct RetryArguments {
    /// Only of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only of this table
    #[arg(long)]
    table: Option<String>,
    /// Only of the row with this key: the values of its columns, in order
    #[arg(long, requires = "table", num_args = 1.., allow_hyphen_values = true)]
    key: Option<Vec<String>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `walcast failed drop` takes.
#[derive(Args)]
pub struct DropArguments {
    /// The sink that keeps them
    sink: String,
    /// Their numbers at that sink
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<i64>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// Does what is asked; fails where a dead letter that was named is not there.
///
/// # Errors
/// No such sink, or its target cannot be read or written.
pub async fn run(global: &Global, command: Command) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let transports = Transports::new(&config);
    match command {
        Command::List(ListArguments { sink, table, limit, json }) => {
            let which = Letters { target: table, ..Letters::default() };
            let page = letters::page(
                &letters::sinks(&config, sink.as_deref())?,
                &transports,
                &which,
                None,
                limit as usize,
            )?;
            if json {
                output::print_json(&page)?;
                return Ok(ExitCode::SUCCESS);
            }
            let header = ["SINK", "ID", "RECORDED", "TABLE", "OPERATION", "KEY", "REASON"];
            let rows = page.letters.into_iter().map(|found| {
                let letter = found.letter;
                let id = letter.id.to_string();
                vec![
                    found.sink,
                    id,
                    letter.recorded,
                    letter.target,
                    letter.operation,
                    letter.key,
                    letter.reason,
                ]
            });
            output::print(&output::table(&header, &[1], rows))?;
            if page.next.is_some() {
                eprintln!("there are more; see --limit");
            }
        }
        Command::Show { sink, id } => {
            let sinks = letters::sinks(&config, Some(&sink))?;
            let which = Letters { ids: vec![id], ..Letters::default() };
            let page = letters::page(&sinks, &transports, &which, None, 1)?;
            let letter = page.letters.first();
            let letter = letter.ok_or_else(|| Error::halt(format!("sink {sink} has no dead letter {id}")))?;
            output::print_json(letter)?;
        }
        Command::Retry(RetryArguments { sink, table, key, json }) => {
            let source = Source::new(&config.source)?;
            let schema = read_schema(&config.schema)?;
            let client = source.connect().await?;
            let survey = Survey::read(&client, &schema).await?;
            let plan = Arc::new(Plan::new(&schema, &survey.tables)?);
            let which = Which { sink, table, key };
            let retried = retry::retry(&Arc::new(config), &plan, &client, &which, |_, _| {}).await?;
            if json {
                output::print_json(&retried)?;
            } else {
                let reasons = retried.reasons.iter().map(|reason| format!("  {reason}\n"));
                let hint = retried.hint().map(|hint| format!(" hint: {hint}\n"));
                let text: String = reasons.chain(hint).collect();
                output::print(&format!("{}\n{text}", retried.sentence()))?;
            }
            if !retried.is_complete() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Drop(DropArguments { sink, ids, all: _ }) => {
            let wanted = ids.len();
            let sinks = letters::sinks(&config, Some(&sink))?;
            let dropped: usize = sinks
                .iter()
                .map(|sink| {
                    let which = Letters { ids: ids.clone(), ..Letters::default() };
                    letters::drop(sink, &transports, &which)
                })
                .sum::<Result<usize>>()?;
            output::print(&format!("{} dropped\n", output::count(dropped, "dead letter")))?;
            if dropped < wanted {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
