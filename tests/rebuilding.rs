//! While a table is built anew beside its readers, whoever looks is told so: the status, the health, the jobs, and who
//! asks where a row is.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use http::Api;
use pipeline::{Pipeline, Session};
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const CREATE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int);
    INSERT INTO t SELECT i, i FROM generate_series(1, 500) i;
    ANALYZE t;";

fn schema(n: &str) -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": n}}})
}

/// A pipeline that is live, whose engine then starts with another type of `n`, while the source's rows cannot be read;
/// and the session that keeps them.
fn rebuilding(mut pipeline: Pipeline) -> (Pipeline, Api, Session) {
    pipeline.run_until_caught_up();
    pipeline.write_schema(&schema("TEXT"));
    let holder = pipeline.session();
    holder.exec("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").unwrap();
    pipeline.clear_log();
    pipeline.start();
    let api = Api::of(&pipeline);
    (pipeline, api, holder)
}

fn builder() -> pipeline::Builder {
    Pipeline::builder().sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n"))
}

/// Looks until the table of this sink is in this state.
fn await_state(pipeline: &Pipeline, api: &Api, sink: &str, state: &str) {
    pipeline.eventually(&format!("{sink} to be {state}"), || {
        let status = api.get("/status").json();
        let found = status["sinks"].as_array()?.iter().find(|found| found["name"] == sink)?;
        (found["tables"][0]["state"] == state).then_some(())
    });
}

#[test]
fn a_table_that_is_built_anew_is_shown_as_such_by_status_health_jobs_and_trace() {
    let (mut pipeline, api, holder) = rebuilding(builder().build(CREATE, &schema("INTEGER")));
    for sink in ["eu", "na"] {
        await_state(&pipeline, &api, sink, "rebuilding");
    }
    let ready = api.get("/readyz");
    let says = ready.json()["problems"][0]["message"].as_str().unwrap().to_owned();
    assert!(ready.status == 503 && says.starts_with("table t is rebuilding: "), "{says}");
    let job = pipeline.eventually("the job", || {
        let job = api.get("/jobs").json()["jobs"][0].clone();
        (job["progress"]["unit"] == "rows").then_some(job)
    });
    assert_eq!((&job["kind"], &job["target"]["table"]), (&json!("rebuild"), &json!("t")));
    assert_eq!(job["waits_for"].as_array().unwrap().len(), 2, "{job}");
    // Readers see it as it was.
    assert_eq!(pipeline.replica("eu").ask("SELECT typeof(n) FROM t WHERE id = 1"), "integer");

    // One region stays behind.
    assert_eq!(api.post_with(SECRET, "/sinks/eu/pause").status, 200);
    holder.exec("COMMIT").unwrap();
    await_state(&pipeline, &api, "na", "live");
    assert_eq!(pipeline.replica("na").ask("SELECT typeof(n) FROM t WHERE id = 1"), "text");
    let trace = api.get_with(SECRET, "/status/t/1").json();
    let [eu, na] = [0, 1].map(|region| &trace["regions"][region]);
    assert_eq!((&eu["verdict"], &eu["table_state"]), (&json!("not-live"), &json!("rebuilding")), "{trace}");
    assert_eq!((&eu["row"], &eu["problem"], &trace["is_equal"]), (&Value::Null, &Value::Null, &json!(false)));
    assert_eq!((&na["verdict"], &na["table_state"]), (&json!("equal"), &Value::Null), "{trace}");

    assert_eq!(api.post_with(SECRET, "/sinks/eu/resume").status, 200);
    await_state(&pipeline, &api, "eu", "live");
    let job = pipeline.eventually("the job to end", || {
        let job = api.get("/jobs").json()["jobs"][0].clone();
        (job["state"] != "running").then_some(job)
    });
    assert_eq!(
        (&job["state"], &job["outcome"]),
        (&json!("done"), &json!("it has taken its place in every region"))
    );
    assert_eq!(api.get_with(SECRET, "/status/t/1").json()["is_equal"], true);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_d1_table_that_is_built_anew_is_shown_as_such_too() {
    let (mut pipeline, api, holder) = rebuilding(builder().d1("weur", "").build(CREATE, &schema("INTEGER")));
    // A database is looked at only now and then; the health is what the engine knows.
    pipeline.eventually("the rebuild to be seen", || {
        api.get("/readyz").body.contains("table t is rebuilding: ").then_some(())
    });
    assert_eq!(api.post_with(SECRET, "/sinks/weur/pause").status, 200);
    holder.exec("COMMIT").unwrap();
    let trace = api.get_with(SECRET, "/status/t/1").json();
    let weur = &trace["regions"][0];
    assert_eq!(
        (&weur["verdict"], &weur["table_state"]),
        (&json!("not-live"), &json!("rebuilding")),
        "{trace}"
    );
    assert_eq!(api.post_with(SECRET, "/sinks/weur/resume").status, 200);
    pipeline.eventually("the table to be live", || (api.get("/readyz").status == 200).then_some(()));
    let trace = api.get_with(SECRET, "/status/t/1").json();
    assert_eq!(
        (&trace["is_equal"], &trace["regions"][0]["row"]["n"]),
        (&json!(true), &json!("1")),
        "{trace}"
    );
    assert_eq!(pipeline.stop(), Some(0));
}
