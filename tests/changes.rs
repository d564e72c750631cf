//! Inserts, updates, deletes and truncates through the real server and the real engine: every replica ends equal to
//! the source, or says in a dead letter which row is not and why.

#[path = "support/pipeline.rs"]
mod pipeline;

use pipeline::Pipeline;
use serde_json::{Value, json};

/// A value that is stored out of line, so that an update of other columns does not send it again.
fn toast(letter: char) -> String {
    format!("repeat('{letter}', 9000)")
}

fn table(key: Value, columns: &[(&str, &str)]) -> Value {
    let columns: serde_json::Map<_, _> =
        columns.iter().map(|(name, kind)| ((*name).to_owned(), json!(kind))).collect();
    json!({"primaryKey": key, "columns": columns})
}

#[test]
fn unchanged_toast_survives_updates_and_key_changes_under_every_replica_identity() {
    let columns = [("id", "INTEGER"), ("code", "TEXT"), ("n", "INTEGER"), ("big", "TEXT")];
    let mut create = String::new();
    for (name, identity) in
        [("by_default", "DEFAULT"), ("by_full", "FULL"), ("by_index", "USING INDEX by_index_code")]
    {
        create.push_str(&format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, code text NOT NULL, n int, big text);
             CREATE UNIQUE INDEX {name}_code ON {name} (code);
             ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL;
             ALTER TABLE {name} REPLICA IDENTITY {identity};"
        ));
    }
    let pipeline = Pipeline::started(
        &create,
        &json!({
            "by_default": table(json!("id"), &columns),
            "by_full": table(json!("id"), &columns),
            "by_index": table(json!("code"), &columns),
        }),
    );
    for name in ["by_default", "by_full", "by_index"] {
        let (a, b) = (toast('a'), toast('b'));
        pipeline.exec(&format!(
            "INSERT INTO {name} SELECT i, 'c' || i, i, {a} FROM generate_series(1, 8) i;
             UPDATE {name} SET n = 10 WHERE id = 1;
             UPDATE {name} SET big = {b} WHERE id = 2;
             UPDATE {name} SET big = NULL WHERE id = 3;
             UPDATE {name} SET id = 104, code = 'c104' WHERE id = 4;
             UPDATE {name} SET id = 105, code = 'c105', big = {b}, n = NULL WHERE id = 5;
             DELETE FROM {name} WHERE id = 6;
             BEGIN; UPDATE {name} SET n = 70 WHERE id = 7; UPDATE {name} SET id = 107, code = 'c107' WHERE id = 7;
                    UPDATE {name} SET n = 71 WHERE id = 107; COMMIT;
             BEGIN; DELETE FROM {name} WHERE id = 8; INSERT INTO {name} VALUES (8, 'c8', 80, {b}); COMMIT;"
        ));
    }
    pipeline.catch_up();
    for name in ["by_default", "by_full", "by_index"] {
        pipeline.assert_equal(
            &format!("SELECT id, code, n, length(big), left(big, 1) FROM {name} ORDER BY id"),
            &format!("SELECT id, code, n, length(big), substr(big, 1, 1) FROM {name} ORDER BY id"),
        );
    }
    assert!(pipeline.replicas().iter().all(|replica| replica.dead_letters().is_empty()));
}

#[test]
fn rows_from_before_the_slot_that_are_not_wanted_come_with_their_first_update() {
    let columns = [("id", "INTEGER"), ("n", "INTEGER"), ("big", "TEXT")];
    let a = toast('a');
    let mut pipeline = Pipeline::builder().sections("[backfill]\nmode = \"never\"\n").build(
        &format!(
            "CREATE TABLE t (id int PRIMARY KEY, n int, big text);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t VALUES (1, 1, 'short'), (2, 2, {a}), (3, 3, {a}), (4, 4, 'short'), (5, 5, 'x'), (6, 6, 'y');
             ANALYZE t;"
        ),
        &json!({"t": table(json!("id"), &columns)}),
    );
    pipeline.start();
    pipeline.catch_up();
    pipeline.assert_log(&["rows from before the slot are not brought"]);
    pipeline.exec("UPDATE t SET n = 10 WHERE id = 1; UPDATE t SET n = 20 WHERE id = 2;");
    pipeline.exec(
        "UPDATE t SET id = 30 WHERE id = 3; UPDATE t SET id = 40 WHERE id = 4; DELETE FROM t WHERE id = 5;",
    );
    pipeline.catch_up();
    for (sink, replica) in ["eu", "na"].into_iter().zip(pipeline.replicas()) {
        pipeline.filled(sink);
        let rows = replica.rows("SELECT id, n, substr(big, 1, 5), length(big) FROM t ORDER BY id");
        let expected =
            pipeline.exec("SELECT id, n, substr(big, 1, 5), length(big) FROM t WHERE id <> 6 ORDER BY id");
        assert_eq!(rows, expected);
        assert_eq!(replica.dead_letters(), [""; 0]);
    }
}

#[test]
fn many_changes_to_one_row_in_one_transaction_leave_the_last() {
    let pipeline = Pipeline::started(
        "CREATE TABLE t (a int, b text, n int, PRIMARY KEY (b, a));",
        &json!({"t": table(json!(["b", "a"]), &[("a", "INTEGER"), ("b", "TEXT"), ("n", "INTEGER")])}),
    );
    pipeline.exec(
        "BEGIN; INSERT INTO t VALUES (1, 'x', 1); UPDATE t SET n = 2; DELETE FROM t; COMMIT;
         BEGIN; INSERT INTO t VALUES (1, 'x', 3); DELETE FROM t; INSERT INTO t VALUES (1, 'x', 4); COMMIT;
         BEGIN; INSERT INTO t VALUES (1, '', 5), (2, 'x', 6); UPDATE t SET a = 7 WHERE b = ''; COMMIT;
         BEGIN; INSERT INTO t VALUES (8, 'rolled back', 8); ROLLBACK;
         BEGIN; SAVEPOINT s; INSERT INTO t VALUES (9, 'x', 9); ROLLBACK TO s; INSERT INTO t VALUES (10, 'x', 10); COMMIT;
         UPDATE t SET a = a + 1 WHERE b = 'x' AND a = 10; UPDATE t SET b = 'y' WHERE a = 2;
         INSERT INTO t VALUES (1, 'x', 11) ON CONFLICT (b, a) DO UPDATE SET n = excluded.n;",
    );
    pipeline.catch_up();
    pipeline.assert_equal("SELECT * FROM t ORDER BY b, a", "SELECT * FROM t ORDER BY b, a");
}

#[test]
fn every_type_may_be_a_key() {
    let types = ["text", "uuid", "numeric(20,5)", "timestamptz", "bytea", "bool", "date", "inet"];
    let values = [
        ["'é'", "''", "'e'"],
        [
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            "'00000000-0000-0000-0000-000000000000'",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'",
        ],
        ["1.1", "-1.10000", "1e14"],
        ["'infinity'", "'2024-01-01 00:00:00.5+00'", "'2024-01-01 00:00:00+00'"],
        ["'\\x00'", "'\\x'", "'\\x0000'"],
        ["true", "false", "NULL"],
        ["'4713-01-01 BC'", "'infinity'", "'2024-02-29'"],
        ["'::1'", "'10.0.0.1'", "'10.0.0.1/8'"],
    ];
    let targets = ["TEXT", "BLOB", "TEXT", "TEXT", "BLOB", "BOOLEAN", "INTEGER", "TEXT"];
    let (mut create, mut schema, mut change) = (String::new(), serde_json::Map::new(), String::new());
    for (index, kind) in types.iter().enumerate() {
        create.push_str(&format!("CREATE TABLE t{index} (k {kind} PRIMARY KEY, n int);"));
        schema.insert(format!("t{index}"), table(json!("k"), &[("k", targets[index]), ("n", "INTEGER")]));
        let [a, b, c] = values[index];
        change.push_str(&format!("INSERT INTO t{index} VALUES ({a}, 1), ({b}, 2);"));
        change.push_str(&format!(
            "UPDATE t{index} SET n = 3 WHERE k = {a}; DELETE FROM t{index} WHERE k = {b};"
        ));
        if c != "NULL" {
            change.push_str(&format!("UPDATE t{index} SET k = {c} WHERE k = {a};"));
        }
    }
    let pipeline = Pipeline::started(&create, &Value::Object(schema));
    pipeline.exec(&change);
    pipeline.catch_up();
    for (index, kind) in types.iter().enumerate() {
        for replica in pipeline.replicas() {
            assert_eq!(replica.rows(&format!("SELECT n FROM t{index}")), ["3"], "{kind}");
        }
    }
    let eu = pipeline.replica("eu");
    assert_eq!(eu.ask("SELECT k FROM t0"), "e");
    assert_eq!(eu.ask("SELECT k FROM t1"), "x'a0eebc999c0b4ef8bb6d6bb9bd380a12'");
    assert_eq!(eu.ask("SELECT k FROM t2"), "100000000000000.00000");
    assert_eq!(eu.ask("SELECT k FROM t4"), "x'0000'");
}

#[test]
fn a_soft_deleted_row_stays_with_its_time_until_it_comes_again() {
    let mut entry = table(json!("id"), &[("id", "INTEGER"), ("n", "INTEGER"), ("big", "TEXT")]);
    entry["softDelete"] = json!("deleted_at");
    let a = toast('a');
    let pipeline = Pipeline::started(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;",
        &json!({"t": entry}),
    );
    let rows = |sql: &str| {
        pipeline.exec(sql);
        pipeline.catch_up();
        let found = pipeline.replica("eu").rows("SELECT id, n, deleted_at IS NOT NULL FROM t ORDER BY id");
        assert_eq!(
            pipeline.replica("na").rows("SELECT id, n, deleted_at IS NOT NULL FROM t ORDER BY id"),
            found
        );
        found
    };
    assert_eq!(rows(&format!("INSERT INTO t SELECT i, i, {a} FROM generate_series(1, 4) i")).len(), 4);
    assert_eq!(rows("DELETE FROM t WHERE id IN (1, 2)"), ["1|1|1", "2|2|1", "3|3|0", "4|4|0"]);
    let time = pipeline.replica("eu").ask("SELECT deleted_at FROM t WHERE id = 1");
    let is_now = pipeline.ask(&format!("SELECT now() - '{time}'::timestamptz BETWEEN '0' AND '1 min'"));
    assert_eq!((is_now.as_str(), time.ends_with('Z')), ("t", true), "{time}");
    assert_eq!(rows("INSERT INTO t VALUES (1, 10, 'back')"), ["1|10|0", "2|2|1", "3|3|0", "4|4|0"]);
    // A key that a deleted row still has in the replica is free at the source.
    assert_eq!(rows("UPDATE t SET id = 2 WHERE id = 3"), ["1|10|0", "2|3|0", "4|4|0"]);
    assert_eq!(
        rows("DELETE FROM t WHERE id = 2; UPDATE t SET id = 2, big = 'b' WHERE id = 4"),
        ["1|10|0", "2|4|0"]
    );
    assert_eq!(rows("TRUNCATE t"), ["1|10|1", "2|4|1"]);
    assert_eq!(rows("INSERT INTO t VALUES (2, 5, NULL)"), ["1|10|1", "2|5|0"]);
    assert!(pipeline.replica("eu").dead_letters().is_empty());
}

#[test]
fn tables_and_columns_have_the_names_that_the_schema_gives_them() {
    let mut renamed = table(json!("id"), &[("id", "INTEGER"), ("select", "TEXT"), ("Mixed Case", "TEXT")]);
    renamed["rename"] = json!({"id": "key", "Mixed Case": "plain"});
    renamed["target"] = json!("order \"2\"");
    renamed["indexes"] = json!(["select", ["Mixed Case", "id"]]);
    let pipeline = Pipeline::started(
        "CREATE SCHEMA app; CREATE SCHEMA \"We.ird\";
         CREATE TABLE app.\"order\" (id int PRIMARY KEY, \"select\" text, \"Mixed Case\" text, extra text);
         CREATE TABLE app.users (id int PRIMARY KEY);
         CREATE TABLE \"We.ird\".users (id int PRIMARY KEY);",
        &json!({
            "targetTemplate": "r_{schema}_{table}",
            "app.order": renamed,
            "app.users": table(json!("id"), &[("id", "INTEGER")]),
            "\"We.ird\".users": table(json!("id"), &[("id", "INTEGER")]),
        }),
    );
    pipeline.exec(
        "INSERT INTO app.\"order\" VALUES (1, 's', 'm', 'e'), (2, 's', 'm', 'e');
         UPDATE app.\"order\" SET id = 3, \"select\" = 't' WHERE id = 2; DELETE FROM app.\"order\" WHERE id = 1;
         INSERT INTO app.users VALUES (4); INSERT INTO \"We.ird\".users VALUES (5);",
    );
    pipeline.catch_up();
    for replica in pipeline.replicas() {
        assert_eq!(replica.rows("SELECT key, \"select\", plain FROM \"order \"\"2\"\"\""), ["3|t|m"]);
        assert_eq!(replica.rows("SELECT id FROM r_app_users"), ["4"]);
        assert_eq!(replica.rows("SELECT id FROM \"r_We.ird_users\""), ["5"]);
        assert_eq!(
            replica.ask("SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"),
            "2"
        );
    }
}

#[test]
fn truncate_empties_every_table_that_it_emptied_at_the_source_and_no_other() {
    let columns = [("id", "INTEGER")];
    let mut schema = serde_json::Map::new();
    for name in ["parent", "child", "lone", "other"] {
        schema.insert(name.into(), table(json!("id"), &columns));
    }
    let pipeline = Pipeline::started(
        "CREATE TABLE parent (id serial PRIMARY KEY);
         CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent DEFAULT 1);
         CREATE TABLE lone (id serial PRIMARY KEY); CREATE TABLE other (id serial PRIMARY KEY);
         CREATE TABLE unmapped (id serial PRIMARY KEY);",
        &Value::Object(schema),
    );
    let all = "SELECT 'parent', id FROM parent UNION ALL SELECT 'child', id FROM child
               UNION ALL SELECT 'lone', id FROM lone UNION ALL SELECT 'other', id FROM other ORDER BY 1, 2";
    let fill = "INSERT INTO parent DEFAULT VALUES; INSERT INTO child DEFAULT VALUES; INSERT INTO lone DEFAULT VALUES;
                INSERT INTO other DEFAULT VALUES;";
    pipeline.exec(&format!(
        "{fill} TRUNCATE parent, lone, unmapped RESTART IDENTITY CASCADE; INSERT INTO lone VALUES (9);"
    ));
    pipeline.catch_up();
    pipeline.assert_equal(all, all);
    assert_eq!(pipeline.replica("eu").rows(all), ["lone|9", "other|1"]);
    pipeline
        .exec(&format!("{fill} BEGIN; TRUNCATE other; INSERT INTO other VALUES (7); TRUNCATE lone; COMMIT;"));
    pipeline.catch_up();
    pipeline.assert_equal(all, all);
}

#[test]
fn a_partitioned_table_is_one_table_in_the_replica() {
    let pipeline = Pipeline::started(
        "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu');
         CREATE TABLE t_rest (n int, extra int DEFAULT 0, region text NOT NULL, id int NOT NULL);
         ALTER TABLE t_rest DROP COLUMN extra;
         ALTER TABLE t ATTACH PARTITION t_rest DEFAULT;",
        &json!({"t": table(json!(["id", "region"]), &[("id", "INTEGER"), ("region", "TEXT"), ("n", "INTEGER")])}),
    );
    let all = "SELECT id, region, n FROM t ORDER BY id, region";
    pipeline.exec(
        "INSERT INTO t SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'na' END, i FROM generate_series(1, 6) i;
         UPDATE t SET region = 'na' WHERE id = 2; UPDATE t SET n = 30 WHERE id = 3; DELETE FROM t WHERE id = 4;
         INSERT INTO t_eu VALUES (7, 'eu', 7);
         CREATE TABLE t_asia PARTITION OF t FOR VALUES IN ('asia'); INSERT INTO t VALUES (8, 'asia', 8);",
    );
    pipeline.catch_up();
    pipeline.assert_equal(all, all);
    pipeline.exec("TRUNCATE t; INSERT INTO t VALUES (1, 'eu', 1)");
    pipeline.catch_up();
    pipeline.assert_equal(all, all);
}

#[test]
fn a_row_without_a_valid_form_is_set_aside_and_stops_only_the_sink_that_asks_for_it() {
    let mut pipeline = Pipeline::builder().sink("eu", "").sink("na", "on_rejected = \"halt\"").build(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric);",
        &json!({"t": table(json!("id"), &[("id", "INTEGER"), ("n", "INTEGER")])}),
    );
    pipeline.begin();
    pipeline.exec("INSERT INTO t VALUES (1, 1), (2, 2)");
    pipeline.catch_up();
    let good = pipeline.replica("na").checkpoint().unwrap();
    pipeline.exec("BEGIN; INSERT INTO t VALUES (3, 3); UPDATE t SET n = 0.5 WHERE id = 2; COMMIT");
    pipeline.exec("UPDATE t SET n = 1.5, id = 10 WHERE id = 1");
    pipeline.exec("INSERT INTO t VALUES (4, 4)");
    pipeline.catch_up_one("eu");

    let reason = "n: numeric has a fraction and cannot be an INTEGER";
    let eu = pipeline.replica("eu");
    // The old key of a row that moved is gone although its new form is not there.
    assert_eq!(eu.rows("SELECT id, n FROM t ORDER BY id"), ["2|2", "3|3", "4|4"]);
    assert_eq!(eu.dead_letters(), [format!("t|update|[2]|{reason}"), format!("t|update|[10]|{reason}")]);
    pipeline.await_log("sink stopped");
    assert_eq!(pipeline.replica("na").rows("SELECT id, n FROM t ORDER BY id"), ["1|1", "2|2"]);
    let stopped = pipeline.replica("na").checkpoint().unwrap();
    assert_eq!(stopped.transactions, good.transactions);
    assert!(pipeline.confirmed_flush_lsn().unwrap() <= stopped.lsn);
    assert_eq!(pipeline.stop(), Some(1));
    pipeline.assert_log(&[
        "sink na stopped:",
        "a row of table t has no valid form here",
        reason,
        "correct the row or the mapping, or set on_rejected",
    ]);

    // Nothing was lost for the sink that stopped: it goes on as soon as it may.
    pipeline.edit_config("on_rejected = \"halt\"", "");
    pipeline.run_until_caught_up();
    assert_eq!(
        pipeline.replica("na").rows("SELECT id, n FROM t ORDER BY id"),
        eu.rows("SELECT id, n FROM t ORDER BY id")
    );
    assert_eq!(pipeline.replica("na").dead_letters(), eu.dead_letters());
}
