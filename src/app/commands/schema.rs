//! `walcast schema`.

mod diff;
mod generate;

use std::process::ExitCode;

use clap::Subcommand;

use super::output;
use crate::app::cli::Global;
use crate::encode::schema_file::SchemaFile;
use crate::error::Result;

pub use diff::{Difference, Report, Side};

/// What `walcast schema` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Write a schema.json from the source's catalog
    Generate(generate::Arguments),
    /// Compare schema.json with the source and with what the replicas were made for
    Diff(diff::Arguments),
    /// Print the JSON Schema of schema.json, for editors
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
        Command::JsonSchema => {
            output::print(&SchemaFile::json_schema())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
