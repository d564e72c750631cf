//! Six regions on D1, from a real Postgres through the real binary to a real workerd: equal whatever is killed, split
//! transactions included; and what `walcast status` and `walcast check` say of them.

#[path = "support/pipeline.rs"]
mod pipeline;

use pipeline::Pipeline;
use serde_json::{Value, json};

const REGIONS: [&str; 6] = ["wnam", "enam", "weur", "eeur", "apac", "oc"];

const TABLES: &str = "
    CREATE TABLE orders (id int8 PRIMARY KEY, status text NOT NULL, amount numeric, note text);
    ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE lines (order_id int8, line int4, sku text, PRIMARY KEY (order_id, line));";

fn schema() -> Value {
    json!({
        "orders": {
            "primaryKey": "id",
            "columns": { "id": "INTEGER", "status": "TEXT", "amount": "TEXT", "note": "TEXT" },
            "indexes": ["status"],
        },
        "lines": {
            "primaryKey": ["order_id", "line"],
            "columns": { "order_id": "INTEGER", "line": "INTEGER", "sku": "TEXT" },
        },
    })
}

fn pipeline(requests: u32, lines: &str) -> Pipeline {
    let mut builder = Pipeline::builder().sections(&format!("[d1]\nrequests_per_5_minutes = {requests}\n"));
    for region in REGIONS {
        builder = builder.d1(region, lines);
    }
    builder.build(TABLES, &schema())
}

/// Ends the engine and workerd, and compares every region with the source.
fn assert_equal(pipeline: &mut Pipeline) {
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
    assert_eq!(pipeline.broken_limits(), Vec::<String>::new());
    pipeline.workerd.as_mut().unwrap().kill().unwrap();
    let orders = "SELECT id, status, amount, note FROM orders ORDER BY id";
    pipeline.assert_equal(orders, orders);
    let lines = "SELECT order_id, line, sku FROM lines ORDER BY order_id, line";
    pipeline.assert_equal(lines, lines);
    for replica in pipeline.replicas() {
        assert_eq!(replica.dead_letters(), Vec::<String>::new());
        assert_eq!(replica.ask("SELECT open_lsn FROM _walcast_checkpoint"), "NULL");
    }
}

/// Transactions of all kinds, the same for the same number.
fn work(pipeline: &Pipeline, number: u32) {
    let id = number * 10;
    pipeline.exec(&format!(
        "BEGIN;
         INSERT INTO orders SELECT n, 'new', n * 1.10, repeat('x', 3000) FROM generate_series({id}, {id} + 9) n;
         INSERT INTO lines SELECT {id}, n, md5(n::text) FROM generate_series(1, 20) n;
         COMMIT;
         UPDATE orders SET status = 'paid' WHERE id % 3 = {number} % 3;
         UPDATE orders SET id = -id WHERE id = {id} + 4;
         DELETE FROM lines WHERE order_id = {id} AND line % 2 = 0;
         DELETE FROM orders WHERE id = {id} + 5;"
    ));
}

#[test]
fn six_regions_are_equal_after_the_engine_and_workerd_were_killed_under_load() {
    let mut pipeline = pipeline(12_000, "");
    pipeline.start();
    pipeline.await_log("streaming");
    for number in 1..=60 {
        work(&pipeline, number);
        if number % 20 == 10 {
            pipeline.kill();
            pipeline.start();
        }
        if number % 20 == 0 {
            let workerd = pipeline.workerd.as_mut().unwrap();
            workerd.kill().unwrap();
            workerd.start_again().unwrap();
        }
    }
    assert_equal(&mut pipeline);
}

#[test]
fn a_transaction_larger_than_a_request_arrives_in_parts_also_when_the_engine_is_killed_between_them() {
    let mut pipeline = pipeline(1200, "request_max_rows = 5000\n");
    pipeline.start();
    pipeline.await_log("streaming");
    pipeline.exec(
        "BEGIN;
         INSERT INTO orders SELECT n, 'new', NULL, NULL FROM generate_series(1, 100000) n;
         UPDATE orders SET status = 'seen' WHERE id % 7 = 0;
         COMMIT",
    );
    for _ in 0..3 {
        let changes = |pipeline: &Pipeline| -> u64 {
            let sql = "SELECT CAST(coalesce(open_changes, 0) AS TEXT) AS changes FROM _walcast_checkpoint";
            REGIONS.iter().map(|region| pipeline.d1_rows(region, sql)[0].parse::<u64>().unwrap()).sum()
        };
        let before = changes(&pipeline);
        pipeline.eventually("further parts", || (changes(&pipeline) > before).then_some(()));
        pipeline.kill();
        pipeline.start();
    }
    pipeline.exec("INSERT INTO orders VALUES (0, 'after', NULL, NULL)");
    assert_equal(&mut pipeline);
}

/// No rows are brought from before, which would cost too.
const NEVER: &str = "[backfill]\nmode = \"never\"\n";

#[test]
fn a_hot_row_costs_one_write_and_status_says_what_everything_costs() {
    let mut pipeline = Pipeline::builder()
        .d1("weur", "")
        .d1("apac", "skip_unchanged = true\n")
        .sections(NEVER)
        .build(TABLES, &schema());
    pipeline.start();
    pipeline.await_log("streaming");
    pipeline.exec("INSERT INTO orders SELECT n, 'new', n, NULL FROM generate_series(1, 1000) n");
    pipeline.exec(
        "BEGIN; UPDATE orders SET amount = 1 WHERE id = 1; UPDATE orders SET amount = 2 WHERE id = 1; COMMIT",
    );
    pipeline.catch_up();
    // The last request's cost is kept with the next one.
    pipeline.exec("INSERT INTO lines VALUES (1, 1, 'a')");
    pipeline.catch_up();
    let status = walcast(&pipeline, &["status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    for sink in status["sinks"].as_array().unwrap() {
        assert_eq!(sink["state"], "attached", "{sink}");
        assert_eq!(sink["dead_letters"], 0);
        let cost = &sink["cost"];
        assert_eq!(cost["changes"], 1003, "{cost}");
        // The row, its entry in the index, and later the row again.
        let orders = cost["tables"]["orders"].as_u64().unwrap();
        assert!((2000..=2004).contains(&orders), "{cost}");
        assert!(cost["folded"].as_f64().unwrap() > 0.0, "{cost}");
        assert!((1.9..2.2).contains(&cost["dollars_per_million_changes"].as_f64().unwrap()), "{cost}");
        assert!(cost["database_bytes"].as_u64().unwrap() > 4096, "{cost}");
    }
    let text = walcast(&pipeline, &["status"]);
    assert!(text.contains("ROWS WRITTEN") && text.contains("of 9.3 GiB"), "{text}");

    let findings = walcast(&pipeline, &["check"]);
    assert!(findings.contains("sink weur"), "{findings}");
    // A region that is away hides nothing of the others.
    pipeline.order("apac", json!({"kind": "hang", "times": "until cleared"}));
    let status: Value = serde_json::from_str(&walcast(&pipeline, &["status", "--json"])).unwrap();
    assert_eq!(status["sinks"][0]["state"], "attached");
    assert_eq!(status["sinks"][1]["state"], "unreadable");
    assert!(status["sinks"][1]["problem"].as_str().is_some_and(|problem| !problem.is_empty()));
}

/// The standard output of a command.
fn walcast(pipeline: &Pipeline, arguments: &[&str]) -> String {
    let output = pipeline.walcast(arguments);
    String::from_utf8(output.stdout).unwrap()
}
