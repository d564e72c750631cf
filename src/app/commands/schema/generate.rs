//! `walcast schema generate`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tokio_postgres::Client;

use crate::app::cli::Global;
use crate::app::commands::output;
use crate::app::source::Source;
use crate::capture::catalog::{all_tables, read_indexes, read_tables};
use crate::capture::table::{Table, TableName};
use crate::encode::schema_file::generate::{Generated, generate};
use crate::encode::schema_file::table_name;
use crate::error::{Error, Result};

const EXAMPLES: &str = "\
Examples:
  walcast schema generate > schema.json             every table of the schema public
  walcast schema generate --table orders --table sales.invoices
  walcast schema generate --schema public --schema sales --output schema.json

Take out what the edge does not need: columns that are not named in schema.json never leave the source.
What could not be mapped is told on standard error.";

/// What `walcast schema generate` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only this table, as `table` or `schema.table`. May be given several times
    #[arg(long, value_name = "TABLE", value_parser = table_name)]
    table: Vec<TableName>,
    /// Every table of this schema [default: public, unless tables are named]. May be given several times
    #[arg(long, value_name = "SCHEMA")]
    schema: Vec<String>,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(long, requires = "output")]
    force: bool,
}

/// Reads the catalog and writes the file.
pub(super) async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let config = global.load_for_source()?;
    let client = Source::new(&config.source)?.connect().await?;
    let tables = wanted_tables(&client, &arguments).await?;
    let indexes = read_indexes(&client, &tables).await?;
    let Generated { file, notes } = generate(&tables, &indexes);
    for note in &notes {
        eprintln!("note: {note}");
    }
    if file.tables.is_empty() {
        return Err(Error::halt("there is no table that can be mapped")
            .hint("name other schemas with --schema, or give the tables a primary key"));
    }
    let text = file.to_json_pretty();
    match &arguments.output {
        Some(path) => {
            write(path, &text, arguments.force)?;
            eprintln!("{} written: {}", path.display(), output::count(file.tables.len(), "table"));
        }
        None => {
            output::print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The named tables, then those of the schemas.
async fn wanted_tables(client: &Client, arguments: &Arguments) -> Result<Vec<Table>> {
    let mut tables = read_tables(client, &arguments.table).await?;
    let is_default = arguments.schema.is_empty() && arguments.table.is_empty();
    if arguments.schema.is_empty() && !is_default {
        return Ok(tables);
    }
    let every_table = all_tables(client, &arguments.schema).await?;
    let (in_public, elsewhere): (Vec<_>, Vec<_>) =
        every_table.into_iter().partition(|table| !is_default || table.name.schema == "public");
    let others: BTreeSet<&str> = elsewhere.iter().map(|table| table.name.schema.as_str()).collect();
    if !others.is_empty() {
        let names = others.into_iter().collect::<Vec<_>>().join(", ");
        eprintln!("note: only public is looked at; --schema takes the others: {names}");
    }
    let is_new = |table: &Table| tables.iter().all(|known| known.oid != table.oid);
    let more: Vec<Table> = in_public.into_iter().filter(is_new).collect();
    tables.extend(more);
    Ok(tables)
}

fn write(path: &Path, text: &str, is_forced: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    if is_forced {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::halt(format!("{} exists already", path.display()))
            .hint("compare first with walcast schema diff, then overwrite it with --force"),
        _ => Error::halt(format!("{} cannot be written", path.display())).because(error),
    })
}
