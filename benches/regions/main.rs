//! Whether regions that come, go, are deleted or are down move the others: six regional replicas in SQLite files, or with
//! `--d1` in D1 databases on a local workerd, on a throwaway Postgres, with the real binary, while somebody writes. One
//! command:
//!
//! ```text
//! cargo bench --bench regions -- [--scale 0.1] [--writes 1000] [--d1] [--output directory]
//! ```
//!
//! In one run, one after the other: nothing happens; somebody else copies the table into a file (what a fill costs anyway,
//! so that a lack of processors can be told from waiting); a seventh region is added by a reload; a region is deleted
//! while walcast writes it; a region is down for a minute, and comes back; the seventh is taken out; nothing happens again.
//!
//! Printed is how old the newest change of the *other* regions was in each phase, read from them as an application
//! does, and the ratio to the first phase. It fails where a region was filled that lacked nothing, `/livez` was ever
//! other than 200, `/readyz`, `/status`, `/metrics` and the page's `/events` did not agree about the region that is down,
//! or a replica differs from the source at the end. After a full run `results.md` is written, to `benches/regions` or to
//! `benches/regions/d1`.

mod ages;
mod api;
#[path = "../support/copy.rs"]
mod copy;
#[path = "../support/engine.rs"]
mod engine;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/over.rs"]
mod over;
#[path = "../support/percentiles.rs"]
mod percentiles;
mod regions;
mod report;
#[path = "../support/source.rs"]
mod source;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rusqlite::Connection;
use walcast::app::demo::Cluster;

use ages::Ages;
use api::Api;
use engine::{Engine, REGIONS, walcast};
use over::Over;
use regions::Regions;
use report::{Phase, Report};
use source::Source;

/// Measures what regions that come, go or are down do to the others
#[derive(Parser)]
struct Arguments {
    /// Multiplies the number of rows and the length of the phases
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Rows that are written a second
    #[arg(long, default_value_t = 1000)]
    writes: u64,
    /// With D1 databases on a local workerd, and a tenth of the rows
    #[arg(long)]
    d1: bool,
    /// The directory for results.md; without it, benches/regions/ after a full run and else none
    #[arg(long)]
    output: Option<PathBuf>,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The region that comes and goes.
const SEVENTH: &str = "seventh";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const ROWS: f64 = 1_000_000.0;
/// workerd takes fewer rows a second.
const D1_SHARE: f64 = 0.1;
/// How long a phase lasts in which nothing has to end.
const QUIET: Duration = Duration::from_secs(30);
const DOWN: Duration = Duration::from_secs(60);
/// Below this there is nothing to see: the API looks once a second, and SQLite waits for a lock for five.
const QUIET_MIN: Duration = Duration::from_secs(4);
const DOWN_MIN: Duration = Duration::from_secs(15);
/// Rows that one commit of the writer changes.
const WRITTEN_AT_ONCE: u64 = 5;
const SCHEMA: &str = r#"{
    "items": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER", "body": "TEXT"}}
}"#;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test` only wants to know that this builds.
        return;
    }
    let arguments = Arguments::parse();
    let share = if arguments.d1 { D1_SHARE } else { 1.0 };
    let rows = (ROWS * share * arguments.scale) as u64;
    let cluster = Cluster::builder().start().expect("a server");
    let url = cluster.url();
    let source = Source::connect(&url);
    source.execute(&format!(
        "CREATE TABLE items (id bigint PRIMARY KEY, n bigint NOT NULL, body text);
         INSERT INTO items SELECT i, i, md5(i::text) FROM generate_series(1, {rows}) i; ANALYZE items"
    ));
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let with_seventh: Vec<&str> = REGIONS.into_iter().chain([SEVENTH]).collect();
    let regions = match arguments.d1 {
        true => Regions::databases(&with_seventh),
        false => Regions::files(directory),
    };
    // One that a command finds in the configuration.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    drop(listener);
    let sections = |names: &[&str]| {
        // A queue that a region that is down fills within the phase.
        format!(
            "[source]\nurl = \"{url}\"\n[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n[queue]\nmax_bytes = \"1MiB\"\n\
             [transaction]\npart_max_bytes = \"256KiB\"\n{}",
            regions.sections(names)
        )
    };
    engine::configure(directory, &sections(&REGIONS), SCHEMA);
    let engine = Engine::start(directory, &[]);
    let api = Api::new(&engine.address());
    api.await_ready();

    let scaled = |time: Duration, least: Duration| time.mul_f64(arguments.scale).max(least);
    let (quiet, down) = (scaled(QUIET, QUIET_MIN), scaled(DOWN, DOWN_MIN));
    let (is_over, mut report) =
        (AtomicBool::new(false), Report::new(&source, regions.kind(), rows, arguments.writes));
    std::thread::scope(|scope| {
        // Whatever panics here, the others end.
        let over = Over(&is_over);
        scope.spawn(|| write(&url, rows, arguments.writes, &is_over));
        let liveness = scope.spawn(|| api.watch_liveness(&is_over));
        let mut ages = Ages::new(&regions, &REGIONS);
        let mut measure =
            |name: &str, without: Option<&str>, filled: Option<&str>, act: &(dyn Fn() + Sync)| {
                let (before, started) = (api.filled(), Instant::now());
                let found = ages.measure(without, act);
                let took = started.elapsed();
                let after = api.filled();
                for (region, count) in &after {
                    let new = count - before.get(region).copied().unwrap_or(0.0);
                    assert!(new == 0.0 || Some(region.as_str()) == filled, "{name}: {region} got {new} rows");
                    assert!(
                        new >= rows as f64 * 0.99 || Some(region.as_str()) != filled,
                        "{name}: only {new} rows"
                    );
                }
                report.add(Phase::new(name, took, filled.map(|_| rows), found));
            };
        let wait = || std::thread::sleep(quiet);
        // The first looks are slower than all others.
        std::thread::sleep(QUIET_MIN);
        measure("nothing happens", None, None, &wait);
        measure("somebody else copies the table", None, None, &|| copy_beside(&url, directory));
        measure("a seventh region comes", None, Some(SEVENTH), &|| {
            reload(directory, &sections(&with_seventh), "sinks: seventh comes");
            api.await_ready();
        });
        measure("a region is deleted", Some("sa"), Some("sa"), &|| {
            regions.delete("sa");
            api.await_problem("sa");
            if arguments.d1 {
                // What it costs to fill a database is for an operator to decide.
                reload(directory, &sections(&with_seventh), "sinks: sa begins anew");
            }
            api.await_ready();
        });
        measure("a region is down", Some("na"), None, &|| {
            let region = regions.take_down("na");
            api.await_failing("na");
            let until = Instant::now() + down;
            while Instant::now() < until {
                api.assert_all_name("na", &with_seventh);
                std::thread::sleep(Duration::from_secs(1));
            }
            drop(region);
        });
        measure("it comes back", Some("na"), None, &|| {
            api.await_attached("na");
            wait();
        });
        measure("the seventh region goes", None, None, &|| {
            reload(directory, &sections(&REGIONS), "sinks: seventh goes");
            wait();
        });
        measure("nothing happens again", None, None, &wait);
        drop(over);
        report.livez = liveness.join().expect("/livez is 200 throughout");
    });
    report.peak_mib = engine.peak_mib();
    await_equal(&source, &regions);
    engine.stop();
    println!("\n{}", report.markdown());
    let results = if arguments.d1 { "benches/regions/d1" } else { "benches/regions" };
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join(results);
    if let Some(directory) = arguments.output.or((arguments.scale == 1.0).then_some(results)) {
        report.write(&directory);
    }
}

/// Changes rows, and adds some, at this rate.
fn write(url: &str, rows: u64, rate: u64, is_over: &AtomicBool) {
    let (source, mut random) = (Source::connect(url), fastrand::Rng::with_seed(5));
    let (started, mut written, mut last) = (Instant::now(), 0, rows);
    while !is_over.load(Ordering::Relaxed) && rate > 0 {
        let from = random.u64(1..=rows);
        written += match random.u32(..4) {
            0 => {
                let first = last + 1;
                last += WRITTEN_AT_ONCE;
                source.write(&format!(
                    "INSERT INTO items SELECT i, i, md5(i::text) FROM generate_series({first}, {last}) i"
                ))
            }
            _ => source.write(&format!(
                "UPDATE items SET n = n + 1 WHERE id >= {from} AND id < {from} + {WRITTEN_AT_ONCE}"
            )),
        };
        let due = Duration::from_secs_f64(written as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

/// Reads the table and writes it to a file, as a fill does, but outside of walcast.
fn copy_beside(url: &str, directory: &Path) {
    let path = directory.join("copy");
    let mut file = Connection::open(&path).expect("a file");
    let create =
        "PRAGMA journal_mode = WAL; CREATE TABLE items (id INTEGER PRIMARY KEY, n INTEGER, body TEXT) STRICT";
    file.execute_batch(create).expect("a table");
    copy::copy_into(&mut file, url, "items", 3);
    drop(file);
    std::fs::remove_file(path).expect("it is there");
}

/// Puts another configuration into force; `says` is what becomes of it.
fn reload(directory: &Path, config: &str, says: &str) {
    engine::configure(directory, config, SCHEMA);
    let output = walcast(directory, &["reload"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("done: {says}\n"), "{output:?}");
}

/// Waits until every replica equals the source, which nobody writes to any more.
fn await_equal(source: &Source, regions: &Regions) {
    let sums =
        "SELECT count(*) || ' ' || sum(n) || ' ' || sum(n * (id % 1009)) || ' ' || max(body) FROM items";
    let (expected, started) = (source.texts(sums), Instant::now());
    for name in REGIONS {
        let reader = regions.reader(name);
        while reader.text(sums) != expected[0] {
            assert!(
                started.elapsed() < api::TIMEOUT,
                "{name} has {}, not {}",
                reader.text(sums),
                expected[0]
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
