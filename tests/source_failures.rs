//! What goes wrong at the source: the engine outlives restarts, crashes and cut connections without losing or
//! doubling anything, keeps an idle slot moving, and never streams from a slot that no longer meets the replicas.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::sync::atomic::{AtomicBool, Ordering};

use pipeline::{Pipeline, Session};
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);
                      CREATE TABLE unpublished (id serial PRIMARY KEY, filler text);";
const ALL: &str = "SELECT id, n FROM t ORDER BY id";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}})
}

/// Runs `statement(n)` for n = 1, 2, … until told to stop, over a new session whenever the last one failed.
fn write_until(url: &str, stop: &AtomicBool, statement: impl Fn(usize) -> String) {
    let mut session = None;
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let current = match session.take() {
            Some(session) => session,
            None => match Session::connect(url) {
                Ok(session) => session,
                Err(_) => continue,
            },
        };
        // A transaction that fails may yet have been committed; the source is asked at the end.
        if current.exec(&statement(n)).is_ok() {
            session = Some(current);
        }
    }
}

/// Writes to `t` while `during` runs, then waits until every replica equals the source.
fn under_load(pipeline: &mut Pipeline, during: impl FnOnce(&mut Pipeline)) {
    let (stop, url) = (AtomicBool::new(false), pipeline.cluster.url());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            write_until(&url, &stop, |n| {
                format!(
                    "BEGIN; INSERT INTO t SELECT coalesce(max(id), 0) + 1, {n} FROM t;
                     UPDATE t SET n = n + 1 WHERE id % 50 = {n} % 50; DELETE FROM t WHERE id % 100 = {n} % 1000; COMMIT"
                )
            });
        });
        // Whatever fails in there, the writer must end.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| during(pipeline)));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
}

/// Waits until `eu` has applied some more transactions.
fn await_progress(pipeline: &Pipeline) {
    let transactions = || pipeline.replica("eu").checkpoint().map_or(0, |checkpoint| checkpoint.transactions);
    let before = transactions();
    pipeline.eventually("progress", || (transactions() > before + 20).then_some(()));
}

#[test]
fn a_restart_and_a_crash_of_the_server_under_load_lose_nothing() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    under_load(&mut pipeline, |pipeline| {
        await_progress(pipeline);
        pipeline.restart_server();
        await_progress(pipeline);
        for _ in 0..2 {
            pipeline.crash_server();
            await_progress(pipeline);
        }
    });
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_connection_that_is_cut_again_and_again_loses_nothing() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    under_load(&mut pipeline, |pipeline| {
        for _ in 0..10 {
            pipeline.eventually("a walsender to end", || {
                let ended = pipeline.exec(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL",
                );
                (!ended.is_empty()).then_some(())
            });
            await_progress(pipeline);
        }
    });
    let eu = pipeline.replica("eu").checkpoint().unwrap();
    assert_eq!(eu.transactions, pipeline.replica("na").checkpoint().unwrap().transactions);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn an_idle_publication_on_a_busy_server_does_not_pin_wal() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    let (stop, url) = (AtomicBool::new(false), pipeline.cluster.url());
    let busy = |n| {
        format!(
            "INSERT INTO unpublished (filler) SELECT repeat('x', 500) FROM generate_series(1, 100 + {n} % 7)"
        )
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write_until(&url, &stop, busy));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..5 {
                let wal_lsn = pipeline.wal_lsn();
                pipeline.eventually("the slot to follow", || {
                    pipeline.confirmed_flush_lsn().filter(|&confirmed| confirmed > wal_lsn)
                });
            }
            let wal_lsn = pipeline.wal_lsn();
            pipeline.eventually("the server to let its WAL go", || {
                pipeline.exec("CHECKPOINT");
                let restart = pipeline.ask("SELECT restart_lsn FROM pg_replication_slots");
                Some(()).filter(|()| pipeline::parse_lsn(&restart) > wal_lsn)
            });
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    pipeline.assert_transactions(&pipeline.replica("eu"), 1);
    assert_eq!(pipeline.stop(), Some(0));

    for n in 0..50 {
        pipeline.exec(&busy(n));
    }
    let wal_lsn = pipeline.wal_lsn();
    pipeline.run_until_caught_up();
    let confirmed = pipeline.confirmed_flush_lsn().unwrap();
    assert!(confirmed >= wal_lsn, "{confirmed} {wal_lsn}");
}

/// Stops a pipeline, harms its slot, and asserts that the next start refuses with `message` and changes nothing.
fn refused_after(settings: &[(&str, &str)], harm: impl Fn(&Pipeline), message: &[&str]) {
    let mut builder = Pipeline::builder();
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    let mut pipeline = builder.build(CREATE, &schema());
    pipeline.start();
    pipeline.catch_up();
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.exec("INSERT INTO t VALUES (2, 2)");
    harm(&pipeline);
    pipeline.exec("INSERT INTO t VALUES (3, 3)");
    let state = |pipeline: &Pipeline| {
        let replicas: Vec<_> = pipeline
            .replicas()
            .iter()
            .map(|replica| {
                (replica.rows(ALL), replica.rows("SELECT lsn, transactions FROM _walcast_checkpoint"))
            })
            .collect();
        (
            replicas,
            pipeline.exec("SELECT slot_name, confirmed_flush_lsn, wal_status FROM pg_replication_slots"),
        )
    };
    let before = state(&pipeline);
    for arguments in [&[][..], &["--until-caught-up"]] {
        pipeline.clear_log();
        pipeline.start_with(arguments);
        assert_eq!(pipeline.exit_code(), Some(1), "{}", pipeline.log());
        pipeline.assert_log(message);
        assert_eq!(state(&pipeline), before);
    }
}

#[test]
fn a_dropped_slot_is_not_replaced_silently() {
    refused_after(
        &[],
        |pipeline| drop(pipeline.exec("SELECT pg_drop_replication_slot('walcast')")),
        &[
            "slot walcast does not exist, but the sinks have checkpoints",
            "hint: fill the replicas anew: walcast nuke --all",
        ],
    );
}

#[test]
fn an_invalidated_slot_is_refused() {
    refused_after(
        &[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "48MB")],
        |pipeline| {
            pipeline.eventually("the slot to be lost", || {
                pipeline.exec("INSERT INTO unpublished (filler) VALUES ('x')");
                pipeline.exec("SELECT pg_switch_wal()");
                pipeline.exec("CHECKPOINT");
                Some(()).filter(|()| pipeline.ask("SELECT wal_status FROM pg_replication_slots") == "lost")
            });
        },
        &[
            "slot walcast was invalidated by the server",
            "the changes since are gone",
            "hint: fill the replicas anew: walcast nuke --all",
        ],
    );
}

#[test]
fn a_slot_that_somebody_advanced_is_refused() {
    refused_after(
        &[],
        |pipeline| drop(pipeline.exec("SELECT pg_replication_slot_advance('walcast', pg_current_wal_lsn())")),
        &[
            "but slot walcast was confirmed to",
            "the changes between are gone",
            "hint=\"fill the replica anew: walcast nuke --sink eu",
        ],
    );
}

#[test]
fn a_slot_that_is_dropped_or_advanced_while_the_connection_is_away_halts_the_engine() {
    for (harm, message) in [
        ("SELECT pg_drop_replication_slot('walcast')", "slot walcast is gone"),
        ("SELECT pg_replication_slot_advance('walcast', pg_current_wal_lsn())", "ahead of sink"),
    ] {
        let mut pipeline = Pipeline::started(CREATE, &schema());
        pipeline.exec("INSERT INTO t VALUES (1, 1)");
        pipeline.catch_up();
        let connections =
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL";
        pipeline.eventually("the slot to be harmed", || {
            pipeline.exec(connections);
            pipeline.exec("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t");
            pipeline.try_exec(harm).ok()
        });
        assert_eq!(pipeline.exit_code(), Some(1), "{harm}");
        pipeline.assert_log(&[message, "hint: walcast status"]);
    }
}
