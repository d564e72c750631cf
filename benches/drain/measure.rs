//! Runs a consumer as a child process and watches it: time from its start to its exit, its CPU time and peak memory,
//! and the CPU time of the walsender that serves it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use walcast::error::{Error, Result};

use crate::server::Server;

/// How often the processes are looked at. Their exit is noticed at once.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// A consumer that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(600);
/// `USER_HZ`, which Linux fixes at 100 on everything that walcast runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One run of one consumer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub walsender_cpu_seconds: f64,
    pub peak_mib: f64,
    /// The share of the time with a request in flight, where that was measured.
    pub in_flight: f64,
}

/// Median, least and most of each figure over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: Sample,
    pub fastest_seconds: f64,
    pub slowest_seconds: f64,
}

/// Runs `command` until it ends by itself. `slot` is the one that it reads.
pub fn run(mut command: Command, slot: &str, server: &Server) -> Result<Sample> {
    let failed = |error: std::io::Error| Error::halt("running a consumer").because(error);
    let mut stderr = tempfile::tempfile().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.try_clone().map_err(failed)?);
    let started = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    let (mut sample, mut walsender) = (Sample::default(), None);
    loop {
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
        let has_exited = poll(&mut ready, Some(&INTERVAL)).map_err(|error| failed(error.into()))? > 0;
        if has_exited || started.elapsed() > TIMEOUT {
            break;
        }
        sample.peak_mib = sample.peak_mib.max(peak_mib(pid.as_raw_pid()).unwrap_or(0.0));
        if walsender.is_none() {
            let query = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
            walsender = server.text(&query)?.and_then(|pid| pid.parse().ok());
        }
        let walsender_cpu = walsender.and_then(cpu_seconds).unwrap_or(0.0);
        sample.walsender_cpu_seconds = sample.walsender_cpu_seconds.max(walsender_cpu);
    }
    sample.seconds = started.elapsed().as_secs_f64();
    // Not waited for yet, so its accounts are still open.
    sample.cpu_seconds = cpu_seconds(pid.as_raw_pid()).unwrap_or(0.0);
    if started.elapsed() > TIMEOUT {
        child.kill().map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        let mut said = String::new();
        std::io::Seek::rewind(&mut stderr).map_err(failed)?;
        std::io::Read::read_to_string(&mut stderr, &mut said).map_err(failed)?;
        return Err(Error::halt(format!("{command:?} ended with {status}: {said}")));
    }
    Ok(sample)
}

/// User and system time of this process.
pub fn own_cpu_seconds() -> f64 {
    cpu_seconds(rustix::process::getpid().as_raw_pid()).unwrap_or(0.0)
}

/// User and system time of a process, its ended threads included.
fn cpu_seconds(pid: i32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so the fields are counted from its closing parenthesis.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let (user, system): (f64, f64) = (fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// The most memory that a process has had resident since its `exec`. (`ru_maxrss` also counts what its parent had
/// when it forked.)
fn peak_mib(pid: i32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

impl Sample {
    /// The share of the time with a request in flight, in words.
    pub fn in_flight(&self) -> String {
        match self.in_flight > 0.0 {
            true => format!("{:.0} % in flight", self.in_flight * 100.0),
            false => String::new(),
        }
    }
}

impl Spread {
    pub fn of(samples: &[Sample]) -> Spread {
        let sorted = |of: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let seconds = sorted(|sample| sample.seconds);
        Spread {
            median: Sample {
                seconds: median(&seconds),
                cpu_seconds: median(&sorted(|sample| sample.cpu_seconds)),
                in_flight: median(&sorted(|sample| sample.in_flight)),
                walsender_cpu_seconds: median(&sorted(|sample| sample.walsender_cpu_seconds)),
                // A limit on memory is one for every run.
                peak_mib: sorted(|sample| sample.peak_mib).last().copied().unwrap_or(0.0),
            },
            fastest_seconds: seconds.first().copied().unwrap_or(f64::NAN),
            slowest_seconds: seconds.last().copied().unwrap_or(f64::NAN),
        }
    }
}

/// The middle of sorted values, or the mean of the two in the middle.
pub fn median(sorted: &[f64]) -> f64 {
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}
