//! Generated columns at the source. Before Postgres 18 none is in the stream; from then on those that are `STORED`
//! are, where the publication says so. Each test runs against every version, and says what it leaves out on which.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use http::Api;
use pipeline::Pipeline;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-decent-length";

fn entry(columns: &[&str]) -> Value {
    let columns: serde_json::Map<_, _> =
        columns.iter().map(|column| ((*column).to_owned(), json!("INTEGER"))).collect();
    json!({"primaryKey": "id", "columns": columns})
}

/// A statement that differs from 18 on, where a generated column is virtual unless it says `STORED`.
fn by_version(before: &str, from_18: &str) -> String {
    format!(
        "DO $$ BEGIN IF current_setting('server_version_num')::int < 180000 THEN EXECUTE '{before}';
         ELSE EXECUTE '{from_18}'; END IF; END $$;"
    )
}

/// Table `t` with a generated column `g` that this server cannot publish.
fn unpublishable() -> String {
    let table = |kind| {
        format!("CREATE TABLE t (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) {kind})")
    };
    by_version(&table("STORED"), &table("VIRTUAL")) + "INSERT INTO t VALUES (1, 1);"
}

#[test]
fn a_column_that_cannot_be_published_is_refused_by_name() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n");
    let mut pipeline = Pipeline::builder()
        .sink("eu", "")
        .sections(&admin)
        .build(&unpublishable(), &json!({"t": entry(&["id", "a", "g"])}));
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(2));
    pipeline.assert_log(&[
        "t.g: it is generated, and Postgres publishes such a column from 18 on",
        "walcast check",
    ]);
    assert!(!pipeline.path("eu.db").exists(), "nothing was written");
    let kind = if pipeline.major_version() >= 18 { "virtual" } else { "generated" };
    for (arguments, says) in [
        (&["schema", "plan"][..], "t.g: it is generated".to_owned()),
        (&["check"][..], format!("column g is {kind}, which Postgres")),
    ] {
        let output = pipeline.walcast(arguments);
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(&says), "{arguments:?}: {said}");
    }

    // Without it the table flows; a reload that brings it back changes nothing.
    pipeline.write_schema(&json!({"t": entry(&["id", "a"])}));
    pipeline.clear_log();
    pipeline.start();
    pipeline.filled("eu");
    pipeline.write_schema(&json!({"t": entry(&["id", "a", "g"])}));
    let answer = Api::of(&pipeline).post_with(SECRET, "/reload?wait=true");
    answer.assert_problem(400, "config");
    assert!(answer.json()["message"].as_str().unwrap().contains("t.g: it is generated"), "{answer:?}");
    pipeline.exec("INSERT INTO t VALUES (2, 2); UPDATE t SET a = 3 WHERE id = 1");
    pipeline.catch_up();
    pipeline.assert_equal("SELECT id, a FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn tables_with_generated_columns_flow_under_every_replica_identity() {
    let columns = "(id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 2) STORED)";
    let create = format!(
        "CREATE TABLE by_default {columns}; CREATE TABLE by_full {columns}; CREATE TABLE unmapped {columns};
         ALTER TABLE by_full REPLICA IDENTITY FULL; ALTER TABLE unmapped REPLICA IDENTITY FULL;"
    );
    let tables = ["by_default", "by_full", "unmapped"];
    let rows = tables.map(|table| format!("INSERT INTO {table} VALUES (1, 1), (2, 2), (3, 3);")).concat();
    let mut pipeline = Pipeline::builder()
        .sink("eu", "")
        .build(&(create + &rows), &json!({"unmapped": entry(&["id", "a"])}));
    let is_published = pipeline.major_version() >= 18;
    let mapped: &[&str] = if is_published {
        &["id", "a", "s"]
    } else {
        println!("before Postgres 18 the generated columns are not mapped");
        &["id", "a"]
    };
    pipeline.write_schema(&json!({
        "by_default": entry(mapped), "by_full": entry(mapped), "unmapped": entry(&["id", "a"]),
    }));
    pipeline.start();
    pipeline.filled("eu");
    for table in tables {
        pipeline.exec(&format!(
            "INSERT INTO {table} VALUES (4, 4); UPDATE {table} SET a = 10 WHERE id = 1;
             UPDATE {table} SET id = 5 WHERE id = 2; DELETE FROM {table} WHERE id = 3;"
        ));
    }
    pipeline.catch_up();
    for table in tables {
        let mapped = if table == "unmapped" { "id, a".to_owned() } else { mapped.join(", ") };
        let sql = format!("SELECT {mapped} FROM {table} ORDER BY id");
        pipeline.assert_equal(&sql, &sql);
    }
    let expected = if is_published { "20" } else { "NULL" };
    let doubled = pipeline.replica("eu").rows("SELECT * FROM by_full WHERE id = 1");
    assert_eq!(doubled[0].split('|').nth(2).unwrap_or("NULL"), expected);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_publication_of_others_that_leaves_generated_columns_out_is_told_the_sql_that_adds_them() {
    let create = "CREATE TABLE t (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 2) STORED);
                  CREATE PUBLICATION walcast FOR ALL TABLES;";
    let mut pipeline =
        Pipeline::builder().sink("eu", "").build(create, &json!({"t": entry(&["id", "a", "s"])}));
    if pipeline.major_version() < 18 {
        println!("before Postgres 18 no publication has generated columns");
        return;
    }
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(1));
    let sql = r#"ALTER PUBLICATION "walcast" SET (publish_generated_columns = stored);"#;
    pipeline.assert_log(&["it does not publish s of table t"]);
    let log = pipeline.log().replace('\\', "");
    assert!(log.contains(sql), "{log}");
    pipeline.exec(sql);
    pipeline.start();
    pipeline.filled("eu");
    pipeline.exec("INSERT INTO t VALUES (1, 1); UPDATE t SET a = 2");
    pipeline.catch_up();
    assert_eq!(pipeline.replica("eu").rows("SELECT id, a, s FROM t"), ["1|2|4"]);

    // Taken out again while the engine runs, it stops the table; no row gets NULL for it.
    pipeline.exec("ALTER PUBLICATION walcast SET (publish_generated_columns = none); UPDATE t SET a = 3");
    pipeline.await_log("walcast backfill --table t");
    assert_eq!(pipeline.replica("eu").rows("SELECT id, a, s FROM t"), ["1|2|4"]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_full_identity_that_a_virtual_column_spoils_is_refused_before_the_application_is_hurt() {
    let create = by_version(
        "CREATE TABLE t (id int PRIMARY KEY, a int)",
        "CREATE TABLE t (id int PRIMARY KEY, a int, v int GENERATED ALWAYS AS (a * 2))",
    ) + "ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 1);";
    let mut pipeline = Pipeline::builder().sink("eu", "").build(&create, &json!({"t": entry(&["id", "a"])}));
    if pipeline.major_version() < 18 {
        println!("before Postgres 18 no column is virtual");
        return;
    }
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(2));
    pipeline.assert_log(&["t: has no usable replica identity"]);
    assert_eq!(pipeline.ask("SELECT count(*) FROM pg_publication"), "0");
    pipeline.exec("UPDATE t SET a = 2");
    let check = String::from_utf8(pipeline.walcast(&["check"]).stdout).unwrap();
    let remedy = "ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT;";
    assert!(check.contains("a virtual column is no part of one") && check.contains(remedy), "{check}");
    pipeline.exec(remedy);
    pipeline.start();
    pipeline.filled("eu");
    pipeline.exec("UPDATE t SET a = 3");
    pipeline.catch_up();
    assert_eq!(pipeline.replica("eu").rows("SELECT id, a FROM t"), ["1|3"]);
    assert_eq!(pipeline.stop(), Some(0));
}
