//! A running engine reads its configuration again: tables and regions come and go under a writer, and what will not do is
//! refused whole.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Answer, Api};
use pipeline::{Pipeline, Session};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
                      CREATE TABLE u (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int);
                      INSERT INTO t (n) SELECT i FROM generate_series(1, 500) i;
                      INSERT INTO u (n) SELECT i FROM generate_series(1, 500) i";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const T: &str = "SELECT * FROM t ORDER BY id";
const U: &str = "SELECT * FROM u ORDER BY id";

fn schema(tables: &[&str]) -> Value {
    let table = json!({"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}});
    tables.iter().map(|&name| (name.to_owned(), table.clone())).collect::<serde_json::Map<_, _>>().into()
}

/// A pipeline that replicates `t`, its regions filled, and its API. `lines` end `[admin]` and may begin other sections.
fn started(lines: &str) -> (Pipeline, Api) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n{lines}\n"))
        .build(CREATE, &schema(&["t"]));
    pipeline.start();
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    let api = Api::of(&pipeline);
    (pipeline, api)
}

fn reload(api: &Api) -> Answer {
    api.post_with(SECRET, "/reload?wait=true&timeout=60s")
}

/// Reloads, and returns what became of it.
fn reloaded(api: &Api) -> String {
    let answer = reload(api);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["outcome"].as_str().unwrap().to_owned()
}

fn config(pipeline: &Pipeline) -> String {
    fs::read_to_string(pipeline.path("walcast.toml")).unwrap()
}

fn epoch(pipeline: &Pipeline, sink: &str) -> i64 {
    pipeline.replica(sink).checkpoint().unwrap().epoch
}

/// Does this while somebody writes to both tables, and returns once all that was written is in the regions.
fn under_writes(pipeline: &mut Pipeline, act: impl FnOnce(&mut Pipeline)) {
    let (stop, url) = (AtomicBool::new(false), pipeline.cluster.url());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let session = Session::connect(&url).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for table in ["t", "u"] {
                    let sql = format!(
                        "INSERT INTO {table} (n) VALUES (0); UPDATE {table} SET n = n + 1 WHERE id % 97 = 3;
                         DELETE FROM {table} WHERE id % 101 = 7"
                    );
                    session.exec(&sql).unwrap();
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(pipeline)));
        stop.store(true, Ordering::Relaxed);
        acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    pipeline.catch_up();
}

#[test]
fn a_table_comes_and_goes_under_a_writer() {
    let (mut pipeline, api) = started("");
    under_writes(&mut pipeline, |pipeline| {
        pipeline.write_schema(&schema(&["t", "u"]));
        assert_eq!(reloaded(&api), "other tables");
        ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
        let tables = api.get("/status").json()["sinks"][0]["tables"].as_array().unwrap().len();
        assert_eq!(tables, 2);
    });
    pipeline.assert_equal(T, T);
    pipeline.assert_equal(U, U);
    under_writes(&mut pipeline, |pipeline| {
        pipeline.write_schema(&schema(&["u"]));
        let output = pipeline.walcast(&["reload"]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "done: other tables\n");
    });
    pipeline.assert_equal(U, U);
    let left = pipeline.replica("eu").rows(T);
    pipeline.exec("DELETE FROM t");
    pipeline.catch_up();
    assert_eq!(pipeline.replica("eu").rows(T), left, "a table that was taken out stays as it is");
    let job = pipeline.walcast(&["reload", "--json"]);
    let job: Value = serde_json::from_slice(&job.stdout).unwrap();
    assert_eq!((&job["kind"], &job["outcome"]), (&json!("reload"), &json!("nothing has changed")));
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn what_will_not_do_is_refused_whole_and_the_old_configuration_stays_in_force() {
    let (mut pipeline, api) = started("");
    api.send("POST", "/reload", &[], "").assert_problem(401, "unauthorized");
    api.post_with("wrong", "/reload").assert_problem(401, "unauthorized");
    api.post_with(SECRET, "/reload?wait=perhaps").assert_problem(400, "bad-request");
    let (good, epochs) = (config(&pipeline), ["eu", "na"].map(|sink| epoch(&pipeline, sink)));
    // Each comes with a region that would do.
    let region = "[[sink]]\nname = \"ap\"\ntype = \"sqlite\"\npath = \"ap.db\"\n";
    let with = |from: &str, to: &str| good.replace(from, to) + region;
    let (twice, table) =
        (format!("{region}{region}"), json!({"primaryKey": "id", "columns": {"id": "INTEGER"}}));
    pipeline.exec("CREATE DATABASE other");
    let other = pipeline.cluster.url();
    let to_other = other.replace("@/postgres", "@/other");
    Session::connect(&to_other).unwrap().exec(CREATE).unwrap();
    for (config, tables, says) in [
        ("[source".to_owned(), schema(&["t"]), "walcast.toml:1"),
        (good.clone() + &twice, schema(&["t"]), "sink[3].name: sink[2] has this name already"),
        (with("[retry]", "[retry]\ninitial = \"1h\""), schema(&["t"]), "retry.initial"),
        (with("[admin]", "[log]\nlevel = \"debug\"\n[admin]"), schema(&["t"]), "cannot change log.level"),
        (with("[source]", "[source]\nslot = \"other\""), schema(&["t"]), "cannot change source.slot"),
        (with(&other, &to_other), schema(&["t"]), "cannot change source.url to another database"),
        (with("", ""), json!({"t": 1}), "schema.json"),
        (with("", ""), json!({"t": table, "v": table}), "\"v\" does not exist at the source"),
    ] {
        fs::write(pipeline.path("walcast.toml"), config).unwrap();
        pipeline.write_schema(&tables);
        let answer = reload(&api);
        answer.assert_problem(400, "config");
        assert!(answer.json()["message"].as_str().unwrap().contains(says), "{says}: {answer:?}");
        assert!(!pipeline.walcast(&["reload"]).status.success());
    }
    let refused = "the new configuration is refused, and the old one stays in force";
    let told = pipeline.log().matches(refused).count();
    kill_process(Pid::from_raw(pipeline.engine_pid().cast_signed()).unwrap(), Signal::HUP).unwrap();
    pipeline.eventually("the log to say so once more", || {
        (pipeline.log().matches(refused).count() > told).then_some(())
    });
    pipeline.exec("INSERT INTO t (n) VALUES (7)");
    pipeline.catch_up();
    pipeline.assert_equal(T, T);
    assert_eq!(["eu", "na"].map(|sink| epoch(&pipeline, sink)), epochs, "nobody was opened again");
    assert!(!pipeline.path("ap.db").exists());
    let status = api.get("/status").json();
    assert_eq!(status["sinks"].as_array().unwrap().len(), 2);
    let jobs = api.get("/jobs").json();
    assert!(jobs["jobs"].as_array().unwrap().iter().all(|job| job["state"] == "failed"));
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_signal_does_the_same_and_what_was_paused_stays_so() {
    let (mut pipeline, api) = started("");
    assert_eq!(api.post_with(SECRET, "/sinks/na/pause").status, 200);
    pipeline.edit_config("[retry]", "[batch]\nmax_rows = 10\n[retry]");
    kill_process(Pid::from_raw(pipeline.engine_pid().cast_signed()).unwrap(), Signal::HUP).unwrap();
    pipeline.await_log("the new configuration is in force: other batch");
    pipeline.eventually("the stream", || (api.get("/readyz").json()["phase"] == "streaming").then_some(()));
    pipeline.exec("INSERT INTO t (n) VALUES (7)");
    pipeline.catch_up_one("eu");
    assert_eq!(pipeline.replica("na").ask("SELECT count(*) FROM t WHERE n = 7 AND id > 500"), "0");
    assert_eq!(api.post_with(SECRET, "/sinks/na/resume").status, 200);
    pipeline.catch_up();
    pipeline.assert_equal(T, T);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_comes_and_goes_under_a_writer_and_the_others_are_not_opened_again() {
    let (mut pipeline, api) = started("");
    let epochs = ["eu", "na"].map(|sink| epoch(&pipeline, sink));
    let before = config(&pipeline);
    under_writes(&mut pipeline, |pipeline| {
        pipeline.add_sink("ap");
        assert_eq!(reloaded(&api), "sinks: ap comes");
        all_right(pipeline, &api);
    });
    pipeline.assert_equal(T, T);
    assert!(api.get("/metrics").body.contains("sink=\"ap\""));
    let left = pipeline.replica("ap").rows(T);
    // It goes, and what it was is seen nowhere any more.
    fs::write(pipeline.path("walcast.toml"), &before).unwrap();
    assert_eq!(reloaded(&api), "sinks: ap goes");
    pipeline.exec("INSERT INTO t (n) SELECT 1 FROM generate_series(1, 100)");
    for sink in ["eu", "na"] {
        pipeline.catch_up_one(sink);
    }
    let now = pipeline.wal_lsn();
    pipeline.eventually("the slot to be confirmed without it", || {
        (pipeline.confirmed_flush_lsn()? >= now).then_some(())
    });
    assert_eq!(pipeline.replica("ap").rows(T), left, "its replica stays as it was");
    assert!(!api.get("/metrics").body.contains("sink=\"ap\""));
    assert_eq!(api.get("/status").json()["sinks"].as_array().unwrap().len(), 2);
    assert_eq!(api.post_with(SECRET, "/sinks/ap/pause").status, 404);
    assert_eq!(slots(&pipeline), ["walcast"]);
    // It comes back: the slot is past it, so it is filled anew; beside it one whose setting is another.
    let again = before.replace("name = \"na\"", "name = \"na\"\non_rejected = \"halt\"")
        + "[[sink]]\nname = \"ap\"\ntype = \"sqlite\"\npath = \"ap.db\"\n";
    fs::write(pipeline.path("walcast.toml"), again).unwrap();
    assert_eq!(reloaded(&api), "sinks: na begins anew, ap comes");
    under_writes(&mut pipeline, |pipeline| all_right(pipeline, &api));
    pipeline.assert_equal(T, T);
    assert!(api.get("/metrics").body.contains("sink=\"ap\""));
    assert_eq!(epoch(&pipeline, "eu"), epochs[0], "it was not opened again");
    assert_eq!(epoch(&pipeline, "na"), epochs[1] + 1);
    assert_eq!(pipeline.stop(), Some(0));
}

/// Waits until every region is there, and filled.
fn all_right(pipeline: &Pipeline, api: &Api) {
    pipeline.eventually("every region to be right", || (api.get("/readyz").status == 200).then_some(()));
}

fn slots(pipeline: &Pipeline) -> Vec<String> {
    pipeline.eventually("the copies of the slot to be dropped", || {
        let slots = pipeline.exec("SELECT slot_name FROM pg_replication_slots");
        (slots.len() == 1).then_some(slots)
    })
}

/// Starts the engine while the region `na` is away in this way, writes, and lets it come back: first a new replica, then
/// one that has everything up to then.
fn comes_back_by_itself(kind: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n"))
        .sink("eu", "")
        .d1("na", "")
        .build(CREATE, &schema(&["t"]));
    for is_new in [true, false] {
        pipeline.clear_log();
        pipeline.order("na", json!({"kind": kind, "times": "until cleared"}));
        pipeline.start();
        let api = Api::of(&pipeline);
        pipeline.await_log("streaming");
        pipeline.filled("eu");
        let readiness = api.get("/readyz");
        assert_eq!((readiness.status, readiness.body.contains("sink na")), (503, true), "{readiness:?}");
        write_to(&pipeline, &["eu"]);
        let at = pipeline.replica("na").checkpoint().map(|checkpoint| checkpoint.lsn);
        assert!(at.is_none_or(|at| pipeline.confirmed_flush_lsn().unwrap() <= at), "the slot waits for it");
        pipeline.workerd.as_ref().unwrap().clear_faults().unwrap();
        write_to(&pipeline, &["eu", "na"]);
        pipeline.filled("na");
        all_right(&pipeline, &api);
        pipeline.assert_equal(T, T);
        assert_eq!(slots(&pipeline), ["walcast"]);
        assert_eq!(pipeline.log().contains("new replica"), is_new, "it is filled once");
        assert_eq!(pipeline.stop(), Some(0));
        assert!(!pipeline.log().contains("filled anew"));
    }
}

#[test]
fn a_region_that_fails_when_the_engine_starts_joins_the_others_once_it_is_there() {
    comes_back_by_itself("internal-error");
}

#[test]
fn a_region_that_hangs_when_the_engine_starts_joins_the_others_once_it_answers() {
    comes_back_by_itself("hang");
}

/// Writes, and waits until these regions have it.
fn write_to(pipeline: &Pipeline, sinks: &[&str]) {
    for _ in 0..20 {
        pipeline.exec(
            "INSERT INTO t (n) SELECT 1 FROM generate_series(1, 10); UPDATE t SET n = n + 1 WHERE id < 9",
        );
    }
    sinks.iter().for_each(|sink| pipeline.catch_up_one(sink));
}

#[test]
fn a_fill_goes_on_where_it_was_when_the_pipeline_begins_anew() {
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n[backfill]\nchunk_max_bytes = \"32KiB\"\n"
        ))
        .build(
            "CREATE TABLE t (id int PRIMARY KEY, n int, pad text);
             INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1, 20000) i; ANALYZE t",
            &json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER", "pad": "TEXT"}}}),
        );
    pipeline.start();
    let api = Api::of(&pipeline);
    let rows = || {
        let fill = pipeline.replica("eu").fills();
        fill.get("t").and_then(|fill| fill["rows"].as_u64()).unwrap_or(0)
    };
    pipeline.eventually("some rows", || (rows() > 1000).then_some(()));
    pipeline.edit_config("[backfill]\n", "[backfill]\nconnections = 1\n");
    assert_eq!(api.post_with(SECRET, "/reload").status, 202);
    pipeline.exec("UPDATE t SET n = n + 1 WHERE id % 10 = 0; DELETE FROM t WHERE id % 1000 = 1");
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    pipeline.catch_up();
    pipeline.assert_equal("SELECT * FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");
    pipeline.assert_log(&["the new configuration is in force: other backfill"]);
    assert_eq!(pipeline.log().matches("the fill begins").count(), 1, "it goes on");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_that_hangs_holds_up_no_reload_and_can_be_taken_out() {
    let (mut pipeline, api) =
        started("[queue]\nmax_bytes = \"64KiB\"\n[transaction]\npart_max_bytes = \"4KiB\"");
    let before = config(&pipeline);
    pipeline.add_sink("ap");
    reloaded(&api);
    all_right(&pipeline, &api);
    // Whoever holds the lock makes it wait; the others have to go on without it.
    let lock = rusqlite::Connection::open(pipeline.path("ap.db")).unwrap();
    lock.busy_timeout(pipeline::LIMIT).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..20 {
        pipeline.exec("INSERT INTO t (n) SELECT i FROM generate_series(1, 500) i");
    }
    pipeline.edit_config("[retry]", "[batch]\nmax_rows = 100\n[retry]");
    assert_eq!(reloaded(&api), "other batch");
    for sink in ["eu", "na"] {
        pipeline.catch_up_one(sink);
    }
    fs::write(pipeline.path("walcast.toml"), before.replace("[retry]", "[batch]\nmax_rows = 100\n[retry]"))
        .unwrap();
    assert_eq!(reloaded(&api), "sinks: ap goes");
    drop(lock);
    all_right(&pipeline, &api);
    pipeline.exec("INSERT INTO t (n) VALUES (7)");
    for sink in ["eu", "na"] {
        pipeline.catch_up_one(sink);
        assert_eq!(pipeline.replica(sink).rows(T), pipeline.exec(T));
    }
    assert_eq!(slots(&pipeline), ["walcast"]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn the_old_configuration_comes_back_where_the_new_one_fails_after_all() {
    let (mut pipeline, api) = started("");
    pipeline.exec(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'not today'; END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER PUBLICATION') EXECUTE FUNCTION refuse()",
    );
    pipeline.write_schema(&schema(&["t", "u"]));
    let answer = reload(&api);
    answer.assert_problem(503, "unavailable");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("the old configuration is in force again") && message.contains("not today"),
        "{message}"
    );
    pipeline.exec("INSERT INTO t (n) VALUES (7)");
    pipeline.catch_up();
    pipeline.assert_equal(T, T);
    assert_eq!(pipeline.replica("eu").rows("SELECT name FROM sqlite_schema WHERE name = 'u'"), [""; 0]);
    pipeline.exec("DROP EVENT TRIGGER refuse");
    assert_eq!(reloaded(&api), "other tables");
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    pipeline.catch_up();
    pipeline.assert_equal(U, U);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_region_that_is_taken_out_while_it_is_being_opened_is_left_as_it_is() {
    let (mut pipeline, api) = started("");
    let before = config(&pipeline);
    let regions = |names: &[&str]| {
        let region =
            |name: &&str| format!("[[sink]]\nname = \"{name}\"\ntype = \"sqlite\"\npath = \"{name}.db\"\n");
        fs::write(
            pipeline.path("walcast.toml"),
            before.clone() + &names.iter().map(region).collect::<String>(),
        )
        .unwrap();
        reloaded(&api)
    };
    let file = rusqlite::Connection::open(pipeline.path("ap.db")).unwrap();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert_eq!(regions(&["ap"]), "sinks: ap comes");
    pipeline.await_log("the sink cannot be opened yet");
    assert_eq!(regions(&[]), "sinks: ap goes");
    file.execute_batch("COMMIT").unwrap();
    let checkpoints = "SELECT count(*) FROM _walcast_checkpoint";
    let opened = || file.query_row(checkpoints, [], |row| row.get::<_, i64>(0)).ok();
    pipeline.eventually("the region to be open", opened);
    // Who comes behind it is in, so it would be too.
    assert_eq!(regions(&["sa"]), "sinks: sa comes");
    all_right(&pipeline, &api);
    assert_eq!(opened(), Some(0), "nothing is written to it");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_stopped_table_that_is_taken_out_of_the_schema_is_not_shown_as_stopped_any_more() {
    let (mut pipeline, api) = started("");
    pipeline.write_schema(&schema(&["t", "u"]));
    reloaded(&api);
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    pipeline.exec("ALTER TABLE u RENAME COLUMN n TO m; INSERT INTO u (m) VALUES (1)");
    let is_shown = |value: u32| {
        let line = format!("walcast_table_stopped{{sink=\"eu\",table=\"u\"}} {value}");
        api.get("/metrics").body.contains(&line).then_some(())
    };
    pipeline.eventually("the table to be shown as stopped", || is_shown(1));
    pipeline.write_schema(&schema(&["t"]));
    assert_eq!(reloaded(&api), "other tables");
    pipeline.eventually("the table to be shown so no more", || is_shown(0));
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn an_engine_that_waits_for_its_source_takes_the_new_configuration_with_its_next_attempt() {
    let mut pipeline = Pipeline::builder().build(CREATE, &schema(&["t"]));
    let good = pipeline.cluster.url();
    pipeline.edit_config(&good, "postgres://nobody@127.0.0.1:1/nothing");
    pipeline.start();
    pipeline.await_log("the source is not ready, retrying");
    let hang_up = || {
        kill_process(Pid::from_raw(pipeline.engine_pid().cast_signed()).unwrap(), Signal::HUP).unwrap();
    };
    pipeline.write_schema(&json!({"t": 1}));
    hang_up();
    pipeline.await_log("the new configuration is refused, and the old one stays in force: schema.json:1:6");
    pipeline.write_schema(&schema(&["t"]));
    pipeline.edit_config("postgres://nobody@127.0.0.1:1/nothing", &good);
    hang_up();
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    pipeline.assert_equal(T, T);
    assert_eq!(pipeline.stop(), Some(0));
}
