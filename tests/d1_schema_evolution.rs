//! Columns and tables that change in `schema.json`, in D1 databases on a real workerd.

#[path = "support/pipeline.rs"]
mod pipeline;

use std::process::{Command, Stdio};

use pipeline::Pipeline;
use serde_json::{Value, json};

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

fn plan(pipeline: &Pipeline, code: i32) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .args(["schema", "plan", "--json"])
        .env_clear()
        .current_dir(pipeline.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
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

    // Another type is another table, which has no room there yet.
    let text = json!({"id": "INTEGER", "v": "TEXT", "w": "TEXT", "n": "TEXT"});
    pipeline.write_schema(&json!({"t": t(&text, &json!([])), "other": other}));
    assert_eq!(plan(&pipeline, 3)["sinks"][0]["steps"][0]["stops"], true);
    pipeline.start_with(&["--until-caught-up"]);
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&["table t in D1 database", "was made for another schema.json"]);
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}
