//! Columns, types, keys and tables that change in `schema.json`: what a start does with the replicas, and what their
//! readers see meanwhile.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pipeline::{Pipeline, Session};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

/// Small chunks, so that there are many.
const SMALL: &str = "[backfill]\nchunk_max_bytes = \"32KiB\"\n";
const ROWS: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, v text, w text, UNIQUE (id, n));
    INSERT INTO t SELECT i, i, 'v' || i, 'w' || i FROM generate_series(1, 3000) i;
    ANALYZE;";

/// The table `t` with these columns.
fn schema(columns: &Value) -> Value {
    json!({"t": {"primaryKey": "id", "columns": columns}})
}

fn narrow() -> Value {
    schema(&json!({"id": "INTEGER", "v": "TEXT"}))
}

/// A pipeline that is filled and stopped.
fn filled(schema: &Value) -> Pipeline {
    filled_with("", schema)
}

fn filled_with(sql: &str, schema: &Value) -> Pipeline {
    let mut pipeline = Pipeline::builder().sections(SMALL).build(&format!("{ROWS}{sql}"), schema);
    pipeline.run_until_caught_up();
    pipeline.clear_log();
    pipeline
}

fn assert_equal(pipeline: &Pipeline, sql: &str) {
    pipeline.assert_equal(sql, sql);
}

/// The columns of a replica's table.
fn columns(pipeline: &Pipeline, table: &str) -> Vec<String> {
    let sql = format!("SELECT name, type FROM pragma_table_info('{table}') ORDER BY cid");
    pipeline.replica("eu").rows(&sql)
}

fn change(pipeline: &Pipeline, sql: &str) {
    for sink in ["eu", "na"] {
        Connection::open(pipeline.path(&format!("{sink}.db"))).unwrap().execute_batch(sql).unwrap();
    }
}

#[test]
fn a_column_is_added_and_filled_also_where_rows_changed_before_it_was_published() {
    let mut pipeline = filled(&narrow());
    pipeline.exec(
        "INSERT INTO t VALUES (5000, 1, 'new', 'new w'); UPDATE t SET v = 'changed' WHERE id <= 10;
         UPDATE t SET id = 6000 WHERE id = 20; DELETE FROM t WHERE id = 30",
    );
    pipeline.write_schema(&schema(&json!({"id": "INTEGER", "v": "TEXT", "w": "TEXT", "n": "INTEGER"})));
    pipeline.run_until_caught_up();
    pipeline.assert_log(&["table t: new columns (w, n), and its rows are written again"]);
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "v|TEXT", "w|TEXT", "n|INTEGER"]);
    assert_equal(&pipeline, "SELECT id, v, w, n FROM t ORDER BY id");
    pipeline.clear_log();
    pipeline.exec("UPDATE t SET w = 'later' WHERE id = 1");
    pipeline.run_until_caught_up();
    assert_equal(&pipeline, "SELECT id, v, w, n FROM t ORDER BY id");
    assert!(!pipeline.log().contains("the fill begins"), "once is enough");
}

#[test]
fn a_column_that_is_taken_out_stays_and_is_filled_when_it_comes_back() {
    let wide = json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT", "w": "TEXT"}, "indexes": ["w"]}});
    let mut pipeline = filled(&wide);
    pipeline.write_schema(&narrow());
    pipeline.exec("UPDATE t SET v = 'changed', w = 'not seen' WHERE id <= 100");
    pipeline.run_until_caught_up();
    pipeline.assert_log(&["schema.json does not name it any more: it stays as it is"]);
    assert!(!pipeline.log().contains("the fill begins"));
    assert_equal(&pipeline, "SELECT id, v FROM t ORDER BY id");
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "v|TEXT", "w|TEXT"]);
    assert_eq!(pipeline.replica("eu").ask("SELECT w FROM t WHERE id = 1"), "w1");
    assert_eq!(pipeline.replica("eu").rows("SELECT name FROM pragma_index_list('t')"), [""; 0]);
    pipeline.clear_log();
    pipeline.run_until_caught_up();
    assert!(!pipeline.log().contains("does not name"), "it is said once");
    pipeline.write_schema(&wide);
    pipeline.run_until_caught_up();
    assert_equal(&pipeline, "SELECT id, v, w FROM t ORDER BY id");
    assert_eq!(pipeline.replica("eu").rows("SELECT name FROM pragma_index_list('t')"), ["idx_t_w"]);
}

#[test]
fn a_table_that_was_taken_out_is_built_anew_when_it_comes_back() {
    let mut pipeline = filled(&narrow());
    pipeline.exec("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)");
    let other = json!({"primaryKey": "id", "columns": {"id": "INTEGER"}});
    pipeline.write_schema(&json!({"other": other}));
    pipeline.run_until_caught_up();
    assert_eq!(pipeline.replica("eu").ask("SELECT count(*) FROM t"), "3000");
    pipeline.exec("DELETE FROM t WHERE id <= 1000; UPDATE t SET v = 'unseen' WHERE id <= 2000");
    let mut both = narrow();
    both["other"] = other;
    pipeline.write_schema(&both);
    pipeline.run_until_caught_up();
    assert_equal(&pipeline, "SELECT id, v FROM t ORDER BY id");
    assert_equal(&pipeline, "SELECT id FROM other");
}

#[test]
fn another_type_key_or_soft_delete_column_is_built_beside_and_swapped() {
    let identity = "ALTER TABLE t ALTER n SET NOT NULL; ALTER TABLE t REPLICA IDENTITY FULL";
    let mut pipeline = filled_with(identity, &narrow());
    change(
        &pipeline,
        "CREATE VIEW theirs AS SELECT count(*) AS rows FROM t; CREATE INDEX theirs_v ON t (v);
         INSERT INTO t VALUES (9999, 'nobody has it');
         INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('t', 'insert', '[1]', 'r', '0/1', 1)",
    );
    let n = |type_name: &str| json!({"id": "INTEGER", "v": "TEXT", "n": type_name});
    let steps = [
        (schema(&n("INTEGER")), "new columns (n)"),
        (schema(&n("TEXT")), "because its column n is INTEGER, not TEXT"),
        (
            json!({"t": {"primaryKey": ["n", "id"], "columns": n("INTEGER"), "indexes": ["v"]}}),
            "because its key is (id), not (n, id)",
        ),
        (
            json!({"t": {"primaryKey": "id", "columns": n("INTEGER"), "softDelete": "gone"}}),
            "because its key is (n, id), not (id)",
        ),
        (schema(&n("INTEGER")), "because its soft-delete column is gone, not none"),
    ];
    for (id, (schema, says)) in (10_000..).zip(steps) {
        pipeline.exec(&format!(
            "INSERT INTO t VALUES ({id}, 1, 'new', 'w'); UPDATE t SET v = v || 'x' WHERE id % 7 = 0; DELETE FROM t WHERE id = {id} - 9990"
        ));
        pipeline.write_schema(&schema);
        pipeline.run_until_caught_up();
        pipeline.assert_log(&[says]);
        pipeline.clear_log();
        let sql = "SELECT id, v, n FROM t ORDER BY id";
        let nobody = if says.contains("new columns") { "DELETE FROM t WHERE id = 9999" } else { "" };
        change(&pipeline, nobody);
        assert_equal(&pipeline, sql);
        let eu = pipeline.replica("eu");
        assert_eq!(eu.ask("SELECT rows FROM theirs"), eu.ask("SELECT count(*) FROM t"));
        assert_eq!(eu.ask("SELECT count(*) FROM sqlite_schema WHERE name = 'theirs_v'"), "1");
        assert_eq!(eu.rows("SELECT name FROM sqlite_schema WHERE name LIKE '%walcast_new%'"), [""; 0]);
        assert_eq!(eu.rows("SELECT target FROM _walcast_tables"), ["t"]);
    }
    assert_eq!(pipeline.replica("eu").dead_letters(), [""; 0]);
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "v|TEXT", "n|INTEGER"]);
}

#[test]
fn rows_that_are_marked_as_deleted_outlive_their_table_unless_the_new_key_has_no_value_for_them() {
    let soft = |key: Value, n: &str, gone: &str| {
        let columns = json!({"id": "INTEGER", "v": "TEXT", "n": n});
        json!({"t": {"primaryKey": key, "columns": columns, "softDelete": gone}})
    };
    let identity = "ALTER TABLE t ALTER w SET NOT NULL, ADD UNIQUE (id, w), REPLICA IDENTITY FULL";
    let mut pipeline = filled_with(identity, &soft(json!("id"), "INTEGER", "gone"));
    pipeline.exec("DELETE FROM t WHERE id <= 20");
    pipeline.run_until_caught_up();
    let eu = pipeline.replica("eu");
    let marked =
        |column: &str| format!("SELECT id, v, {column} FROM t WHERE {column} IS NOT NULL ORDER BY id");
    let before = eu.rows(&marked("gone"));
    assert_eq!(before.len(), 20);

    // While no engine runs, one comes back and another one goes.
    pipeline.exec("INSERT INTO t VALUES (1, 1, 'back', 'w'); DELETE FROM t WHERE id = 30");
    for (n, gone) in [("TEXT", "gone"), ("TEXT", "deleted_at")] {
        pipeline.write_schema(&soft(json!("id"), n, gone));
        let (_, text, _) = walcast(&pipeline, &["schema", "plan"]);
        assert!(text.contains("is built anew") && !text.contains("deleted go"), "{text}");
        pipeline.run_until_caught_up();
        assert_eq!(eu.rows(&marked(gone)), before[1..], "with the time at which each was deleted");
        assert_eq!(eu.rows("SELECT v FROM t WHERE id IN (1, 30)"), ["back"]);
        assert_eq!(
            eu.rows("SELECT DISTINCT n FROM t WHERE id BETWEEN 2 AND 20"),
            ["NULL"],
            "of another type"
        );
    }

    let mut wider = soft(json!(["w", "id"]), "TEXT", "deleted_at");
    wider["t"]["columns"]["w"] = json!("TEXT");
    pipeline.write_schema(&wider);
    let says =
        "its rows that are marked as deleted go, because they have no value for w, which is in the key";
    let (_, text, _) = walcast(&pipeline, &["schema", "plan"]);
    assert!(text.contains(says), "{text}");
    pipeline.run_until_caught_up();
    pipeline.assert_log(&[says]);
    assert_eq!(eu.rows(&marked("deleted_at")), [""; 0]);
}

#[test]
fn a_change_that_is_taken_back_or_changed_again_on_the_way_loses_nothing() {
    let n = |type_name: &str| schema(&json!({"id": "INTEGER", "n": type_name}));
    let mut pipeline = filled(&n("INTEGER"));
    for schema in [n("TEXT"), n("REAL"), n("TEXT"), n("INTEGER")] {
        pipeline.write_schema(&schema);
        pipeline.start();
        pipeline.await_log("is built anew");
        pipeline.exec("UPDATE t SET n = n + 1 WHERE id % 5 = 0");
        pipeline.kill();
        pipeline.clear_log();
        assert_eq!(pipeline.replica("eu").ask("SELECT count(*) FROM t"), "3000");
    }
    pipeline.run_until_caught_up();
    assert_equal(&pipeline, "SELECT id, n FROM t ORDER BY id");
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "n|INTEGER"]);
    let eu = pipeline.replica("eu");
    assert_eq!(eu.rows("SELECT name FROM sqlite_schema WHERE name LIKE '%walcast_new%'"), [""; 0]);
}

/// What a reader of `t` has seen.
#[derive(Default)]
struct Seen {
    looks: u64,
    types: Vec<String>,
}

/// Polls `t` until it is told to stop. The rows of the beginning are never fewer and never of two forms, and the others
/// only become more.
fn read(path: &Path, stop: &AtomicBool) -> Seen {
    let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    reader.busy_timeout(Duration::from_secs(60)).unwrap();
    let (mut seen, mut rows_before) = (Seen::default(), 0);
    while !stop.load(Ordering::Relaxed) {
        let sql =
            "SELECT count(*), count(*) FILTER (WHERE id <= 3000), group_concat(DISTINCT typeof(n)) FROM t";
        let (rows, old, types): (i64, i64, String) = reader
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .expect("the table is there at any time");
        assert_eq!(old, 3000);
        assert!(rows >= rows_before, "{rows} rows after {rows_before}");
        rows_before = rows;
        if !seen.types.contains(&types) {
            seen.types.push(types);
        }
        seen.looks += 1;
    }
    seen
}

/// Updates old rows and inserts new ones until it is told to stop; returns how many statements that were.
fn write(url: &str, stop: &AtomicBool) -> u64 {
    let session = Session::connect(url).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let (id, new) = (random.u32(1..3000), 100_000 + written);
        session
            .exec(&format!("UPDATE t SET n = n + 1, v = v || 'x' WHERE id BETWEEN {id} AND {id} + 3"))
            .unwrap();
        session.exec(&format!("INSERT INTO t VALUES ({new}, {id}, 'new', 'w')")).unwrap();
        written += 1;
    }
    written
}

#[test]
fn readers_never_see_a_missing_or_half_filled_table_while_a_column_gets_another_type() {
    let n = |type_name: &str| schema(&json!({"id": "INTEGER", "v": "TEXT", "n": type_name}));
    let mut pipeline = filled(&n("INTEGER"));
    let (stop, url) = (AtomicBool::new(false), pipeline.cluster.url());
    let path = pipeline.path("eu.db");
    let mut random = fastrand::Rng::with_seed(5);
    let (seen, written) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&path, &stop));
        let writer = scope.spawn(|| write(&url, &stop));
        let scenario = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pipeline.write_schema(&n("TEXT"));
            for _ in 0..5 {
                pipeline.start();
                pipeline.await_log("is built anew");
                std::thread::sleep(Duration::from_millis(random.u64(..1500)));
                pipeline.kill();
            }
            pipeline.start();
            for sink in ["eu", "na"] {
                let replica = pipeline.replica(sink);
                pipeline.eventually("the swap", || (replica.fills()["t"]["is_beside"] != true).then_some(()));
            }
        }));
        // So that the reader looks once more.
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        let done = (reader.join().unwrap(), writer.join().unwrap());
        scenario.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done
    });
    assert!(seen.looks > 10 && written > 10, "{} looks, {written} writes", seen.looks);
    assert_eq!(seen.types, ["integer", "text"], "the one table, then the other");
    pipeline.catch_up();
    assert_equal(&pipeline, "SELECT id, v, n FROM t ORDER BY id");
    assert_eq!(pipeline.stop(), Some(0));
}

fn walcast(pipeline: &Pipeline, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = pipeline.walcast(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_plan_shows_what_a_start_does_and_an_operator_says_when_it_is_done() {
    let wide = json!({"id": "INTEGER", "v": "TEXT", "w": "TEXT"});
    let mut pipeline = filled(&schema(&wide));
    pipeline.exec("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1); ANALYZE");
    pipeline.edit_config("[source]", "schema_changes = \"manual\"\n[source]");
    let (code, text, _) = walcast(&pipeline, &["schema", "plan"]);
    assert_eq!((code, text.as_str()), (Some(0), "nothing is to be done\n"));
    let mut changed = schema(&json!({"id": "INTEGER", "v": "TEXT", "n": "TEXT"}));
    changed["other"] = json!({"primaryKey": "id", "columns": {"id": "INTEGER"}});
    pipeline.write_schema(&changed);
    let (code, text, _) = walcast(&pipeline, &["schema", "plan", "--json"]);
    assert_eq!(code, Some(3));
    let plan: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        plan["sinks"][0],
        json!({"sink": "eu", "left": [{"table": "t", "column": "w"}], "steps": [
            {"table": "t", "action": "add-columns", "message": "gets columns (n), and its rows are written again",
             "rows": 3000, "stops": true, "remedy": "walcast schema apply"},
            {"table": "other", "action": "create", "message": "is made and filled",
             "rows": 1, "stops": true, "remedy": "walcast schema apply"}]})
    );
    pipeline.start_with(&["--until-caught-up"]);
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&["schema.json has changed, and", "walcast schema apply"]);
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "v|TEXT", "w|TEXT"], "nothing was touched");

    let (code, _, error) = walcast(&pipeline, &["schema", "apply", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    assert_equal(&pipeline, "SELECT id, v, n FROM t ORDER BY id");
    assert_equal(&pipeline, "SELECT id FROM other");
    let (code, text, _) = walcast(&pipeline, &["schema", "plan"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("sink na  column t.w  stays"), "{text}");
}

#[test]
fn pruning_drops_what_walcast_made_and_nothing_else_after_asking() {
    let mut wide = schema(&json!({"id": "INTEGER", "v": "TEXT", "w": "TEXT"}));
    wide["other"] = json!({"primaryKey": "id", "columns": {"id": "INTEGER"}});
    let pipeline =
        filled_with("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);", &wide);
    change(&pipeline, "CREATE TABLE theirs (x); ALTER TABLE t ADD COLUMN theirs TEXT");
    pipeline.write_schema(&narrow());
    let (code, _, error) = walcast(&pipeline, &["schema", "apply", "--prune"]);
    assert_eq!(code, Some(2), "nobody can be asked");
    assert!(error.contains("walcast schema apply --prune --yes"), "{error}");
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "v|TEXT", "w|TEXT", "theirs|TEXT"]);
    let (code, _, error) = walcast(&pipeline, &["schema", "apply", "--prune", "--yes"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        error.contains("sink eu: column t.w is dropped") && error.contains("sink na: table other is dropped")
    );
    assert_eq!(columns(&pipeline, "t"), ["id|INTEGER", "v|TEXT", "theirs|TEXT"]);
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_walcast%' ESCAPE '\\' ORDER BY name";
    assert_eq!(pipeline.replica("eu").rows(sql), ["t", "theirs"]);
    assert_equal(&pipeline, "SELECT id, v FROM t ORDER BY id");
    let (code, text, _) = walcast(&pipeline, &["schema", "plan"]);
    assert_eq!((code, text.as_str()), (Some(0), "nothing is to be done\n"));
}
