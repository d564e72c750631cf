//! Keeps an engine running, one after another: it prepares it, lets it run, and puts a new configuration into force when
//! it is asked to.
//!
//! A new configuration is read and checked, also against the source, while the old engine streams. One that will not do
//! is refused whole. Where the pipeline itself changes, the engine ends in order and another one is prepared in the same
//! process; if that fails after all, the old configuration comes back into force. The slot, the sinks and their
//! checkpoints are what the next engine goes on from, as after any restart.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::engine::{Blueprint, Engine, RunOptions};
use super::notify;
use super::reload::Request;
use super::source::{Source, read_schema};
use super::view::Prepared;
use crate::config::Config;
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Kind, Result};
use crate::fanout::retry::{Backoff, full_jitter};
use crate::telemetry;

/// How long a run that ends by itself waits for a source that is not ready, such as a slot that a killed run still
/// holds.
const ONE_SHOT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the source may take while a new configuration is checked: shorter than who asks waits for the answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(8);

/// Keeps an engine running.
pub struct Supervisor<L> {
    /// Reads the configuration.
    pub load: L,
    /// The one that is in force, for whoever else goes by it.
    pub in_force: watch::Sender<Arc<Config>>,
    /// The `schema.json` that is in force.
    pub schema: Arc<SchemaFile>,
    /// What every engine is told.
    pub options: RunOptions,
    /// Who asks for the configuration to be read again.
    pub requests: mpsc::Receiver<Request>,
    /// Turns true when the process is to end.
    pub shutdown: watch::Receiver<bool>,
}

/// What is read together: a file that changes on the disk changes nothing by itself.
#[derive(Clone)]
struct Files {
    config: Arc<Config>,
    schema: Arc<SchemaFile>,
}

/// A configuration on its way into force.
struct Reload {
    files: Files,
    request: Request,
    /// What is different.
    outcome: String,
}

/// How a new configuration comes into force.
enum Change {
    /// Nothing is different.
    None,
    /// Whoever uses it looks it up.
    InPlace(Files),
    /// The engine goes on with other sinks.
    Sinks(Files),
    /// By another engine; what is different.
    Engine(Files, String),
}

impl<L: Fn() -> Result<Config>> Supervisor<L> {
    /// Runs until the process is to end, or the engine ends by itself.
    ///
    /// # Errors
    /// What an operator has to resolve.
    pub async fn run(mut self) -> Result<()> {
        let mut reload: Option<Reload> = None;
        loop {
            let Files { config, schema } = match &reload {
                Some(reload) => reload.files.clone(),
                None => Files { config: self.in_force.borrow().clone(), schema: self.schema.clone() },
            };
            let (options, mut shutdown) = (self.options.clone(), self.shutdown.clone());
            let prepared = tokio::select! {
                prepared = prepare(&config, &schema, options) => prepared,
                Some(request) = self.requests.recv() => {
                    self.begin_with_another(request, &mut reload);
                    continue;
                }
                _ = shutdown.wait_for(|asked| *asked) => return Ok(()),
            };
            let engine = match (prepared, reload.take()) {
                (Ok(engine), reload) => {
                    if let Some(Reload { files, request, outcome }) = reload {
                        self.put_into_force(&files);
                        tracing::info!("the new configuration is in force: {outcome}");
                        request.done(outcome);
                    }
                    engine
                }
                (Err(error), Some(Reload { request, .. })) => {
                    tracing::error!(
                        hint = error.hint_text(),
                        "the new configuration fails, and the old one is in force again: {}",
                        error.chain()
                    );
                    request.refuse(error.context("the old configuration is in force again"));
                    continue;
                }
                (Err(error), None) => return Err(error),
            };
            match self.attend(engine).await? {
                Some(next) => reload = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Lets the engine run until it ends, or another configuration needs another one.
    async fn attend(&mut self, engine: Engine) -> Result<Option<Reload>> {
        let handle = engine.handle();
        let mut running = pin!(engine.run(self.shutdown.clone()));
        loop {
            let mut request = tokio::select! {
                ended = &mut running => return ended.map(|()| None),
                Some(request) = self.requests.recv() => request,
            };
            notify::reloading();
            let checked = tokio::select! {
                ended = &mut running => return ended.map(|()| None),
                checked = self.check() => checked,
            };
            match checked {
                Ok(Change::Engine(files, outcome)) => {
                    tracing::info!("a new configuration comes into force: {outcome}");
                    request.accept();
                    handle.replace();
                    if let Err(error) = running.await {
                        tracing::debug!("the engine before: {}", error.chain());
                    }
                    return Ok(Some(Reload { files, request, outcome }));
                }
                Ok(Change::Sinks(files)) => {
                    let followed = tokio::select! {
                        ended = &mut running => return ended.map(|()| None),
                        followed = handle.follow(&files.config) => followed,
                    };
                    match followed {
                        Ok(outcome) => {
                            self.put_into_force(&files);
                            tracing::info!("the new configuration is in force: {outcome}");
                            request.done(outcome);
                        }
                        Err(error) => refuse(request, error),
                    }
                }
                Ok(Change::InPlace(files)) => {
                    self.put_into_force(&files);
                    tracing::info!("a new configuration is in force");
                    request.done("the new configuration is in force".to_owned());
                }
                Ok(Change::None) => {
                    tracing::info!("walcast.toml and schema.json say what they said before");
                    request.done("nothing has changed".to_owned());
                }
                Err(error) => refuse(request, error),
            }
            notify::ready();
        }
    }

    /// While no engine runs: the next attempt goes by the new configuration, if its files will do. What the source has
    /// against it, the attempt finds out.
    fn begin_with_another(&mut self, request: Request, reload: &mut Option<Reload>) {
        let checked = self.read().and_then(|files| {
            Source::new(&files.config.source)?;
            Ok(files)
        });
        let files = match checked {
            Ok(files) => files,
            Err(error) => return refuse(request, error),
        };
        let outcome = "the next attempt to start goes by it".to_owned();
        match reload.take() {
            // What was in force before can still come back.
            Some(Reload { request: before, .. }) => {
                before.refuse(Error::halt("another configuration came before it was in force"));
                let mut request = request;
                request.accept();
                *reload = Some(Reload { files, request, outcome });
            }
            None => {
                tracing::info!("a new configuration: {outcome}");
                self.put_into_force(&files);
                request.done(outcome);
            }
        }
    }

    /// Reads both files, and refuses what a running process cannot follow.
    fn read(&self) -> Result<Files> {
        let next = (self.load)()?;
        let fixed = self.in_force.borrow().difference(&next).fixed;
        if fixed.is_empty() {
            let schema = read_schema(&next.schema)?;
            return Ok(Files { config: Arc::new(next), schema: Arc::new(schema) });
        }
        let settings = fixed.join(", ");
        Err(Error::config(format!("a reload cannot change {settings}"))
            .hint("put back what was there, or restart walcast: it goes on where it was"))
    }

    /// Holds the configuration against what is in force, and against the source.
    async fn check(&self) -> Result<Change> {
        if self.options.until_caught_up {
            return Err(Error::halt("a run that ends by itself keeps its configuration")
                .hint("the next run reads the new one"));
        }
        let files = self.read()?;
        let Files { config: next, schema } = &files;
        Blueprint::check_sinks(next)?;
        let drawn = tokio::time::timeout(CHECK_TIMEOUT, Blueprint::draw(next, schema)).await;
        let blueprint = drawn.unwrap_or_else(|_| Err(Error::transient("the source takes too long")))?;
        let Some(prepared) = self.options.view.prepared() else {
            return Err(Error::bug("an engine runs that was not prepared"));
        };
        is_same_source(&prepared, &blueprint)?;
        let difference = self.in_force.borrow().difference(next);
        let has_stopped = prepared.progress.sinks().iter().any(|sink| !sink.is_running());
        let mut changed: Vec<&str> = difference.pipeline.clone();
        if !prepared.plan.is_same(blueprint.plan()) {
            changed.push("tables");
        }
        Ok(match changed[..] {
            [] if difference.sinks || has_stopped => Change::Sinks(files),
            [] if difference.is_none() => Change::None,
            [] => Change::InPlace(files),
            _ => Change::Engine(files, format!("other {}", changed.join(", "))),
        })
    }

    fn put_into_force(&mut self, Files { config, schema }: &Files) {
        self.schema = schema.clone();
        let names = |config: &Config| -> Vec<String> {
            config.sinks.iter().map(|sink| sink.name.to_string()).collect()
        };
        let (before, now) = (names(&self.in_force.send_replace(config.clone())), names(config));
        before.iter().filter(|name| !now.contains(name)).for_each(|name| telemetry::sink_gone(name));
        now.iter().for_each(|name| telemetry::sink_expected(name));
    }
}

fn refuse(request: Request, error: Error) {
    tracing::error!(
        kind = error.kind().as_str(),
        hint = error.hint_text(),
        "the new configuration is refused, and the old one stays in force: {}",
        error.chain()
    );
    request.refuse(error);
}

/// Refuses another database: what is in the replicas is not its.
fn is_same_source(prepared: &Prepared, blueprint: &Blueprint) -> Result<()> {
    let (old, new) = (&prepared.identity, blueprint.identity());
    match old.system_identifier == new.system_identifier && old.database == new.database {
        true => Ok(()),
        false => Err(Error::config("a reload cannot change source.url to another database")
            .hint("put back what was there, or restart walcast: it says what becomes of the replicas")),
    }
}

/// Prepares the engine. One that runs on waits for a source that is not there yet, or for the engine that it follows;
/// one that ends by itself soon says so.
pub(super) async fn prepare(config: &Config, schema: &SchemaFile, options: RunOptions) -> Result<Engine> {
    let patience = options.until_caught_up.then(|| Instant::now() + ONE_SHOT_PATIENCE);
    let gives_up = [patience, options.ends].into_iter().flatten().min();
    let backoff = Backoff { initial: config.retry.initial, max: config.retry.max };
    let mut rng = fastrand::Rng::new();
    for attempt in 0.. {
        match Engine::prepare(config, schema, options.clone()).await {
            Err(error) if error.kind() == Kind::Transient => {
                let wait = full_jitter(attempt, backoff, &mut rng);
                if gives_up.is_some_and(|gives_up| Instant::now() + wait > gives_up) {
                    return Err(error);
                }
                options.view.set_waiting(&error);
                tracing::warn!(
                    wait_ms = wait.as_millis() as u64,
                    hint = error.hint_text(),
                    "the source is not ready, retrying: {}",
                    error.chain()
                );
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = options.demand.asked() => {}
                }
            }
            prepared => return prepared,
        }
    }
    unreachable!("the loop returns")
}
