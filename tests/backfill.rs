//! Rows from before the stream: brought while the stream flows, to exactly the sinks that lack them.

#[path = "support/filling.rs"]
mod filling;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::time::Duration;

use filling::{ROWS, SMALL, TABLES, assert_equal, schema, under_load};
use pipeline::Pipeline;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn rows_from_before_the_start_are_brought_while_rows_change() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    under_load(&mut pipeline, |pipeline| {
        pipeline.start();
        for sink in ["eu", "na"] {
            pipeline.filled(sink);
        }
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    for replica in pipeline.replicas() {
        assert_eq!(replica.dead_letters(), [""; 0]);
        assert!(
            replica.fills().values().all(|fill| fill["rows"].as_u64() > Some(1000)),
            "{:?}",
            replica.fills()
        );
    }
    pipeline.assert_log(&["the fill begins"]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn an_engine_that_is_killed_while_it_fills_goes_on_where_it_was() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    under_load(&mut pipeline, |pipeline| {
        let mut random = fastrand::Rng::with_seed(3);
        let mut begun = 0;
        for _ in 0..5 {
            pipeline.start();
            pipeline.eventually("a chunk", || {
                let fills = pipeline.replica("eu").fills();
                let rows = fills.values().filter_map(|fill| fill["rows"].as_u64()).sum::<u64>();
                (rows > begun || fills.len() == 3).then(|| begun = rows)
            });
            std::thread::sleep(Duration::from_millis(random.u64(..150)));
            pipeline.kill();
        }
        pipeline.start();
        for sink in ["eu", "na"] {
            pipeline.filled(sink);
        }
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_that_is_added_or_made_anew_is_filled_and_the_others_are_not() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    pipeline.start();
    pipeline.filled("eu");
    pipeline.filled("na");
    assert_eq!(pipeline.stop(), Some(0));
    let before = pipeline.replica("eu").fills();
    pipeline.add_sink("ap");
    for (is_new, sink) in [(true, "ap"), (false, "na")] {
        if !is_new {
            for suffix in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(pipeline.path(&format!("{sink}.db{suffix}")));
            }
        }
        under_load(&mut pipeline, |pipeline| {
            pipeline.start();
            pipeline.filled(sink);
        });
        pipeline.catch_up();
        assert_equal(&pipeline);
        assert_eq!(pipeline.replica("eu").fills(), before);
        assert_eq!(pipeline.stop(), Some(0));
    }
}

#[test]
fn a_region_that_lost_changes_is_emptied_and_filled_anew() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    pipeline.start();
    pipeline.filled("eu");
    pipeline.filled("na");
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    // As after a restore: it was at an earlier position, and the slot has gone on.
    std::fs::copy(pipeline.path("na.db"), pipeline.path("na.bak")).unwrap();
    pipeline.exec("DELETE FROM items WHERE id < 1000; UPDATE pairs SET v = -v");
    pipeline.start();
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(pipeline.path(&format!("na.db{suffix}")));
    }
    std::fs::rename(pipeline.path("na.bak"), pipeline.path("na.db")).unwrap();
    under_load(&mut pipeline, |pipeline| {
        pipeline.start();
        pipeline.await_log("the replica is filled anew");
        pipeline.filled("na");
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_table_that_is_added_is_filled_and_the_others_go_on() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &{
        let mut schema = schema();
        schema.as_object_mut().unwrap().remove("uids");
        schema
    });
    pipeline.start();
    pipeline.filled("eu");
    pipeline.filled("na");
    assert_eq!(pipeline.stop(), Some(0));
    let before = pipeline.replica("eu").fills();
    pipeline.write_schema(&schema());
    under_load(&mut pipeline, |pipeline| {
        pipeline.start();
        for sink in ["eu", "na"] {
            let has_it = || pipeline.replica(sink).fills().contains_key("uids").then_some(());
            pipeline.eventually("the new table", has_it);
            pipeline.filled(sink);
        }
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    let after = pipeline.replica("eu").fills();
    assert!(before.iter().all(|(target, fill)| after[target] == *fill));
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn what_was_written_before_the_table_was_published_is_there_although_it_is_committed_later() {
    let mut few = schema();
    few.as_object_mut().unwrap().remove("uids");
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &few);
    pipeline.start();
    pipeline.filled("eu");
    assert_eq!(pipeline.stop(), Some(0));
    // The stream does not have it, and what is read before its end has not either.
    let writer = pipeline.session();
    writer
        .exec("BEGIN; INSERT INTO uids (v) VALUES ('early'); UPDATE uids SET v = 'early' WHERE v = 'u7'")
        .unwrap();
    pipeline.write_schema(&schema());
    pipeline.start();
    let published = "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'uids'";
    pipeline.eventually("the publication to have it", || (pipeline.ask(published) == "1").then_some(()));
    // Time for a fill that does not wait.
    std::thread::sleep(Duration::from_secs(1));
    writer.exec("COMMIT").unwrap();
    pipeline.filled("eu");
    pipeline.filled("na");
    pipeline.catch_up();
    assert_equal(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_table_is_live_although_nobody_writes_at_the_source_and_its_wal_is_flushed_by_nobody() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    let background = "SELECT pid FROM pg_stat_activity
        WHERE backend_type IN ('background writer', 'walwriter', 'checkpointer', 'autovacuum launcher')";
    let pids = pipeline.exec(background);
    assert_eq!(pids.len(), 4);
    let all = |signal| {
        for pid in &pids {
            kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), signal).unwrap();
        }
    };
    pipeline.start();
    pipeline.eventually("the stream to begin", || pipeline.log().contains("streaming slot").then_some(()));
    all(Signal::STOP);
    // What reading itself writes: the rows of the table were not visible to all yet.
    let filled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pipeline.filled("eu");
        pipeline.filled("na");
    }));
    all(Signal::CONT);
    filled.unwrap();
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_row_that_an_update_misses_is_read_from_the_source() {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{TABLES}{ROWS}"), &schema());
    pipeline.start();
    pipeline.filled("eu");
    pipeline.filled("na");
    // Somebody else has been at the replica.
    let path = pipeline.path("eu.db");
    let replica = rusqlite::Connection::open(path).unwrap();
    replica.busy_timeout(Duration::from_secs(10)).unwrap();
    replica.execute("DELETE FROM items WHERE id BETWEEN 10 AND 20", []).unwrap();
    drop(replica);
    // Each leaves the note out.
    pipeline.exec("UPDATE items SET v = 'missed' WHERE id BETWEEN 10 AND 12");
    pipeline.exec("UPDATE items SET id = 50000 WHERE id = 20");
    pipeline.catch_up();
    pipeline.filled("eu");
    pipeline.assert_log(&["updates found no row in this sink"]);
    let missing =
        |sink: &str| pipeline.replica(sink).ask("SELECT count(*) FROM items WHERE id BETWEEN 10 AND 20");
    assert_eq!(
        (missing("eu"), missing("na")),
        ("3".to_owned(), "10".to_owned()),
        "what nobody changed stays away"
    );
    let sql = "SELECT id, v, substr(note, 1, 9), length(note) FROM items WHERE id IN (10, 11, 12, 50000) ORDER BY id";
    pipeline.assert_equal(sql, sql);
    assert_eq!(pipeline.replica("eu").dead_letters(), [""; 0]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn rows_that_the_publication_filters_out_are_not_brought_because_their_changes_never_come() {
    let table = serde_json::json!({"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT"}});
    let mut pipeline = Pipeline::builder().build(
        "CREATE TABLE f (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE f1 PARTITION OF f FOR VALUES FROM (0) TO (500);
         CREATE TABLE f2 PARTITION OF f FOR VALUES FROM (500) TO (5000);
         INSERT INTO f SELECT i, 'v' FROM generate_series(1, 1000) i;",
        &serde_json::json!({"f": table}),
    );
    if pipeline.major_version() < 15 {
        return;
    }
    pipeline.exec(
        "CREATE PUBLICATION walcast FOR TABLE f WHERE (id > 100 AND id <= 900)
             WITH (publish_via_partition_root = true)",
    );
    let published = "SELECT id, v FROM f WHERE id > 100 AND id <= 900 ORDER BY id";
    let all = "SELECT id, v FROM f ORDER BY id";
    pipeline.run_until_caught_up();
    pipeline.assert_equal(published, all);
    pipeline.exec("UPDATE f SET v = 'w'; UPDATE f SET id = id + 2000 WHERE id = 150; DELETE FROM f WHERE id IN (7, 777)");
    // Into what is published, and out of it.
    pipeline.exec("DELETE FROM f WHERE id = 101; UPDATE f SET id = 101 WHERE id = 50; UPDATE f SET id = 4000 WHERE id = 102");
    pipeline.run_until_caught_up();
    pipeline.assert_equal(published, all);
    for (key, says) in [("4000", "not there at the source"), ("101", "there at the source")] {
        let traced = pipeline.walcast(&["trace", "f", key]);
        let text = String::from_utf8(traced.stdout).unwrap();
        assert!(traced.status.success() && text.contains(says), "{text}");
    }
}
