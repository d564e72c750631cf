//! Where is my row, and which rows a region did not take: on the command line and over HTTP.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::process::Command;

use http::Api;
use pipeline::Pipeline;
use rusqlite::Connection;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const CREATE: &str = "
    CREATE TABLE apps (id uuid PRIMARY KEY, name text, size numeric, big bigint, icon bytea, made timestamptz, tags text[]);
    CREATE TABLE versions (app int, version text, n float8, PRIMARY KEY (app, version));
    CREATE SCHEMA sales;
    CREATE TABLE sales.notes (id int PRIMARY KEY, note text);";
const APP: &str = "9b2e4b0c-0e0f-4c1e-8f5a-0d4a3a1c2b3d";

fn schema() -> Value {
    json!({
        "apps": {"primaryKey": "id", "rename": {"big": "large"}, "columns": {
            "id": "TEXT", "name": "TEXT", "size": "INTEGER", "big": "INTEGER", "icon": "BLOB", "made": "INTEGER", "tags": "JSON"
        }},
        "versions": {"primaryKey": ["app", "version"], "columns": {"app": "INTEGER", "version": "TEXT", "n": "REAL"}},
        "sales.notes": {"primaryKey": "id", "softDelete": "deleted_at", "columns": {"id": "INTEGER", "note": "TEXT"}},
    })
}

fn started() -> (Pipeline, Api) {
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\nmax_dead_letters = 3\n"
        ))
        .build(CREATE, &schema());
    pipeline.begin();
    let api = Api::of(&pipeline);
    (pipeline, api)
}

fn app(name: &str) -> String {
    format!(
        "INSERT INTO apps VALUES ('{APP}', '{name}', 12, 9007199254740993, '\\x00ff', '2024-01-02 03:04:05.6+00', '{{a,b}}')"
    )
}

/// Runs walcast: exit code, standard output, standard error.
fn run(pipeline: &Pipeline, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .args(arguments)
        .env_clear()
        .current_dir(pipeline.path(""))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What `walcast trace --json` prints, and its exit code.
fn trace(pipeline: &Pipeline, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = run(pipeline, &[&["trace", "--json"], arguments].concat());
    (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}")))
}

fn verdicts(trace: &Value) -> Vec<&str> {
    trace["regions"].as_array().unwrap().iter().map(|region| region["verdict"].as_str().unwrap()).collect()
}

#[test]
fn a_row_is_found_at_the_source_and_in_every_region_in_the_regions_form() {
    let (mut pipeline, api) = started();
    pipeline.exec(&app("it''s \u{fc}"));
    pipeline.exec("INSERT INTO versions VALUES (1, 'a/b \"c\"', 'Infinity'), (2, '', 0.1)");
    pipeline.catch_up();
    // However the key is spelt.
    let (code, found) = trace(&pipeline, &["apps", &APP.to_uppercase()]);
    assert_eq!((code, verdicts(&found)), (0, vec!["equal", "equal"]), "{found}");
    let row = json!({
        "id": APP, "name": "it's \u{fc}", "size": 12, "large": 9007199254740993_i64, "icon": "\\x00ff",
        "made": 1704164645, "tags": "[\"a\",\"b\"]"
    });
    assert_eq!((&found["source"]["row"], &found["regions"][1]["row"]), (&row, &row));
    assert_eq!(found["key"], json!([APP]));
    let (code, found) = trace(&pipeline, &["versions", "1", "a/b \"c\""]);
    assert_eq!((code, &found["regions"][0]["row"]["n"]), (0, &json!("Infinity")), "{found}");

    // The same over HTTP, for whoever has the secret.
    let path = "/status/versions/%5B%221%22%2C%22a%2Fb%20%5C%22c%5C%22%22%5D";
    api.get(path).assert_problem(401, "unauthorized");
    let answer = api.get_with(SECRET, path);
    let mut answered = answer.json();
    for trace in [&mut found.clone(), &mut answered] {
        trace["source"]["lsn"] = Value::Null;
        trace["regions"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|region| region["checkpoint_lsn"] = Value::Null);
    }
    assert_eq!((answer.status, &answered["source"]["row"]), (200, &found["source"]["row"]));
    assert_eq!(verdicts(&answered), ["equal", "equal"]);
    api.get_with(SECRET, "/status/versions/17").assert_problem(400, "bad-request");
    api.get_with(SECRET, "/status/apps/17").assert_problem(400, "bad-request");
    api.get_with(SECRET, "/status/nothing/17").assert_problem(404, "not-found");

    for (arguments, message) in [
        (&["trace", "nothing", "1"][..], "schema.json has no table \"nothing\""),
        (&["trace", "versions", "1"], "the key of table versions is (app, version): 1 given"),
        (&["trace", "apps", "no-uuid"], "the key does not have the form of table apps's key"),
    ] {
        let (code, _, stderr) = run(&pipeline, arguments);
        assert!(code == 2 && stderr.contains(message), "{code} {stderr}");
    }
    let (code, text, _) = run(&pipeline, &["trace", "apps", APP]);
    assert!(code == 0 && text.contains("there at the source") && text.contains("equal"), "{text}");
    assert!(!pipeline.log().contains("a/b"), "a key was logged");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_row_is_found_by_any_spelling_of_its_key_and_of_its_table_and_not_among_those_that_inherit() {
    let keyed = |key: &str| json!({"primaryKey": "id", "columns": {"id": key, "v": "TEXT"}});
    let pipeline = Pipeline::started(
        "CREATE TABLE prices (id numeric PRIMARY KEY, v text); INSERT INTO prices VALUES (1.50, 'x');
         CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (1, 'c'), (2, 'c');
         CREATE SCHEMA \"o.dd\"; CREATE TABLE \"o.dd\".t (id int PRIMARY KEY, v text);
         INSERT INTO \"o.dd\".t VALUES (1, 'o');",
        &json!({"prices": keyed("TEXT"), "parent": keyed("INTEGER"), "\"o.dd\".t": keyed("INTEGER")}),
    );
    for (table, key, row) in [
        ("prices", "1.5", json!({"id": "1.50", "v": "x"})),
        ("parent", "1", json!({"id": 1, "v": "p"})),
        ("parent", "2", Value::Null),
        ("o.dd.t", "1", json!({"id": 1, "v": "o"})),
        ("\"o.dd\".t", "1", json!({"id": 1, "v": "o"})),
    ] {
        let (code, found) = trace(&pipeline, &[table, key]);
        assert_eq!((code, &found["source"]["row"]), (0, &row), "{found}");
        assert_eq!(verdicts(&found), ["equal", "equal"], "{found}");
    }
}

#[test]
fn a_row_that_row_security_hides_is_not_taken_for_one_that_is_gone() {
    let mut pipeline = Pipeline::builder().build(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x');",
        &json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "INTEGER"}}}),
    );
    pipeline.run_until_caught_up();
    assert_eq!(pipeline.replica("eu").dead_letters().len(), 1, "the row has no form there");
    pipeline.exec("CREATE ROLE reader LOGIN REPLICATION; GRANT SELECT ON t TO reader");
    pipeline.exec("ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    pipeline.edit_config("postgres://postgres@", "postgres://reader@");
    let (code, _, stderr) = run(&pipeline, &["trace", "t", "1"]);
    assert!(code == 1 && stderr.contains("row-level security") && stderr.contains("BYPASSRLS"), "{stderr}");
    let (code, _, stderr) = run(&pipeline, &["failed", "retry"]);
    assert!(code == 1 && stderr.contains("row-level security"), "{stderr}");
    assert_eq!(pipeline.replica("eu").dead_letters().len(), 1, "and nobody forgets it");
}

#[test]
fn a_row_that_is_not_as_it_should_be_is_on_its_way_or_differs() {
    let (mut pipeline, _api) = started();
    pipeline.exec(&app("one"));
    pipeline.catch_up();
    let held = Connection::open(pipeline.replica("na").path).unwrap();
    held.busy_timeout(pipeline::LIMIT).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    pipeline.exec("UPDATE apps SET name = 'two'");
    pipeline.catch_up_one("eu");
    let (code, found) = trace(&pipeline, &["apps", APP]);
    assert_eq!((code, verdicts(&found)), (1, vec!["equal", "on-its-way"]), "{found}");
    assert_eq!(found["regions"][1]["differing"], json!(["name"]));
    drop(held);
    pipeline.catch_up();

    // What somebody else does to a replica shows once the replica is past the source's position.
    Connection::open(pipeline.replica("eu").path)
        .unwrap()
        .execute_batch("UPDATE apps SET name = 'three', large = 1")
        .unwrap();
    pipeline.eventually("the difference", || {
        let (code, found) = trace(&pipeline, &["apps", APP]);
        (code == 1 && verdicts(&found) == ["differs", "equal"]).then(|| {
            assert_eq!(found["regions"][0]["differing"], json!(["name", "large"]));
        })
    });

    // Gone, gone softly, and never there.
    pipeline.exec("DELETE FROM apps; INSERT INTO sales.notes VALUES (1, 'x')");
    pipeline.exec("DELETE FROM sales.notes");
    pipeline.catch_up();
    let (code, found) = trace(&pipeline, &["apps", APP]);
    assert_eq!((code, &found["source"]["row"], &found["regions"][0]["row"]), (0, &Value::Null, &Value::Null));
    let (code, found) = trace(&pipeline, &["sales.notes", "1"]);
    assert_eq!((code, &found["source"]["row"]), (0, &Value::Null), "{found}");
    assert!(found["regions"][0]["row"]["deleted_at"].is_string(), "{found}");
    assert_eq!(trace(&pipeline, &["sales.notes", "-2"]).0, 0);
    assert_eq!(pipeline.stop(), Some(0));
    std::fs::write(pipeline.replica("na").path, "not a database at all, but somebody's notes\n".repeat(100))
        .unwrap();
    let (_, found) = trace(&pipeline, &["apps", APP]);
    assert_eq!(verdicts(&found), ["equal", "unknown"]);
    assert!(found["regions"][1]["problem"].as_str().unwrap().contains("not a SQLite database"));
}

#[test]
fn a_rejected_row_is_listed_traced_and_forgotten_when_told_so() {
    let (mut pipeline, api) = started();
    let other = "00000000-0000-0000-0000-00000000000";
    for digit in 1..=5 {
        pipeline.exec(&format!("INSERT INTO apps (id, size) VALUES ('{other}{digit}', 1.5)"));
    }
    pipeline.catch_up();
    let key = format!("{other}1");
    let found = pipeline.eventually("the verdict", || {
        let (code, found) = trace(&pipeline, &["apps", &key]);
        (code == 1 && verdicts(&found) == ["dead-letter", "dead-letter"]).then_some(found)
    });
    assert!(found["source"]["rejected"][0].as_str().unwrap().starts_with("size: "), "{found}");
    assert_eq!(found["regions"][0]["dead_letters"][0]["operation"], "insert");
    assert_eq!(found["regions"][0]["dead_letters"].as_array().unwrap().len(), 1);

    // Page by page, each letter once, over both sinks.
    api.get("/failed").assert_problem(401, "unauthorized");
    let (mut path, mut seen) = ("/failed?limit=3".to_owned(), Vec::new());
    loop {
        let page = api.get_with(SECRET, &path).json();
        for letter in page["letters"].as_array().unwrap() {
            seen.push(format!("{}:{}", letter["sink"].as_str().unwrap(), letter["id"]));
            assert_eq!(letter["target"], "apps");
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/failed?limit=3&after={next}");
    }
    let expected: Vec<String> =
        ["eu", "na"].iter().flat_map(|sink| (1..=5).map(move |id| format!("{sink}:{id}"))).collect();
    assert_eq!(seen, expected);
    let of_eu = api.get_with(SECRET, "/failed?sink=eu&table=apps").json();
    assert_eq!((of_eu["letters"].as_array().unwrap().len(), &of_eu["next"]), (5, &Value::Null));
    assert_eq!(api.get_with(SECRET, "/failed?table=versions").json()["letters"], json!([]));
    for query in ["limit=0", "limit=1001", "limit=x", "after=eu", "after=asia:1", "sort=id"] {
        api.get_with(SECRET, &format!("/failed?{query}")).assert_problem(400, "bad-request");
    }
    api.get_with(SECRET, "/failed?sink=asia").assert_problem(404, "not-found");

    // They count for readiness, as far as they are there.
    let ready = |status: u16| {
        pipeline.eventually("readiness", || {
            let answer = api.get("/readyz");
            (answer.status == status).then(|| answer.json()["problems"].clone())
        })
    };
    assert_eq!(ready(503)[0]["message"], "holds 5 dead letters, more than 3");

    let (code, listed, _) = run(&pipeline, &["failed", "list", "--sink", "eu"]);
    assert_eq!((code, listed.lines().count()), (0, 6), "{listed}");
    let (code, shown, _) = run(&pipeline, &["failed", "show", "eu", "2"]);
    assert_eq!(
        (code, serde_json::from_str::<Value>(&shown).unwrap()["key"].as_str()),
        (0, Some(&*format!("[\"{other}2\"]")))
    );
    assert_eq!(run(&pipeline, &["failed", "drop", "eu"]).0, 2);
    // While the engine runs, and goes on to write.
    let (code, text, _) = run(&pipeline, &["failed", "drop", "eu", "2", "3", "99"]);
    assert_eq!((code, text.as_str()), (1, "2 dead letters dropped\n"));
    pipeline.exec(&app("one"));
    pipeline.catch_up();
    assert_eq!(run(&pipeline, &["failed", "drop", "na", "--all"]).1, "5 dead letters dropped\n");
    assert_eq!(run(&pipeline, &["failed", "show", "eu", "2"]).0, 1);
    assert_eq!(ready(200), json!([]));
    let ids: Vec<Value> = api.get_with(SECRET, "/failed").json()["letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["id"].clone())
        .collect();
    assert_eq!(ids, [json!(1), json!(4), json!(5)]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn regions_on_d1_show_their_rows_and_dead_letters_too_whichever_way_they_are_reached() {
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n"))
        .d1("weur", "")
        .d1_worker("apac", "")
        .build(CREATE, &schema());
    pipeline.begin();
    let api = Api::of(&pipeline);
    pipeline.exec(&app("it''s \u{fc}"));
    pipeline.exec(
        "INSERT INTO versions VALUES (1, 'a/b \"c\"', 'Infinity'), (2, '', 0.1), (3, 'i7', 5), (4, 'x', '-Infinity'),
            (5, 'x', 1.7976931348623157e308), (6, 'x', NULL), (7, 'x', -4.9e-324), (8, 'x', 9007199254740993)",
    );
    pipeline.exec("INSERT INTO sales.notes VALUES (1, 'x'), (2, NULL)");
    pipeline.exec("DELETE FROM sales.notes WHERE id = 1");
    pipeline.catch_up();
    let (code, found) = trace(&pipeline, &["apps", &APP.to_uppercase()]);
    assert_eq!((code, verdicts(&found)), (0, vec!["equal", "equal"]), "{found}");
    let row = json!({
        "id": APP, "name": "it's \u{fc}", "size": 12, "large": 9007199254740993_i64, "icon": "\\x00ff",
        "made": 1704164645, "tags": "[\"a\",\"b\"]"
    });
    assert_eq!((&found["regions"][0]["row"], &found["regions"][1]["row"]), (&row, &row));
    for key in [
        ["1", "a/b \"c\""],
        ["2", ""],
        ["3", "i7"],
        ["4", "x"],
        ["5", "x"],
        ["6", "x"],
        ["7", "x"],
        ["8", "x"],
    ] {
        let (code, found) = trace(&pipeline, &["versions", key[0], key[1]]);
        assert_eq!((code, verdicts(&found)), (0, vec!["equal", "equal"]), "{found}");
        assert!(found["regions"][0]["row"].is_object(), "{found}");
    }
    let (code, found) = trace(&pipeline, &["sales.notes", "1"]);
    assert!(code == 0 && found["regions"][0]["row"]["deleted_at"].is_string(), "{found}");
    let (code, found) = trace(&pipeline, &["sales.notes", "3"]);
    assert_eq!((code, &found["regions"][1]["row"]), (0, &Value::Null), "{found}");

    // Rows that have no form there, more than come in one answer.
    pipeline.exec(
        "INSERT INTO apps (id, size) SELECT lpad(i::text, 32, '0')::uuid, 1.5 FROM generate_series(1, 120) i",
    );
    pipeline.catch_up();
    let (code, found) = trace(&pipeline, &["apps", "00000000-0000-0000-0000-000000000001"]);
    assert_eq!((code, verdicts(&found)), (1, vec!["dead-letter", "dead-letter"]), "{found}");
    assert_eq!(found["regions"][1]["dead_letters"].as_array().unwrap().len(), 1);
    let (mut path, mut seen) = ("/failed?limit=110".to_owned(), Vec::new());
    loop {
        let page = api.get_with(SECRET, &path).json();
        for letter in page["letters"].as_array().unwrap() {
            seen.push(format!("{}:{}", letter["sink"].as_str().unwrap(), letter["id"]));
            assert_eq!((&letter["target"], &letter["operation"]), (&json!("apps"), &json!("insert")));
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/failed?limit=110&after={next}");
    }
    let expected: Vec<String> =
        ["weur", "apac"].iter().flat_map(|sink| (1..=120).map(move |id| format!("{sink}:{id}"))).collect();
    assert_eq!(seen, expected);
    let (code, text, _) = run(&pipeline, &["failed", "drop", "weur", "2", "3", "999"]);
    assert_eq!((code, text.as_str()), (1, "2 dead letters dropped\n"));
    assert_eq!(run(&pipeline, &["failed", "drop", "apac", "--all"]).1, "120 dead letters dropped\n");
    // The engine writes on as if nothing had been.
    pipeline.exec("UPDATE versions SET n = 1");
    pipeline.catch_up();
    assert_eq!(trace(&pipeline, &["versions", "2", ""]).0, 0);

    let sinks = api.get("/status").json()["sinks"].clone();
    assert_eq!((&sinks[0]["dead_letters"], &sinks[1]["dead_letters"]), (&json!(118), &json!(0)));
    assert!(sinks[0]["cost"]["rows_written"].as_u64().unwrap() > 120, "{sinks}");
    let requests = &sinks[0]["engine"]["requests"];
    assert!(requests["sent"].as_u64().unwrap() > 0 && requests["available"].is_u64(), "{requests}");
    assert_eq!(sinks[1]["engine"]["requests"], Value::Null, "the Worker has no such limit");
    let metrics = api.get("/metrics").body;
    for metric in
        ["walcast_d1_rows_written_total{sink=\"apac\"}", "walcast_d1_requests_available{sink=\"weur\"}"]
    {
        assert!(metrics.contains(metric), "{metrics}");
    }

    // A region that is away says so and hides nothing of the other.
    pipeline.order("weur", json!({"kind": "hang", "times": "until cleared"}));
    let (_, found) = trace(&pipeline, &["versions", "2", ""]);
    assert_eq!(verdicts(&found), ["unknown", "equal"], "{found}");
    assert!(found["regions"][0]["problem"].is_string());
}

/// Waits for the end of the job that an answer names, and returns it.
fn job(pipeline: &Pipeline, api: &Api, answer: &http::Answer) -> Value {
    assert_eq!(answer.status, 202, "{answer:?}");
    let location = answer.headers["location"].to_str().unwrap();
    pipeline.eventually("the job to end", || {
        let job = api.get(location).json();
        (job["state"] != "running").then_some(job)
    })
}

fn retry(pipeline: &Pipeline, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = run(pipeline, &[&["failed", "retry", "--json"], arguments].concat());
    (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}")))
}

/// The key of a row that has no form in a region.
fn rejected(pipeline: &Pipeline, digit: u32) -> String {
    let key = format!("00000000-0000-0000-0000-00000000000{digit}");
    pipeline.exec(&format!("INSERT INTO apps (id, size) VALUES ('{key}', 1.5)"));
    pipeline.catch_up();
    key
}

#[test]
fn a_retry_closes_the_letters_of_rows_that_are_right_and_says_what_keeps_the_others() {
    let (mut pipeline, api) = started();
    let (one, two, three) = (rejected(&pipeline, 1), rejected(&pipeline, 2), rejected(&pipeline, 3));
    let post = |body: &str| api.send("POST", "/retry-failed", &[("x-webhook-signature", SECRET)], body);
    let ended = job(&pipeline, &api, &post(""));
    assert_eq!((&ended["state"], &ended["kind"]), (&json!("failed"), &json!("retry-failed")));
    assert_eq!(ended["outcome"], "0 closed, 6 still without a form");
    assert!(ended["hint"].as_str().unwrap().contains("schema.json"), "{ended}");

    // The stream brings one of them whole, and says of another that it is gone.
    pipeline
        .exec(&format!("UPDATE apps SET size = 2 WHERE id = '{one}'; DELETE FROM apps WHERE id = '{two}'"));
    pipeline.catch_up();
    let ended = job(
        &pipeline,
        &api,
        &post(&json!({"sink": "eu", "table": "apps", "key": one.to_uppercase()}).to_string()),
    );
    assert_eq!((&ended["state"], &ended["outcome"]), (&json!("done"), &json!("1 closed")), "{ended}");
    assert_eq!(ended["progress"], json!({"done": 1, "total": 1, "unit": "dead-letters"}));
    let (code, retried) = retry(&pipeline, &[]);
    assert_eq!((code, &retried["closed"], &retried["without_form"]), (1, &json!(3), &json!(2)), "{retried}");
    assert!(retried["reasons"][0].as_str().unwrap().starts_with("size: "), "{retried}");
    let (_, text, _) = run(&pipeline, &["failed", "retry", "--table", "apps", "--key", &three]);
    assert!(text.starts_with("0 closed, 2 still without a form\n  size: "), "{text}");
    let left = api.get_with(SECRET, "/failed").json();
    let keys: Vec<&Value> = left["letters"].as_array().unwrap().iter().map(|letter| &letter["key"]).collect();
    assert_eq!(keys, [&json!(format!("[\"{three}\"]")); 2]);

    // A region that has the correction not yet keeps its letter; retried again, it goes.
    let held = Connection::open(pipeline.replica("na").path).unwrap();
    held.busy_timeout(pipeline::LIMIT).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    pipeline.exec(&format!("UPDATE apps SET size = 3 WHERE id = '{three}'"));
    pipeline.catch_up_one("eu");
    let (code, retried) = retry(&pipeline, &[]);
    assert_eq!((code, &retried["closed"], &retried["on_their_way"]), (1, &json!(1), &json!(1)), "{retried}");
    drop(held);
    pipeline.catch_up();
    assert_eq!(retry(&pipeline, &["--sink", "na"]).0, 0);
    assert_eq!(api.get_with(SECRET, "/failed").json()["letters"], json!([]));
    assert_eq!(pipeline.stop(), Some(0));
    assert!(!pipeline.log().contains(&one), "a key was logged");
}

#[test]
fn a_row_that_must_be_written_is_read_anew_by_the_engine_alone_and_in_the_order_of_the_stream() {
    let (mut pipeline, api) = started();
    let key = rejected(&pipeline, 1);
    pipeline.exec("UPDATE apps SET size = 2");
    pipeline.catch_up();
    let lose = || {
        Connection::open(pipeline.replica("eu").path).unwrap().execute("DELETE FROM apps", []).unwrap();
    };
    lose();
    // The command writes nothing, and keeps the letter.
    let (code, retried) = retry(&pipeline, &[]);
    assert_eq!((code, &retried["closed"], &retried["differing"]), (1, &json!(1), &json!(1)), "{retried}");
    assert_eq!(retried["to_write"], json!([{"sink": "eu", "table": "apps", "key": [key]}]));
    let (_, found) = trace(&pipeline, &["apps", &key]);
    assert_eq!(verdicts(&found), ["dead-letter", "equal"]);

    // The engine does, while the stream flows.
    let writing = std::sync::atomic::AtomicBool::new(true);
    let ended = std::thread::scope(|scope| {
        let session = pipeline.session();
        let writing = &writing;
        scope.spawn(move || {
            let mut size = 3;
            while writing.load(std::sync::atomic::Ordering::Relaxed) && size < 400 {
                session.exec(&format!("INSERT INTO sales.notes VALUES ({size}, 'x')")).unwrap();
                size += 1;
            }
        });
        let headers = [("x-webhook-signature", SECRET)];
        let ended = job(&pipeline, &api, &api.send("POST", "/retry-failed", &headers, ""));
        writing.store(false, std::sync::atomic::Ordering::Relaxed);
        ended
    });
    assert_eq!((&ended["state"], &ended["outcome"]), (&json!("done"), &json!("1 closed")), "{ended}");
    pipeline.catch_up();
    pipeline.assert_equal("SELECT id, size FROM apps", "SELECT id, size FROM apps");
    assert_eq!(api.get_with(SECRET, "/failed").json()["letters"], json!([]));
    assert_eq!(pipeline.stop(), Some(0));
    assert!(!pipeline.log().contains(&key), "a key was logged");
}

#[test]
fn a_retry_that_is_asked_for_wrongly_is_refused() {
    let (mut pipeline, api) = started();
    let post = |body: &str| api.send("POST", "/retry-failed", &[("x-webhook-signature", SECRET)], body);
    api.send("POST", "/retry-failed", &[], "").assert_problem(401, "unauthorized");
    api.get_with(SECRET, "/retry-failed").assert_problem(405, "method-not-allowed");
    for body in [
        "{",
        "[]",
        "{\"sinks\": \"eu\"}",
        "{\"key\": 1}",
        "{\"table\": \"apps\", \"key\": null, \"sink\": 1}",
    ] {
        post(body).assert_problem(400, "bad-request");
    }
    post("{\"table\": \"apps\", \"key\": {\"id\": 1}}").assert_problem(400, "bad-request");
    post("{\"sink\": \"asia\"}").assert_problem(404, "not-found");
    post("{\"table\": \"nothing\"}").assert_problem(404, "not-found");
    post(&format!("\"{}\"", "x".repeat(70_000))).assert_problem(413, "too-large");
    let ended = job(&pipeline, &api, &post("{\"table\": \"apps\", \"key\": 17}"));
    assert_eq!(ended["state"], "failed");
    assert!(ended["outcome"].as_str().unwrap().contains("does not have the form"), "{ended}");
    assert_eq!(run(&pipeline, &["failed", "retry", "--key", "17"]).0, 2);
    assert_eq!(run(&pipeline, &["failed", "retry", "--sink", "asia"]).0, 2);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_retry_closes_letters_on_d1_too() {
    let mut pipeline = Pipeline::builder().d1("weur", "").d1_worker("apac", "").build(CREATE, &schema());
    pipeline.start();
    pipeline.await_log("streaming");
    // A row that comes while the tables are still filled may be set aside twice.
    pipeline.eventually("the tables to be live", || {
        let status: Value = serde_json::from_str(&run(&pipeline, &["status", "--json"]).1).ok()?;
        let sinks = status["sinks"].as_array()?.clone();
        let is_live = |sink: &Value| {
            let tables = sink["tables"].as_array().unwrap();
            tables.len() == 3 && tables.iter().all(|table| table["state"] == "live")
        };
        sinks.iter().all(is_live).then_some(())
    });
    let (one, _) = (rejected(&pipeline, 1), rejected(&pipeline, 2));
    pipeline.exec(&format!("UPDATE apps SET size = 2 WHERE id = '{one}'"));
    pipeline.catch_up();
    let (code, retried) = retry(&pipeline, &[]);
    assert_eq!((code, &retried["closed"], &retried["without_form"]), (1, &json!(2), &json!(2)), "{retried}");
    assert_eq!(pipeline.stop(), Some(0));
}
