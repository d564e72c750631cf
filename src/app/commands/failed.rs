//! `walcast failed`: the rows that a replica did not take.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;
use crate::app::cli::Global;
use crate::app::d1::Transports;
use crate::app::letters;
use crate::error::{Error, Result};
use crate::sink::reading::Letters;

const EXAMPLES: &str = "\
Examples:
  walcast failed list                      of every replica, the oldest first
  walcast failed list --sink eu --json
  walcast failed show eu 17                one of them, whole
  walcast failed drop eu 17 18             forget these
  walcast failed drop eu --all

A row that was written again since, or corrected, is in the replica although its dead letter stays:
walcast trace TABLE KEY shows which.";

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
