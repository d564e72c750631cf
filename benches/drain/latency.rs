//! How long it takes, at a low rate, from the return of a commit until the row can be read from every region.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use walcast::error::{Error, Result};

use crate::consumer::{Home, sqlite_sinks};
use crate::server::Server;
use crate::workload::{Backlog, Workload};

/// Commits a second, and how many.
const COMMITS_PER_SECOND: u32 = 50;
const COMMITS: i64 = 500;
/// Between two looks at a region.
const POLL_INTERVAL: Duration = Duration::from_micros(50);
/// How long the first commit may take, the engine's start included.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Milliseconds from commit to the last of the regions.
pub struct Latency {
    pub regions: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Commits one row at a time and watches the regions.
pub fn measure(server: &mut Server, regions: usize) -> Result<Latency> {
    let backlog = Workload::Narrow.write(server, 0.0)?;
    let home = Home::new(&server.cluster.tcp_url(), &backlog.slot, &backlog, &sqlite_sinks(regions))?;
    let mut engine = home.walcast(&["--log-level", "warn"]);
    let engine = engine.stdin(Stdio::null()).spawn();
    let mut engine = Engine(engine.map_err(|error| Error::halt("starting walcast").because(error))?);
    let latencies = commits(server, &home, regions)?;
    engine.end();
    remove(server, &backlog)?;
    let at =
        |share: f64| latencies[((latencies.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    let latency = Latency { regions, p50: at(0.5), p99: at(0.99), max: at(1.0) };
    eprintln!(
        "latency, {regions} regions: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        latency.p50, latency.p99, latency.max
    );
    Ok(latency)
}

/// The latencies, sorted.
fn commits(server: &Server, home: &Home, regions: usize) -> Result<Vec<Duration>> {
    let first = 1_000_000;
    server.execute(&format!("INSERT INTO narrow VALUES ({first}, 1, 1, 'first')"))?;
    let started = Instant::now();
    let mut readers = Vec::new();
    for region in 0..regions {
        let path = home.region(region);
        // The file is there before its tables are.
        while reader(&path).and_then(|region| has(&region, first)).ok() != Some(true) {
            if started.elapsed() > TIMEOUT {
                return Err(Error::halt(format!("{} stays empty", path.display())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        readers.push(reader(&path).map_err(unreadable)?);
    }
    let pause = Duration::from_secs(1) / COMMITS_PER_SECOND;
    let started = Instant::now();
    let mut latencies = Vec::new();
    for id in first + 1..=first + COMMITS {
        let due = started + pause * (id - first) as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        server.execute(&format!("INSERT INTO narrow VALUES ({id}, 1, 1, 'row')"))?;
        let committed = Instant::now();
        for region in &readers {
            while !has(region, id).map_err(unreadable)? {
                if committed.elapsed() > TIMEOUT {
                    return Err(Error::halt("a commit does not reach its region"));
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        latencies.push(committed.elapsed());
    }
    latencies.sort();
    Ok(latencies)
}

fn reader(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn has(region: &Connection, id: i64) -> rusqlite::Result<bool> {
    let mut query = region.prepare_cached("SELECT 1 FROM narrow WHERE id = ?1")?;
    query.query_row([id], |_| Ok(())).optional().map(|row| row.is_some())
}

fn unreadable(error: rusqlite::Error) -> Error {
    Error::halt("reading a region").because(error)
}

fn remove(server: &Server, backlog: &Backlog) -> Result<()> {
    while server.text("SELECT 1 FROM pg_replication_slots WHERE active")?.is_some() {
        std::thread::sleep(Duration::from_millis(10));
    }
    backlog.remove(server)
}

/// A walcast that streams; it does not outlive this.
struct Engine(Child);

impl Engine {
    fn end(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&self.0),
                rustix::process::Signal::TERM,
            );
        }
        let _ = self.0.wait();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}
