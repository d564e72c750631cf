//! `walcast backfill` and `walcast nuke` on real replicas.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use http::{Answer, Api};
use pipeline::Pipeline;
use rusqlite::Connection;
use serde_json::{Value, json};

const ROWS: &str = "
    CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE b (id int PRIMARY KEY, v text);
    INSERT INTO a SELECT i, 'a' || i FROM generate_series(1, 2000) i;
    INSERT INTO b SELECT i, 'b' || i FROM generate_series(1, 2000) i;
    ANALYZE;";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const A: &str = "SELECT id, v FROM a ORDER BY id";
const B: &str = "SELECT id, v FROM b ORDER BY id";

fn filled() -> Pipeline {
    let columns = json!({"id": "INTEGER", "v": "TEXT"});
    let table = json!({"primaryKey": "id", "columns": columns});
    let mut pipeline = Pipeline::builder().build(ROWS, &json!({"a": table, "b": table}));
    pipeline.run_until_caught_up();
    pipeline.assert_equal(A, A);
    pipeline.assert_equal(B, B);
    pipeline
}

fn ask(pipeline: &Pipeline, arguments: &[&str]) -> Value {
    let output = pipeline.walcast(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn post(api: &Api, route: &str, secret: Option<&str>, body: &Value) -> Answer {
    let headers: Vec<(&str, &str)> =
        secret.map(|secret| ("x-webhook-signature", secret)).into_iter().collect();
    api.send("POST", route, &headers, &body.to_string())
}

fn change(pipeline: &Pipeline, sink: &str, sql: &str) {
    Connection::open(pipeline.path(&format!("{sink}.db"))).unwrap().execute_batch(sql).unwrap();
}

fn count(pipeline: &Pipeline, sink: &str, table: &str) -> String {
    pipeline.replica(sink).ask(&format!("SELECT count(*) FROM {table}"))
}

fn states(pipeline: &Pipeline) -> Vec<String> {
    let status = ask(pipeline, &["status", "--json"]);
    let sinks = status["sinks"].as_array().unwrap().iter();
    let tables = sinks.flat_map(|sink| {
        let name = sink["name"].as_str().unwrap();
        let tables = sink["tables"].as_array().unwrap().iter();
        tables.map(move |table| {
            format!("{name} {} {}", table["name"].as_str().unwrap(), table["state"].as_str().unwrap())
        })
    });
    tables.collect()
}

#[test]
fn a_run_that_ends_by_itself_brings_all_rows_first() {
    let pipeline = filled();
    assert_eq!(states(&pipeline), ["eu a live", "eu b live", "na a live", "na b live"]);
}

#[test]
fn a_backfill_writes_what_is_missing_or_wrong_in_what_it_names_and_nothing_else() {
    let pipeline = filled();
    for sink in ["eu", "na"] {
        change(&pipeline, sink, "DELETE FROM a WHERE id <= 10; UPDATE b SET v = 'wrong' WHERE id <= 10");
    }
    let done = ask(&pipeline, &["backfill", "--sink", "eu", "--table", "a", "--json"]);
    assert_eq!(done[0], json!({"sink": "eu", "table": "a", "state": "live", "rows": 2000}));
    assert_eq!((count(&pipeline, "eu", "a"), count(&pipeline, "na", "a")), ("2000".into(), "1990".into()));
    let wrong = "SELECT count(*) FROM b WHERE v = 'wrong'";
    assert_eq!(pipeline.replica("eu").ask(wrong), "10");
    ask(&pipeline, &["backfill", "--table", "b", "--where", "id < 5", "--json"]);
    assert_eq!(pipeline.replica("na").ask(wrong), "6");
    ask(&pipeline, &["backfill", "--json"]);
    pipeline.assert_equal(A, A);
    pipeline.assert_equal(B, B);
}

#[test]
fn a_table_is_dropped_and_filled_and_what_walcast_did_not_make_stays() {
    let pipeline = filled();
    change(
        &pipeline,
        "eu",
        "INSERT INTO a VALUES (99999, 'nobody has it'); CREATE TABLE ours (x); INSERT INTO ours VALUES (1);
         INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) VALUES ('a', 'insert', '[1]', 'r', '0/1', 1)",
    );
    let refused = pipeline.walcast(&["nuke", "--sink", "eu"]);
    assert_eq!(refused.status.code(), Some(2), "nobody can be asked");
    assert_eq!(count(&pipeline, "eu", "a"), "2001");
    ask(&pipeline, &["nuke", "--sink", "eu", "--yes", "--json"]);
    pipeline.assert_equal(A, A);
    pipeline.assert_equal(B, B);
    assert_eq!(count(&pipeline, "eu", "ours"), "1");
    assert_eq!(pipeline.replica("eu").dead_letters(), [""; 0]);
}

#[test]
fn a_table_that_is_left_empty_says_so_until_it_is_filled() {
    let mut pipeline = filled();
    ask(&pipeline, &["nuke", "--table", "a", "--sink", "na", "--no-refill", "--yes", "--json"]);
    assert_eq!(states(&pipeline), ["eu a live", "eu b live", "na a incomplete", "na b live"]);
    pipeline.exec("INSERT INTO a VALUES (5000, 'new'); UPDATE a SET v = 'changed' WHERE id = 1");
    pipeline.run_until_caught_up();
    assert_eq!(pipeline.replica("na").rows(A), ["1|changed", "5000|new"], "it takes what the stream brings");
    ask(&pipeline, &["backfill", "--table", "a", "--json"]);
    assert_eq!(states(&pipeline), ["eu a live", "eu b live", "na a live", "na b live"]);
    pipeline.assert_equal(A, A);
}

#[test]
fn replicas_whose_slot_is_gone_or_was_moved_are_filled_once_they_are_given_up() {
    for harm in [
        "SELECT pg_drop_replication_slot('walcast')",
        "SELECT pg_replication_slot_advance('walcast', pg_current_wal_lsn())",
    ] {
        let mut pipeline = filled();
        pipeline.exec("DELETE FROM a WHERE id < 100; INSERT INTO b VALUES (5000, 'new')");
        pipeline.exec(harm);
        pipeline.start_with(&["--until-caught-up"]);
        assert_eq!(pipeline.exit_code(), Some(1), "nothing is emptied without being asked for");
        assert_eq!(count(&pipeline, "eu", "a"), "2000");
        ask(&pipeline, &["nuke", "--all", "--yes", "--json"]);
        pipeline.assert_equal(A, A);
        pipeline.assert_equal(B, B);
        pipeline.run_until_caught_up();
    }
}

#[test]
fn names_that_there_are_not_are_told_with_those_that_there_are() {
    let pipeline = filled();
    for (arguments, says) in [
        (["backfill", "--table", "c"], "there is no table c in schema.json"),
        (["backfill", "--sink", "ap"], "there is no sink ap"),
    ] {
        let output = pipeline.walcast(&arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says));
    }
    assert_eq!(pipeline.walcast(&["nuke", "--yes"]).status.code(), Some(2), "it says what, or --all");
}

#[test]
fn a_condition_that_the_source_does_not_understand_is_refused_before_anything_begins() {
    let pipeline = filled();
    for condition in ["bogus = 1", "v", "true -- (", "id > $1", "true); DELETE FROM a; SELECT (true"] {
        let output = pipeline.walcast(&["backfill", "--table", "a", "--where", condition]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        match condition {
            "true -- (" => {
                assert_eq!(output.status.code(), Some(0), "a comment ends with its line: {stderr}")
            }
            _ => assert_eq!(output.status.code(), Some(2), "{condition}: {stderr}"),
        }
        assert_eq!(states(&pipeline), ["eu a live", "eu b live", "na a live", "na b live"], "{condition}");
    }
    // What fails with a row only, another backfill ends.
    let output = pipeline.walcast(&["backfill", "--table", "a", "--where", "1 / (id - 7) < 9"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("division by zero"), "{stderr}");
    assert!(stderr.contains("walcast backfill --table a without one"), "{stderr}");
    ask(&pipeline, &["backfill", "--table", "a", "--json"]);
    assert_eq!(states(&pipeline), ["eu a live", "eu b live", "na a live", "na b live"]);
    pipeline.assert_equal(A, A);
}

#[test]
fn a_run_that_ends_although_a_table_cannot_be_filled_is_a_failed_one() {
    let keyless =
        "CREATE TABLE k (id int, v text); ALTER TABLE k REPLICA IDENTITY FULL; INSERT INTO k VALUES (1);";
    let table = json!({"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT"}});
    let mut pipeline =
        Pipeline::builder().build(&format!("{ROWS}{keyless}"), &json!({"a": table, "k": table}));
    pipeline.start_with(&["--until-caught-up"]);
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&["table k cannot be filled in sink", "CREATE UNIQUE INDEX"]);
    pipeline.assert_equal(A, A);
    pipeline.exec("ALTER TABLE k ALTER id SET NOT NULL; CREATE UNIQUE INDEX ON k (id);");
    pipeline.run_until_caught_up();
    pipeline.assert_equal("SELECT id, v FROM k", "SELECT id, v FROM k");
}

#[test]
fn a_running_engine_fills_and_nukes_what_its_callers_name() {
    let columns = json!({"id": "INTEGER", "v": "TEXT"});
    let table = json!({"primaryKey": "id", "columns": columns});
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sections = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n");
    let mut pipeline = Pipeline::builder().sections(&sections).build(ROWS, &json!({"a": table, "b": table}));
    pipeline.start();
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    let api = Api::of(&pipeline);
    for (route, secret, body, status) in [
        ("/backfill", None, json!({"type": "all"}), 401),
        ("/nuke", Some("wrong"), json!({"type": "all"}), 401),
        ("/nuke", Some(SECRET), json!({}), 400),
        ("/nuke", Some(SECRET), json!({"type": "db"}), 400),
        ("/nuke", Some(SECRET), json!({"type": "all", "db": "eu"}), 400),
        ("/nuke", Some(SECRET), json!({"type": "table", "table": "a", "where": "true"}), 400),
        ("/backfill", Some(SECRET), json!({"type": "all", "where": "true"}), 400),
        ("/backfill", Some(SECRET), json!({"type": "table", "table": "a", "where": "bogus = 1"}), 400),
        ("/backfill", Some(SECRET), json!({"type": "everything"}), 400),
        ("/backfill", Some(SECRET), json!({"type": "db", "db": "ap"}), 404),
        ("/backfill", Some(SECRET), json!({"type": "table", "table": "c"}), 404),
    ] {
        let answer = post(&api, route, secret, &body);
        assert_eq!(answer.status, status, "{route} {body}: {answer:?}");
    }
    change(&pipeline, "na", "DELETE FROM a; INSERT INTO b VALUES (99999, 'nobody has it')");
    for (route, body) in [
        ("/backfill", json!({"type": "table", "db": "na", "table": "a"})),
        ("/nuke", json!({"type": "table", "table": "b"})),
    ] {
        let answer = post(&api, route, Some(SECRET), &body);
        assert_eq!(answer.status, 202, "{answer:?}");
        let job = answer.headers["location"].to_str().unwrap().to_owned();
        let done = pipeline.eventually("the job to end", || {
            let job = api.get(&job).json();
            (job["state"] != "running").then_some(job)
        });
        assert_eq!((&done["state"], &done["progress"]["unit"]), (&json!("done"), &json!("rows")), "{done}");
    }
    pipeline.assert_equal(A, A);
    pipeline.assert_equal(B, B);
    // The command line finds the engine by the same configuration.
    change(&pipeline, "eu", "DELETE FROM a WHERE id < 100; DELETE FROM b WHERE id < 100");
    let jobs = ask(&pipeline, &["backfill", "--table", "a", "--where", "id < 50", "--json"]);
    assert_eq!((&jobs[0]["kind"], &jobs[0]["state"]), (&json!("backfill"), &json!("done")));
    assert_eq!(count(&pipeline, "eu", "a"), "1950");
    ask(&pipeline, &["nuke", "--sink", "eu", "--yes", "--json"]);
    pipeline.assert_equal(A, A);
    pipeline.assert_equal(B, B);
    assert_eq!(pipeline.stop(), Some(0));
}
