//! How fast six regional replicas are filled while their tables change, beside `COPY … TO STDOUT` of the same tables to
//! /dev/null, and beside a plain copy into one SQLite file. On a throwaway Postgres, with the real binary, which is killed
//! on the way:
//!
//! ```text
//! cargo bench --bench fill -- [--rows 5000000] [--kills 5] [--writes 2000]
//! ```
//!
//! It ends only if every replica equals the source, and prints the rates, the lag of the live changes, and the memory.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use serde_json::Value;
use tokio::runtime::Runtime;
use walcast::app::demo::Cluster;
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;

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

const REGIONS: [&str; 6] = ["eu", "na", "sa", "af", "ap", "oc"];
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
    create(&cluster, arguments.rows);
    let copied = time(|| copy_out(&cluster));
    let loaded = time(|| load_one(&cluster, &directory.path().join("plain.db")));
    let rate = |time: Duration| arguments.rows as f64 / time.as_secs_f64() / 1000.0;
    println!("{} rows in three tables", arguments.rows);
    println!("COPY TO STDOUT to /dev/null    {:>7.0} k rows/s", rate(copied));
    println!("a plain copy into one SQLite   {:>7.0} k rows/s", rate(loaded));

    configure(&cluster, directory.path());
    let stop = AtomicBool::new(false);
    let (mut lags, mut memory, mut filled) = (Vec::new(), 0, Duration::ZERO);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&cluster, arguments.rows, arguments.writes, &stop));
        let started = Instant::now();
        let mut engine = run(directory.path());
        let mut kills = 0;
        loop {
            std::thread::sleep(TICK);
            assert!(started.elapsed() < LIMIT, "the fill does not end");
            memory = memory.max(peak_kib(&engine));
            let regions: Vec<Option<Region>> =
                REGIONS.iter().map(|name| look(directory.path(), name)).collect();
            lags.extend(regions.iter().flatten().filter_map(|region| region.lag));
            let rows: u64 = regions.iter().flatten().map(|region| region.rows).min().unwrap_or_default();
            if rows * u64::from(arguments.kills + 1) > arguments.rows * u64::from(kills + 1)
                && kills < arguments.kills
            {
                kills += 1;
                engine.kill().expect("it runs");
                engine.wait().expect("it ends");
                engine = run(directory.path());
            }
            if regions.iter().all(|region| region.as_ref().is_some_and(|region| region.is_live)) {
                break;
            }
        }
        filled = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer writes");
        let status = Command::new("kill").arg(engine.id().to_string()).status();
        assert!(status.expect("kill runs").success() && engine.wait().expect("it ends").success());
        println!(
            "{} kills, {written} rows changed meanwhile ({:.0} a second)",
            kills,
            written as f64 / filled.as_secs_f64()
        );
    });
    let caught_up = run_until_caught_up(directory.path());
    assert!(caught_up.success(), "the last changes arrive");
    compare(&cluster, directory.path());
    lags.sort_unstable();
    let percentile = |share: f64| {
        lags.get((lags.len() as f64 * share) as usize).or(lags.last()).copied().unwrap_or_default()
    };
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
    println!(
        "age of the newest change in a replica: p50 {} ms, p99 {} ms, max {} ms",
        percentile(0.5),
        percentile(0.99),
        percentile(1.0)
    );
    println!("memory at most {} MiB; every replica equals the source", memory / 1024);
}

fn time(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

fn sql(cluster: &Cluster, text: &str) -> Vec<String> {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let info = ConnectionInfo::resolve(&cluster.url()).expect("a URL");
        let client = session::connect(&info, "walcast bench").await.expect("a session");
        let messages = client.simple_query(text).await.expect("the statement works");
        let rows = messages.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        rows.collect()
    })
}

/// Half of the rows have a composite key, one in twenty-five is wide, the rest have uuids.
fn create(cluster: &Cluster, rows: u64) {
    let (pairs, wide) = (rows / 2, rows / 25);
    sql(
        cluster,
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

fn psql(cluster: &Cluster, command: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "-c", command, &cluster.url()]).stdin(Stdio::null());
    psql
}

fn copy_out(cluster: &Cluster) {
    for table in TABLES {
        let status = psql(cluster, &format!("COPY {table} TO STDOUT")).stdout(Stdio::null()).status();
        assert!(status.expect("psql runs").success());
    }
}

/// What a script would do: a COPY per table, read line by line, into one file in one transaction each.
fn load_one(cluster: &Cluster, path: &Path) {
    let mut file = Connection::open(path).expect("a file");
    file.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE pairs (tenant INTEGER, id INTEGER, n INTEGER, PRIMARY KEY (tenant, id)) STRICT, WITHOUT ROWID;
         CREATE TABLE wide (id INTEGER PRIMARY KEY, n INTEGER, body TEXT) STRICT;
         CREATE TABLE uuids (id TEXT PRIMARY KEY, n INTEGER) STRICT, WITHOUT ROWID;",
    )
    .expect("the tables");
    for (table, columns) in TABLES.into_iter().zip([3, 3, 2]) {
        let copy = format!("COPY (SELECT * FROM {table} ORDER BY 1, 2) TO STDOUT");
        let mut copy = psql(cluster, &copy).stdout(Stdio::piped()).spawn().expect("psql runs");
        let transaction = file.transaction().expect("a transaction");
        {
            let places = vec!["?"; columns].join(", ");
            let mut insert =
                transaction.prepare(&format!("INSERT INTO {table} VALUES ({places})")).expect("a statement");
            let output = std::io::BufReader::with_capacity(1 << 20, copy.stdout.take().expect("its output"));
            for line in output.lines() {
                insert.execute(params_from_iter(line.expect("text").split('\t'))).expect("a row");
            }
        }
        transaction.commit().expect("the commit");
        assert!(copy.wait().expect("psql ends").success());
    }
}

fn configure(cluster: &Cluster, directory: &Path) {
    let sinks =
        REGIONS.map(|name| format!("[[sink]]\nname = \"{name}\"\ntype = \"sqlite\"\npath = \"{name}.db\"\n"));
    let config = format!("[source]\nurl = \"{}\"\n{}", cluster.url(), sinks.concat());
    std::fs::write(directory.join("walcast.toml"), config).expect("the configuration");
    std::fs::write(directory.join("schema.json"), SCHEMA).expect("the schema");
}

fn walcast(directory: &Path) -> Command {
    let mut walcast = Command::new(env!("CARGO_BIN_EXE_walcast"));
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).expect("a log");
    walcast.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    walcast
}

fn run(directory: &Path) -> Child {
    walcast(directory).arg("run").spawn().expect("walcast runs")
}

fn run_until_caught_up(directory: &Path) -> std::process::ExitStatus {
    walcast(directory).args(["run", "--until-caught-up"]).status().expect("walcast runs")
}

/// Changes rows all over the tables at this rate; returns how many.
fn write(cluster: &Cluster, rows: u64, rate: u64, stop: &AtomicBool) -> u64 {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let info = ConnectionInfo::resolve(&cluster.url()).expect("a URL");
        let client = session::connect(&info, "walcast bench writer").await.expect("a session");
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
            written += client.execute(text.as_str(), &[]).await.expect("it is written");
            let due = Duration::from_secs_f64(written as f64 / rate as f64);
            tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        }
        written
    })
}

/// A replica as its readers see it.
struct Region {
    rows: u64,
    is_live: bool,
    /// How long ago its newest transaction was committed, in milliseconds.
    lag: Option<i64>,
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
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_micros() as i64;
    Some(Region { rows, is_live, lag: committed.map(|committed| (now - committed) / 1000) })
}

fn peak_kib(engine: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Compares counts and sums of every column that changes.
fn compare(cluster: &Cluster, directory: &Path) {
    for table in TABLES {
        let text = format!("SELECT count(*) || ' ' || coalesce(sum(n), 0) FROM {table}");
        let source = sql(cluster, &text);
        for name in REGIONS {
            let file = Connection::open(directory.join(format!("{name}.db"))).expect("the replica");
            let replica: String = file.query_row(&text, [], |row| row.get(0)).expect("its rows");
            assert_eq!([replica], source[..], "{table} of {name}");
        }
    }
}
