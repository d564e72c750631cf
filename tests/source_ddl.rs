//! DDL at the source while rows change in several tables: one table stops, the others go on; and what makes it go on.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::Api;
use pipeline::{Pipeline, Session};
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
/// `hot` is what the DDL is about.
const TABLES: &str = "
    CREATE TABLE hot (id int PRIMARY KEY, n int, name text);
    CREATE TABLE calm (id int PRIMARY KEY, n int);
    INSERT INTO hot SELECT i, i, 'h' || i FROM generate_series(1, 2000) i;
    INSERT INTO calm SELECT i, i FROM generate_series(1, 500) i;
    ANALYZE;";
/// The publication is a DBA's, of whole tables: from one that names columns, a table goes with the column.
const PUBLICATION: &str = "CREATE PUBLICATION walcast FOR TABLE hot, calm;";
const HOT: &str = "SELECT id, n, name FROM hot ORDER BY id";
const CALM: &str = "SELECT id, n FROM calm ORDER BY id";

fn schema() -> Value {
    let hot = json!({"id": "INTEGER", "n": "INTEGER", "name": "TEXT"});
    let calm = json!({"id": "INTEGER", "n": "INTEGER"});
    json!({"hot": {"primaryKey": "id", "columns": hot}, "calm": {"primaryKey": "id", "columns": calm}})
}

fn admin() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n")
}

/// Changes rows of both tables until it is told to stop. What the DDL makes impossible is left.
fn write(url: &str, stop: &AtomicBool, written: &AtomicU64) {
    let session = Session::connect(url).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    while !stop.load(Ordering::Relaxed) {
        let (id, new) = (random.u32(1..2000), random.u32(5000..9000));
        let hot = match random.u32(..5) {
            0 => format!("DELETE FROM hot WHERE id = {id}"),
            1 => format!(
                "INSERT INTO hot VALUES ({new}, 1, 'new') ON CONFLICT (id) DO UPDATE SET name = 'over'"
            ),
            2 => format!(
                "UPDATE hot SET id = {new} WHERE id = {id} AND NOT EXISTS (SELECT FROM hot WHERE id = {new})"
            ),
            3 => "INSERT INTO hot (id) SELECT max(id) + 1 FROM hot".to_owned(),
            _ => format!("UPDATE hot SET name = name || 'x' WHERE id BETWEEN {id} AND {id} + 9"),
        };
        let calm = format!("UPDATE calm SET n = n + 1 WHERE id = {}", id % 500 + 1);
        // In one transaction, unless the DDL forbids it.
        if session.exec(&format!("BEGIN; {calm}; {hot}; COMMIT")).is_err() {
            session.exec("ROLLBACK").unwrap();
            session.exec(&calm).unwrap();
        }
        written.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn under_load(pipeline: &mut Pipeline, scenario: impl FnOnce(&mut Pipeline)) {
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let url = pipeline.cluster.url();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&url, &stop, &written));
        pipeline.eventually("a first change", || (written.load(Ordering::Relaxed) > 0).then_some(()));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(pipeline)));
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(written.load(Ordering::Relaxed) > 0);
}

/// What the replica keeps of why `hot` is stopped.
fn stopped(pipeline: &Pipeline, sink: &str) -> Option<String> {
    let fills = pipeline.replica(sink).fills();
    Some(fills.get("hot")?["stopped"]["reason"].as_str()?.to_owned())
}

fn await_stop(pipeline: &Pipeline, reason: &str) {
    for sink in ["eu", "na"] {
        let found = pipeline.eventually("hot to be stopped", || stopped(pipeline, sink));
        assert!(found.contains(reason), "{found}");
    }
}

fn await_live(pipeline: &Pipeline) {
    for sink in ["eu", "na"] {
        pipeline.eventually("hot to go on", || stopped(pipeline, sink).is_none().then_some(()));
        pipeline.filled(sink);
        let is_beside = || pipeline.replica(sink).fills()["hot"].get("is_beside") == Some(&json!(true));
        pipeline.eventually("the new table to take its place", || (!is_beside()).then_some(()));
    }
}

/// Changes of the other table arrive, those made now too.
fn assert_calm_flows(pipeline: &Pipeline) {
    let marker = pipeline.ask("INSERT INTO calm SELECT max(id) + 1, 0 FROM calm RETURNING id");
    for sink in ["eu", "na"] {
        let count = format!("SELECT count(*) FROM calm WHERE id = {marker}");
        pipeline.eventually("a row of calm", || (pipeline.replica(sink).ask(&count) == "1").then_some(()));
    }
}

fn assert_equal(pipeline: &Pipeline) {
    pipeline.catch_up();
    pipeline.assert_equal(CALM, CALM);
    pipeline.assert_equal(HOT, HOT);
}

fn started(publication: &str, sections: &str) -> Pipeline {
    let mut pipeline =
        Pipeline::builder().sections(sections).build(&format!("{TABLES}{publication}"), &schema());
    pipeline.start();
    pipeline.await_log("streaming");
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    pipeline
}

#[test]
fn a_dropped_column_stops_its_table_and_a_backfill_continues_it_once_it_is_back() {
    let mut pipeline = started(PUBLICATION, &admin());
    under_load(&mut pipeline, |pipeline| {
        pipeline.exec("ALTER TABLE hot DROP COLUMN n");
        await_stop(pipeline, "column n of table");
        pipeline.exec("DELETE FROM hot WHERE id BETWEEN 100 AND 200");
        assert_calm_flows(pipeline);

        let api = Api::of(pipeline);
        let status = api.get("/status").json();
        let table = status["sinks"][0]["tables"].as_array().unwrap().iter().find(|one| one["name"] == "hot");
        let table = table.unwrap();
        assert_eq!(table["state"], "stopped", "{table}");
        assert!(table["problem"].as_str().unwrap().contains("column n of table"), "{table}");
        assert!(table["hint"].as_str().unwrap().contains("walcast backfill --table hot"), "{table}");
        let ready = api.get("/readyz");
        assert_eq!(ready.status, 503);
        assert!(ready.body.contains("table hot is stopped"), "{}", ready.body);
        assert!(api.get("/metrics").body.contains("walcast_table_stopped{sink=\"eu\",table=\"hot\"} 1"));

        let refused = pipeline.walcast(&["backfill", "--table", "hot"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&refused.stdout).contains("no such column at the source"),
            "{refused:?}"
        );
        assert!(stopped(pipeline, "eu").is_some());

        pipeline.kill();
        let checkpoint = pipeline.replica("eu").checkpoint().unwrap().lsn;
        pipeline.start();
        let moved = || pipeline.replica("eu").checkpoint().filter(|now| now.lsn > checkpoint);
        pipeline.eventually("the engine to go on", moved);
        assert!(stopped(pipeline, "eu").is_some(), "also after a crash");
        assert_calm_flows(pipeline);

        // It never goes on by itself: what is in the column, only its owner knows.
        pipeline.exec("ALTER TABLE hot ADD COLUMN n int DEFAULT 7");
        assert_calm_flows(pipeline);
        assert!(stopped(pipeline, "eu").is_some());
        Api::of(pipeline);
        let done = pipeline.walcast(&["backfill", "--table", "hot"]);
        assert!(done.status.success(), "{done:?}");
        await_live(pipeline);
    });
    assert_equal(&pipeline);
    pipeline.assert_log(&["the table is stopped, the others go on", "it goes on, and is filled anew"]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_renamed_or_retyped_column_stops_its_table_until_the_schema_says_so() {
    let columns = |number: &str, kind: &str| {
        let mut schema = schema();
        schema["hot"]["columns"] = json!({"id": "INTEGER", number: kind, "name": "TEXT"});
        schema
    };
    let renamed = {
        let mut schema = columns("number", "INTEGER");
        schema["hot"]["rename"] = json!({"number": "n"});
        schema
    };
    for (ddl, reason, schema, source) in [
        (
            "ALTER TABLE hot RENAME COLUMN n TO number",
            "dropped or renamed",
            renamed,
            "SELECT id, number, name FROM hot ORDER BY id",
        ),
        (
            "ALTER TABLE hot ALTER n TYPE int[] USING ARRAY[n, 1]",
            "changed its type",
            columns("n", "JSON"),
            "SELECT id, translate(n::text, '{}', '[]'), name FROM hot ORDER BY id",
        ),
    ] {
        let mut pipeline = started(PUBLICATION, "");
        under_load(&mut pipeline, |pipeline| {
            pipeline.exec(ddl);
            await_stop(pipeline, reason);
            pipeline.exec("DELETE FROM hot WHERE id BETWEEN 100 AND 200");
            assert_calm_flows(pipeline);
            pipeline.kill();
            pipeline.start_with(&["--until-caught-up"]);
            assert_eq!(pipeline.exit_code(), Some(1), "a stopped table makes it a failure");
            pipeline.assert_log(&["table hot is stopped in sink eu since"]);
            assert!(stopped(pipeline, "eu").is_some());

            pipeline.write_schema(&schema);
            pipeline.start();
            await_live(pipeline);
        });
        pipeline.catch_up();
        pipeline.assert_equal(CALM, CALM);
        pipeline.assert_equal(source, HOT);
        assert_eq!(pipeline.stop(), Some(0));
    }
}

#[test]
fn a_table_that_is_created_anew_is_published_and_filled_by_itself() {
    for publication in ["", "CREATE PUBLICATION walcast FOR ALL TABLES;"] {
        let mut pipeline = started(publication, "");
        under_load(&mut pipeline, |pipeline| {
            pipeline.exec(
                "BEGIN; DROP TABLE hot; CREATE TABLE hot (name text, id int PRIMARY KEY, n int, extra int);
                 INSERT INTO hot SELECT 'again', i, -i FROM generate_series(1000, 3000) i; COMMIT",
            );
            pipeline.await_log("it goes on, and is filled anew");
            await_live(pipeline);
            assert_calm_flows(pipeline);
        });
        assert_equal(&pipeline);
        assert_eq!(pipeline.stop(), Some(0));
        // While no engine runs.
        pipeline.exec(
            "DROP TABLE hot; CREATE TABLE hot (id int PRIMARY KEY, n int, name text);
             INSERT INTO hot VALUES (1, 1, 'third')",
        );
        pipeline.run_until_caught_up();
        pipeline.assert_equal(HOT, HOT);
        pipeline.assert_equal(CALM, CALM);
    }
}

#[test]
fn a_sink_that_is_away_while_a_table_is_created_anew_lacks_nothing_either() {
    let mut pipeline = started("", &admin());
    under_load(&mut pipeline, |pipeline| {
        let api = Api::of(pipeline);
        assert_eq!(api.post_with(SECRET, "/sinks/na/pause").status, 200);
        pipeline.exec(
            "BEGIN; DROP TABLE hot; CREATE TABLE hot (id int PRIMARY KEY, n int, name text);
             INSERT INTO hot SELECT i, -i, 'again' FROM generate_series(1000, 3000) i; COMMIT",
        );
        pipeline.eventually("hot to be filled anew in eu", || {
            (pipeline.replica("eu").ask("SELECT count(*) FROM hot WHERE n < -1") != "0").then_some(())
        });
        assert_eq!(pipeline.replica("na").ask("SELECT count(*) FROM hot WHERE n < -1"), "0");
        assert_eq!(api.post_with(SECRET, "/sinks/na/resume").status, 200);
        pipeline.eventually("hot to be filled anew in na", || {
            (pipeline.replica("na").ask("SELECT count(*) FROM hot WHERE n < -1") != "0").then_some(())
        });
        await_live(pipeline);
    });
    assert_equal(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn what_came_and_went_while_no_engine_ran_leaves_no_gap() {
    let mut pipeline = started(PUBLICATION, "");
    under_load(&mut pipeline, |pipeline| {
        pipeline.kill();
        pipeline.exec("INSERT INTO hot VALUES (20000, 1, 'fits')");
        pipeline.exec("ALTER TABLE hot DROP COLUMN n; DELETE FROM hot WHERE id = 20000 OR id < 50");
        pipeline.exec("ALTER TABLE hot ADD COLUMN n int DEFAULT 3; INSERT INTO hot (id) VALUES (20001)");
        pipeline.start();
        pipeline.await_log("it goes on, and is filled anew");
        await_live(pipeline);
    });
    assert_equal(&pipeline);
    assert_eq!(pipeline.replica("eu").dead_letters(), [""; 0]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_table_of_d1_databases_stops_and_goes_on_beside_the_one_that_is_read() {
    let budget = "[d1]\nrequests_per_5_minutes = 100000\n";
    let builder = Pipeline::builder().d1("eu", "").d1_worker("na", "").sections(budget);
    let mut pipeline = builder.build(&format!("{TABLES}{PUBLICATION}"), &schema());
    pipeline.start();
    pipeline.await_log("streaming");
    ["eu", "na"].into_iter().for_each(|sink| pipeline.filled(sink));
    under_load(&mut pipeline, |pipeline| {
        pipeline.exec("ALTER TABLE hot DROP COLUMN n");
        await_stop(pipeline, "column n of table");
        pipeline.exec("DELETE FROM hot WHERE id BETWEEN 100 AND 200");
        assert_calm_flows(pipeline);
        pipeline.kill();
        pipeline.exec("ALTER TABLE hot ADD COLUMN n int DEFAULT 7");
        assert!(stopped(pipeline, "eu").is_some());
        pipeline.start();
        let is_beside = || pipeline.replica("eu").fills()["hot"].get("is_beside").is_some().then_some(());
        pipeline.eventually("the new table", is_beside);
        await_live(pipeline);
    });
    assert_equal(&pipeline);
    for sink in ["eu", "na"] {
        assert_eq!(pipeline.replica(sink).dead_letters(), [""; 0]);
    }
    assert_eq!(pipeline.stop(), Some(0));
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}

#[test]
fn an_engine_of_which_every_table_is_stopped_goes_on_and_one_comes_back() {
    let mut pipeline = started("", "");
    pipeline.exec("DROP TABLE hot, calm");
    await_stop(&pipeline, "was dropped");
    let checkpoint = pipeline.replica("eu").checkpoint().unwrap().lsn;
    pipeline.exec("CREATE TABLE unrelated (id int)");
    let moved = || pipeline.replica("eu").checkpoint().filter(|now| now.lsn > checkpoint);
    pipeline.eventually("the slot to be confirmed on", moved);
    assert_eq!(
        pipeline.replica("eu").rows("SELECT count(*) FROM hot"),
        ["2000"],
        "readers keep what there was"
    );
    assert!(pipeline.is_running());
    pipeline.kill();
    pipeline.start();
    pipeline.exec(
        "CREATE TABLE hot (id int PRIMARY KEY, n int, name text); INSERT INTO hot VALUES (5, 5, 'five')",
    );
    pipeline.eventually("hot to go on", || (pipeline.replica("na").rows(HOT) == ["5|5|five"]).then_some(()));
    assert!(pipeline.is_running());
}

#[test]
fn where_the_publication_is_not_walcasts_it_is_said_what_to_run() {
    // Without row filters, before 15, a superuser's publication of single tables is never left to others.
    let has_filters = "DO $$ BEGIN IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'CREATE PUBLICATION walcast FOR TABLE hot, calm WHERE (id > 0)'; END IF; END $$;";
    let mut pipeline = started(has_filters, &admin());
    if pipeline.major_version() < 15 {
        println!(
            "before Postgres 15 there is no publication with a row filter, which walcast leaves to its owner"
        );
        return;
    }
    pipeline.exec(
        "DROP TABLE hot; CREATE TABLE hot (id int PRIMARY KEY, n int, name text); INSERT INTO hot VALUES (1)",
    );
    await_stop(&pipeline, "was dropped");
    let api = Api::of(&pipeline);
    let hint = pipeline.eventually("the statement that helps", || {
        let ready = api.get("/readyz").json();
        let problems = ready["problems"].as_array()?.clone();
        problems.iter().find_map(|one| {
            one["hint"].as_str().filter(|hint| hint.contains("ALTER PUBLICATION")).map(str::to_owned)
        })
    });
    let (_, sql) = hint.split_once("run: ").unwrap();
    pipeline.exec(sql);
    await_live(&pipeline);
    assert_equal(&pipeline);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn new_columns_are_ignored_and_said_once() {
    for publication in ["", PUBLICATION] {
        let mut pipeline = started(publication, "");
        under_load(&mut pipeline, |pipeline| {
            pipeline.exec("ALTER TABLE hot ADD COLUMN added text DEFAULT 'x'");
            pipeline.await_log("which schema.json does not map");
            pipeline.exec("UPDATE hot SET added = 'y' WHERE id < 100");
            assert_calm_flows(pipeline);
        });
        assert_equal(&pipeline);
        assert_eq!(pipeline.stop(), Some(0));
        let said = pipeline.log().matches("which schema.json does not map").count();
        assert_eq!(said, 1, "{publication}");
    }
}
