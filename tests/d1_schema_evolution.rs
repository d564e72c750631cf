//! Columns and tables that change in `schema.json`, in D1 databases on a real workerd.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pipeline::{Pipeline, Session};
use serde_json::{Value, json};
use walcast::sink::d1::rest::RestTransport;
use walcast::sink::d1::transport::{Statement, Transport};
use walcast::sink::d1::verdict::Verdict;

const SECTIONS: &str = "[backfill]\nchunk_max_bytes = \"32KiB\"\n[d1]\nrequests_per_5_minutes = 100000\n";
const ROWS: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, v text, w text);
    INSERT INTO t SELECT i, i, 'v' || i, 'w' || i FROM generate_series(1, 2000) i;
    CREATE TABLE other (id int PRIMARY KEY);
    INSERT INTO other VALUES (1), (2);
    ANALYZE;";

fn t(columns: &Value, indexes: &Value) -> Value {
    json!({"primaryKey": "id", "columns": columns, "indexes": indexes})
}

fn walcast(pipeline: &Pipeline, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = pipeline.walcast(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn plan(pipeline: &Pipeline, expected: i32) -> Value {
    let (code, text, error) = walcast(pipeline, &["schema", "plan", "--json"]);
    assert_eq!(code, Some(expected), "{text} {error}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_database_gets_columns_and_indexes_and_keeps_what_is_taken_out_until_it_comes_back() {
    let other = json!({"primaryKey": "id", "columns": {"id": "INTEGER"}});
    let v = json!({"id": "INTEGER", "v": "TEXT"});
    let wide = json!({"id": "INTEGER", "v": "TEXT", "w": "TEXT", "n": "INTEGER"});
    let mut pipeline = Pipeline::builder()
        .d1("rest", "")
        .sections(SECTIONS)
        .build(ROWS, &json!({"t": t(&v, &json!(["v"])), "other": other}));
    pipeline.run_until_caught_up();
    assert_eq!(plan(&pipeline, 0)["sinks"][0]["steps"], json!([]));

    pipeline.exec("INSERT INTO t VALUES (5000, 1, 'new', 'w'); UPDATE t SET v = 'changed' WHERE id <= 10");
    pipeline.write_schema(&json!({"t": t(&wide, &json!(["n"]))}));
    let step = &plan(&pipeline, 3)["sinks"][0]["steps"][0];
    assert_eq!((&step["action"], &step["rows"]), (&json!("add-columns"), &json!(2000)));
    assert_eq!((&step["dollars"], &step["stops"]), (&json!(0.002), &json!(false)));
    pipeline.run_until_caught_up();
    let all = "SELECT id, v, w, n FROM t ORDER BY id";
    pipeline.assert_equal(all, all);
    let replica = pipeline.replica("rest");
    assert_eq!(replica.rows("SELECT name FROM pragma_index_list('t') WHERE origin = 'c'"), ["idx_t_n"]);
    assert_eq!(replica.ask("SELECT count(*) FROM other"), "2", "it stays");

    // Both were changed while nobody fed them.
    pipeline.write_schema(&json!({"t": t(&v, &json!([]))}));
    pipeline.run_until_caught_up();
    pipeline.exec("UPDATE t SET w = 'unseen', v = 'seen' WHERE id <= 50; DELETE FROM other WHERE id = 1");
    pipeline.run_until_caught_up();
    assert_eq!(replica.ask("SELECT v || w FROM t WHERE id = 1"), "seenw1");
    pipeline.write_schema(&json!({"t": t(&wide, &json!([])), "other": other}));
    pipeline.run_until_caught_up();
    pipeline.assert_equal(all, all);
    pipeline.assert_equal("SELECT id FROM other", "SELECT id FROM other");

    // What is left is dropped when an operator says so, and nothing else.
    pipeline.d1_rows("rest", "CREATE TABLE theirs (x)");
    pipeline.write_schema(&json!({"t": t(&v, &json!([]))}));
    let (code, _, error) = walcast(&pipeline, &["schema", "apply", "--prune", "--yes"]);
    assert_eq!(code, Some(0), "{error}");
    let dropped =
        ["column t.n", "column t.w", "table other"].map(|what| format!("sink rest: {what} is dropped"));
    assert!(dropped.iter().all(|line| error.contains(line)), "{error}");
    assert_eq!(replica.rows("SELECT name FROM pragma_table_info('t')"), ["id", "v"]);
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('t', 'other', 'theirs') ORDER BY name";
    assert_eq!(replica.rows(tables), ["t", "theirs"]);
    assert_eq!(plan(&pipeline, 0)["sinks"][0], json!({"sink": "rest", "steps": [], "left": []}));
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}

const LOAD: &str = "
    CREATE TABLE t (id int PRIMARY KEY, g int NOT NULL, n int, v text, UNIQUE (g, id));
    ALTER TABLE t REPLICA IDENTITY FULL;
    INSERT INTO t SELECT i, i % 7, i, 'v' || i FROM generate_series(1, 6000) i;
    ANALYZE;";
const FAULTS: [(&str, f64, bool); 5] = [
    ("network-connection-lost", 0.04, true),
    ("reset", 0.03, true),
    ("truncated", 0.03, true),
    ("internal-error", 0.03, false),
    ("reset", 0.03, false),
];

fn order_faults(pipeline: &Pipeline, seed: usize) {
    for (index, (kind, share, applied)) in FAULTS.into_iter().enumerate() {
        let seed = seed * FAULTS.len() + index;
        let fault =
            json!({"kind": kind, "times": "until cleared", "share": share, "applied": applied, "seed": seed});
        pipeline.order("rest", fault);
    }
    // So that there is something to be killed in.
    pipeline.order("rest", json!({"kind": "slow", "times": "until cleared", "delay_ms": 80}));
}

/// Polls the table until it is told to stop, and says how often it was answered. From when on it is there, it is there,
/// and it never has fewer of the rows of the beginning than all, nor two forms of them.
fn read(mut database: RestTransport, table: &str, stop: &AtomicBool) -> u64 {
    let sql = format!(
        "SELECT count(*) FILTER (WHERE id <= 6000) AS old, count(DISTINCT typeof(n)) AS types FROM {table}"
    );
    let statement = Statement { sql: sql.into(), params: Vec::new() };
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        match database.execute(std::slice::from_ref(&statement)) {
            Ok(answers) => {
                let row = &answers[0].rows[0];
                assert_eq!(
                    (&row["old"], &row["types"]),
                    (&json!(6000), &json!(1)),
                    "{table} after {looks} looks"
                );
                looks += 1;
            }
            Err(failure) if failure.verdict == Verdict::SchemaMissing => {
                assert_eq!(looks, 0, "{table} is gone: {}", failure.message);
            }
            // Killed, or a fault.
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    looks
}

fn write(url: &str, seed: usize, stop: &AtomicBool) -> u64 {
    let session = Session::connect(url).unwrap();
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let (id, new) = (random.u32(1..6000), seed as u64 * 100_000 + written);
        let sql = format!(
            "UPDATE t SET n = n + 1, v = v || 'x' WHERE id BETWEEN {id} AND {id} + 3;
             UPDATE t SET g = g + 1 WHERE id = {id}; INSERT INTO t VALUES ({new}, {id}, 1, 'new');
             DELETE FROM t WHERE id = {new} - 5"
        );
        session.exec(&sql).unwrap();
        written += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    written
}

/// Changes the schema while rows change, with the engine and workerd killed in between, until the tables are swapped. The
/// readers look at these tables.
fn change_under_load(pipeline: &mut Pipeline, seed: usize, schema: &Value, target: &str, readers: &[&str]) {
    let (stop, url) = (AtomicBool::new(false), pipeline.cluster.url());
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let databases: Vec<RestTransport> = readers.iter().map(|_| pipeline.d1("rest")).collect();
    pipeline.write_schema(schema);
    std::thread::scope(|scope| {
        let readers = readers.iter().zip(databases);
        let readers: Vec<_> =
            readers.map(|(table, database)| scope.spawn(|| read(database, table, &stop))).collect();
        let writer = scope.spawn(|| write(&url, seed, &stop));
        let scenario = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..4 {
                order_faults(pipeline, seed * 10 + round);
                pipeline.start();
                if round == 0 {
                    pipeline.await_log("is built anew");
                }
                std::thread::sleep(Duration::from_millis(random.u64(..1200)));
                if round % 2 == 0 {
                    let workerd = pipeline.workerd.as_mut().unwrap();
                    workerd.kill().unwrap();
                    workerd.start_again().unwrap();
                    order_faults(pipeline, seed * 10 + round + 5);
                    std::thread::sleep(Duration::from_millis(random.u64(..600)));
                }
                pipeline.kill();
            }
            pipeline.start();
            let replica = pipeline.replica("rest");
            pipeline.eventually("the swap", || (replica.fills()[target]["is_beside"] != true).then_some(()));
        }));
        // So that the readers look once more.
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let looks: Vec<u64> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        let written = writer.join().unwrap();
        scenario.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(looks.iter().all(|looks| *looks > 0) && written > 10, "{looks:?} looks, {written} writes");
    });
    pipeline.workerd.as_ref().unwrap().clear_faults().unwrap();
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.clear_log();
}

#[test]
fn a_database_whose_table_gets_another_type_key_or_name_always_has_it_whole() {
    let columns = |n: &str| json!({"id": "INTEGER", "g": "INTEGER", "n": n, "v": "TEXT"});
    let schema = |key: Value, n: &str, target: &str| {
        let table = json!({"primaryKey": key, "columns": columns(n), "indexes": ["v"], "target": target});
        json!({ "t": table })
    };
    let mut pipeline = Pipeline::builder()
        .d1("rest", "")
        .sections(SECTIONS)
        .build(LOAD, &schema(json!("id"), "INTEGER", "t"));
    pipeline.run_until_caught_up();
    pipeline.clear_log();
    let rows = |table: &str| format!("SELECT id, g, n, v FROM {table} ORDER BY id");
    let by_type = schema(json!("id"), "TEXT", "t");
    pipeline.write_schema(&by_type);
    let step = &plan(&pipeline, 3)["sinks"][0]["steps"][0];
    let found = (&step["action"], &step["rows"], &step["dollars"], &step["stops"]);
    assert_eq!(
        found,
        (&json!("rebuild"), &json!(6000), &json!(0.012), &json!(false)),
        "with an index entry each"
    );
    change_under_load(&mut pipeline, 1, &by_type, "t", &["t"]);
    pipeline.assert_equal(&rows("t"), &rows("t"));
    let by_key = schema(json!(["g", "id"]), "TEXT", "t");
    change_under_load(&mut pipeline, 2, &by_key, "t", &["t"]);
    pipeline.assert_equal(&rows("t"), &rows("t"));
    let by_name = schema(json!(["g", "id"]), "TEXT", "u");
    change_under_load(&mut pipeline, 3, &by_name, "u", &["t", "u"]);
    pipeline.assert_equal(&rows("t"), &rows("u"));
    assert_eq!(plan(&pipeline, 0)["sinks"][0]["left"], json!([{"table": "t"}]), "until it is pruned");
    let replica = pipeline.replica("rest");
    let objects =
        "SELECT name FROM sqlite_schema WHERE tbl_name IN ('t', 'u', '_walcast_new_t', '_walcast_new_u')
                   AND sql IS NOT NULL ORDER BY name";
    assert_eq!(replica.rows(objects), ["idx_t_v", "idx_u_v", "t", "u"]);
    assert_eq!(replica.dead_letters(), [""; 0]);
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}

#[test]
fn two_tables_that_trade_names_do_not_mix_their_rows_and_a_soft_delete_column_needs_another_table() {
    let table = |target: &str| json!({"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT"}, "target": target});
    let mut pipeline = Pipeline::builder().d1("rest", "").sink("eu", "").sections(SECTIONS).build(
        "CREATE TABLE one (id int PRIMARY KEY, v text); CREATE TABLE two (id int PRIMARY KEY, v text);
         INSERT INTO one SELECT i, 'one' FROM generate_series(1, 300) i;
         INSERT INTO two SELECT i, 'two' FROM generate_series(201, 900) i;",
        &json!({"one": table("x"), "two": table("y")}),
    );
    pipeline.run_until_caught_up();
    pipeline.write_schema(&json!({"one": table("y"), "two": table("x")}));
    pipeline.run_until_caught_up();
    pipeline.assert_log(&["because its rows were those of one, not of two"]);
    pipeline.exec("DELETE FROM one WHERE id = 250; UPDATE two SET v = 'changed' WHERE id = 260");
    pipeline.run_until_caught_up();
    for (source, target) in [("one", "y"), ("two", "x")] {
        let rows = |table: &str| format!("SELECT id, v FROM {table} ORDER BY id");
        pipeline.assert_equal(&rows(source), &rows(target));
    }
    let mut soft = table("y");
    soft["softDelete"] = json!("gone");
    pipeline.write_schema(&json!({"one": soft, "two": table("x")}));
    pipeline.run_until_caught_up();
    pipeline.exec("DELETE FROM one WHERE id = 10");
    pipeline.run_until_caught_up();
    for replica in pipeline.replicas() {
        assert_eq!(replica.ask("SELECT count(*) || '/' || count(gone) FROM y"), "299/1");
    }
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}

#[test]
fn rows_that_are_marked_as_deleted_outlive_their_table_in_a_database_too() {
    let soft = |n: &str| {
        let columns = json!({"id": "INTEGER", "v": "TEXT", "n": n});
        json!({"t": {"primaryKey": "id", "columns": columns, "softDelete": "gone", "indexes": ["v"]}})
    };
    let mut pipeline = Pipeline::builder().d1("rest", "").sections(SECTIONS).build(ROWS, &soft("INTEGER"));
    pipeline.run_until_caught_up();
    pipeline.exec("DELETE FROM t WHERE id <= 20");
    pipeline.run_until_caught_up();
    let marked = "SELECT id, v, gone FROM t WHERE gone IS NOT NULL ORDER BY id";
    let before = pipeline.replica("rest").rows(marked);
    assert_eq!(before.len(), 20);
    pipeline.exec("INSERT INTO t VALUES (1, 1, 'back', 'w')");
    pipeline.write_schema(&soft("TEXT"));
    pipeline.run_until_caught_up();
    let replica = pipeline.replica("rest");
    assert_eq!(replica.rows(marked), before[1..]);
    assert_eq!(
        replica.rows("SELECT v, typeof(n) FROM t WHERE id IN (1, 2) ORDER BY id"),
        ["back|text", "v2|null"]
    );
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}

#[test]
fn replicas_of_an_older_walcast_that_keep_no_fills_can_be_looked_into() {
    let other = json!({"other": {"primaryKey": "id", "columns": {"id": "INTEGER"}}});
    let mut pipeline =
        Pipeline::builder().sink("eu", "").d1("rest", "").sections(SECTIONS).build(ROWS, &other);
    pipeline.run_until_caught_up();
    let older = ["DROP TABLE _walcast_fills", "DROP TABLE _walcast_left"];
    pipeline.d1("rest").execute(&older.map(Statement::plain)).unwrap();
    let file = rusqlite::Connection::open(pipeline.replica("eu").path).unwrap();
    older.iter().for_each(|sql| file.execute_batch(sql).unwrap());
    for arguments in [
        &["trace", "other", "1"][..],
        &["failed", "list"],
        &["status"],
        &["check"],
        &["schema", "diff"],
        &["schema", "plan"],
    ] {
        let (code, text, error) = walcast(&pipeline, arguments);
        assert_eq!(code, Some(0), "{arguments:?} {text} {error}");
    }
    let (_, text, _) = walcast(&pipeline, &["trace", "other", "1"]);
    assert_eq!(text.matches("equal").count(), 2, "{text}");
}
