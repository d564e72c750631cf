//! Delivery under load: whole transactions whatever their size, each exactly once whatever happens to the engine, and
//! never a confirmed position that a replica does not have.

#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/writer.rs"]
mod writer;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use pipeline::{Pipeline, Session, parse_lsn, rows};
use serde_json::json;
use writer::keep_writing;

const MIB: u64 = 1024;

/// The most memory that a process ever had, in KiB.
fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_transaction_of_a_million_rows_is_seen_whole_or_not_at_all_and_takes_little_memory() {
    const ROWS: &str = "1000000";
    let mut pipeline = Pipeline::started(
        "CREATE TABLE t (id int PRIMARY KEY)",
        &json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER"}}}),
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = pipeline
            .replicas()
            .into_iter()
            .map(|replica| {
                let stop = &stop;
                scope.spawn(move || {
                    let connection = replica.open();
                    let mut seen = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        // The highest and the lowest key are found at once, so that reading costs the engine nothing.
                        let now =
                            rows(&connection, "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM t")
                                .unwrap();
                        if seen.last() != Some(&now) {
                            seen.push(now);
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    seen
                })
            })
            .collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pipeline.exec(&format!("INSERT INTO t SELECT generate_series(1, {ROWS})"));
            pipeline.catch_up();
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for reader in readers {
            let seen = reader.join().unwrap();
            assert_eq!(seen[0], ["0|0"]);
            assert!(seen[1..].iter().all(|now| *now == [format!("1|{ROWS}")]), "{seen:?}");
        }
    });
    let peak = peak_memory_kib(pipeline.engine_pid());
    assert!(peak < 128 * MIB, "{peak} KiB");
    pipeline.assert_equal("SELECT count(*), sum(id) FROM t", "SELECT count(*), sum(id) FROM t");
    pipeline.replicas().iter().for_each(|replica| pipeline.assert_transactions(replica, 1));
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn an_engine_that_is_killed_again_and_again_applies_every_transaction_once() {
    const ROUNDS: usize = 20;
    const WRITERS: usize = 3;
    let mut pipeline = Pipeline::builder()
        .sections("[transaction]\npart_max_bytes = \"4KiB\"\n[batch]\nmax_rows = 50\n")
        .build(
            "CREATE TABLE t (writer int, id int, n int, pad text, PRIMARY KEY (writer, id));",
            &json!({"t": {"primaryKey": ["writer", "id"],
                          "columns": {"writer": "INTEGER", "id": "INTEGER", "n": "INTEGER", "pad": "TEXT"}}}),
        );
    pipeline.start();
    pipeline.catch_up();
    let (stop, committed) = (AtomicBool::new(false), AtomicI64::new(0));
    let url = pipeline.cluster.url();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (counters, url) = ((&stop, &committed), &url);
            scope.spawn(move || keep_writing(url, writer, "", Duration::from_millis(2), counters));
        }
        let sampler = {
            let (stop, url, replicas) = (&stop, &url, pipeline.replicas());
            scope.spawn(move || {
                let session = Session::connect(url).unwrap();
                let mut samples = 0;
                while !stop.load(Ordering::Relaxed) {
                    let slot = session.exec("SELECT confirmed_flush_lsn FROM pg_replication_slots").unwrap();
                    let confirmed = parse_lsn(&slot[0]);
                    for replica in &replicas {
                        let checkpoint = replica.checkpoint().expect("a checkpoint");
                        assert!(confirmed <= checkpoint.lsn, "{confirmed} is beyond {checkpoint:?}");
                    }
                    samples += 1;
                }
                samples
            })
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..ROUNDS {
                let transactions = || pipeline.replica("eu").checkpoint().unwrap().transactions;
                let before = transactions();
                pipeline.eventually("progress", || (transactions() > before).then_some(()));
                std::thread::sleep(Duration::from_millis(random.u64(0..40)));
                pipeline.kill();
                pipeline.start();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(sampler.join().unwrap() > 20);
    });
    pipeline.catch_up();
    let all = "SELECT writer, id, n FROM t ORDER BY writer, id";
    pipeline.assert_equal(all, all);
    for replica in pipeline.replicas() {
        pipeline.assert_transactions(&replica, committed.load(Ordering::Relaxed));
        assert!(replica.dead_letters().is_empty());
    }
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn readers_keep_their_snapshot_while_the_replica_is_written() {
    let mut pipeline = Pipeline::started(
        "CREATE TABLE t (id int PRIMARY KEY)",
        &json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER"}}}),
    );
    pipeline.exec("INSERT INTO t VALUES (1)");
    pipeline.catch_up();
    let reader = pipeline.replica("eu").open();
    reader.execute_batch("BEGIN").unwrap();
    let count = || rows(&reader, "SELECT count(*) FROM t").unwrap();
    assert_eq!(count(), ["1"]);
    pipeline.exec("INSERT INTO t SELECT generate_series(2, 5000)");
    pipeline.catch_up();
    assert_eq!(count(), ["1"]);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count(), ["5000"]);
    assert_eq!(pipeline.stop(), Some(0));
}
