//! The way back from a nuke of a D1 database: a bookmark where Time Travel can be asked, and a plain word where not.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::process::{Command, Output, Stdio};

use http::{Answer, Api};
use pipeline::Pipeline;
use serde_json::{Value, json};
use walcast::app::demo::Workerd;

const ROWS: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 50) i;";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const T: &str = "SELECT id, v FROM t ORDER BY id";
const COMMAND: &str = "npx wrangler d1 time-travel restore rest --bookmark=";
const NO_WAY: &str = "sink worker: there is no way back";

fn build(sections: &str) -> Pipeline {
    let sections = format!("[d1]\nrequests_per_5_minutes = 100000\n{sections}");
    Pipeline::builder()
        .d1("rest", "")
        .d1_worker("worker", "")
        .sections(&sections)
        .build(ROWS, &json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT"}}}))
}

fn nuke(pipeline: &Pipeline, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .arg("nuke")
        .args(arguments)
        .env_clear()
        .current_dir(pipeline.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, error)
}

/// Sends what the command that was printed would send.
fn go_back(pipeline: &Pipeline, printed: &str) {
    let bookmark = printed.split(COMMAND).nth(1).unwrap().split_whitespace().next().unwrap();
    let workerd = pipeline.workerd.as_ref().unwrap();
    let stats = workerd.stats().unwrap();
    let id = stats["known"]["rest"]["id"].as_str().unwrap();
    let url = format!(
        "{}/accounts/{}/d1/database/{id}/time_travel/restore?bookmark={bookmark}",
        workerd.base_url(),
        Workerd::ACCOUNT
    );
    let answer = ureq::post(&url)
        .header("authorization", format!("Bearer {}-of-the-test", Workerd::TOKEN))
        .send_empty();
    assert_eq!(answer.unwrap().status(), 200);
}

#[test]
fn a_nuke_says_how_to_go_back_before_it_touches_a_database_and_goes_on_without_only_when_told_to() {
    let mut pipeline = build("");
    pipeline.run_until_caught_up();
    pipeline.d1_rows("rest", "UPDATE t SET v = 'precious' WHERE id = 7");

    let (refused, error) = nuke(&pipeline, &["--all"]);
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(
        error.contains(COMMAND) && error.contains(NO_WAY) && error.contains("walcast nuke … --yes"),
        "{error}"
    );
    let (refused, error) = nuke(&pipeline, &["--sink", "rest"]);
    assert!(error.contains("nobody can be asked") && !error.contains(NO_WAY), "{error}");
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(
        pipeline.replica("rest").ask("SELECT v FROM t WHERE id = 7"),
        "precious",
        "nothing was touched"
    );

    let (done, error) = nuke(&pipeline, &["--all", "--yes", "--json"]);
    assert!(done.status.success() && error.contains(NO_WAY), "{error}");
    pipeline.assert_equal(T, T);
    go_back(&pipeline, &error);
    assert_eq!(pipeline.d1_rows("rest", "SELECT v FROM t WHERE id = 7"), ["precious"]);

    // A server that plays the API without Time Travel.
    pipeline.order("rest", json!({"kind": "404-route"}));
    let (refused, error) = nuke(&pipeline, &["--sink", "rest"]);
    assert!(error.contains("sink rest: there is no way back"), "{error}");
    assert_eq!(refused.status.code(), Some(2));
    // One that fails is another matter.
    pipeline.order("rest", json!({"kind": "502"}));
    let (refused, error) = nuke(&pipeline, &["--sink", "rest", "--yes"]);
    assert!(!refused.status.success() && error.contains("gives no Time Travel bookmark"), "{error}");
}

fn post(api: &Api, body: &Value) -> Answer {
    api.send("POST", "/nuke", &[("x-webhook-signature", SECRET)], &body.to_string())
}

#[test]
fn a_running_engine_says_how_to_go_back_in_its_job_and_refuses_what_has_no_way_back_unless_it_is_told() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut pipeline = build(&format!("[admin]\nlisten = \"127.0.0.1:{port}\"\nsecret = \"{SECRET}\"\n"));
    pipeline.start();
    ["rest", "worker"].into_iter().for_each(|sink| pipeline.filled(sink));
    pipeline.d1_rows("rest", "UPDATE t SET v = 'precious' WHERE id = 7");
    let api = Api::of(&pipeline);
    let refused = post(&api, &json!({"type": "all"}));
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.json()["message"].as_str().unwrap().contains(NO_WAY), "{refused:?}");
    assert_eq!(refused.json()["hint"], "ask again with \"yes\": true");
    assert_eq!(
        pipeline.replica("rest").ask("SELECT v FROM t WHERE id = 7"),
        "precious",
        "nothing was touched"
    );
    for body in [json!({"type": "db", "db": "rest"}), json!({"type": "all", "yes": true})] {
        let answer = post(&api, &body);
        assert_eq!(answer.status, 202, "{answer:?}");
        let ways = answer.json()["ways_back"].clone();
        assert!(ways[0].as_str().unwrap().contains(COMMAND), "{ways}");
        let job = answer.headers["location"].to_str().unwrap().to_owned();
        let done = pipeline.eventually("the job to end", || {
            let job = api.get(&job).json();
            (job["state"] != "running").then_some(job)
        });
        assert!(done["outcome"].as_str().unwrap().contains(COMMAND), "{done}");
    }
    pipeline.assert_equal(T, T);
    assert_eq!(pipeline.stop(), Some(0));
}
