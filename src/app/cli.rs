//! The command line: what can be asked for, and what the process answers with. The commands themselves are in
//! `commands` and `demo`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::{commands, demo};
use crate::config::{Config, Environment, Log, LogFormat};
use crate::error::{Error, Kind, Result};
#[cfg(feature = "otel")]
use crate::telemetry::otel;

const EXAMPLES: &str = "\
Examples:
  walcast demo                                 see it work, on a throwaway Postgres
  walcast schema generate > schema.json        describe your tables
  walcast check                                what is missing, and how to get it
  walcast run                                  stream until stopped
  walcast run --until-caught-up                what a cron job wants
  walcast status                               where the slot and every replica are
  walcast trace apps 17                        where this row is

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 check, schema diff or schema plan found something.
Settings come from walcast.toml and from the environment (DATABASE_URL, WALCAST_SOURCE__SLOT, …).";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  walcast completions bash > ~/.local/share/bash-completion/completions/walcast
  walcast completions zsh > ~/.zfunc/_walcast
  walcast completions fish > ~/.config/fish/completions/walcast.fish";

/// Keeps edge databases in step with Postgres.
#[derive(Parser)]
#[command(name = "walcast", version, about, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args)]
pub struct Global {
    /// The configuration file [default: walcast.toml, where there is one]
    #[arg(short, long, global = true, env = "WALCAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged: a level or directives, such as debug or info,walcast=debug
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// The form of a log line
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
}

/// The form of a log line.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Stream changes from the slot to every sink
    Run(commands::run::Arguments),
    /// Find out what would stop walcast, or hurt the application, before it does
    Check(commands::check::Arguments),
    /// Show where the slot and every replica are
    Status(commands::status::Arguments),
    /// Show where one row is: at the source and in every replica
    Trace(commands::trace::Arguments),
    /// Show, retry or forget the rows that a replica did not take
    #[command(subcommand)]
    Failed(commands::failed::Command),
    /// Fill tables once more, while the stream flows
    Backfill(commands::refill::BackfillArguments),
    /// Drop and make anew what walcast made in replicas, and fill it again
    Nuke(commands::refill::NukeArguments),
    /// Have the running engine read walcast.toml and schema.json again
    Reload(commands::reload::Arguments),
    /// Write schema.json, compare it with the source and the replicas, or change the replicas to it
    #[command(subcommand)]
    Schema(commands::schema::Command),
    /// Remove what walcast has made at the source: the slot and the publication
    Teardown(commands::teardown::Arguments),
    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Show it at work: a throwaway Postgres, regional SQLite replicas, a killed engine, every row compared
    Demo(demo::Arguments),
}

impl Global {
    /// Reads the configuration; the command line wins over it.
    pub fn load(&self) -> Result<Config> {
        self.overrule(Config::load(self.config.as_deref(), &Environment::of_process())?)
    }

    /// As [`load`](Self::load), for a command that looks at the source alone: the sinks may be missing.
    pub fn load_for_source(&self) -> Result<Config> {
        self.overrule(Config::load_for_source(self.config.as_deref(), &Environment::of_process())?)
    }

    fn overrule(&self, mut config: Config) -> Result<Config> {
        if let Some(level) = &self.log_level {
            config.log.level.clone_from(level);
        }
        match self.log_format {
            Some(Format::Text) => config.log.format = LogFormat::Text,
            Some(Format::Json) => config.log.format = LogFormat::Json,
            None => {}
        }
        Ok(config)
    }

    /// Starts logging for a command whose output is what it prints: only warnings, unless asked for more.
    pub fn log(&self) -> Result<()> {
        let level = self.log_level.clone().unwrap_or_else(|| "warn".to_owned());
        let format = match self.log_format {
            Some(Format::Json) => LogFormat::Json,
            Some(Format::Text) | None => LogFormat::Text,
        };
        start_log(&Log { level, format, ..Log::default() })
    }
}

/// Runs the process: parses the command line, does what it says, and answers with the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::halt("starting the runtime").because(error))
        .and_then(|runtime| runtime.block_on(cli.run()));
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            if let Some(hint) = error.hint_text() {
                eprintln!(" hint: {hint}");
            }
            ExitCode::from(if error.kind() == Kind::Config { 2 } else { 1 })
        }
    }
}

impl Cli {
    async fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(arguments) => commands::run::run(&self.global, arguments).await,
            Command::Check(arguments) => commands::check::run(&self.global, arguments).await,
            Command::Status(arguments) => commands::status::run(&self.global, arguments).await,
            Command::Trace(arguments) => commands::trace::run(&self.global, arguments).await,
            Command::Failed(command) => commands::failed::run(&self.global, command).await,
            Command::Backfill(arguments) => commands::refill::backfill(&self.global, arguments).await,
            Command::Nuke(arguments) => commands::refill::nuke(&self.global, arguments).await,
            Command::Reload(arguments) => commands::reload::run(&self.global, arguments).await,
            Command::Schema(command) => commands::schema::run(&self.global, command).await,
            Command::Teardown(arguments) => commands::teardown::run(&self.global, arguments).await,
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "walcast", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
            Command::Demo(arguments) => demo::run(&self.global, arguments).await,
        }
    }
}

/// Sends the log to standard error.
///
/// # Errors
/// A configuration error where the level is none.
pub fn start_log(log: &Log) -> Result<()> {
    tracing_subscriber::registry().with(log_layer(log)?).init();
    Ok(())
}

/// What an engine tells of itself while it runs. Dropping it sends what is left.
pub struct Telemetry {
    #[cfg(feature = "otel")]
    _traces: Option<otel::Traces>,
}

impl Telemetry {
    /// Sends the log to standard error, and spans to OpenTelemetry where the environment says so and the binary can.
    ///
    /// # Errors
    /// A configuration error where the level is none, or the environment makes no sense.
    #[cfg(feature = "otel")]
    pub fn start(log: &Log) -> Result<Telemetry> {
        let traces = otel::Traces::from_environment()?;
        let mut layers = vec![log_layer(log)?];
        layers.extend(traces.as_ref().map(|traces| traces.layer().boxed()));
        tracing_subscriber::registry().with(layers).init();
        Ok(Telemetry { _traces: traces })
    }

    /// Sends the log to standard error.
    ///
    /// # Errors
    /// A configuration error where the level is none.
    #[cfg(not(feature = "otel"))]
    pub fn start(log: &Log) -> Result<Telemetry> {
        start_log(log)?;
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
            tracing::info!(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this walcast was built without the feature otel"
            );
        }
        Ok(Telemetry {})
    }
}

fn log_layer(log: &Log) -> Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| {
        Error::config(format!("log level {:?} is no level and no directive", log.level)).because(error)
    })?;
    // Spans are for OpenTelemetry; a line says itself what it is about.
    let events = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Otherwise it panics where it cannot write, and takes the thread with it that had something to say.
        .log_internal_errors(false);
    let filter = filter.and(events);
    Ok(match log.format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

#[cfg(test)]
mod tests;
