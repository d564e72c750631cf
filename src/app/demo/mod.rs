//! `walcast demo`: a throwaway Postgres, the engine as a child process, and a replica per region. A mixed workload runs
//! for some seconds, in the middle of which the engine is killed; at the end every row of every region is compared with
//! Postgres. Tests and benches use the same [`Cluster`].
//!
//! The engine is the binary itself, started as an operator would (`walcast run`). Everything else here looks at it from
//! outside: Postgres by SQL, the replicas by reading their files.
//!
//! In reading order: `stage` and `store` (what it plays on), `process` (the engine), `workload`, `changes` and
//! `extremes` (what is written), `watch` and `latency` (what is measured), `screen` (what is seen), `compare` and
//! `verdict` (what it comes to).

mod changes;
pub mod cluster;
mod compare;
mod extremes;
mod latency;
mod launch;
mod process;
mod replica;
mod screen;
mod session;
mod stage;
mod store;
mod verdict;
mod watch;
pub mod workerd;
mod workload;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

pub use cluster::Cluster;
pub use workerd::Workerd;

use super::cli::Global;
use crate::Lsn;
use crate::error::{Error, Result};
use latency::Prober;
use process::EngineProcess;
use replica::Address;
use screen::{Frame, Screen};
use session::Session;
use stage::Stage;
use verdict::{Evidence, Verdict};
use watch::Watch;
use workload::{Counts, LARGE_BEFORE_KILL, Workload};

/// How long the engine may take until every replica has its first checkpoint.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the regions may take to the last position after the workload has ended.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the demo looks at what its parts do.
const POLL: Duration = Duration::from_millis(5);

const EXAMPLES: &str = "\
Examples:
  walcast demo                            ten seconds, six regions
  walcast demo --seconds 60 --writers 16  longer, with more load
  walcast demo --d1                       into D1 databases on a local workerd, not files
  walcast demo --keep                     leaves the replicas, to look at them with sqlite3
  walcast demo --json > verdict.json      the verdict for a program

It needs the Postgres server binaries on this machine (WALCAST_PG_BIN names another directory), and touches no server
but its own. It exits with 0 only if every row of every region is equal to Postgres.";

/// What `walcast demo` takes.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How long the workload runs
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=3600))]
    seconds: u64,
    /// How many regions have a replica
    #[arg(long, value_name = "N", default_value_t = stage::REGIONS_MAX,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(stage::REGIONS_MAX)))]
    regions: u16,
    /// How many connections write at once, beside the one for large transactions
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// Replicate into D1 databases on a local workerd instead of files
    #[arg(long)]
    d1: bool,
    /// Leave the directory with the replicas
    #[arg(long, conflicts_with = "d1")]
    keep: bool,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// Shows the demo. The exit code is 0 if everything was equal, else 1.
///
/// # Errors
/// Where it could not be shown to its end; everything is cleaned up then too.
pub async fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    global.log()?;
    let stop = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals =
            signal(kind).map_err(|error| Error::halt("installing a signal handler").because(error))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.store(true, Ordering::Relaxed);
            // The second one ends this process at once, and with it Postgres and the engine.
            signals.recv().await;
            std::process::exit(1);
        });
    }
    // The demo's own threads block; this one is left to the signals.
    let shown = tokio::task::spawn_blocking(move || show(&arguments, &stop)).await;
    shown.map_err(|_| Error::bug("the demo panicked"))?
}

fn show(arguments: &Arguments, stop: &Arc<AtomicBool>) -> Result<ExitCode> {
    let mut screen = Screen::new();
    screen.say(match arguments.d1 {
        true => "starting a throwaway Postgres with an app store, and a workerd with a D1 database for each region",
        false => "starting a throwaway Postgres, creating an app store in it",
    });
    let stage = Stage::set(arguments.regions, arguments.d1)?;
    let verdict = Show::begin(arguments, &stage, &mut screen, stop).and_then(Show::run);
    screen.clear();
    if let Ok(verdict) = &verdict {
        match arguments.json {
            true => {
                println!("{}", serde_json::to_string_pretty(verdict).expect("numbers and texts serialise"))
            }
            false => println!("{verdict}"),
        }
    }
    if arguments.keep {
        say_kept(&stage.keep());
    }
    Ok(if verdict?.is_equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say_kept(directory: &Path) {
    let directory = directory.display();
    eprintln!("kept: {directory}");
    eprintln!("  sqlite3 -box {directory}/na.db 'SELECT * FROM _walcast_checkpoint'");
    eprintln!(
        "  sqlite3 -box {directory}/na.db 'SELECT id, name, price, rating, updated FROM apps LIMIT 20'"
    );
    eprintln!("  less {directory}/engine.log");
}

/// A running demo.
struct Show<'a> {
    arguments: &'a Arguments,
    stage: &'a Stage,
    screen: &'a mut Screen,
    stop: &'a Arc<AtomicBool>,
    source: Session,
    /// `None` only between the kill and the new start.
    engine: Option<EngineProcess>,
    peak_memory_bytes: Option<u64>,
    counts: Arc<Counts>,
    watch: Watch,
    prober: Prober,
    begin: Instant,
}

impl<'a> Show<'a> {
    /// Starts the engine and everything that looks at it.
    fn begin(
        arguments: &'a Arguments,
        stage: &'a Stage,
        screen: &'a mut Screen,
        stop: &'a Arc<AtomicBool>,
    ) -> Result<Self> {
        screen.say(format!("starting walcast run with {} regions", stage.regions().len()));
        let mut engine = EngineProcess::start(stage.path())?;
        await_first_checkpoints(stage, &mut engine, stop)?;
        let (url, counts) = (stage.url(), Arc::new(Counts::default()));
        Ok(Show {
            arguments,
            stage,
            screen,
            stop,
            source: Session::connect(&url)?,
            engine: Some(engine),
            peak_memory_bytes: None,
            watch: Watch::start(&url, stage.replicas())?,
            prober: Prober::start(&url, stage.replicas(), &counts)?,
            counts,
            begin: Instant::now(),
        })
    }

    fn run(mut self) -> Result<Verdict> {
        let length = Duration::from_secs(self.arguments.seconds);
        self.screen.say(format!(
            "{} writers for {} s: inserts, partial updates, changed keys, deletes, truncates, 20,000 rows at once",
            self.arguments.writers, self.arguments.seconds
        ));
        self.begin = Instant::now();
        let workload =
            Workload::start(&self.stage.url(), self.arguments.writers, length, &self.counts, self.stop)?;
        let mut is_killed = false;
        while !workload.has_ended() {
            self.look()?;
            if !is_killed && self.counts.large.load(Ordering::Relaxed) >= LARGE_BEFORE_KILL {
                self.kill()?;
                is_killed = true;
            }
        }
        workload.join()?;
        if !is_killed {
            self.kill()?;
        }
        let workload = self.begin.elapsed();
        self.prober.end()?;
        self.await_last_position()?;
        self.judge(workload)
    }

    /// Renews the screen where it is time, and ends where something else has.
    fn look(&mut self) -> Result<()> {
        check(self.stop)?;
        if let Some(engine) = &mut self.engine {
            engine.check()?;
        }
        self.note_memory();
        if self.screen.is_due() {
            let frame = Frame {
                regions: self.stage.regions(),
                elapsed: self.begin.elapsed(),
                length: Duration::from_secs(self.arguments.seconds),
                pid: self.engine.as_ref().map_or(0, EngineProcess::pid),
                peak_memory_bytes: self.peak_memory_bytes.unwrap_or(0),
                committed: self.counts.transactions.load(Ordering::Relaxed),
                watched: self.watch.watched(),
                latencies: self.prober.found(),
            };
            self.screen.draw(&frame);
        }
        thread::sleep(POLL);
        Ok(())
    }

    fn note_memory(&mut self) {
        let now = self.engine.as_ref().and_then(EngineProcess::peak_memory_bytes);
        self.peak_memory_bytes = self.peak_memory_bytes.max(now);
    }

    /// Kills the engine and starts it again, as a supervisor would.
    fn kill(&mut self) -> Result<()> {
        let Some(engine) = self.engine.take() else { return Ok(()) };
        let killed = engine.pid();
        self.prober.killed();
        engine.kill()?;
        let engine = self.engine.insert(EngineProcess::start(self.stage.path())?);
        self.screen.say(format!(
            "{:.1} s: SIGKILL to the engine (process {killed}), 20,000 rows are on their way; started again as process {}",
            self.begin.elapsed().as_secs_f64(),
            engine.pid()
        ));
        Ok(())
    }

    /// Waits until every region has what the source has, now that nobody writes any more.
    fn await_last_position(&mut self) -> Result<()> {
        let target = self.text("SELECT pg_current_wal_lsn()::text")?;
        let target: Lsn = target.parse().map_err(|error| Error::bug("reading an LSN").because(error))?;
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        self.screen.say(format!("the writers have ended; waiting for {target} in every region"));
        let replicas = self.stage.replicas();
        let is_live = |replica: &Address| replica.open()?.is_live();
        loop {
            let is_there = self.watch.watched().positions.iter().all(|position| position.lsn >= target);
            // Rows that have to be read by themselves come a little after the stream.
            if is_there && replicas.iter().map(is_live).collect::<Result<Vec<_>>>()?.into_iter().all(|is| is)
            {
                return Ok(());
            }
            self.look()?;
            if Instant::now() > deadline {
                let what = format!("not every region is at {target} after {CATCH_UP_TIMEOUT:?}");
                return Err(self
                    .engine
                    .as_ref()
                    .map_or(Error::bug("no engine"), |engine| engine.failure(what)));
            }
        }
    }

    /// Ends the engine in order, compares, and draws the conclusion.
    fn judge(mut self, workload: Duration) -> Result<Verdict> {
        self.note_memory();
        if let Some(engine) = self.engine.take() {
            engine.stop()?;
        }
        self.watch.end()?;
        self.screen.say("comparing every row of every region with Postgres");
        let regions = self.stage.replicas();
        let comparisons = compare::compare(&self.source, &store::TABLES, &regions)?;
        check(self.stop)?;
        let dead_letters =
            |region: &Address| region.open()?.count("SELECT count(*) FROM _walcast_dead_letters");
        let ledger_rows = self.text("SELECT count(*)::text FROM ledger")?;
        Ok(Verdict::new(Evidence {
            regions: self.stage.regions(),
            comparisons,
            dead_letters: regions.iter().map(dead_letters).collect::<Result<_>>()?,
            watched: self.watch.watched(),
            latencies: self.prober.found(),
            workload,
            transactions: self.counts.transactions.load(Ordering::Relaxed),
            row_changes: self.counts.changes.load(Ordering::Relaxed),
            ledger_rows: ledger_rows.parse().map_err(|error| Error::bug("reading a count").because(error))?,
            peak_memory_bytes: self.peak_memory_bytes,
            d1_violations: self.stage.violations()?,
        }))
    }

    /// The single text that a query returns.
    fn text(&self, sql: &str) -> Result<String> {
        let rows = self.source.query(sql)?;
        rows.first().map(|row| row.get(0)).ok_or_else(|| Error::bug(format!("no row: {sql}")))
    }
}

/// Waits until each replica has a checkpoint, so that nothing is written before the slot exists.
fn await_first_checkpoints(stage: &Stage, engine: &mut EngineProcess, stop: &AtomicBool) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    for (name, region) in stage.regions().iter().zip(stage.replicas()) {
        while !region.exists() || region.open()?.position()?.is_none() {
            check(stop)?;
            engine.check()?;
            if Instant::now() > deadline {
                return Err(
                    engine.failure(format!("region {name} has no checkpoint after {START_TIMEOUT:?}"))
                );
            }
            thread::sleep(POLL);
        }
    }
    Ok(())
}

fn check(stop: &AtomicBool) -> Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::halt("interrupted; Postgres and engine have been stopped")),
        false => Ok(()),
    }
}
