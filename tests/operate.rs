//! A running engine is steered over HTTP: syncs and webhooks, the jobs that they are, and what is refused.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use http::{Answer, Api};
use pipeline::Pipeline;
use rusqlite::Connection;
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE unpublished (n int);";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const ROWS: &str = "SELECT * FROM t ORDER BY id";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}})
}

/// A caught-up pipeline with the sinks `eu` and `na`, and its API. `lines` end `[admin]` and may begin other sections.
fn started(lines: &str) -> (Pipeline, Api) {
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{lines}\n"))
        .build(CREATE, &schema());
    pipeline.begin();
    let api = Api::of(&pipeline);
    (pipeline, api)
}

/// Holds a replica's write lock.
fn lock(pipeline: &Pipeline, sink: &str) -> Connection {
    let connection = Connection::open(pipeline.replica(sink).path).unwrap();
    connection.busy_timeout(pipeline::LIMIT).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

/// Looks at a job until it is in this state.
fn await_job(pipeline: &Pipeline, api: &Api, location: &str, state: &str) -> Value {
    pipeline.eventually(&format!("{location} to be {state}"), || {
        let job = api.get(location).json();
        (job["state"] == state).then_some(job)
    })
}

fn location(answer: &Answer) -> String {
    answer.headers["location"].to_str().unwrap().to_owned()
}

#[test]
fn a_sync_is_a_job_that_is_done_once_every_region_is_where_the_source_was() {
    let (mut pipeline, api) = started("");
    assert_eq!(api.get("/jobs").json(), json!({"jobs": []}));
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    let answer = api.post_with(SECRET, "/sync");
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!((&answer.json()["kind"], location(&answer).as_str()), (&json!("sync"), "/jobs/1"));
    let job = await_job(&pipeline, &api, "/jobs/1", "done");
    assert_eq!(job["progress"], json!({"done": 2, "total": 2, "unit": "sinks"}));
    assert!(job["outcome"].as_str().unwrap().starts_with("every sink is at ") && job["ended"].is_string());
    pipeline.assert_equal(ROWS, ROWS);

    // As a trigger's call comes: with a body that is not looked at.
    pipeline.exec("UPDATE t SET n = 2");
    let headers = [("x-webhook-signature", SECRET), ("content-type", "application/json")];
    let answer = api.send("POST", "/webhook?wait=true&timeout=60s", &headers, "{\"table\": \"t\"}");
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("done")), "{answer:?}");
    pipeline.assert_equal(ROWS, ROWS);
    pipeline.eventually("the rate", || {
        pipeline.exec("UPDATE t SET n = n + 1");
        let status = api.get("/status").json();
        status["sinks"][0]["engine"]["changes_per_second"].as_f64().filter(|rate| *rate > 0.0)
    });
    let jobs = api.get("/jobs").json();
    let ids: Vec<&Value> = jobs["jobs"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!(ids, [&json!(2), &json!(1)]);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_sync_does_not_wait_for_the_next_idle_position() {
    let mut pipeline = Pipeline::builder()
        .source("")
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\nstall_timeout = \"1day\"\n"
        ))
        .build(CREATE, &schema());
    pipeline.edit_config("idle_checkpoint_interval = \"100ms\"", "idle_checkpoint_interval = \"1h\"");
    pipeline.start();
    pipeline.await_log("streaming");
    let api = Api::of(&pipeline);
    for round in 1..=5 {
        pipeline.exec("INSERT INTO unpublished SELECT generate_series(1, 100)");
        let answer = api.post_with(SECRET, "/sync?wait=true&timeout=60s");
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("done")), "{round}: {answer:?}");
    }
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_second_sync_is_refused_with_the_first_ones_number_until_that_is_done() {
    let (mut pipeline, api) = started("");
    let held = lock(&pipeline, "na");
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    let answer = api.post_with(SECRET, "/sync?wait=true&timeout=1s");
    assert_eq!((answer.status, &answer.json()["state"]), (202, &json!("running")), "{answer:?}");
    let first = location(&answer);
    pipeline.catch_up_one("eu");
    let job = pipeline.eventually("the job to wait for one sink", || {
        let job = api.get(&first).json();
        (job["progress"]["done"] == 1).then_some(job)
    });
    let queued = |sink: usize| {
        let status = api.get("/status").json();
        status["sinks"][sink]["engine"]["queue_bytes"].as_u64().unwrap()
    };
    assert!(queued(1) > 0);
    pipeline.eventually("the other's queue to be empty", || (queued(0) == 0).then_some(()));
    assert!(job["waits_for"][0].as_str().unwrap().starts_with("sink na ("), "{job}");
    for path in ["/sync", "/webhook", "/sync?wait=true"] {
        let refused = api.post_with(SECRET, path);
        refused.assert_problem(409, "conflict");
        assert_eq!(location(&refused), first);
    }
    drop(held);
    await_job(&pipeline, &api, &first, "done");
    assert_eq!(api.post_with(SECRET, "/sync?wait=true&timeout=60s").status, 200);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_sync_that_a_region_cannot_reach_says_which_and_why() {
    let (mut pipeline, api) = started("");
    // What stops a sink for good: its checkpoint goes back.
    let held = lock(&pipeline, "na");
    pipeline.exec("INSERT INTO t VALUES (1, 1)");
    let answer = api.post_with(SECRET, "/sync");
    held.execute_batch("UPDATE _walcast_checkpoint SET epoch = epoch + 1; COMMIT").unwrap();
    let job = await_job(&pipeline, &api, &location(&answer), "failed");
    assert!(job["outcome"].as_str().unwrap().starts_with("sink na is "), "{job}");
    assert_eq!(job["hint"], "GET /status says why");
    api.post_with(SECRET, "/sync?wait=true").assert_problem(503, "unavailable");
    assert_eq!(pipeline.stop(), Some(1));
}

#[test]
fn who_may_not_who_asks_wrongly_and_what_is_not_there() {
    let (mut pipeline, api) = started("");
    for path in ["/sync", "/webhook"] {
        api.send("POST", path, &[], "").assert_problem(401, "unauthorized");
        api.post_with("wrong", path).assert_problem(401, "unauthorized");
        api.send("POST", path, &[("authorization", "Bearer wrong")], "").assert_problem(401, "unauthorized");
        api.get_with(SECRET, path).assert_problem(405, "method-not-allowed");
        api.post_with(SECRET, &format!("{path}?wait=perhaps")).assert_problem(400, "bad-request");
        api.post_with(SECRET, &format!("{path}?timeout=1h")).assert_problem(400, "bad-request");
        api.post_with(SECRET, &format!("{path}?sink=eu")).assert_problem(400, "bad-request");
        let headers = [("x-webhook-signature", SECRET), ("origin", "http://evil.test")];
        api.send("POST", path, &headers, "").assert_problem(403, "forbidden");
    }
    api.post_with(SECRET, "/synchronise").assert_problem(404, "not-found");
    api.get("/jobs/1").assert_problem(404, "not-found");
    api.get("/jobs/first").assert_problem(400, "bad-request");
    api.post_with(SECRET, "/jobs").assert_problem(405, "method-not-allowed");
    let bearer = format!("Bearer {SECRET}");
    assert_eq!(api.send("POST", "/sync", &[("authorization", &bearer)], "").status, 202);
    pipeline.cluster.stop().unwrap();
    api.post_with(SECRET, "/sync").assert_problem(503, "transient");
    assert_eq!(pipeline.stop(), Some(0));
}

/// Asserts that everything that says how the regions are says that one of these is failing and the others are right.
fn assert_all_name(api: &Api, failing: &str, others: &[&str]) {
    assert_eq!(api.get("/livez").status, 200, "a restart would not help");
    let readiness = api.get("/readyz");
    assert_eq!(readiness.status, 503, "{readiness:?}");
    let problems = readiness.json()["problems"].clone();
    assert_eq!(problems.as_array().unwrap().len(), 1, "{problems}");
    assert_eq!(problems[0]["subject"], format!("sink {failing}"), "{problems}");
    let status = api.get("/status").json();
    // It is tried again: nothing needs an operator.
    assert_eq!((&status["is_ok"], &status["engine"]["phase"]), (&json!(true), &json!("streaming")));
    let text = api.send("GET", "/", &[("accept", "text/plain")], "").body;
    assert!(text.contains("streaming, not ready"), "{text}");
    let metrics = api.get("/metrics").body;
    for sink in others.iter().chain([&failing]) {
        let state = if *sink == failing { "failing" } else { "attached" };
        let of_status = status["sinks"].as_array().unwrap().iter().find(|one| one["name"] == *sink).unwrap();
        assert_eq!(of_status["state"], state, "{of_status}");
        assert_eq!(of_status["problem"].is_string(), *sink == failing, "{of_status}");
        assert!(text.contains(&format!("  {sink}: {state} at ")), "{text}");
        for other in walcast::telemetry::SINK_STATES {
            let value = u8::from(other == state);
            let line = format!("walcast_sink_state{{sink=\"{sink}\",state=\"{other}\"}} {value}\n");
            assert!(metrics.contains(&line), "{line}{metrics}");
        }
    }
    assert!(metrics.contains("walcast_stalled 0\n"), "{metrics}");
}

#[test]
fn a_region_that_is_down_for_long_is_named_by_all_that_say_how_the_regions_are() {
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\nstall_timeout = \"15s\"\n"
        ))
        .sink("eu", "")
        .sink("na", "")
        .d1("apac", "")
        .build(CREATE, &schema());
    pipeline.start();
    pipeline.catch_up();
    let api = Api::of(&pipeline);
    let await_ready =
        || pipeline.eventually("readiness", || (api.get("/readyz").status == 200).then_some(()));
    await_ready();
    let mut id = 0;
    for (index, failing) in [(1, "na"), (2, "apac")] {
        let held = match failing {
            "na" => Some(lock(&pipeline, "na")),
            _ => {
                pipeline.order("apac", json!({"kind": "internal-error", "times": "until cleared"}));
                None
            }
        };
        let others: Vec<&str> = ["eu", "na", "apac"].into_iter().filter(|sink| *sink != failing).collect();
        // A file's lock is waited for for five seconds before anything has failed. Then it is down for longer than the
        // engine may stand still.
        let began = std::time::Instant::now();
        pipeline.eventually("many failed attempts", || {
            id += 1;
            pipeline.exec(&format!("INSERT INTO t VALUES ({id}, 1)"));
            others.iter().for_each(|sink| pipeline.catch_up_one(sink));
            let liveness = api.get("/livez");
            assert_eq!(liveness.status, 200, "{liveness:?}");
            let attempts = api.get("/status").json()["sinks"][index]["engine"]["failed_attempts"].as_u64()?;
            (attempts >= 3 && began.elapsed().as_secs() > 20).then_some(())
        });
        // The metrics and the status are a second old at most; nothing of it changes any more.
        pipeline.eventually("the metrics to be as new", || {
            let line = format!("walcast_sink_state{{sink=\"{failing}\",state=\"failing\"}} 1\n");
            api.get("/metrics").body.contains(&line).then_some(())
        });
        assert_all_name(&api, failing, &others);
        drop(held);
        pipeline.workerd.as_ref().unwrap().clear_faults().unwrap();
        await_ready();
    }
    pipeline.catch_up();
    pipeline.assert_equal(ROWS, ROWS);
    assert_eq!(pipeline.stop(), Some(0));
}
