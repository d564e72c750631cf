//! How fast six regional replicas are filled while their tables change, beside `COPY … TO STDOUT` of the same tables to
//! /dev/null, and beside a plain copy into one SQLite file. On a throwaway Postgres, with the real binary, which is killed
//! on the way:
//!
//! ```text
//! cargo bench --bench fill -- [--rows 5000000] [--kills 5] [--writes 2000]
//! ```
//!
//! It ends only if every replica equals the source, and prints the rates, the lag of the live changes, and the memory.

#[path = "support/copy.rs"]
mod copy;
#[path = "support/engine.rs"]
mod engine;
#[path = "support/percentiles.rs"]
mod percentiles;
#[path = "support/source.rs"]
mod source;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use walcast::app::demo::Cluster;

use copy::{copy_into, psql};
use engine::{Engine, REGIONS, sqlite_sinks, walcast};
use percentiles::percentiles;
use source::Source;

/// Measures a fill beside a plain COPY
#[derive(Parser)]
struct Arguments {
    /// Rows of all three tables together
    #[arg(long, default_value_t = 5_000_000)]
    rows: u64,
    /// How often the engine is killed and started again
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Rows that are changed a second meanwhile
    #[arg(long, default_value_t = 2000)]
    writes: u64,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const TABLES: [&str; 3] = ["pairs", "wide", "uuids"];
const SCHEMA: &str = r#"{
    "pairs": {"primaryKey": ["tenant", "id"], "columns": {"tenant": "INTEGER", "id": "INTEGER", "n": "INTEGER"}},
    "wide": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER", "body": "TEXT"}},
    "uuids": {"primaryKey": "id", "columns": {"id": "TEXT", "n": "INTEGER"}}
}"#;
/// Rows that one statement of the writer changes.
const WRITTEN_AT_ONCE: u64 = 20;
const TICK: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(3600);

fn main() {
    let arguments = Arguments::parse();
    let cluster = Cluster::builder().start().expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let source = Source::connect(&cluster.url());
    create(&source, arguments.rows);
    let copied = time(|| copy_out(&cluster.url()));
    let loaded = time(|| load_one(&cluster.url(), &directory.path().join("plain.db")));
    let rate = |time: Duration| arguments.rows as f64 / time.as_secs_f64() / 1000.0;
    println!("{} rows in three tables", arguments.rows);
    println!("COPY TO STDOUT to /dev/null    {:>7.0} k rows/s", rate(copied));
    println!("a plain copy into one SQLite   {:>7.0} k rows/s", rate(loaded));

    let config = format!("[source]\nurl = \"{}\"\n{}", cluster.url(), sqlite_sinks(&REGIONS));
    engine::configure(directory.path(), &config, SCHEMA);
    let stop = AtomicBool::new(false);
    let (mut lags, mut memory, mut filled) = (Vec::new(), 0, Duration::ZERO);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&cluster.url(), arguments.rows, arguments.writes, &stop));
        let started = Instant::now();
        let mut engine = Engine::start(directory.path(), &[]);
        let mut kills = 0;
        loop {
            std::thread::sleep(TICK);
            assert!(started.elapsed() < LIMIT, "the fill does not end");
            memory = memory.max(engine.peak_mib());
            let regions: Vec<Option<Region>> =
                REGIONS.iter().map(|name| look(directory.path(), name)).collect();
            lags.extend(regions.iter().flatten().filter_map(|region| region.lag));
            let rows: u64 = regions.iter().flatten().map(|region| region.rows).min().unwrap_or_default();
            if rows * u64::from(arguments.kills + 1) > arguments.rows * u64::from(kills + 1)
                && kills < arguments.kills
            {
                kills += 1;
                engine.kill();
                engine = Engine::start(directory.path(), &[]);
            }
            if regions.iter().all(|region| region.as_ref().is_some_and(|region| region.is_live)) {
                break;
            }
        }
        filled = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer writes");
        engine.stop();
        println!(
            "{} kills, {written} rows changed meanwhile ({:.0} a second)",
            kills,
            written as f64 / filled.as_secs_f64()
        );
    });
    let caught_up = walcast(directory.path(), &["run", "--until-caught-up"]);
    assert!(caught_up.status.success(), "the last changes arrive: {caught_up:?}");
    compare(&source, directory.path());
    let [p50, p99, max] = percentiles(&mut lags, [0.5, 0.99, 1.0]);
    println!(
        "walcast into six SQLite files  {:>7.0} k rows/s into each ({:.1} s)",
        rate(filled),
        filled.as_secs_f64()
    );
    println!(
        "that is {:.2} of COPY and {:.2} of the plain copy into one, six times over",
        copied.as_secs_f64() / filled.as_secs_f64(),
        loaded.as_secs_f64() / filled.as_secs_f64()
    );
    println!("age of the newest change in a replica: p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms");
    println!("memory at most {memory} MiB; every replica equals the source");
}

fn time(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// Half of the rows have a composite key, one in twenty-five is wide, the rest have uuids.
fn create(source: &Source, rows: u64) {
    let (pairs, wide) = (rows / 2, rows / 25);
    source.execute(
        &format!(
            "CREATE TABLE pairs (tenant int, id bigint, n bigint NOT NULL, PRIMARY KEY (tenant, id));
             CREATE TABLE wide (id bigint PRIMARY KEY, n bigint NOT NULL, body text);
             CREATE TABLE uuids (id uuid PRIMARY KEY, n bigint NOT NULL);
             INSERT INTO pairs SELECT i % 100, i, i FROM generate_series(1, {pairs}) i;
             INSERT INTO wide SELECT i, i, repeat(md5(i::text), 32) FROM generate_series(1, {wide}) i;
             INSERT INTO uuids SELECT md5(i::text)::uuid, i FROM generate_series(1, {}) i;
             CREATE INDEX ON uuids (n);
             CREATE INDEX ON pairs (id);
             VACUUM ANALYZE",
            rows - pairs - wide
        )
        .replace("VACUUM ANALYZE", "ANALYZE"),
    );
}

fn copy_out(url: &str) {
    for table in TABLES {
        let status = psql(url, &format!("COPY {table} TO STDOUT")).stdout(Stdio::null()).status();
        assert!(status.expect("psql runs").success());
    }
}

/// All three tables into one file, each in one transaction.
fn load_one(url: &str, path: &Path) {
    let mut file = Connection::open(path).expect("a file");
    file.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE pairs (tenant INTEGER, id INTEGER, n INTEGER, PRIMARY KEY (tenant, id)) STRICT, WITHOUT ROWID;
         CREATE TABLE wide (id INTEGER PRIMARY KEY, n INTEGER, body TEXT) STRICT;
         CREATE TABLE uuids (id TEXT PRIMARY KEY, n INTEGER) STRICT, WITHOUT ROWID;",
    )
    .expect("the tables");
    for (table, columns) in TABLES.into_iter().zip([3, 3, 2]) {
        copy_into(&mut file, url, table, columns);
    }
}

/// Changes rows all over the tables at this rate; returns how many.
fn write(url: &str, rows: u64, rate: u64, stop: &AtomicBool) -> u64 {
    let source = Source::connect(url);
    let (started, mut written, mut random) = (Instant::now(), 0, fastrand::Rng::with_seed(5));
    while !stop.load(Ordering::Relaxed) {
        let from = random.u64(1..rows / 2);
        let to = from + WRITTEN_AT_ONCE;
        let text = match random.u32(..3) {
            0 => format!("UPDATE pairs SET n = n + 1 WHERE id >= {from} AND id < {to}"),
            1 => format!("UPDATE uuids SET n = n + {rows} WHERE n >= {from} AND n < {to}"),
            _ => format!(
                "UPDATE wide SET n = n + 1 WHERE id >= {0} AND id < {0} + {WRITTEN_AT_ONCE}",
                from % (rows / 25)
            ),
        };
        written += source.write(&text);
        let due = Duration::from_secs_f64(written as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    written
}

/// A replica as its readers see it.
struct Region {
    rows: u64,
    is_live: bool,
    /// How long ago its newest transaction was committed.
    lag: Option<Duration>,
}

fn look(directory: &Path, name: &str) -> Option<Region> {
    let path: PathBuf = directory.join(format!("{name}.db"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let file = Connection::open_with_flags(path, flags).ok()?;
    let checkpoint = "SELECT lsn, commit_time_micros FROM _walcast_checkpoint";
    let (lsn, committed): (String, Option<i64>) =
        file.query_row(checkpoint, [], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
    let lsn: walcast::Lsn = lsn.parse().ok()?;
    let mut statement = file.prepare("SELECT fill FROM _walcast_fills").ok()?;
    let fills: Vec<String> =
        statement.query_map([], |row| row.get(0)).ok()?.collect::<Result<_, _>>().ok()?;
    let (mut rows, mut is_live) = (0, !fills.is_empty());
    for fill in fills {
        let fill: Value = serde_json::from_str(&fill).ok()?;
        rows += fill["rows"].as_u64()?;
        let ranges = fill["ranges"].as_array()?;
        let seen: walcast::Lsn = fill["seen_lsn"].as_str()?.parse().ok()?;
        is_live &= !ranges.is_empty()
            && ranges.iter().all(|range| range["is_done"] == true)
            && fill["owed"].as_array()?.is_empty()
            && seen <= lsn;
    }
    let age = |micros: i64| {
        let committed = UNIX_EPOCH + Duration::from_micros(micros.unsigned_abs());
        SystemTime::now().duration_since(committed).unwrap_or_default()
    };
    Some(Region { rows, is_live, lag: committed.map(age) })
}

/// Compares counts and sums of every column that changes.
fn compare(source: &Source, directory: &Path) {
    for table in TABLES {
        let text = format!("SELECT count(*) || ' ' || coalesce(sum(n), 0) FROM {table}");
        let expected = source.texts(&text);
        for name in REGIONS {
            let file = Connection::open(directory.join(format!("{name}.db"))).expect("the replica");
            let replica: String = file.query_row(&text, [], |row| row.get(0)).expect("its rows");
            assert_eq!([replica], expected[..], "{table} of {name}");
        }
    }
}
