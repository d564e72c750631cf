//! `walcast demo` as it is run from the command line: everything equal after a SIGKILL, and nothing left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The demo with a temporary directory of its own, where everything it makes has to be.
fn demo(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walcast"));
    // What a user may have set is not for the demo's own source.
    command.env("DATABASE_URL", "postgres://nobody@192.0.2.1/none").env("PGHOST", "192.0.2.1");
    command.arg("demo").args(arguments).env("TMPDIR", directory);
    command
}

/// A temporary directory that the server's own account may enter too.
fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(permissions).tempdir_in("/tmp").unwrap()
}

fn entries(directory: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_region_is_equal_after_a_kill_and_nothing_is_left() {
    let directory = directory();
    let output = demo(directory.path(), &["--seconds", "4", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );

    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["is_equal"], true, "{verdict:#}");
    assert_eq!(verdict["failures"], Value::Array(Vec::new()), "{verdict:#}");
    let regions: Vec<&str> = verdict["regions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|region| region["region"].as_str().unwrap())
        .collect();
    assert_eq!(regions, ["na", "eu", "asia", "sa", "oc", "af"]);
    let transactions = verdict["transactions"].as_u64().unwrap();
    assert!(transactions > 50, "{verdict:#}");
    assert_eq!(verdict["ledger_rows"], transactions);
    for region in verdict["regions"].as_array().unwrap() {
        assert_eq!(region["transactions"], transactions, "{verdict:#}");
        assert_eq!((&region["differences"], &region["dead_letters"]), (&0.into(), &0.into()), "{verdict:#}");
        assert!(region["rows_compared"].as_u64().unwrap() > 20_000, "{verdict:#}");
    }
    assert!(verdict["position_samples"].as_u64().unwrap() > 20, "{verdict:#}");
    assert_eq!(verdict["position_violations"], 0);
    assert!(verdict["recovery_ms"].as_f64().unwrap() > 0.0);
    assert!(said.contains("SIGKILL to the engine"), "{said}");
    assert_eq!(entries(directory.path()), BTreeSet::new());
}

#[test]
fn an_interrupted_demo_cleans_up_and_fails() {
    let directory = directory();
    let mut child = demo(directory.path(), &["--seconds", "60", "--regions", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let has_replica = || entries(directory.path()).iter().any(|path| path.join("na.db").exists());
    while !has_replica() {
        assert!(Instant::now() < deadline, "no replica appears");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(entries(directory.path()), BTreeSet::new());
}

#[test]
fn kept_replicas_can_be_read() {
    let directory = directory();
    let output = demo(directory.path(), &["--seconds", "2", "--regions", "2", "--keep"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let kept = entries(directory.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    let kept = kept.first().unwrap();
    assert!(said.contains(&format!("kept: {}", kept.display())), "{said}");
    for region in ["na", "eu"] {
        let replica = rusqlite::Connection::open(kept.join(format!("{region}.db"))).unwrap();
        let rows: i64 = replica.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0)).unwrap();
        assert!(rows > 10, "{region} has {rows} rows");
    }
}
