//! Rows from before the stream: brought while the stream flows, to exactly the sinks that lack them.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pipeline::{Pipeline, Session};
use serde_json::{Value, json};

const TABLES: &str = "
    CREATE TABLE items (id bigint PRIMARY KEY, v text, note text);
    ALTER TABLE items ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE pairs (a int, b text COLLATE \"C\", v bigint, PRIMARY KEY (a, b));
    CREATE TABLE uids (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), v text);";
const ROWS: &str = "
    INSERT INTO items SELECT i, 'v' || i, repeat(md5(i::text), 80) FROM generate_series(1, 1500) i;
    INSERT INTO pairs SELECT i % 7, 'k' || i, i FROM generate_series(1, 4000) i;
    INSERT INTO uids (v) SELECT 'u' || i FROM generate_series(1, 4000) i;
    ANALYZE;";
/// What a note begins with and how long it is says enough.
const NOTES: &str = "SELECT id, v, substr(note, 1, 9), length(note) FROM items ORDER BY id";
/// The same rows at the source and at a replica.
const EQUAL: [(&str, &str); 3] = [
    (NOTES, NOTES),
    ("SELECT a, b, v FROM pairs ORDER BY a, b", "SELECT a, b, v FROM pairs ORDER BY a, b"),
    ("SELECT id, v FROM uids ORDER BY id", "SELECT id, v FROM uids ORDER BY id"),
];

fn schema() -> Value {
    json!({
        "items": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT", "note": "TEXT"}},
        "pairs": {"primaryKey": ["a", "b"], "columns": {"a": "INTEGER", "b": "TEXT", "v": "INTEGER"}},
        "uids": {"primaryKey": "id", "columns": {"id": "TEXT", "v": "TEXT"}},
    })
}

/// Small chunks, so that there are many.
const SMALL: &str = "[backfill]\nchunk_max_bytes = \"32KiB\"\n";

fn assert_equal(pipeline: &Pipeline) {
    for (source, replica) in EQUAL {
        pipeline.assert_equal(source, replica);
    }
}

/// Changes rows of all three tables until it is told to stop: hot rows, keys that change, updates that leave TOAST out.
fn write(url: &str, seed: u64, stop: &AtomicBool, written: &AtomicU64) {
    let session = Session::connect(url).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let (id, to) = (random.u32(1..4200), 10_000 + random.u32(..100_000));
        let hot = random.u32(1..5);
        let sql = match random.u32(..10) {
            0 => format!("DELETE FROM items WHERE id = {id}"),
            1 => format!(
                "INSERT INTO items VALUES ({id}, 'again', 'new') ON CONFLICT (id) DO UPDATE SET note = 'over'"
            ),
            2 => format!(
                "UPDATE items SET id = {to} WHERE id = {id} AND NOT EXISTS (SELECT FROM items WHERE id = {to})"
            ),
            3 => format!("UPDATE items SET v = v || 'x' WHERE id = {hot}"),
            4 => format!("UPDATE pairs SET v = v + 1 WHERE a = {}", id % 7),
            5 => format!("UPDATE pairs SET b = b || 'm' WHERE v = {id}"),
            6 => format!("DELETE FROM uids WHERE v = 'u{id}'"),
            7 => format!("UPDATE uids SET id = gen_random_uuid(), v = v || 'm' WHERE v = 'u{id}'"),
            _ => format!("UPDATE items SET v = 'w{to}' WHERE id BETWEEN {id} AND {id} + 5"),
        };
        session.exec(&sql).unwrap();
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `scenario` while rows change.
fn under_load(pipeline: &mut Pipeline, scenario: impl FnOnce(&mut Pipeline)) {
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let url = pipeline.cluster.url();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&url, 7, &stop, &written));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(pipeline)));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(written.load(Ordering::Relaxed) > 0);
}

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
