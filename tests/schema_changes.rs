//! DDL while the engine streams: what does not touch the mapping goes on, what does stops the engine at that place
//! with the next command, and nothing behind it is confirmed.

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

/// Streams, runs `ddl` and a change behind it, and returns the halted pipeline.
fn halted_by(ddl: &str, change: &str, message: &[&str]) -> Pipeline {
    let mut pipeline = Pipeline::started(CREATE, &schema());
    pipeline.exec("INSERT INTO t VALUES (1, 1, 'one')");
    pipeline.catch_up();
    pipeline.exec(ddl);
    let before = pipeline.wal_lsn();
    pipeline.exec(change);
    assert_eq!(pipeline.exit_code(), Some(1), "{ddl}");
    pipeline.assert_log(message);
    pipeline.assert_log(&["hint: "]);
    for replica in pipeline.replicas() {
        assert_eq!(replica.rows("SELECT id, n, name FROM t"), ["1|1|one"], "{ddl}");
        let checkpoint = replica.checkpoint().expect("a checkpoint");
        assert!(checkpoint.lsn <= before, "{ddl}: {checkpoint:?} is beyond {before}");
    }
    let confirmed = pipeline.confirmed_flush_lsn().expect("the slot is there");
    assert!(confirmed <= before, "{ddl}: {confirmed} is beyond {before}");
    pipeline
}

#[test]
fn a_renamed_column_halts_until_the_schema_has_its_new_name() {
    let mut pipeline = halted_by(
        "ALTER TABLE t RENAME COLUMN n TO number",
        "INSERT INTO t VALUES (2, 2, 'two')",
        &["column n of table", "dropped or renamed", "correct schema.json or the publication"],
    );
    // It stays so, as a matter of the configuration now.
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(2));
    pipeline.assert_log(&["t.n: no such column at the source"]);
    let columns = json!({"id": "INTEGER", "number": "INTEGER", "name": "TEXT"});
    pipeline.write_schema(&json!({"t": {"primaryKey": "id", "columns": columns, "rename": {"number": "n"}}}));
    pipeline.run_until_caught_up();
    pipeline
        .assert_equal("SELECT id, number, name FROM t ORDER BY id", "SELECT id, n, name FROM t ORDER BY id");
}

#[test]
fn a_column_that_became_another_type_halts() {
    halted_by(
        "ALTER TABLE t ALTER n TYPE text USING n::text",
        "INSERT INTO t VALUES (2, '2', 'two')",
        &["column n of table", "changed its type at the source", "walcast schema diff"],
    );
}

#[test]
fn a_renamed_table_halts_until_the_schema_has_its_new_name() {
    let mut pipeline = halted_by(
        "ALTER TABLE t RENAME TO t_new",
        "INSERT INTO t_new VALUES (2, 2, 'two')",
        &["table ", "was renamed to", "t_new", "keep the old one as `target`"],
    );
    let columns = json!({"id": "INTEGER", "n": "INTEGER", "name": "TEXT"});
    pipeline.write_schema(&json!({"t_new": {"primaryKey": "id", "columns": columns, "target": "t"}}));
    pipeline.run_until_caught_up();
    pipeline
        .assert_equal("SELECT id, n, name FROM t_new ORDER BY id", "SELECT id, n, name FROM t ORDER BY id");
}

#[test]
fn a_dropped_column_halts() {
    halted_by(
        "ALTER TABLE t DROP COLUMN n",
        "INSERT INTO t VALUES (2, 'two')",
        &["column n of table", "dropped or renamed", "correct schema.json or the publication"],
    );
}

#[test]
fn a_table_that_leaves_the_publication_halts() {
    for ddl in ["ALTER PUBLICATION walcast DROP TABLE t", "DROP TABLE t"] {
        let mut pipeline = Pipeline::started(CREATE, &schema());
        pipeline.exec("INSERT INTO t VALUES (1, 1, 'one')");
        pipeline.catch_up();
        pipeline.exec(ddl);
        assert_eq!(pipeline.exit_code(), Some(1), "{ddl}");
        pipeline.assert_log(&["is no longer in publication walcast", "hint: walcast check says how"]);
        assert_eq!(pipeline.replica("eu").rows("SELECT id, n, name FROM t"), ["1|1|one"]);
    }
}

#[test]
fn a_column_that_our_publication_names_takes_its_table_along_and_the_engine_halts() {
    let create = CREATE.replace("CREATE PUBLICATION walcast FOR TABLE t;", "");
    let mut pipeline = Pipeline::started(&create, &schema());
    assert!(pipeline.try_exec("ALTER TABLE t DROP COLUMN n").is_err());
    pipeline.exec("ALTER TABLE t DROP COLUMN n CASCADE");
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&["is no longer in publication walcast"]);
}
