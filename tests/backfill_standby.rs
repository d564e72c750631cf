//! Rows from before the stream that are read from a standby, which goes away or is promoted in the middle.

#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/standby.rs"]
mod standby;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pipeline::Pipeline;
use serde_json::json;
use standby::Standby;

const ROWS: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, repeat('v', 400) || i FROM generate_series(1, 8000) i;
    ANALYZE;";
const T: &str = "SELECT id, v FROM t ORDER BY id";

fn host(path: &std::path::Path) -> String {
    utf8_percent_encode(&path.to_string_lossy(), NON_ALPHANUMERIC).to_string()
}

/// A pipeline that fills slowly from the standby, or from the primary where `and_primary` says so and there is no
/// standby.
fn build(and_primary: bool) -> (Pipeline, Standby, tokio::runtime::Runtime) {
    let schema = json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT"}}});
    let pipeline = Pipeline::builder()
        .sink("eu", "")
        .sections("[backfill]\nchunk_max_bytes = \"32KiB\"\nconnections = 1\n")
        .build(ROWS, &schema);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let standby = runtime.block_on(Standby::start(&pipeline.cluster, "s1"));
    let (mut hosts, mut ports) = (host(standby.directory()), "5432".to_owned());
    if and_primary {
        hosts = format!("{hosts},{}", host(pipeline.cluster.socket_directory()));
        ports = format!("{ports},{}", pipeline.cluster.port());
    }
    let url = format!("postgres://postgres@/postgres?host={hosts}&port={ports}");
    pipeline.edit_config("[source]", &format!("[source]\nbackfill_url = \"{url}\""));
    (pipeline, standby, runtime)
}

fn some_rows(pipeline: &Pipeline) {
    pipeline.eventually("a chunk", || {
        let rows = pipeline.replica("eu").fills().get("t")?["rows"].as_u64()?;
        (rows > 0).then_some(())
    });
}

#[test]
fn a_fill_goes_on_from_the_primary_when_its_standby_is_gone() {
    let (mut pipeline, standby, _runtime) = build(true);
    pipeline.start();
    some_rows(&pipeline);
    pipeline.exec("UPDATE t SET v = 'changed' WHERE id % 100 = 0; DELETE FROM t WHERE id % 100 = 1");
    drop(standby);
    pipeline.exec("INSERT INTO t SELECT i, 'new' FROM generate_series(9001, 9100) i");
    pipeline.filled("eu");
    pipeline.catch_up();
    pipeline.assert_log(&["another server is read than before"]);
    pipeline.assert_equal(T, T);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_server_that_was_promoted_away_from_the_source_is_not_read_any_more() {
    let (mut pipeline, standby, runtime) = build(false);
    pipeline.start();
    some_rows(&pipeline);
    runtime.block_on(async {
        let client = standby.client().await;
        client.batch_execute("SELECT pg_promote()").await.unwrap();
        client.batch_execute("UPDATE t SET v = 'of another history'").await.unwrap();
    });
    pipeline.await_log("the server at backfill_url is no standby of the source");
    let theirs = "SELECT count(*) FROM t WHERE v = 'of another history'";
    assert_eq!(pipeline.replica("eu").ask(theirs), "0");
    assert_eq!(pipeline.stop(), Some(0));
    // The operator takes it out.
    pipeline.edit_config("backfill_url = ", "# backfill_url = ");
    pipeline.run_until_caught_up();
    pipeline.assert_equal(T, T);
}
