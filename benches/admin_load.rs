//! Whether asking moves the replication lag: 200 requests a second on `/status`, `/metrics` and `/events`, beside pages
//! that stay open, on a throwaway Postgres, with the real binary and six regional replicas, all over loopback:
//!
//! ```text
//! cargo bench --bench admin_load -- [--seconds 60] [--slices 6] [--requests 200] [--writes 2000]
//! ```
//!
//! The time without and with the load is cut into slices that take turns, so that whatever else the machine does falls
//! on both. Printed is the lag of each, from a commit's return until its row can be read from every region, and how the
//! API answered. It fails where an answer was no 200, or fewer requests were answered than were to be sent.

#[path = "support/engine.rs"]
mod engine;
#[path = "support/over.rs"]
mod over;
#[path = "support/percentiles.rs"]
mod percentiles;
#[path = "support/source.rs"]
mod source;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use walcast::app::demo::Cluster;

use engine::{Engine, REGIONS, sqlite_sinks};
use over::Over;
use percentiles::percentiles;
use source::Source;

/// Measures the replication lag without and with requests
#[derive(Parser)]
struct Arguments {
    /// How long it is measured without requests, and as long with them
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Into how many slices each of both is cut
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    slices: u64,
    /// Requests a second
    #[arg(long, default_value_t = 200)]
    requests: u64,
    /// Rows that are written a second meanwhile
    #[arg(long, default_value_t = 2000)]
    writes: u64,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const SCHEMA: &str = r#"{
    "probes": {"primaryKey": "id", "columns": {"id": "INTEGER"}},
    "load": {"primaryKey": "id", "columns": {"id": "INTEGER", "body": "TEXT"}}
}"#;
const PATHS: [&str; 3] = ["/status", "/metrics", "/events"];
/// Connections that requests come over, and pages that stay open.
const CLIENTS: u64 = 8;
const PAGES: usize = 4;
/// Rows that one statement of the writer writes.
const WRITTEN_AT_ONCE: u64 = 20;
/// Commits a second that are watched.
const PROBES_PER_SECOND: u32 = 50;
/// The median, the 90th and 99th of a hundred, and the most.
const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];
/// Between two looks at the regions.
const POLL_INTERVAL: Duration = Duration::from_micros(200);
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    let arguments = Arguments::parse();
    let cluster = Cluster::builder().start().expect("a server");
    let source = Source::connect(&cluster.url());
    source.execute(
        "CREATE TABLE probes (id bigint PRIMARY KEY); CREATE TABLE load (id bigint PRIMARY KEY, body text)",
    );
    let directory = tempfile::tempdir().expect("a directory");
    let config = format!(
        "[source]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nsync_file = \"sync-log.db\"\n{}",
        cluster.url(),
        sqlite_sinks(&REGIONS)
    );
    engine::configure(directory.path(), &config, SCHEMA);
    let engine = Engine::start(directory.path(), &[]);
    let address = engine.address();
    let is_loaded = AtomicBool::new(false);
    let is_over = AtomicBool::new(false);
    let answers = Answers::default();
    let mut lags = [Vec::new(), Vec::new()];
    let mut probes = Probes::new(directory.path());
    let slice = Duration::from_secs(arguments.seconds) / arguments.slices as u32;
    std::thread::scope(|scope| {
        // Whatever panics here, the others end.
        let over = Over(&is_over);
        scope.spawn(|| write(&cluster.url(), arguments.writes, &is_over));
        for client in 0..CLIENTS {
            let due = Due { first: client, step: CLIENTS, per_second: arguments.requests };
            let (address, answers, is_loaded, is_over) = (&address, &answers, &is_loaded, &is_over);
            scope.spawn(move || ask(address, due, answers, is_loaded, is_over));
        }
        probes.watch(&source, Duration::from_secs(2));
        for _ in 0..arguments.slices {
            for loaded in [false, true] {
                is_loaded.store(loaded, Ordering::Relaxed);
                let _pages = loaded.then(|| [(); PAGES].map(|()| Page::open(&address)));
                lags[usize::from(loaded)].extend(probes.watch(&source, slice));
            }
        }
        drop(over);
    });
    for (name, lags) in ["without requests", "with requests"].into_iter().zip(&mut lags) {
        let [p50, p90, p99, max] = percentiles(lags, SHARES);
        println!(
            "{name:<17} lag p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, max {max:.2} ms ({} commits)",
            lags.len()
        );
    }
    let mut answered = 0;
    for (path, took) in PATHS.into_iter().zip(answers.took) {
        let mut took = took.into_inner().expect("no client panicked");
        answered += took.len() as u64;
        let [p50, _, p99, max] = percentiles(&mut took, SHARES);
        println!("{path:<17} {} answers, p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms", took.len());
    }
    let refused = answers.refused.load(Ordering::Relaxed);
    let wanted = arguments.requests * arguments.seconds;
    println!("{answered} of {wanted} requests answered, {refused} other than with 200");
    assert!(refused == 0 && answered * 100 >= wanted * 95, "the API did not answer as it should");
}

/// Commits single rows, and waits for each in every region.
struct Probes {
    regions: Vec<Connection>,
    last: i64,
}

impl Probes {
    /// Waits until every region has its tables.
    fn new(directory: &Path) -> Self {
        let open = |name: &str| {
            let path = directory.join(format!("{name}.db"));
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let started = Instant::now();
            loop {
                let opened = Connection::open_with_flags(&path, flags).and_then(|region| {
                    has(&region, 0)?;
                    Ok(region)
                });
                match opened {
                    Ok(region) => return region,
                    Err(error) => assert!(started.elapsed() < TIMEOUT, "{name}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        Probes { regions: REGIONS.map(open).into(), last: 0 }
    }

    /// How long each commit took to all of the regions, for as long.
    fn watch(&mut self, source: &Source, time: Duration) -> Vec<Duration> {
        let (started, mut lags) = (Instant::now(), Vec::new());
        for commit in 1.. {
            self.last += 1;
            source.execute(&format!("INSERT INTO probes VALUES ({})", self.last));
            let committed = Instant::now();
            for region in &self.regions {
                while !has(region, self.last).expect("the region can be read") {
                    assert!(committed.elapsed() < TIMEOUT, "a commit does not reach its region");
                    std::thread::sleep(POLL_INTERVAL);
                }
            }
            lags.push(committed.elapsed());
            if started.elapsed() >= time {
                break;
            }
            let due = started + Duration::from_secs(1) / PROBES_PER_SECOND * commit;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        lags
    }
}

fn has(region: &Connection, id: i64) -> rusqlite::Result<bool> {
    let mut statement = region.prepare_cached("SELECT 1 FROM probes WHERE id = ?1")?;
    Ok(statement.query_row([id], |_| Ok(())).optional()?.is_some())
}

/// Writes rows at this rate.
fn write(url: &str, rate: u64, is_over: &AtomicBool) {
    let source = Source::connect(url);
    let (started, mut written) = (Instant::now(), 0);
    while !is_over.load(Ordering::Relaxed) && rate > 0 {
        let to = written + WRITTEN_AT_ONCE;
        source.execute(&format!(
            "INSERT INTO load SELECT i, md5(i::text) FROM generate_series({written} + 1, {to}) i"
        ));
        written = to;
        let due = Duration::from_secs_f64(written as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

/// Which of the requests are this client's.
struct Due {
    first: u64,
    step: u64,
    per_second: u64,
}

/// How the API answered.
#[derive(Default)]
struct Answers {
    /// By path.
    took: [std::sync::Mutex<Vec<Duration>>; PATHS.len()],
    refused: AtomicU64,
}

/// Sends requests while that is asked for, each when it is due.
fn ask(address: &str, due: Due, answers: &Answers, is_loaded: &AtomicBool, is_over: &AtomicBool) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        for request in (due.first..).step_by(due.step as usize) {
            let at = began + Duration::from_secs_f64(request as f64 / due.per_second as f64);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if !is_loaded.load(Ordering::Relaxed) || is_over.load(Ordering::Relaxed) {
                break;
            }
            let which = request as usize % PATHS.len();
            let asked = Instant::now();
            let answer = agent.get(format!("http://{address}{}", PATHS[which])).call();
            let is_answered = answer.is_ok_and(|mut answer| {
                let is_read = match PATHS[which] {
                    "/events" => first_event(answer.body_mut().as_reader()),
                    _ => answer.body_mut().read_to_vec().is_ok_and(|body| !body.is_empty()),
                };
                answer.status() == 200 && is_read
            });
            match is_answered {
                true => answers.took[which].lock().expect("no client panicked").push(asked.elapsed()),
                false => {
                    answers.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads until an event is whole.
fn first_event(events: impl Read) -> bool {
    let mut lines = BufReader::new(events).lines().map_while(Result::ok);
    lines.any(|line| line.starts_with("data:")) && lines.any(|line| line.is_empty())
}

/// A page that stays open and reads what comes.
struct Page(std::net::TcpStream);

impl Page {
    fn open(address: &str) -> Page {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(address).expect("the API answers");
        stream
            .write_all(format!("GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
            .expect("it takes a request");
        let mut events = stream.try_clone().expect("a second handle");
        std::thread::spawn(move || std::io::copy(&mut events, &mut std::io::sink()));
        Page(stream)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}
