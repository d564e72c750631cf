//! `walcast check`. What the source says is judged in [`crate::app::check`]; here come `schema.json`, the sinks and the
//! printing.

mod sinks;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tokio_postgres::Client;

use super::output;
use crate::app::check::{
    ColumnNote, Facts, Finding, MappedTable, Request, Severity, evaluate, gather, worst,
};
use crate::app::cli::Global;
use crate::app::source::{Source, read_schema};
use crate::capture::slot;
use crate::capture::table::Table;
use crate::config::Config;
use crate::encode::plan::{Plan, Problem};
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Result};
use crate::postgres::conninfo::{ConnectionInfo, Host};

const EXAMPLES: &str = "\
Examples:
  walcast check
  walcast check --json | jq -r '.findings[] | select(.severity == \"problem\") | .remedy'

Exit codes: 0 no problem (there may be warnings), 2 the configuration is wrong, 3 there are problems.
Nothing is changed, neither at the source nor at a sink.";

/// The oldest transaction that lets the creation of a slot wait for this long is worth a warning.
const BLOCKER_AGE_SECONDS: u64 = 30;

/// What `walcast check` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The JSON of `walcast check --json`. The field names are stable.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether there is no problem.
    pub is_ok: bool,
    /// How many findings are problems.
    pub problems: usize,
    /// How many findings are warnings.
    pub warnings: usize,
    /// Everything that was looked at, in the order in which an operator would put it right.
    pub findings: Vec<Finding>,
}

/// Looks at everything and prints what it finds.
///
/// # Errors
/// A wrong configuration. Whatever else is wrong is a finding.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load()?;
    let findings = find(&config).await?;
    let count = |severity| findings.iter().filter(|finding: &&Finding| finding.severity == severity).count();
    let report = Report {
        is_ok: worst(&findings) < Severity::Problem,
        problems: count(Severity::Problem),
        warnings: count(Severity::Warning),
        findings,
    };
    match arguments.json {
        true => output::print_json(&report)?,
        false => output::print(&text(&report, output::is_terminal()))?,
    };
    Ok(if report.is_ok { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

async fn find(config: &Config) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let schema = match read_schema(&config.schema) {
        Ok(schema) => {
            let tables = output::count(schema.tables.len(), "table");
            findings
                .push(Finding::ok(format!("file {}", config.schema.display()), format!("it has {tables}")));
            Some(schema)
        }
        Err(error) => {
            findings.push(problem(format!("file {}", config.schema.display()), &error));
            None
        }
    };
    let source = Source::new(&config.source)?;
    let plan = match connect(&source).await {
        Ok((client, ok)) => {
            findings.push(ok);
            match find_at_source(&source, config.sinks.len(), &client, schema.as_ref(), &mut findings).await {
                Ok((plan, facts)) => {
                    sinks::find(config, &plan, Some((&source, &client, &facts)), &mut findings).await;
                    return Ok(findings);
                }
                Err(error) => {
                    findings.push(problem("server", &error));
                    Plan::default()
                }
            }
        }
        Err(error) => {
            let mut finding = problem("connection", &error);
            finding.remedy.get_or_insert_with(|| {
                "start the server, or correct url in [source] or DATABASE_URL".to_owned()
            });
            findings.push(finding);
            Plan::default()
        }
    };
    sinks::find(config, &plan, None, &mut findings).await;
    Ok(findings)
}

fn problem(subject: impl Into<String>, error: &Error) -> Finding {
    let finding = Finding::problem(subject, error.chain());
    match error.hint_text() {
        Some(hint) => finding.remedy(hint),
        None => finding,
    }
}

async fn connect(source: &Source) -> Result<(Client, Finding)> {
    let client = source.connect().await?;
    Ok((client, Finding::ok("connection", format!("connected to {}", source.info))))
}

/// What the source has to say, and as much of the plan as can be drawn.
async fn find_at_source(
    source: &Source,
    sinks: usize,
    client: &Client,
    schema: Option<&SchemaFile>,
    findings: &mut Vec<Finding>,
) -> Result<(Plan, Facts)> {
    let mut request = request(source, sinks, schema);
    let facts = gather(client, &request).await?;
    let tables: Vec<Table> = facts.tables.iter().flatten().map(|(table, _)| table.clone()).collect();
    let (plan, problems) = match schema {
        Some(schema) => Plan::draw(schema, &tables),
        None => (Plan::default(), Vec::new()),
    };
    for table in &mut request.tables {
        let lossy = problems.iter().filter(|found| !found.is_fatal && found.table == table.name.plain());
        table.notes = lossy
            .filter_map(|found| {
                Some(ColumnNote { column: found.column.clone()?, note: found.message.clone() })
            })
            .collect();
    }
    let at_source = evaluate(&request, &facts);
    let is_refused = at_source.iter().any(|finding| {
        finding.severity == Severity::Problem
            && (finding.subject.starts_with("role ") || finding.subject == "server")
    });
    if !is_refused {
        findings.push(replication_session(source).await);
    }
    findings.extend(at_source);
    findings.extend(missing_from_plan(&problems, findings));
    if facts.slot.is_none() {
        findings.extend(blockers(source, client).await?);
    }
    Ok((plan, facts))
}

fn request(source: &Source, sinks: usize, schema: Option<&SchemaFile>) -> Request {
    let (host, port) = address(&source.info);
    let tables = schema.into_iter().flat_map(|schema| &schema.tables).map(|(name, entry)| MappedTable {
        name: name.clone(),
        primary_key: entry.primary_key.0.clone(),
        columns: entry.columns.keys().cloned().collect(),
        notes: Vec::new(),
    });
    Request {
        host,
        port,
        publication: source.config.publication.clone(),
        slot: source.config.slot.clone(),
        sinks,
        tables: tables.collect(),
        // schema.json is not read with more columns than any sink takes.
        columns_max: None,
    }
}

fn address(info: &ConnectionInfo) -> (String, u16) {
    match info.servers.first() {
        Some(server) => match &server.host {
            Host::Tcp { name, .. } => (name.clone(), server.port),
            Host::Unix(path) => (path.display().to_string(), server.port),
        },
        None => (String::new(), 0),
    }
}

/// Whatever keeps the plan from being made and is not told yet: mostly a type that cannot become the one that
/// `schema.json` asks for.
fn missing_from_plan(problems: &[Problem], findings: &[Finding]) -> Vec<Finding> {
    let is_told = |problem: &Problem| {
        let subject = format!("table {}", problem.table);
        findings.iter().any(|finding| {
            finding.severity == Severity::Problem
                && finding.subject == subject
                && problem.column.as_ref().is_none_or(|column| names(&finding.message, column))
        })
    };
    let untold = problems.iter().filter(|problem| problem.is_fatal && !is_told(problem));
    untold
        .map(|problem| {
            let message = match &problem.column {
                Some(column) => format!("column {column}: {}", problem.message),
                None => problem.message.clone(),
            };
            let finding = Finding::problem(format!("table {}", problem.table), message);
            match (&problem.remedy, &problem.column) {
                (Some(remedy), _) => finding.remedy(remedy),
                (None, Some(column)) => finding.remedy(format!("change the type of {column} in schema.json")),
                (None, None) => finding,
            }
        })
        .collect()
}

/// Whether the message has the column's name as a word.
fn names(message: &str, column: &str) -> bool {
    message.split([' ', ',', '(', ')', ':']).any(|word| word == column)
}

/// Opens a replication session and closes it again: nothing else shows a pooler, or a `pg_hba.conf`, for certain.
async fn replication_session(source: &Source) -> Finding {
    match source.connect_replication().await {
        Ok(session) => {
            session.close().await;
            Finding::ok("connection", "a replication session can be opened")
        }
        Err(error) => problem("connection", &error.context("opening a replication session")),
    }
}

/// Old transactions that would let the creation of the slot wait.
async fn blockers(source: &Source, client: &Client) -> Result<Vec<Finding>> {
    let blockers = slot::blockers(client).await?;
    let old = blockers
        .into_iter()
        .filter(|blocker| blocker.age.is_some_and(|age| age.as_secs() >= BLOCKER_AGE_SECONDS));
    let limit = humantime::format_duration(source.config.slot_create_timeout).to_string();
    Ok(old
        .map(|blocker| {
            let message = format!("creating it waits for {blocker}, and for at most {limit}");
            Finding::warning(format!("slot {}", source.config.slot), message)
                .remedy(format!("{};", blocker.end_sql()))
        })
        .collect())
}

/// For a person: marks, aligned, remedies on lines of their own. For a pipe: one line per finding.
fn text(report: &Report, is_terminal: bool) -> String {
    let mut text = String::new();
    let width = report.findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    for finding in &report.findings {
        if !is_terminal {
            text.push_str(&format!("{}\n", finding.to_string().replace('\n', " ")));
            continue;
        }
        let mark = match finding.severity {
            Severity::Ok => '✓',
            Severity::Warning => '!',
            Severity::Problem => '✗',
        };
        let message = finding.message.replace('\n', "\n    ");
        text.push_str(&format!("{mark} {:<width$}  {message}\n", finding.subject));
        if let Some(remedy) = finding.remedy.as_ref().filter(|_| finding.severity > Severity::Ok) {
            for line in remedy.lines() {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    let of = |number, noun| output::count(number, noun);
    text.push_str(&match (report.problems, report.warnings) {
        (0, 0) => "no problems\n".to_owned(),
        (0, warnings) => format!("no problems, {}\n", of(warnings, "warning")),
        (problems, 0) => format!("{}\n", of(problems, "problem")),
        (problems, warnings) => format!("{}, {}\n", of(problems, "problem"), of(warnings, "warning")),
    });
    text
}
