//! The whole engine into D1 databases on real workerd: exactly once, whatever is killed and whatever fails.

#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/regions.rs"]
mod regions;
#[path = "support/writer.rs"]
mod writer;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use pipeline::{Pipeline, Session, parse_lsn};
use regions::{Region, Regions};
use serde_json::json;
use writer::keep_writing;

/// What fails now and then, as shares of all requests; the second half took effect all the same.
const FAULTS: [(&str, f64, bool); 8] = [
    ("internal-error", 0.02, false),
    ("reset", 0.02, false),
    ("429", 0.005, false),
    ("queued-too-long", 0.005, false),
    ("network-connection-lost", 0.03, true),
    ("reset", 0.02, true),
    ("truncated", 0.02, true),
    ("504", 0.02, true),
];

fn order_faults(regions: &Regions, seed: usize) {
    for (index, (kind, share, applied)) in FAULTS.into_iter().enumerate() {
        let fault = json!({"db": "*", "kind": kind, "times": "until cleared", "share": share, "applied": applied,
                           "seed": seed * FAULTS.len() + index});
        regions.workerd.order(&fault).unwrap();
    }
}

fn await_all(pipeline: &Pipeline, regions: &[Region], committed: i64) {
    for region in regions {
        pipeline.eventually(&format!("region {} to have everything", region.name), || {
            region.checkpoint().filter(|(_, transactions)| *transactions == committed)
        });
    }
}

#[test]
fn engine_and_workerd_are_killed_again_and_again_and_every_transaction_is_applied_once() {
    const ROUNDS: usize = 25;
    const WRITERS: usize = 2;
    let regions = Mutex::new(Regions::start(&["na", "eu", "asia", "sa", "oc", "af"]));
    let (all, sections) = {
        let regions = regions.lock().unwrap();
        order_faults(&regions, 0);
        (regions.all().to_vec(), regions.sections())
    };
    let mut pipeline = Pipeline::builder().only(&sections).build(
        "CREATE TABLE t (writer int, id int, n int, pad text, PRIMARY KEY (writer, id));
         CREATE TABLE totals (writer int PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO totals SELECT i, 0 FROM generate_series(0, 1) i;",
        &json!({"t": {"primaryKey": ["writer", "id"],
                      "columns": {"writer": "INTEGER", "id": "INTEGER", "n": "INTEGER", "pad": "TEXT"}},
                "totals": {"primaryKey": "writer", "columns": {"writer": "INTEGER", "n": "INTEGER"}}}),
    );
    pipeline.start();
    await_all(&pipeline, &all, 0);
    let (stop, committed) = (AtomicBool::new(false), AtomicI64::new(0));
    let url = pipeline.cluster.url();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (counters, url) = ((&stop, &committed), &url);
            scope.spawn(move || {
                let further = format!("UPDATE totals SET n = n + 1 WHERE writer = {writer}");
                keep_writing(url, writer, &further, Duration::from_millis(5), counters);
            });
        }
        let sampler = {
            let (stop, url, all) = (&stop, &url, &all);
            scope.spawn(move || {
                let session = Session::connect(url).unwrap();
                let mut samples = 0;
                while !stop.load(Ordering::Relaxed) {
                    let slot =
                        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'walcast'";
                    let confirmed = parse_lsn(&session.exec(slot).unwrap()[0]);
                    // A database that does not answer has not gone back for it.
                    for (lsn, _) in all.iter().filter_map(Region::checkpoint) {
                        assert!(confirmed <= lsn, "{confirmed} is beyond {lsn}");
                        samples += 1;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                samples
            })
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = fastrand::Rng::with_seed(7);
            for round in 0..ROUNDS {
                let region = &all[round % all.len()];
                let transactions = || region.checkpoint().map_or(0, |(_, transactions)| transactions);
                let progress = |before: i64| {
                    pipeline.eventually("progress", || (transactions() > before).then_some(()));
                };
                let before = transactions();
                progress(before);
                std::thread::sleep(Duration::from_millis(random.u64(0..40)));
                pipeline.kill();
                pipeline.start();

                let mut regions = regions.lock().unwrap();
                std::thread::sleep(Duration::from_millis(random.u64(0..200)));
                regions.workerd.kill().unwrap();
                regions.workerd.start_again().unwrap();
                order_faults(&regions, round + 1);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(sampler.join().unwrap() > 100);
    });
    let regions = regions.lock().unwrap();
    regions.workerd.clear_faults().unwrap();
    await_all(&pipeline, &all, committed.load(Ordering::Relaxed));
    for table in [
        "SELECT writer, id, n, pad FROM t ORDER BY writer, id",
        "SELECT writer, n FROM totals WHERE n > 0 ORDER BY writer",
    ] {
        let expected = pipeline.exec(table);
        for region in &all {
            assert!(region.rows(table) == expected, "region {}: {table}", region.name);
            assert_eq!(region.rows("SELECT count(*) FROM _walcast_dead_letters"), ["0"]);
        }
    }
    assert_eq!(regions.workerd.violations().unwrap(), 0, "{}", regions.workerd.stats().unwrap()["violated"]);
    assert_eq!(pipeline.stop(), Some(0));
}
