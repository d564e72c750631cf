//! Scheduled runs: the engine streams now and then, lets go of the slot in between, and comes when it is called.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::time::Duration;

use http::Api;
use pipeline::Pipeline;
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE unpublished (n int);";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const ROWS: &str = "SELECT * FROM t ORDER BY id";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}})
}

/// A pipeline with this schedule, and its API.
fn started(schedule: &str) -> (Pipeline, Api) {
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\nstall_timeout = \"1s\"\n\
             [queue]\npatience = \"500ms\"\n[schedule]\n{schedule}\n"
        ))
        .build(CREATE, &schema());
    pipeline.start();
    let api = Api::of(&pipeline);
    (pipeline, api)
}

/// Waits until the engine rests and nobody uses the slot, and returns `/status`.
fn await_rest(pipeline: &Pipeline, api: &Api) -> Value {
    pipeline.eventually("the engine to rest", || {
        let status = api.get("/status").json();
        let is_resting = status["engine"]["phase"] == "resting";
        let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
        (is_resting && pipeline.ask(active) == "0").then_some(status)
    })
}

#[test]
fn between_two_runs_nobody_uses_the_slot_and_a_call_starts_the_next_run_at_once() {
    let (mut pipeline, api) = started("every = \"1day\"");
    let status = await_rest(&pipeline, &api);
    assert!(status["engine"]["next_run"].is_string(), "{status}");
    for round in 1..=3 {
        pipeline.exec(&format!("INSERT INTO t VALUES ({round}, {round})"));
        let answer = api.post_with(SECRET, "/webhook?wait=true&timeout=60s");
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("done")), "{answer:?}");
        pipeline.assert_equal(ROWS, ROWS);
        await_rest(&pipeline, &api);
    }
    // What every replica has is confirmed before the slot is let go.
    let checkpoint = pipeline.replica("eu").checkpoint().unwrap().lsn;
    assert_eq!(pipeline.confirmed_flush_lsn(), Some(checkpoint));

    // Resting is neither a stall nor unready, however much is written meanwhile.
    for _ in 0..30 {
        pipeline.exec("INSERT INTO unpublished SELECT generate_series(1, 1000)");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((api.get("/livez").status, api.get("/readyz").status), (200, 200));
    }
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn runs_come_by_themselves() {
    let (mut pipeline, api) = started("every = \"1s\"\nmax_duration = \"1s\"");
    for round in 1..=3 {
        await_rest(&pipeline, &api);
        pipeline.exec(&format!("INSERT INTO t VALUES ({round}, {round})"));
        pipeline.catch_up();
        pipeline.assert_equal(ROWS, ROWS);
    }
    assert!(pipeline.log().matches("resting until the next run").count() >= 3);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_transaction_that_takes_longer_than_a_run_arrives_all_the_same_and_whole() {
    let mut pipeline = Pipeline::builder()
        .sections(
            "[transaction]\npart_max_bytes = \"4KiB\"\n[queue]\nmax_bytes = \"64KiB\"\n\
             [schedule]\nevery = \"1s\"\nmax_duration = \"100ms\"\n",
        )
        .build(CREATE, &schema());
    pipeline.start();
    pipeline.await_log("resting until the next run");
    pipeline.exec("INSERT INTO t SELECT i, i FROM generate_series(1, 100000) i");
    pipeline.exec("UPDATE t SET n = -n WHERE id <= 50000");
    pipeline.catch_up();
    pipeline.assert_equal("SELECT count(*), sum(n) FROM t", "SELECT count(*), sum(n) FROM t");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn an_engine_that_rests_stops_when_told_and_goes_on_after_a_kill() {
    let (mut pipeline, api) = started("every = \"1day\"");
    await_rest(&pipeline, &api);
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.clear_log();
    pipeline.start();
    let api = Api::of(&pipeline);
    pipeline.catch_up();
    pipeline.assert_equal(ROWS, ROWS);
    await_rest(&pipeline, &api);
    pipeline.exec("INSERT INTO t VALUES (2, 2)");
    pipeline.kill();
    // One that ends by itself has no schedule.
    pipeline.run_until_caught_up();
    pipeline.assert_equal(ROWS, ROWS);
}

#[test]
fn a_source_that_was_away_is_asked_again_at_the_next_call() {
    let (mut pipeline, api) = started("every = \"1day\"");
    await_rest(&pipeline, &api);
    pipeline.restart_server();
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    assert_eq!(api.post_with(SECRET, "/sync?wait=true&timeout=60s").status, 200);
    pipeline.assert_equal(ROWS, ROWS);
    assert_eq!(pipeline.stop(), Some(0));
}
