//! A walcast that runs, and other commands of it, in a directory with `walcast.toml` and `schema.json`.

#![allow(dead_code, reason = "every benchmark uses its own part")]

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The regions of every benchmark.
pub const REGIONS: [&str; 6] = ["eu", "na", "sa", "af", "ap", "oc"];
/// Lines of the log that are shown when a benchmark fails.
const LOG_LINES: usize = 40;
const TIMEOUT: Duration = Duration::from_secs(60);

/// The sections of `walcast.toml` that make these regions SQLite files in its directory.
pub fn sqlite_sinks(regions: &[&str]) -> String {
    let section =
        |name: &&str| format!("[[sink]]\nname = \"{name}\"\ntype = \"sqlite\"\npath = \"{name}.db\"\n");
    regions.iter().map(section).collect()
}

/// Writes `walcast.toml` and `schema.json`. The API, where it is on, takes a free port.
pub fn configure(directory: &Path, config: &str, schema: &str) {
    std::fs::write(directory.join("walcast.toml"), config).expect("the configuration");
    std::fs::write(directory.join("schema.json"), schema).expect("the schema");
}

/// Runs a command of walcast to its end.
pub fn walcast(directory: &Path, arguments: &[&str]) -> Output {
    command(directory).args(arguments).output().expect("walcast runs")
}

fn command(directory: &Path) -> Command {
    let mut walcast = Command::new(env!("CARGO_BIN_EXE_walcast"));
    walcast.current_dir(directory).stdin(Stdio::null());
    walcast
}

/// `walcast run`, which ends with this.
pub struct Engine {
    process: Child,
    log: PathBuf,
}

impl Engine {
    /// Starts it; what it logs comes behind what others have logged there.
    pub fn start(directory: &Path, arguments: &[&str]) -> Engine {
        let log = directory.join("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut walcast = command(directory);
        walcast.arg("run").args(arguments).stdout(Stdio::null()).stderr(file);
        Engine { process: walcast.spawn().expect("walcast runs"), log }
    }

    /// Where its API listens.
    pub fn address(&self) -> String {
        let started = Instant::now();
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some((_, rest)) = log.rsplit_once("the HTTP API listens address=")
                && let Some((address, _)) = rest.split_once('\n')
            {
                return address.trim().to_owned();
            }
            assert!(started.elapsed() < TIMEOUT, "the API does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Lets it end in order.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("it runs");
        assert!(self.process.wait().expect("it ends").success(), "it ends well");
    }

    /// The most memory that it has had, in MiB.
    pub fn peak_mib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok());
        kib.unwrap_or_default() / 1024
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
    }
}
