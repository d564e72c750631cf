//! The HTTP API of a running engine: who is let in, and what health says when the source, a region or the slot is not
//! well.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::io::{Read, Write};
use std::net::TcpStream;

use http::Api;
use pipeline::Pipeline;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CREATE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);";
const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";

fn schema() -> Value {
    json!({"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "n": "INTEGER"}}})
}

fn insert(range: &str) -> String {
    format!("INSERT INTO t SELECT i, i FROM generate_series({range}) i")
}

/// A caught-up pipeline with the sinks `eu` and `na`, and its API.
fn started(admin: &str) -> (Pipeline, Api) {
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{admin}\n"))
        .build(CREATE, &schema());
    pipeline.start();
    pipeline.catch_up();
    pipeline.await_log("streaming");
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

/// Looks until `/livez` or `/readyz` answers with this status, and returns the body.
fn await_status(pipeline: &Pipeline, api: &Api, path: &str, status: u16) -> Value {
    pipeline.eventually(&format!("{path} to answer {status}"), || {
        let answer = api.get(path);
        (answer.status == status).then(|| answer.json())
    })
}

#[test]
fn an_engine_without_an_address_listens_nowhere() {
    let pipeline = Pipeline::started(CREATE, &schema());
    assert!(!pipeline.log().contains("the HTTP API listens"));
}

#[test]
fn an_address_that_is_taken_ends_the_run_before_it_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut pipeline =
        Pipeline::builder().sections(&format!("[admin]\nlisten = \"{address}\"\n")).build(CREATE, &schema());
    pipeline.start();
    assert_eq!(pipeline.exit_code(), Some(1));
    pipeline.assert_log(&[&format!("the HTTP API cannot listen on {address}"), "port 0 takes a free one"]);
    assert_eq!(pipeline.confirmed_flush_lsn(), None);
}

#[test]
fn what_is_not_there_or_not_meant_so_is_answered_as_json() {
    let (_pipeline, api) = started("");
    api.get("/no/such").assert_problem(404, "not-found");
    api.post_with(SECRET, "/no/such").assert_problem(404, "not-found");
    let answer = api.send("POST", "/readyz", &[], "");
    answer.assert_problem(405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD");
    let preflight = [("origin", "http://evil.test"), ("access-control-request-method", "POST")];
    api.send("OPTIONS", "/readyz", &preflight, "").assert_problem(405, "method-not-allowed");
    api.send("POST", "/readyz", &[("origin", "http://evil.test")], "").assert_problem(403, "forbidden");
    for path in ["/", "/readyz", "/no/such"] {
        let headers = api.get(path).headers;
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}

#[test]
fn a_name_that_is_not_ours_is_refused_and_one_of_the_configuration_is_not() {
    let (_pipeline, api) = started("hosts = [\"walcast.internal\"]");
    let as_host = |host| api.send("GET", "/readyz", &[("host", host)], "");
    as_host("rebound.example.com").assert_problem(403, "forbidden");
    as_host("rebound.example.com:8080").assert_problem(403, "forbidden");
    for host in ["localhost:1234", "walcast.internal", "WALCAST.internal:80", "10.0.0.7"] {
        assert_eq!(as_host(host).status, 200, "{host}");
    }
}

#[test]
fn with_protect_reads_only_probes_are_answered_without_the_secret_and_they_say_yes_or_no() {
    let (mut pipeline, api) = started("protect_reads = true");
    api.get("/").assert_problem(401, "unauthorized");
    assert_eq!(api.get("/").headers["www-authenticate"], "Bearer");
    assert_eq!(api.get_with(SECRET, "/").status, 200);
    let bearer = format!("Bearer {SECRET}");
    assert_eq!(api.send("GET", "/", &[("authorization", &bearer)], "").status, 200);
    assert_eq!(api.get("/livez").status, 200);
    assert_eq!(api.get("/readyz").status, 200);

    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("1, 10"));
    let body = await_status(&pipeline, &api, "/readyz", 503);
    assert_eq!(body["problems"], json!([]));
    let body = api.get_with(SECRET, "/readyz").json();
    assert_eq!(body["problems"][0]["subject"], "sink na");
    drop(held);

    // Guessing gets slower, and neither the guesses nor the secret are logged.
    let statuses: Vec<u16> = (0..20).map(|_| api.get_with("a-guess", "/").status).collect();
    assert_eq!((statuses[0], statuses[19]), (401, 429), "{statuses:?}");
    let answer = api.get_with(SECRET, "/");
    answer.assert_problem(429, "throttled");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(api.get("/livez").status, 200);
    assert_eq!(pipeline.stop(), Some(0));
    assert!(!pipeline.log().contains(SECRET) && !pipeline.log().contains("a-guess"));
}

#[test]
fn a_request_that_is_none_ends_its_connection_and_nothing_else() {
    let (pipeline, api) = started("");
    let send = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&api.address).unwrap();
        stream.set_read_timeout(Some(pipeline::LIMIT)).unwrap();
        // The answer may come, and the connection end, before all was written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(send(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(send(b"\x16\x03\x01\x02\x00\x01\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    assert!(send(long.as_bytes()).starts_with("HTTP/1.1 4"));
    assert_eq!(api.get("/livez").status, 200);
    drop(pipeline);
}

#[test]
fn a_region_that_is_down_is_named_by_readyz_and_leaves_livez_alone() {
    let (mut pipeline, api) = started("stall_timeout = \"1s\"");
    assert_eq!(api.get("/readyz").json(), json!({"is_ready": true, "phase": "streaming", "problems": []}));
    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("1, 100"));
    pipeline.catch_up_one("eu");
    let body = await_status(&pipeline, &api, "/readyz", 503);
    assert_eq!(body["problems"][0]["subject"], "sink na");
    assert!(
        body["problems"][0]["message"]
            .as_str()
            .unwrap()
            .contains("na.db: BEGIN IMMEDIATE: database is locked")
    );
    // SQLite waits for the lock for longer than this test's limit before it says so; from then on it is the region's
    // trouble. For longer than the limit, under load:
    await_status(&pipeline, &api, "/livez", 200);
    for round in 1..=40 {
        pipeline.exec(&insert(&format!("{round} * 100 + 1, {round} * 100 + 100")));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(api.get("/livez").status, 200);
    }
    let text = api.get("/").body;
    assert!(text.contains("streaming, not ready") && text.contains("na: failing at"), "{text}");
    drop(held);
    assert_eq!(await_status(&pipeline, &api, "/readyz", 200)["problems"], json!([]));
    pipeline.catch_up();
    pipeline.assert_equal("SELECT * FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_frozen_walsender_under_load_fails_livez_until_it_goes_on() {
    let (mut pipeline, api) = started("stall_timeout = \"1s\"");
    assert_eq!(api.get("/livez").status, 200);
    let pid: i32 = pipeline.ask("SELECT pid FROM pg_stat_replication").parse().unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    pipeline.exec(&insert("1, 1000"));
    let body = await_status(&pipeline, &api, "/livez", 503);
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(body["is_live"], false);
    assert_eq!(body["problems"][0]["subject"], "sink eu");
    assert!(body["problems"][0]["hint"].as_str().unwrap().contains("restarting walcast is safe"));
    await_status(&pipeline, &api, "/livez", 200);
    pipeline.catch_up();
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_source_that_is_away_makes_the_engine_unready_and_not_dead() {
    let (mut pipeline, api) = started("stall_timeout = \"1s\"");
    pipeline.cluster.stop().unwrap();
    let body = await_status(&pipeline, &api, "/readyz", 503);
    assert_eq!(body["problems"][0]["subject"], "engine");
    assert_eq!(api.get("/livez").status, 200);
    // And so where an engine starts while the source is away.
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.clear_log();
    pipeline.start();
    let api = Api::of(&pipeline);
    let body = await_status(&pipeline, &api, "/readyz", 503);
    assert_eq!(body["is_ready"], false);
    assert_eq!(api.get("/livez").status, 200);
    assert_eq!(pipeline.stop(), Some(0));
}
