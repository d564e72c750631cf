//! Regions are independent: one that is stuck leaves the stream, catches up on a copy of the slot and comes back, while
//! the others go on; whatever is killed meanwhile, and within its limits. A region is stuck for real: another connection
//! holds its file's write lock.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pipeline::{Pipeline, Session, parse_lsn};
use rusqlite::Connection;
use serde_json::{Value, json};
use walcast::Lsn;

const CREATE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, note text);";
const ALL: &str = "SELECT id, note FROM t ORDER BY id";
const SIX: [&str; 6] = ["africa", "asia", "eu-west", "na", "oceania", "sa"];
/// A small queue and little patience, so that a stuck region leaves soon.
const IMPATIENT: &str = "[queue]\nmax_bytes = \"64KiB\"\npatience = \"200ms\"\n\
                         [transaction]\npart_max_bytes = \"32KiB\"\n\
                         [shutdown]\ntimeout = \"300ms\"\n";
/// The name of the stuck region's own slot.
const COPY: &str = "walcast__eu_west";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "note": "TEXT"}}})
}

fn pipeline(sinks: &[&str], settings: &[(&str, &str)], sections: &str) -> Pipeline {
    let mut builder = Pipeline::builder().sections(&format!("{IMPATIENT}{sections}"));
    for name in sinks {
        builder = builder.sink(name, "");
    }
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    let mut pipeline = builder.build(CREATE, &schema());
    pipeline.begin();
    pipeline
}

/// Holds a replica's write lock.
fn lock(pipeline: &Pipeline, sink: &str) -> Connection {
    let connection = Connection::open(pipeline.replica(sink).path).unwrap();
    connection.busy_timeout(pipeline::LIMIT).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

/// Commits transactions, one of them in sixty large, until it is told to stop. No key is written twice.
fn load(url: &str, first: u64, stop: &AtomicBool, committed: &AtomicU64) {
    let session = Session::connect(url).unwrap();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let rows = if round % 60 == 30 { 3_000 } else { 100 };
        let id = first + round * 10_000;
        let sql =
            format!("INSERT INTO t SELECT i, repeat('x', 40) FROM generate_series({id}, {id} + {rows}) i");
        session.exec(&sql).unwrap();
        committed.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Reads the slots and then the replicas, again and again: neither the slot nor a copy of it may be confirmed past a
/// replica that depends on it. Returns in how many samples there was a copy.
fn sample(pipeline: &Replicas, url: &str, stop: &AtomicBool) -> u32 {
    let session = Session::connect(url).unwrap();
    let mut with_copy = 0;
    while !stop.load(Ordering::Relaxed) {
        let slots = session
            .exec(
                "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_type = 'logical'",
            )
            .unwrap();
        let confirmed = |name: &str| {
            let of = slots.iter().find_map(|row| row.strip_prefix(&format!("{name}|")));
            // One that is being made has none yet.
            of.filter(|lsn| *lsn != "NULL").map(parse_lsn)
        };
        with_copy += u32::from(confirmed(COPY).is_some());
        for (name, replica) in pipeline {
            let copy = confirmed(&format!("walcast__{}", name.replace('-', "_")));
            let slot = copy.or_else(|| confirmed("walcast")).expect("there is the slot");
            let checkpoint = replica.checkpoint().expect("a checkpoint").lsn;
            assert!(slot <= checkpoint, "{slot} was confirmed, {name} is at {checkpoint}: {slots:?}");
        }
    }
    with_copy
}

type Replicas = Vec<(String, pipeline::Replica)>;

/// Runs `scenario` under load and watched. Afterwards all replicas are equal, each has every transaction once, and no copy
/// is left.
fn under_load(mut pipeline: Pipeline, sinks: &[&str], scenario: impl FnOnce(&mut Pipeline)) {
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let url = pipeline.cluster.url();
    let replicas: Replicas = sinks.iter().map(|name| ((*name).to_owned(), pipeline.replica(name))).collect();
    std::thread::scope(|scope| {
        let (stop, committed, url) = (&stop, &committed, &url);
        let writer = scope.spawn(move || load(url, 1_000_000, stop, committed));
        let sampler = scope.spawn(move || sample(&replicas, url, stop));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(&mut pipeline)));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        writer.join().unwrap();
        assert!(sampler.join().unwrap() > 0, "a copy was seen");
    });
    pipeline.catch_up();
    await_no_copy(&pipeline);
    pipeline.assert_equal(ALL, ALL);
    for replica in pipeline.replicas() {
        pipeline.assert_transactions(&replica, committed.load(Ordering::Relaxed) as i64);
    }
    assert_eq!(pipeline.stop(), Some(0));
}

fn await_no_copy(pipeline: &Pipeline) {
    pipeline.eventually("the copy to be dropped", || copy_of(pipeline).is_none().then_some(()));
}

fn copy_of(pipeline: &Pipeline) -> Option<String> {
    let sql = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{COPY}'");
    pipeline.exec(&sql).pop()
}

fn checkpoint(pipeline: &Pipeline, sink: &str) -> Lsn {
    pipeline.replica(sink).checkpoint().expect("a checkpoint").lsn
}

fn status(pipeline: &Pipeline) -> Value {
    serde_json::from_slice(&pipeline.walcast(&["status", "--json"]).stdout).unwrap()
}

fn sink_status<'a>(status: &'a Value, name: &str) -> &'a Value {
    let sinks = status["sinks"].as_array().unwrap();
    sinks.iter().find(|sink| sink["name"] == name).unwrap()
}

#[test]
fn a_stuck_region_leaves_the_other_five_alone_and_comes_back_equal() {
    under_load(pipeline(&SIX, &[], ""), &SIX, |pipeline| {
        let held = lock(pipeline, "eu-west");
        pipeline.await_log("catching up on a copy of the slot");
        let stuck_at = checkpoint(pipeline, "eu-west");
        // Far more than the stuck region's queues hold: nobody waits for it.
        let far = Lsn(pipeline.wal_lsn().0 + 2_000_000);
        for other in SIX.iter().filter(|name| **name != "eu-west") {
            pipeline.eventually("the others to go on", || (checkpoint(pipeline, other) >= far).then_some(()));
        }
        assert_eq!(checkpoint(pipeline, "eu-west"), stuck_at);
        pipeline.eventually("the slot to be confirmed without it", || {
            pipeline.confirmed_flush_lsn().filter(|confirmed| *confirmed > stuck_at)
        });
        let status = status(pipeline);
        assert_eq!(status["is_ok"], true);
        assert_eq!(sink_status(&status, "na")["state"], "attached");
        let stuck = sink_status(&status, "eu-west");
        assert_eq!((&stuck["state"], &stuck["copy"]["name"]), (&json!("catching-up"), &json!(COPY)));
        assert!(stuck["copy"]["retained_bytes"].as_u64().unwrap() > 2_000_000);
        drop(held);
        pipeline.await_log("the copy of the slot is dropped");
        pipeline.assert_log(&["the sink is slower than the others", "the sink takes the main stream again"]);
    });
}

#[test]
fn an_engine_that_is_killed_while_a_region_catches_up_or_comes_back_loses_nothing() {
    under_load(pipeline(&["eu-west", "na"], &[], ""), &["eu-west", "na"], |pipeline| {
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..6 {
            let held = lock(pipeline, "eu-west");
            pipeline.await_log("streaming slot=\"walcast__eu_west\"");
            if round % 3 == 0 {
                // It catches up, and is nowhere near.
                pipeline.eventually("the slot to be confirmed without it", || {
                    let stuck_at = checkpoint(pipeline, "eu-west");
                    pipeline.confirmed_flush_lsn().filter(|confirmed| *confirmed > stuck_at)
                });
                pipeline.kill();
                drop(held);
            } else {
                drop(held);
                // It is taken in, or attached, or its copy is being dropped.
                pipeline.await_log("the sink takes the main stream again");
                std::thread::sleep(Duration::from_millis(random.u64(0..20)));
                pipeline.kill();
            }
            pipeline.clear_log();
            pipeline.start();
            if round % 3 == 0 {
                pipeline.await_log("was catching up");
            }
            pipeline.await_log("streaming slot=\"walcast\"");
            await_no_copy(pipeline);
        }
    });
}

#[test]
fn without_a_free_slot_a_stuck_region_holds_the_slot_until_it_goes_on_from_its_checkpoint() {
    let pipeline = pipeline(&["eu-west", "na"], &[("max_replication_slots", "2")], "");
    pipeline.exec("SELECT pg_create_physical_replication_slot('taken')");
    under_load(pipeline, &["eu-west", "na"], |pipeline| {
        for then in ["killed", "drained", "slot free"] {
            pipeline.clear_log();
            let held = lock(pipeline, "eu-west");
            pipeline.await_log("the sink cannot catch up yet, and slot walcast keeps what it lacks");
            pipeline.assert_log(&["raise max_replication_slots"]);
            let stuck_at = checkpoint(pipeline, "eu-west");
            let far = Lsn(pipeline.wal_lsn().0 + 1_000_000);
            pipeline.eventually("the other to go on", || (checkpoint(pipeline, "na") >= far).then_some(()));
            assert!(pipeline.confirmed_flush_lsn().unwrap() <= stuck_at);
            match then {
                "killed" => {
                    pipeline.kill();
                    drop(held);
                    pipeline.start();
                }
                "drained" => {
                    drop(held);
                    pipeline.await_log("the sink has drained and takes the main stream again");
                }
                _ => {
                    pipeline.exec("SELECT pg_drop_replication_slot('taken')");
                    pipeline.await_log("catching up on a copy of the slot");
                    drop(held);
                    pipeline.await_log("the copy of the slot is dropped");
                }
            }
            pipeline.catch_up_one("eu-west");
        }
    });
}

#[test]
fn a_region_that_holds_back_more_wal_than_it_may_is_detached() {
    let mut pipeline = pipeline(&["eu-west", "na"], &[], "[catch_up]\nmax_wal = \"8MiB\"\n");
    // The other one is never that far behind.
    let insert = |pipeline: &Pipeline, ids: std::ops::Range<u32>| {
        for id in ids {
            let id = id * 1_000;
            pipeline.exec(&format!(
                "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({id}, {id} + 499) i"
            ));
            pipeline.catch_up_one("na");
        }
    };
    let held = lock(&pipeline, "eu-west");
    insert(&pipeline, 0..10);
    pipeline.await_log("catching up on a copy of the slot");
    insert(&pipeline, 10..120);
    pipeline.await_log("more than catch_up.max_wal (8.0 MiB)");
    await_no_copy(&pipeline);
    let stuck_at = checkpoint(&pipeline, "eu-west");
    pipeline.catch_up_one("na");
    pipeline.eventually("the slot to be confirmed", || {
        pipeline.confirmed_flush_lsn().filter(|confirmed| *confirmed > stuck_at)
    });
    drop(held);
    assert_eq!(pipeline.stop(), Some(1));
    assert_eq!(checkpoint(&pipeline, "eu-west"), stuck_at, "nothing was applied beyond a gap");
    let status = status(&pipeline);
    assert_eq!(sink_status(&status, "eu-west")["state"], "needs-backfill");
    // At the next start it is filled.
    pipeline.start();
    insert(&pipeline, 120..121);
    pipeline.await_log("the replica is filled anew");
    pipeline.filled("eu-west");
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_alone_that_holds_back_more_wal_than_it_may_ends_the_engine() {
    let mut pipeline = pipeline(&["eu-west"], &[], "[catch_up]\nmax_wal = \"1MiB\"\n");
    let held = lock(&pipeline, "eu-west");
    pipeline.exec("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i");
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&["more than catch_up.max_wal (1.0 MiB)", "no sink is left to stream to"]);
    assert_eq!(copy_of(&pipeline), None);
    drop(held);
}

#[test]
fn a_region_whose_copy_the_server_gave_up_is_detached() {
    let limits = [("max_slot_wal_keep_size", "64MB"), ("min_wal_size", "32MB"), ("max_wal_size", "48MB")];
    let mut pipeline = pipeline(&["eu-west", "na"], &limits, "");
    pipeline.exec("CREATE TABLE unpublished (filler text)");
    let held = lock(&pipeline, "eu-west");
    pipeline.exec("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i");
    pipeline.exec("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(2001, 4000) i");
    pipeline.await_log("streaming slot=\"walcast__eu_west\"");
    pipeline.eventually("the region to be detached", || {
        pipeline.exec("INSERT INTO unpublished (filler) VALUES ('x')");
        pipeline.exec("SELECT pg_switch_wal()");
        // The slot itself keeps up, as far as the server lets it.
        pipeline.catch_up_one("na");
        pipeline.exec("CHECKPOINT");
        pipeline.log().contains("slot walcast__eu_west was invalidated by the server").then_some(())
    });
    await_no_copy(&pipeline);
    pipeline.exec("INSERT INTO t VALUES (5000, 'after')");
    pipeline.catch_up_one("na");
    drop(held);
    assert_eq!(pipeline.stop(), Some(1));
    assert_eq!(pipeline.replica("na").ask("SELECT count(*) FROM t"), "4001");
}

#[test]
fn the_copy_of_a_region_that_is_not_configured_any_more_is_told_of_and_torn_down() {
    let mut pipeline = pipeline(&["na", "eu-west"], &[], "");
    let held = lock(&pipeline, "eu-west");
    for id in 0..10 {
        let id = id * 1_000;
        pipeline.exec(&format!(
            "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({id}, {id} + 499) i"
        ));
    }
    pipeline.await_log("streaming slot=\"walcast__eu_west\"");
    pipeline.catch_up_one("na");
    assert_eq!(pipeline.stop(), Some(0));
    drop(held);
    assert!(copy_of(&pipeline).is_some(), "it is what the region goes on from");
    assert_eq!(sink_status(&status(&pipeline), "eu-west")["state"], "catching-up");

    pipeline.edit_config("[[sink]]\nname = \"eu-west\"\ntype = \"sqlite\"\npath = \"eu-west.db\"\n", "");
    let status = status(&pipeline);
    assert_eq!((&status["is_ok"], &status["abandoned_copies"][0]["name"]), (&json!(false), &json!(COPY)));
    let check = String::from_utf8(pipeline.walcast(&["check"]).stdout).unwrap();
    assert!(check.contains(&format!("SELECT pg_drop_replication_slot('{COPY}');")), "{check}");
    pipeline.start();
    pipeline.await_log("the copy of a sink that is not configured keeps WAL");
    assert_eq!(pipeline.stop(), Some(0));

    let teardown = pipeline.walcast(&["teardown", "--yes"]);
    assert!(teardown.status.success(), "{teardown:?}");
    assert_eq!(pipeline.ask("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_run_that_ends_by_itself_waits_for_a_region_that_catches_up() {
    let mut pipeline = pipeline(&["eu-west", "na"], &[], "");
    let held = lock(&pipeline, "eu-west");
    for id in 0..10 {
        let id = id * 1_000;
        pipeline.exec(&format!(
            "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({id}, {id} + 499) i"
        ));
    }
    pipeline.await_log("streaming slot=\"walcast__eu_west\"");
    pipeline.catch_up_one("na");
    assert_eq!(pipeline.stop(), Some(0));
    drop(held);
    pipeline.run_until_caught_up();
    pipeline.assert_equal(ALL, ALL);
    pipeline.clear_log();
    pipeline.start();
    pipeline.await_log("streaming");
    await_no_copy(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}
