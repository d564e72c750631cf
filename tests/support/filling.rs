//! Tables with rows from before the stream, somebody who changes them all the time, and the comparison at the end.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::pipeline::{Pipeline, Session};

pub const TABLES: &str = "
    CREATE TABLE items (id bigint PRIMARY KEY, v text, note text);
    ALTER TABLE items ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE pairs (a int, b text COLLATE \"C\", v bigint, PRIMARY KEY (a, b));
    CREATE TABLE uids (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), v text);";
pub const ROWS: &str = "
    INSERT INTO items SELECT i, 'v' || i, repeat(md5(i::text), 80) FROM generate_series(1, 1500) i;
    INSERT INTO pairs SELECT i % 7, 'k' || i, i FROM generate_series(1, 4000) i;
    INSERT INTO uids (v) SELECT 'u' || i FROM generate_series(1, 4000) i;
    ANALYZE;";
/// What a note begins with and how long it is says enough.
pub const NOTES: &str = "SELECT id, v, substr(note, 1, 9), length(note) FROM items ORDER BY id";
/// The same rows at the source and at a replica.
pub const EQUAL: [(&str, &str); 3] = [
    (NOTES, NOTES),
    ("SELECT a, b, v FROM pairs ORDER BY a, b", "SELECT a, b, v FROM pairs ORDER BY a, b"),
    ("SELECT id, v FROM uids ORDER BY id", "SELECT id, v FROM uids ORDER BY id"),
];

pub fn schema() -> Value {
    json!({
        "items": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT", "note": "TEXT"}},
        "pairs": {"primaryKey": ["a", "b"], "columns": {"a": "INTEGER", "b": "TEXT", "v": "INTEGER"}},
        "uids": {"primaryKey": "id", "columns": {"id": "TEXT", "v": "TEXT"}},
    })
}

/// Small chunks, so that there are many.
pub const SMALL: &str = "[backfill]\nchunk_max_bytes = \"32KiB\"\n";

pub fn assert_equal(pipeline: &Pipeline) {
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
        // Less than the slowest sink takes on a busy machine.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `scenario` while rows change.
pub fn under_load(pipeline: &mut Pipeline, scenario: impl FnOnce(&mut Pipeline)) {
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
