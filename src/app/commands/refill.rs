//! `walcast backfill` and `walcast nuke`: tables filled once more, or made anew. A running engine is asked over its HTTP
//! API; where none runs, one runs here until everything is there.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::output;
use super::run::shutdown_on_signal;
use crate::app::admin::client::Client;
use crate::app::bookmark::ways_back;
use crate::app::cli::Global;
use crate::app::engine::RunOptions;
use crate::app::fill::request::Refill;
use crate::app::source::read_schema;
use crate::app::supervisor::prepare;
use crate::app::view::EngineView;
use crate::config::Config;
use crate::error::{Error, Result};

const BACKFILL_EXAMPLES: &str = "\
Examples:
  walcast backfill                               every table of every replica
  walcast backfill --sink eu --table apps        one of them
  walcast backfill --table apps --where \"created_at > now() - interval '1 day'\"

Rows are written over those that are there; rows that the source does not have any more stay. To be rid of them:
walcast nuke.";
const NUKE_EXAMPLES: &str = "\
Examples:
  walcast nuke --sink eu                         everything in one replica, after asking
  walcast nuke --table apps --yes                one table in all replicas
  walcast nuke --all --yes --no-refill           leaves empty tables, which take what the stream brings

Only tables that walcast made are dropped, never anything else. Until a table is full again, its readers see fewer rows.
Before a D1 database is touched, the command is printed that brings it back (Time Travel). Through the companion Worker
there is none, and only --yes goes on.";

/// How often progress is shown.
const TICK: Duration = Duration::from_millis(200);

/// What `walcast backfill` takes.
#[derive(Args)]
#[command(after_help = BACKFILL_EXAMPLES)]
pub struct BackfillArguments {
    /// Only this table, as schema.json names it. May be given several times
    #[arg(long)]
    table: Vec<String>,
    /// Only this sink. May be given several times
    #[arg(long)]
    sink: Vec<String>,
    /// Only rows that meet this condition, in the source's SQL
    #[arg(long = "where", value_name = "CONDITION", requires = "table")]
    condition: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `walcast nuke` takes.
#[derive(Args)]
#[command(after_help = NUKE_EXAMPLES)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["table", "sink", "all"])))]
pub struct NukeArguments {
    /// This table, as schema.json names it. May be given several times
    #[arg(long)]
    table: Vec<String>,
    /// In this sink. May be given several times
    #[arg(long)]
    sink: Vec<String>,
    /// Every table in every sink
    #[arg(long, conflicts_with_all = ["table", "sink"])]
    all: bool,
    /// Leave the tables empty
    #[arg(long)]
    no_refill: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of one table of one sink.
#[derive(Serialize)]
struct Filled {
    sink: String,
    table: String,
    /// As in `walcast status --json`.
    state: &'static str,
    rows: u64,
}

/// Fills tables once more.
///
/// # Errors
/// The source or a sink fails, or the names are none.
pub async fn backfill(global: &Global, arguments: BackfillArguments) -> Result<ExitCode> {
    global.log()?;
    let BackfillArguments { table, sink, condition, json } = arguments;
    let refill = Refill { sinks: sink, tables: table, filter: condition, ..Refill::default() };
    run(global.load()?, refill, json).await
}

/// Drops tables, makes them anew and fills them.
///
/// # Errors
/// As [`backfill`]; nobody can be asked.
pub async fn nuke(global: &Global, arguments: NukeArguments) -> Result<ExitCode> {
    global.log()?;
    let NukeArguments { table, sink, no_refill, yes, json, .. } = arguments;
    let refill = Refill { sinks: sink, tables: table, clears: true, is_left_empty: no_refill, filter: None };
    let config = global.load()?;
    let (asked, sinks) = (config.clone(), refill.sinks.clone());
    let ways = tokio::task::spawn_blocking(move || ways_back(&asked, &sinks)).await;
    let ways = ways.map_err(|error| Error::bug("asking for bookmarks").because(error))??;
    ways.iter().for_each(|way| eprintln!("{}", way.sentence()));
    if !yes && let Some(way) = ways.iter().find(|way| way.command.is_none()) {
        return Err(Error::config(format!("there is no way back from emptying sink {}", way.sink))
            .hint("walcast nuke … --yes empties it all the same"));
    }
    if !yes && !is_confirmed(&refill)? {
        eprintln!("nothing was touched");
        return Ok(ExitCode::FAILURE);
    }
    run(config, refill, json).await
}

/// Asks for what is to be emptied, which nobody types by accident.
fn is_confirmed(refill: &Refill) -> Result<bool> {
    let or_all = |names: &[String]| if names.is_empty() { "all".to_owned() } else { names.join(" ") };
    let word = if refill.sinks.is_empty() { or_all(&refill.tables) } else { or_all(&refill.sinks) };
    let what = format!(
        "This drops and makes anew: tables {} in sinks {}.",
        or_all(&refill.tables),
        or_all(&refill.sinks)
    );
    asked(&what, &word, "walcast nuke … --yes")
}

/// Says what will be done, and waits for somebody to type the word. Without a terminal, `instead` is what to run.
pub(super) fn asked(what: &str, word: &str, instead: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::config("nobody can be asked, because standard input is no terminal")
            .hint(instead.to_owned()));
    }
    eprintln!("{what}");
    eprint!("Type {word} to go on: ");
    let failed = |error| Error::halt("asking").because(error);
    std::io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == word)
}

/// Asks the engine that runs, or runs one until everything is there, and shows how far it is.
async fn run(config: Config, refill: Refill, json: bool) -> Result<ExitCode> {
    if let Some(client) = Client::new(&config.admin).filter(Client::is_there) {
        return tokio::task::spawn_blocking(move || ask(&client, &refill, json))
            .await
            .map_err(|error| Error::bug("asking the engine").because(error))?;
    }
    run_until_filled(&config, Some(refill), json).await
}

/// Runs an engine until everything is there, and shows how far it is.
pub(super) async fn run_until_filled(
    config: &Config,
    refill: Option<Refill>,
    json: bool,
) -> Result<ExitCode> {
    let view = Arc::new(EngineView::default());
    let options = RunOptions { until_caught_up: true, refill, view: view.clone(), ..RunOptions::default() };
    let schema = read_schema(&config.schema)?;
    let started = Instant::now();
    let mut shutdown = shutdown_on_signal()?;
    let engine = tokio::select! {
        engine = prepare(config, &schema, options) => engine?,
        _ = shutdown.wait_for(|asked| *asked) => return Ok(ExitCode::FAILURE),
    };
    let shown = tokio::spawn(show(view.clone()));
    let ran = engine.run(shutdown).await;
    shown.abort();
    ran?;
    let filled = summary(&view);
    if json {
        output::print_json(&filled)?;
    } else {
        let rows = filled
            .iter()
            .map(|one| vec![one.table.clone(), one.sink.clone(), one.state.to_owned(), one.rows.to_string()]);
        output::print(&output::table(&["TABLE", "SINK", "STATE", "ROWS"], &[3], rows))?;
        output::print(&format!("done in {}\n", output::duration(started.elapsed())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets a running engine do it, and shows how far it is.
fn ask(client: &Client, refill: &Refill, json: bool) -> Result<ExitCode> {
    let route = if refill.clears { "/nuke" } else { "/backfill" };
    let bar = progress_bar();
    let mut ended = Vec::new();
    let one_or_all = |names: &[String]| match names {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    for sink in one_or_all(&refill.sinks) {
        for table in one_or_all(&refill.tables) {
            let what = match (&sink, &table) {
                (None, None) => "all",
                (Some(_), None) => "db",
                (_, Some(_)) => "table",
            };
            let mut body = json!({"type": what});
            let fields = [("db", &sink), ("table", &table), ("where", &refill.filter)];
            for (field, value) in
                fields.into_iter().filter_map(|(field, value)| Some((field, value.as_ref()?)))
            {
                body[field] = json!(value);
            }
            if refill.clears {
                // Whoever was asked has seen whether there is a way back.
                body["yes"] = json!(true);
            }
            if refill.is_left_empty {
                body["refill"] = json!(false);
            }
            let mut job = client.post(route, &body)?;
            while job["state"] == "running" {
                std::thread::sleep(TICK);
                job = client.get(&format!("/jobs/{}", job["id"]))?;
                bar.set_length(job["progress"]["total"].as_u64().unwrap_or_default());
                bar.set_position(job["progress"]["done"].as_u64().unwrap_or_default());
            }
            ended.push(job);
        }
    }
    bar.finish_and_clear();
    let is_done = ended.iter().all(|job| job["state"] == "done");
    if json {
        output::print_json(&ended)?;
    } else {
        for job in &ended {
            let text = |field: &str| job[field].as_str().unwrap_or_default().to_owned();
            output::print(&format!("{}: {}\n", text("state"), text("outcome")))?;
        }
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress_bar() -> ProgressBar {
    let template = "{bar:30} {human_pos} of about {human_len} rows, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// Shows rows, rate and time left until it is dropped.
async fn show(view: Arc<EngineView>) {
    let bar = progress_bar();
    loop {
        tokio::time::sleep(TICK).await;
        let Some(prepared) = view.prepared() else { continue };
        let (mut rows, mut estimated) = (0, 0);
        for sink in prepared.progress.sinks() {
            for fill in sink.fills().0.into_iter().flatten() {
                rows += fill.rows;
                estimated += fill.rows_estimated.max(fill.rows);
            }
        }
        bar.set_length(estimated);
        bar.set_position(rows);
    }
}

fn summary(view: &EngineView) -> Vec<Filled> {
    let mut filled = Vec::new();
    for prepared in view.prepared().into_iter() {
        for sink in prepared.progress.sinks() {
            let fills = sink.fills();
            for (index, table) in prepared.plan.tables.iter().enumerate() {
                let Some(fill) = fills.get(index) else { continue };
                let failed = prepared.fills.failure(index).map(|_| "stopped");
                filled.push(Filled {
                    sink: sink.name.clone(),
                    table: table.source.plain(),
                    state: failed.unwrap_or(fill.state(sink.durable_lsn()).as_str()),
                    rows: fill.rows,
                });
            }
        }
    }
    filled
}
