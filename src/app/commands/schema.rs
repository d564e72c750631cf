//! `walcast schema`.

mod apply;
mod diff;
mod generate;
mod plan;

use std::process::ExitCode;

use clap::Subcommand;

use super::output;
use crate::app::cli::Global;
use crate::encode::schema_file::SchemaFile;
use crate::error::Result;

pub use diff::{Difference, Report, Side};

const JSON_SCHEMA_EXAMPLES: &str = "\
Examples:
  walcast schema json-schema > schema.schema.json

Name the file in schema.json: \"$schema\": \"./schema.schema.json\".";

/// What `walcast schema` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Write a schema.json from the source's catalog
    Generate(generate::Arguments),
    /// Compare schema.json with the source and with what the replicas were made for
    Diff(diff::Arguments),
    /// Show what a start would do to the replicas, with rows and dollars
    Plan(plan::Arguments),
    /// Make the replicas what schema.json says, and fill what that takes
    Apply(apply::Arguments),
    /// Print the JSON Schema of schema.json, for editors
    #[command(after_help = JSON_SCHEMA_EXAMPLES)]
    JsonSchema,
}

/// Does it.
///
/// # Errors
/// What an operator has to resolve.
pub async fn run(global: &Global, command: Command) -> Result<ExitCode> {
    match command {
        Command::Generate(arguments) => generate::run(global, arguments).await,
        Command::Diff(arguments) => diff::run(global, arguments).await,
        Command::Plan(arguments) => plan::run(global, arguments).await,
        Command::Apply(arguments) => apply::run(global, arguments).await,
        Command::JsonSchema => {
            output::print(&SchemaFile::json_schema())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
