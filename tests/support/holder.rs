//! A second process of this test binary, which holds a server until it is killed: what its owner's death leaves behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set where the process is the second one.
const VARIABLE: &str = "WALCAST_TEST_HOLDS";

/// Whether a process runs. One that has ended but that nobody has reaped has no command line any more.
pub fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Waits until a process has ended.
fn await_end(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while runs(pid) {
        assert!(Instant::now() < deadline, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the test of this name in a process of its own, kills that, and waits for the end of what it held. Returns the
/// directory that was left.
pub fn killed(test: &str) -> PathBuf {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let held = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().split_once("held: ").map(|(_, rest)| rest.to_owned()))
        .unwrap();
    let (pid, directory) = held.split_once(' ').unwrap();
    let (pid, directory): (u32, PathBuf) = (pid.parse().unwrap(), PathBuf::from(directory));
    assert!(runs(pid) && directory.exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    await_end(pid);
    directory
}

/// Whether this process is the second one.
pub fn is_meant() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Says what is held, and waits until the first process ends.
pub fn hold(pid: u32, directory: &Path) {
    println!("held: {pid} {}", directory.display());
    let _ = std::io::stdin().read_line(&mut String::new());
}
