//! How fast a prepared backlog is drained, beside `pg_recvlogical` on a copy of the same slot, and how long a commit
//! takes until a replica shows it. One command: `make bench`, or
//!
//! ```text
//! cargo bench --bench drain -- [--scale 0.1] [--rounds 1] [--only narrow,tpcb,latency]
//! ```
//!
//! For each workload a slot is made, the workload is written, and then every consumer drains its own copy of that
//! slot, in turn and in several rounds, so that each sees the same WAL and the same moods of the machine. Time runs
//! from the start of the consumer's process to its exit. `benches/results.md` and `benches/results.svg` are written
//! at the end of a full run, or where `--output` says.

mod consumer;
mod d1;
mod latency;
#[path = "../support/machine.rs"]
mod machine;
mod measure;
mod report;
mod server;
mod sqlite;
mod stage;
mod workload;

use std::path::{Path, PathBuf};

use clap::Parser;
use walcast::error::{Error, Result};

use consumer::Consumer;
use measure::Spread;
use report::{Drained, Report};
use server::Server;
use workload::Workload;

/// The part of each workload that is drained into D1: workerd takes fewer rows a second.
const D1_SCALE: f64 = 0.3;

/// Measures walcast beside pg_recvlogical on a throwaway Postgres
#[derive(Parser)]
pub struct Arguments {
    /// Multiplies the number of rows
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How often each consumer drains each backlog
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What to measure: narrow, tpcb, update, wide, giant, d1, ceiling, latency; everything by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Which consumers drain, by a part of their name; all by default
    #[arg(long, value_delimiter = ',')]
    consumers: Vec<String>,
    /// The directory for results.md and results.svg; without it, benches/ after a full run and else none
    #[arg(long)]
    output: Option<PathBuf>,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    fn output(&self) -> Option<PathBuf> {
        let is_full = self.only.is_empty() && self.consumers.is_empty() && self.scale == 1.0;
        let benches = || Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        self.output.clone().or_else(|| is_full.then(benches))
    }
}

fn main() -> Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test` only wants to know that this builds.
        return Ok(());
    }
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.only.iter().find(|&name| !is_known(name)) {
        return Err(Error::config(format!("--only {unknown}: there is no such measurement")));
    }
    let mut server = Server::start()?;
    let mut report = Report::new(server.version()?, &arguments);
    for workload in Workload::ALL.into_iter().filter(|workload| arguments.wants(workload.name())) {
        report.workloads.push(drain(&mut server, workload, &Consumer::ALL, 1.0, &arguments)?);
    }
    if arguments.wants("d1") {
        for workload in [Workload::Narrow, Workload::Update, Workload::Wide] {
            report.workloads.push(drain(&mut server, workload, &Consumer::INTO_D1, D1_SCALE, &arguments)?);
        }
    }
    if arguments.wants("latency") {
        for regions in [1, 6] {
            report.latencies.push(latency::measure(&mut server, regions)?);
        }
    }
    // Last, because it happens in this process and makes it larger.
    if arguments.wants("ceiling") {
        for files in [1, 6] {
            report.ceilings.push(sqlite::measure(files, scaled(1_000_000, arguments.scale))?);
        }
    }
    println!("\n{}", report.markdown());
    if let Some(directory) = arguments.output() {
        report.write(&directory)?;
        println!("written: {0}/results.md and {0}/results.svg", directory.display());
    }
    Ok(())
}

fn is_known(name: &str) -> bool {
    ["d1", "latency", "ceiling"].contains(&name)
        || Workload::ALL.iter().any(|workload| workload.name() == name)
}

fn scaled(count: u64, scale: f64) -> u64 {
    // Whole transactions of 1,000, so that rates at different scales mean the same.
    ((count as f64 * scale / 1000.0).round() as u64).max(1) * 1000
}

/// Writes one workload's backlog and lets every consumer drain it in every round.
fn drain(
    server: &mut Server,
    workload: Workload,
    consumers: &[Consumer],
    scale: f64,
    arguments: &Arguments,
) -> Result<Drained> {
    eprintln!("{}: writing the backlog", workload.name());
    let backlog = workload.write(server, arguments.scale * scale)?;
    let consumers: Vec<Consumer> =
        consumers.iter().copied().filter(|consumer| consumer.is_among(&arguments.consumers)).collect();
    let mut samples = vec![Vec::new(); consumers.len()];
    for round in 1..=arguments.rounds {
        for (consumer, samples) in consumers.iter().zip(&mut samples) {
            let sample = consumer.drain(server, &backlog)?;
            eprintln!(
                "{} {round}/{}: {:<32} {:>9.0} rows/s  {:>5.2} s  cpu {:>5.2} s  walsender {:>5.2} s  {:>4.0} MiB  {}",
                workload.name(),
                arguments.rounds,
                consumer.name(),
                backlog.changes as f64 / sample.seconds,
                sample.seconds,
                sample.cpu_seconds,
                sample.walsender_cpu_seconds,
                sample.peak_mib,
                sample.in_flight()
            );
            samples.push(sample);
        }
    }
    backlog.remove(server)?;
    let spreads = samples.iter().map(|samples| Spread::of(samples));
    Ok(Drained { workload, changes: backlog.changes, results: consumers.into_iter().zip(spreads).collect() })
}
