//! DDL while the engine streams: what does not touch the mapping goes on, what does stops the table at that place with
//! the next command, and once it goes on, it lacks nothing. `tests/source_ddl.rs` has the same under load.

#[path = "support/pipeline.rs"]
mod pipeline;

use pipeline::Pipeline;
use serde_json::{Value, json};

/// The publication is a DBA's, of whole tables: the server refuses to retype or drop a column that a publication
/// names, as the one that walcast makes does.
const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, name varchar(10), spare text);
                      CREATE PUBLICATION walcast FOR TABLE t;";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER", "name": "TEXT"}}})
}

#[test]
fn ddl_that_does_not_touch_the_mapping_goes_on() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    let harmless = [
        "ALTER TABLE t ADD COLUMN added text DEFAULT 'x' NOT NULL",
        "ALTER TABLE t DROP COLUMN spare",
        "ALTER TABLE t ADD COLUMN spare int",
        "ALTER TABLE t ALTER n TYPE int8",
        "ALTER TABLE t ALTER id TYPE int8",
        "ALTER TABLE t ALTER name TYPE text",
        "ALTER TABLE t RENAME COLUMN added TO renamed",
        "ALTER TABLE t ALTER n SET DEFAULT 7, ALTER name SET NOT NULL, ALTER name SET STORAGE EXTERNAL",
        "CREATE INDEX CONCURRENTLY t_name ON t (name)",
        "ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)",
        "ALTER TABLE t RENAME CONSTRAINT t_pkey TO key_of_t",
        "CLUSTER t USING key_of_t",
        "VACUUM FULL t",
        "ANALYZE t",
        "CREATE TABLE another (id int PRIMARY KEY)",
        "INSERT INTO another VALUES (1)",
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER noted BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted()",
        "SELECT pg_logical_emit_message(true, 'other', 'hello')",
        "SELECT pg_logical_emit_message(false, 'other', 'hello')",
        "BEGIN; CREATE TABLE t2 (LIKE t INCLUDING ALL); INSERT INTO t2 (id, name) VALUES (1, 'a'); DROP TABLE t2; COMMIT",
    ];
    for (id, ddl) in (1..).zip(harmless) {
        pipeline.exec(ddl);
        pipeline.exec(&format!("INSERT INTO t (id, n, name) VALUES ({id}, {id}, 'n{id}')"));
        pipeline.exec(&format!("UPDATE t SET n = n + 1 WHERE id = {id}"));
    }
    pipeline.exec("INSERT INTO t (id, n, name) VALUES (5000000000, 9007199254740993, repeat('long', 100))");
    pipeline.catch_up();
    let all = "SELECT id, n, name FROM t ORDER BY id";
    pipeline.assert_equal(all, all);
    assert_eq!(pipeline.stop(), Some(0));
    // The next start makes its plan from the table as it is now.
    pipeline.exec("UPDATE t SET n = -1 WHERE id = 1");
    pipeline.run_until_caught_up();
    pipeline.assert_equal(all, all);
}

/// Streams, runs `ddl` and a change behind it, and returns the pipeline in which `t` is stopped for this reason.
fn stopped_by(ddl: &str, change: &str, reason: &str) -> Pipeline {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    pipeline.exec("INSERT INTO t VALUES (1, 1, 'one')");
    pipeline.catch_up();
    pipeline.exec(ddl);
    let before = pipeline.wal_lsn();
    pipeline.exec(change);
    for sink in ["eu", "na"] {
        let stopped = pipeline.eventually("the table to be stopped", || {
            Some(pipeline.replica(sink).fills()["t"].get("stopped")?.clone())
        });
        assert!(stopped["reason"].as_str().unwrap().contains(reason), "{ddl}: {stopped}");
        let since = pipeline::parse_lsn(stopped["since"].as_str().unwrap());
        assert!(since >= before, "{ddl}: {stopped} is before {before}");
    }
    pipeline.catch_up();
    for replica in pipeline.replicas() {
        assert_eq!(replica.rows("SELECT id, n, name FROM t"), ["1|1|one"], "{ddl}");
        assert_eq!(replica.dead_letters(), [""; 0], "{ddl}");
    }
    assert!(pipeline.is_running());
    pipeline
}

/// Stops the engine, which then starts with another `schema.json`.
fn corrected(mut pipeline: Pipeline, schema: &Value) -> Pipeline {
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.write_schema(schema);
    pipeline.run_until_caught_up();
    pipeline
}

#[test]
fn a_renamed_column_stops_its_table_until_the_schema_has_its_new_name() {
    let pipeline = stopped_by(
        "ALTER TABLE t RENAME COLUMN n TO number",
        "INSERT INTO t VALUES (2, 2, 'two'); DELETE FROM t WHERE id = 1",
        "column n of table \"public\".\"t\" is mapped in schema.json but no longer in the stream",
    );
    let columns = json!({"id": "INTEGER", "number": "INTEGER", "name": "TEXT"});
    let schema = json!({"t": {"primaryKey": "id", "columns": columns, "rename": {"number": "n"}}});
    corrected(pipeline, &schema)
        .assert_equal("SELECT id, number, name FROM t ORDER BY id", "SELECT id, n, name FROM t ORDER BY id");
}

#[test]
fn a_column_that_became_another_type_stops_its_table() {
    stopped_by(
        "ALTER TABLE t ALTER n TYPE text USING n::text",
        "INSERT INTO t VALUES (2, '2', 'two')",
        "changed its type at the source",
    );
}

#[test]
fn a_replica_identity_that_lacks_the_key_stops_its_table() {
    let identity = "ALTER TABLE t ALTER name SET NOT NULL; CREATE UNIQUE INDEX by_name ON t (name);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX by_name;";
    stopped_by(identity, "DELETE FROM t WHERE id = 1", "column id of table");
}

#[test]
fn a_renamed_table_stops_until_the_schema_has_its_new_name() {
    let pipeline =
        stopped_by("ALTER TABLE t RENAME TO t_new", "INSERT INTO t_new VALUES (2, 2, 'two')", "t_new");
    let columns = json!({"id": "INTEGER", "n": "INTEGER", "name": "TEXT"});
    corrected(pipeline, &json!({"t_new": {"primaryKey": "id", "columns": columns, "target": "t"}}))
        .assert_equal("SELECT id, n, name FROM t_new ORDER BY id", "SELECT id, n, name FROM t ORDER BY id");
}

#[test]
fn a_table_whose_name_another_one_takes_is_filled_from_that_one() {
    let pipeline =
        stopped_by("ALTER TABLE t RENAME TO t_old", "INSERT INTO t_old VALUES (2, 2, 'two')", "t_old");
    pipeline.exec("CREATE TABLE t (LIKE t_old INCLUDING ALL); INSERT INTO t VALUES (3, 3, 'three')");
    for sink in ["eu", "na"] {
        let rows = || pipeline.replica(sink).rows("SELECT id, n, name FROM t");
        pipeline.eventually("the rows of the new table", || (rows() == ["3|3|three"]).then_some(()));
    }
}

#[test]
fn a_table_that_leaves_the_publication_is_published_again_and_lacks_nothing() {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    pipeline.exec("INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two')");
    pipeline.catch_up();
    pipeline.exec(
        "ALTER PUBLICATION walcast DROP TABLE t; DELETE FROM t WHERE id = 1; UPDATE t SET n = 5 WHERE id = 2",
    );
    pipeline.await_log("it goes on, and is filled anew");
    let all = "SELECT id, n, name FROM t ORDER BY id";
    for sink in ["eu", "na"] {
        pipeline.eventually("the row", || (pipeline.replica(sink).rows(all) == ["2|5|two"]).then_some(()));
    }
    pipeline.assert_log(&["is no longer in publication walcast", "publication altered"]);
    // While no engine runs.
    assert_eq!(pipeline.stop(), Some(0));
    pipeline
        .exec("ALTER PUBLICATION walcast DROP TABLE t; DELETE FROM t; INSERT INTO t VALUES (3, 3, 'three')");
    pipeline.run_until_caught_up();
    pipeline.assert_equal(all, all);
}

#[test]
fn a_column_that_our_publication_names_takes_its_table_along_until_it_is_back() {
    let create = CREATE.replace("CREATE PUBLICATION walcast FOR TABLE t;", "");
    let pipeline = Pipeline::started(&create, &schema());
    if pipeline.major_version() < 15 {
        println!("before Postgres 15 a publication names no columns, and nothing goes with them");
        pipeline.exec("ALTER TABLE t DROP COLUMN n; INSERT INTO t VALUES (1, 'one')");
        pipeline.await_log("walcast backfill --table t");
        return;
    }
    assert!(pipeline.try_exec("ALTER TABLE t DROP COLUMN n").is_err());
    pipeline.exec("ALTER TABLE t DROP COLUMN n CASCADE");
    pipeline.await_log("is no longer in publication walcast");
    pipeline.exec("ALTER TABLE t ADD COLUMN n int; INSERT INTO t VALUES (1, 'one', NULL, 5)");
    let all = "SELECT id, n, name FROM t ORDER BY id";
    for sink in ["eu", "na"] {
        pipeline.eventually("the row", || (pipeline.replica(sink).rows(all) == ["1|5|one"]).then_some(()));
    }
}
