//! Starting, stopping and sharing: what an engine does about a signal, about a file that is not its own, about another
//! engine, and about sinks that come and go.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::fs;
use std::os::unix::net::UnixDatagram;

use pipeline::Pipeline;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);";
const ALL: &str = "SELECT id, n FROM t ORDER BY id";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}})
}

fn insert(range: &str) -> String {
    format!("INSERT INTO t SELECT i, i FROM generate_series({range}) i")
}

/// Holds a replica's write lock.
fn lock(pipeline: &Pipeline, sink: &str) -> Connection {
    let connection = Connection::open(pipeline.replica(sink).path).unwrap();
    connection.busy_timeout(pipeline::LIMIT).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[test]
fn a_shutdown_finishes_what_is_in_flight_and_confirms_it() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    for round in 0..3 {
        pipeline.exec(&insert(&format!("{round} * 20000 + 1, {round} * 20000 + 20000")));
        let applied = |pipeline: &Pipeline| pipeline.replica("eu").checkpoint().unwrap().transactions;
        pipeline.eventually("the transaction", || (applied(&pipeline) > round).then_some(()));
        assert_eq!(pipeline.stop(), Some(0));
        let lowest = pipeline.replicas().iter().map(|replica| replica.checkpoint().unwrap().lsn).min();
        assert_eq!(pipeline.confirmed_flush_lsn(), lowest);
        pipeline.assert_log(&["stopped in order"]);
        pipeline.clear_log();
        pipeline.start();
    }
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn systemd_is_told_that_the_engine_is_ready_alive_reloading_and_stopping() {
    let mut pipeline = Pipeline::builder().build(CREATE, &schema());
    let path = pipeline.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(pipeline::LIMIT)).unwrap();
    let path = path.to_str().unwrap().to_owned();
    pipeline.environment.extend([("NOTIFY_SOCKET".into(), path), ("WATCHDOG_USEC".into(), "200000".into())]);
    let await_word = |word: &str| {
        let mut message = [0; 256];
        loop {
            let length = socket.recv(&mut message).unwrap_or_else(|error| panic!("no {word}: {error}"));
            if std::str::from_utf8(&message[..length]).unwrap().lines().any(|line| line == word) {
                return;
            }
        }
    };
    pipeline.start();
    await_word("READY=1");
    await_word("WATCHDOG=1");
    kill_process(Pid::from_raw(pipeline.engine_pid().cast_signed()).unwrap(), Signal::HUP).unwrap();
    await_word("RELOADING=1");
    await_word("READY=1");
    pipeline.terminate();
    await_word("STOPPING=1");
    assert_eq!(pipeline.exit_code(), Some(0));
}

#[test]
fn a_shutdown_does_not_wait_for_a_sink_beyond_its_timeout_and_a_second_signal_ends_at_once() {
    let mut pipeline =
        Pipeline::builder().sections("[shutdown]\ntimeout = \"200ms\"\n").build(CREATE, &schema());
    pipeline.start();
    pipeline.catch_up();
    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up_one("eu");
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.assert_log(&["shutdown.timeout is over: what is still queued will be sent again"]);
    let na = pipeline.replica("na").checkpoint().unwrap();
    assert!(pipeline.confirmed_flush_lsn().unwrap() <= na.lsn);
    drop(held);

    pipeline.edit_config("200ms", "50s");
    pipeline.start();
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("11, 20"));
    pipeline.catch_up_one("eu");
    pipeline.clear_log();
    pipeline.terminate();
    pipeline.await_log("shutting down");
    pipeline.terminate();
    assert_eq!(pipeline.exit_code(), Some(1));
    drop(held);
    pipeline.run_until_caught_up();
    pipeline.assert_equal(ALL, ALL);
}

#[test]
fn a_shutdown_while_the_server_is_away_ends_well() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    pipeline.cluster.stop().unwrap();
    pipeline.await_log("replication session failed, retrying");
    assert_eq!(pipeline.stop(), Some(0));
    // And so it does where the server was never there.
    pipeline.clear_log();
    pipeline.start();
    pipeline.await_log("the source is not ready, retrying");
    assert_eq!(pipeline.stop(), Some(0));
    // A run that ends by itself does not wait for long.
    pipeline.start_with(&["--until-caught-up", "--max-duration", "100ms"]);
    assert_eq!(pipeline.exit_code(), Some(1));
}

#[test]
fn a_run_ends_by_itself_when_its_time_is_over() {
    let mut pipeline = Pipeline::builder().build(CREATE, &schema());
    pipeline.exec(&insert("1, 10"));
    pipeline.start_with(&["--max-duration", "1s"]);
    assert_eq!(pipeline.exit_code(), Some(0));
    pipeline.exec(&insert("11, 20"));
    pipeline.start_with(&["--until-caught-up", "--max-duration", "50s"]);
    assert_eq!(pipeline.exit_code(), Some(0));
    assert_eq!(pipeline.replica("eu").ask("SELECT count(*) FROM t"), "20");
}

#[test]
fn a_replica_that_another_process_locks_is_waited_for_and_the_others_are_not_held_up() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("1, 1000"));
    pipeline.catch_up_one("eu");
    assert_eq!(pipeline.replica("na").ask("SELECT count(*) FROM t"), "0");
    pipeline.await_log("applying a batch failed");
    pipeline.exec(&insert("1001, 2000"));
    pipeline.catch_up_one("eu");
    drop(held);
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_second_engine_waits_for_the_first_and_then_takes_over() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    let mut second = pipeline.spawn(&[]);
    pipeline.await_log("is in use by backend");
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up();
    assert!(pipeline.is_running());
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.exec(&insert("11, 20"));
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
    kill_process(Pid::from_child(&second), Signal::TERM).unwrap();
    assert_eq!(pipeline.wait_for_exit(&mut second), Some(0));
}

#[test]
fn an_engine_that_was_taken_for_dead_cannot_write_any_more() {
    let mut pipeline = Pipeline::builder().sink("eu", "").build(CREATE, &schema());
    let mut first = pipeline.spawn(&[]);
    pipeline.catch_up();
    let signal = |signal| kill_process(Pid::from_child(&first), signal).unwrap();
    // It has received changes that it could not write yet, and then nobody hears of it.
    let held = lock(&pipeline, "eu");
    pipeline.exec(&insert("1, 10"));
    pipeline.await_log("applying a batch failed");
    signal(Signal::STOP);
    pipeline.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots");
    drop(held);
    pipeline.start();
    pipeline.exec(&insert("11, 20"));
    pipeline.catch_up();
    signal(Signal::CONT);
    assert_eq!(pipeline.wait_for_exit(&mut first), Some(1));
    // Whichever it meets first: the replica's fencing token or the slot, which has moved on without it.
    pipeline.assert_log_any(&["another walcast engine has taken this replica over", "ahead of sink eu"]);
    pipeline.exec(&insert("21, 30"));
    pipeline.catch_up();
    pipeline.assert_equal(ALL, ALL);
    pipeline.assert_transactions(&pipeline.replica("eu"), 3);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn replicas_of_another_slot_are_refused_and_no_slot_is_left_behind() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    let state = || -> Vec<_> {
        pipeline.replicas().iter().map(|replica| (replica.rows(ALL), replica.checkpoint().unwrap())).collect()
    };
    let before = state();
    pipeline.edit_config("[source]", "[source]\nslot = \"other\"");
    let mut second = pipeline.spawn(&[]);
    assert_eq!(pipeline.wait_for_exit(&mut second), Some(1));
    pipeline.assert_log(&["is a replica of slot walcast, but the configuration names slot other"]);
    assert_eq!(state(), before);
    assert_eq!(pipeline.exec("SELECT slot_name FROM pg_replication_slots"), ["walcast"]);
}

#[test]
fn a_replica_of_another_server_is_refused() {
    let mut elsewhere = Pipeline::builder().sink("eu", "").build(CREATE, &schema());
    elsewhere.run_until_caught_up();
    let mut pipeline = Pipeline::builder().sink("eu", "").build(CREATE, &schema());
    fs::copy(elsewhere.replica("eu").path, pipeline.replica("eu").path).unwrap();
    let before = fs::read(pipeline.replica("eu").path).unwrap();
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&["is a replica of system ", ", but the source is system "]);
    assert_eq!(fs::read(pipeline.replica("eu").path).unwrap(), before);
}

#[test]
fn files_that_are_not_ours_stay_as_they_are_and_the_other_sinks_go_on() {
    let mut pipeline =
        Pipeline::builder().sink("eu", "").sink("foreign", "").sink("text", "").build(CREATE, &schema());
    let foreign = pipeline.replica("foreign").path;
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (mine)").unwrap();
    let text = pipeline.replica("text").path;
    fs::write(&text, "not a database at all, but somebody's notes\n".repeat(100)).unwrap();
    let before = (fs::read(&foreign).unwrap(), fs::read(&text).unwrap());
    pipeline.start();
    pipeline.catch_up_one("eu");
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up_one("eu");
    assert_eq!(pipeline.replica("eu").ask("SELECT count(*) FROM t"), "10");
    assert_eq!(pipeline.stop(), Some(1));
    pipeline.assert_log(&[
        "foreign.db is a database that walcast did not create; it will not be touched",
        "text.db is not a SQLite database and will not be overwritten",
        "give the sink another path in walcast.toml",
    ]);
    assert_eq!((fs::read(&foreign).unwrap(), fs::read(&text).unwrap()), before);
    for name in ["foreign.db-wal", "foreign.db-shm", "foreign.db-journal", "text.db-wal", "text.db-journal"] {
        assert!(!pipeline.path(name).exists(), "{name}");
    }
}

/// A pipeline that brings nothing from before the stream, its engine running.
fn never_filled() -> Pipeline {
    let mut pipeline =
        Pipeline::builder().sections("[backfill]\nmode = \"never\"\n").build(CREATE, &schema());
    pipeline.start();
    pipeline.catch_up();
    pipeline.await_log("streaming");
    pipeline
}

#[test]
fn without_backfill_a_new_sink_waits_for_a_decision_and_starts_at_the_slot_when_told_so() {
    let mut pipeline = never_filled();
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.add_sink("asia");
    pipeline.start();
    pipeline.exec(&insert("11, 20"));
    pipeline.catch_up_one("eu");
    pipeline.catch_up_one("na");
    assert_eq!(pipeline.stop(), Some(1));
    pipeline.assert_log(&[
        "sink asia has no checkpoint, and slot walcast has already fed others",
        "accept the gap: walcast run --start-at-slot asia",
    ]);
    assert_eq!(pipeline.replica("asia").checkpoint(), None);
    pipeline.start_with(&["--start-at-slot", "asia"]);
    pipeline.exec(&insert("21, 30"));
    pipeline.catch_up();
    assert_eq!(pipeline.replica("asia").rows("SELECT min(id), max(id) FROM t"), ["21|30"]);
    assert_eq!(pipeline.replica("eu").rows("SELECT min(id), max(id) FROM t"), ["1|30"]);
    assert_eq!(pipeline.stop(), Some(0));
    // Once decided it stays so.
    pipeline.run_until_caught_up();
}

#[test]
fn without_backfill_a_replica_that_was_deleted_is_not_started_anew_silently() {
    let mut pipeline = never_filled();
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    fs::remove_file(pipeline.replica("na").path).unwrap();
    pipeline.exec(&insert("11, 20"));
    pipeline.start();
    pipeline.catch_up_one("eu");
    assert_eq!(pipeline.replica("eu").ask("SELECT count(*) FROM t"), "20");
    assert_eq!(pipeline.replica("na").checkpoint(), None);
    assert_eq!(pipeline.stop(), Some(1));
    pipeline.assert_log(&["sink na has no checkpoint, and slot walcast has already fed others"]);
}

#[test]
fn without_backfill_replicas_that_were_all_deleted_are_started_anew_with_a_warning() {
    let mut pipeline = never_filled();
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.replicas().iter().for_each(|replica| fs::remove_file(&replica.path).unwrap());
    pipeline.exec(&insert("11, 20"));
    pipeline.run_until_caught_up();
    assert_eq!(pipeline.replica("eu").rows("SELECT min(id), max(id) FROM t"), ["11|20"]);
    pipeline.assert_log(&["new replica of an old slot: what it has fed is missing"]);
}
