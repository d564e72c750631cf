//! The heartbeat: how long a commit takes to each region is measured, also while nobody writes.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use http::Api;
use pipeline::Pipeline;
use rusqlite::Connection;
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);";

/// A pipeline whose idle position would be kept only after an hour, with these further sections, and its API.
fn started(sections: &str) -> (Pipeline, Api) {
    let schema = json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}});
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nstall_timeout = \"1day\"\n\
             [log]\nsync_file = \"sync.db\"\n{sections}\n"
        ))
        .build(CREATE, &schema);
    pipeline.edit_config("idle_checkpoint_interval = \"100ms\"", "idle_checkpoint_interval = \"1h\"");
    pipeline.start();
    pipeline.await_log("streaming");
    let api = Api::of(&pipeline);
    (pipeline, api)
}

fn delay(status: &Value, sink: usize) -> Option<f64> {
    status["sinks"][sink]["engine"]["delay_seconds"].as_f64()
}

#[test]
fn delays_are_measured_while_nobody_writes_and_a_region_that_is_stuck_shows_a_growing_one() {
    let (mut pipeline, api) = started("[heartbeat]\ninterval = \"1s\"");
    let before = pipeline.wal_lsn();
    pipeline.eventually("both delays", || {
        let status = api.get("/status").json();
        let [eu, na] = [0, 1].map(|sink| delay(&status, sink));
        (eu? > 0.0 && na? > 0.0).then_some(())
    });
    pipeline.eventually("the metrics", || {
        let metrics = api.get("/metrics").body;
        let has = |name: &str| metrics.contains(&format!("{name}{{sink=\"na\"}}"));
        (has("walcast_sink_delay_seconds") && has("walcast_heartbeat_duration_seconds_count")).then_some(())
    });
    assert!(
        pipeline.replica("eu").checkpoint().unwrap().lsn >= before,
        "the checkpoint moves with the beats"
    );

    // Other programs' messages neither disturb nor count.
    for is_transactional in ["true", "false"] {
        pipeline.exec(&format!(
            "SELECT pg_logical_emit_message({is_transactional}, 'other', repeat('x', 100000))"
        ));
    }
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    let held = Connection::open(pipeline.replica("na").path).unwrap();
    held.busy_timeout(pipeline::LIMIT).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    pipeline.eventually("the stuck region's delay to grow beyond the other's", || {
        let status = api.get("/status").json();
        (delay(&status, 1)? > 3.0 && delay(&status, 0)? < delay(&status, 1)?).then_some(())
    });
    drop(held);
    pipeline
        .eventually("it to come down again", || (delay(&api.get("/status").json(), 1)? < 3.0).then_some(()));
    pipeline.assert_equal("SELECT * FROM t", "SELECT * FROM t");
    assert_eq!(pipeline.stop(), Some(0));

    // Beats are nothing that was synced.
    let log = Connection::open(pipeline.path("sync.db")).unwrap();
    let empty = "SELECT count(*) FROM entries WHERE outcome = 'applied' AND changes = 0";
    assert_eq!(log.query_row(empty, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn without_a_heartbeat_nothing_is_written_at_the_source_and_nothing_measured() {
    let (mut pipeline, api) = started("");
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    pipeline.eventually("the row", || {
        (pipeline.replica("na").ask("SELECT count(*) FROM t") == "1").then_some(())
    });
    let status = api.get("/status").json();
    assert_eq!((delay(&status, 0), delay(&status, 1)), (None, None), "{status}");
    assert!(!api.get("/metrics").body.contains("walcast_sink_delay_seconds{"));
    assert_eq!(pipeline.stop(), Some(0));
}
