//! `sql/webhook_trigger.sql` on a real server. pg_net itself cannot be installed here: a function with its signature
//! stands for it, and keeps what it is asked to send.

#[path = "support/pipeline.rs"]
mod pipeline;

use pipeline::{Pipeline, Session};
use serde_json::json;

const NET: &str = "
    CREATE SCHEMA net;
    CREATE TABLE net.sent (url text, body jsonb, headers jsonb);
    CREATE FUNCTION net.http_post(url text, body jsonb DEFAULT '{}', params jsonb DEFAULT '{}',
        headers jsonb DEFAULT '{\"Content-Type\": \"application/json\"}', timeout_milliseconds integer DEFAULT 5000)
    RETURNS bigint LANGUAGE sql AS
    $$ INSERT INTO net.sent VALUES (http_post.url, http_post.body, http_post.headers) RETURNING 1::bigint $$;";
const TABLES: &str = "
    CREATE TABLE apps (id int PRIMARY KEY, n int);
    CREATE ROLE writer; GRANT SELECT, INSERT, UPDATE, DELETE ON apps TO writer;";

fn sent(pipeline: &Pipeline) -> String {
    pipeline.ask("SELECT count(*) FROM net.sent")
}

fn installed() -> (Pipeline, Session) {
    let schema = json!({"apps": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}});
    let pipeline = Pipeline::builder().build(&format!("{NET}{TABLES}"), &schema);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/webhook_trigger.sql");
    let sql = std::fs::read_to_string(file).unwrap();
    pipeline.exec(&sql);
    // It may be run again, as after an edit.
    pipeline.exec(&sql.replace("the secret of [admin]", "s3cret"));
    let session = pipeline.session();
    session.exec("SET ROLE writer").unwrap();
    (pipeline, session)
}

#[test]
fn each_transaction_that_writes_calls_once_with_the_secret() {
    let (pipeline, writer) = installed();
    writer.exec("INSERT INTO apps VALUES (1, 1)").unwrap();
    assert_eq!(
        pipeline.ask("SELECT concat_ws(' ', url, body, headers ->> 'x-webhook-signature') FROM net.sent"),
        "https://walcast.example.com/webhook {} s3cret"
    );
    writer.exec("BEGIN").unwrap();
    for statement in ["UPDATE apps SET n = 2", "UPDATE apps SET n = 3", "DELETE FROM apps"] {
        writer.exec(statement).unwrap();
    }
    writer.exec("COMMIT").unwrap();
    assert_eq!(sent(&pipeline), "2");
    writer.exec("BEGIN").unwrap();
    writer.exec("INSERT INTO apps VALUES (2, 2)").unwrap();
    writer.exec("ROLLBACK").unwrap();
    assert_eq!(sent(&pipeline), "2");
    pipeline.exec("TRUNCATE apps");
    assert_eq!(sent(&pipeline), "3");
}

#[test]
fn a_call_that_fails_fails_no_write_and_writers_do_not_see_the_secret() {
    let (pipeline, writer) = installed();
    pipeline.exec("DROP FUNCTION net.http_post");
    writer.exec("INSERT INTO apps VALUES (1, 1)").unwrap();
    assert_eq!(pipeline.ask("SELECT count(*) FROM apps"), "1");
    assert!(writer.exec("SELECT secret FROM walcast_webhook.target").is_err());
    pipeline.exec("DROP SCHEMA walcast_webhook CASCADE");
    writer.exec("INSERT INTO apps VALUES (2, 2)").unwrap();
}
