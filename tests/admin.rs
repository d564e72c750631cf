//! The HTTP API of a running engine: who is let in, and what health says when the source, a region or the slot is not
//! well.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

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
    started_with(admin, "")
}

/// The same with more lines behind `[queue]`.
fn started_with(admin: &str, queue: &str) -> (Pipeline, Api) {
    let mut pipeline = Pipeline::builder()
        .sections(&format!("[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{admin}\n[queue]\npatience = \"500ms\"\n{queue}"))
        .build(CREATE, &schema());
    pipeline.begin();
    let api = Api::of(&pipeline);
    // Its tables are filled, though there is nothing to fill them with.
    await_status(&pipeline, &api, "/readyz", 200);
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
    let (mut pipeline, api) = started("stall_timeout = \"3s\"");
    let ready = json!({"is_ready": true, "phase": "streaming", "problems": [], "catching_up": []});
    assert_eq!(api.get("/readyz").json(), ready);
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
    // trouble, and the other region moves. For longer than the limit, under load:
    await_status(&pipeline, &api, "/livez", 200);
    for round in 1..=80 {
        pipeline.exec(&insert(&format!("{round} * 100 + 1, {round} * 100 + 100")));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(api.get("/livez").status, 200);
    }
    let text = api.get("/").body;
    assert!(text.contains("streaming, not ready") && text.contains("na: failing at"), "{text}");
    // What else tells of it tells the same: the metrics, and what the page shows.
    for (sink, state) in [("na", "failing"), ("eu", "attached")] {
        let labels = format!("{{sink=\"{sink}\",state=\"{state}\"}}");
        assert_eq!(sample(&api, "walcast_sink_state", &labels), Some(1.0), "{labels}");
        let status = api.get("/status").json();
        let of_sink = status["sinks"].as_array().unwrap().iter().find(|found| found["name"] == sink).unwrap();
        assert_eq!(of_sink["state"], state);
    }
    assert_eq!(sample(&api, "walcast_stalled", ""), Some(0.0));
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

/// The samples of a metric: labels and value.
fn samples(api: &Api, metric: &str) -> Vec<(String, f64)> {
    let answer = api.get("/metrics");
    assert_eq!(
        (answer.status, answer.headers["content-type"].to_str().unwrap()),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let of_metric = lines.filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then(|| (labels.to_owned(), value.parse().unwrap()))
    });
    of_metric.collect()
}

fn sample(api: &Api, metric: &str, labels: &str) -> Option<f64> {
    samples(api, metric).into_iter().find(|(found, _)| found == labels).map(|(_, value)| value)
}

#[test]
fn the_metrics_say_what_was_applied_how_far_it_is_and_how_the_slot_is() {
    let (mut pipeline, api) = started("");
    pipeline.exec(&insert("1, 10"));
    pipeline.exec("UPDATE t SET n = -n WHERE id <= 4; DELETE FROM t WHERE id = 1");
    pipeline.catch_up();
    let changes = |operation: &str| {
        sample(&api, "walcast_changes_total", &format!("{{table=\"t\",operation=\"{operation}\"}}"))
    };
    // An update that carries the whole row is written over the old one.
    assert_eq!((changes("upsert"), changes("delete")), (Some(14.0), Some(1.0)));
    for sink in ["eu", "na"] {
        let of_sink = |metric: &str| sample(&api, metric, &format!("{{sink=\"{sink}\"}}"));
        pipeline.eventually("the batch to be recorded", || {
            (of_sink("walcast_sink_changes_total") == Some(15.0)).then_some(())
        });
        assert!(of_sink("walcast_sink_flush_duration_seconds_count").unwrap() >= 1.0);
        assert!(of_sink("walcast_batch_rows_sum").unwrap() >= 15.0);
        assert!(of_sink("walcast_batch_bytes_sum").unwrap() > 0.0);
        pipeline.eventually("no lag", || {
            let lag = (of_sink("walcast_sink_lag_bytes"), of_sink("walcast_sink_lag_seconds"));
            matches!(lag, (Some(bytes), Some(0.0)) if bytes <= 256.0).then_some(())
        });
        let state = |state: &str| {
            sample(&api, "walcast_sink_state", &format!("{{sink=\"{sink}\",state=\"{state}\"}}"))
        };
        assert_eq!((state("attached"), state("stopped")), (Some(1.0), Some(0.0)));
    }
    let healths = samples(&api, "walcast_slot_health");
    assert_eq!(healths.len(), 5);
    assert_eq!(healths.iter().map(|(_, value)| value).sum::<f64>(), 1.0);
    assert!(healths.contains(&("{state=\"ok\"}".to_owned(), 1.0)), "{healths:?}");
    assert!(sample(&api, "walcast_slot_retained_wal_bytes", "").unwrap() >= 0.0);
    assert_eq!(sample(&api, "walcast_slot_safe_wal_bytes", ""), Some(f64::INFINITY));
    assert!(sample(&api, "walcast_replication_lag_bytes", "").is_some());
    assert_eq!(sample(&api, "walcast_stalled", ""), Some(0.0));
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(sample(&api, "walcast_build_info", &version), Some(1.0));

    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("11, 20"));
    pipeline.eventually("the retry to be recorded", || {
        sample(&api, "walcast_retries_total", "{sink=\"na\",reason=\"transient\"}")
    });
    pipeline.eventually("the state and the lag to show it", || {
        let state = sample(&api, "walcast_sink_state", "{sink=\"na\",state=\"failing\"}");
        let lag = sample(&api, "walcast_replication_lag_seconds", "").unwrap();
        (state == Some(1.0) && lag >= 1.0).then_some(())
    });
    drop(held);
    assert_eq!(pipeline.stop(), Some(0));
}

/// A JSON value's shape: the keys of its objects.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        _ => Value::Null,
    }
}

#[test]
fn status_is_what_the_command_prints_with_what_only_the_engine_knows() {
    let (mut pipeline, api) = started("");
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up();
    let command = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .args(["status", "--json"])
        .env_clear()
        .current_dir(pipeline.path(""))
        .output()
        .unwrap();
    let mut printed: Value = serde_json::from_slice(&command.stdout).unwrap();
    assert_eq!(printed["engine"], Value::Null);
    let mut answered = api.get("/status").json();
    assert_eq!((&answered["is_ok"], &answered["engine"]["phase"]), (&json!(true), &json!("streaming")));
    for sink in answered["sinks"].as_array().unwrap() {
        assert_eq!((&sink["state"], &sink["lag_seconds"]), (&json!("attached"), &json!(0)));
        assert_eq!((&sink["engine"]["changes"], &sink["engine"]["failed_attempts"]), (&json!(10), &json!(0)));
    }
    for status in [&mut printed, &mut answered] {
        status["engine"] = Value::Null;
        status["sinks"].as_array_mut().unwrap().iter_mut().for_each(|sink| sink["engine"] = Value::Null);
    }
    assert_eq!(shape(&printed), shape(&answered));
    for part in ["source", "slot"] {
        for field in ["address", "version", "name", "state", "limit_bytes"] {
            assert_eq!(printed[part][field], answered[part][field]);
        }
    }

    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("11, 20"));
    let na = pipeline.eventually("the failing sink", || {
        let na = api.get("/status").json()["sinks"][1].clone();
        (na["state"] == "failing").then_some(na)
    });
    assert!(na["problem"].as_str().unwrap().contains("database is locked"));
    assert!(
        na["engine"]["failing_since"].is_string() && na["engine"]["failed_attempts"].as_u64().unwrap() > 0
    );
    drop(held);
    pipeline.cluster.stop().unwrap();
    let status = pipeline.eventually("the source to be away", || {
        let status = api.get("/status").json();
        (status["engine"]["phase"] == "waiting" && status["source"]["is_reachable"] == false)
            .then_some(status)
    });
    assert_eq!(status["slot"], Value::Null);
    assert_eq!(status["sinks"][0]["engine"]["transactions"], 2);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn who_waits_for_its_own_write_is_never_answered_before_it_can_be_read() {
    let (mut pipeline, api) = started("");
    let replicas = [pipeline.replica("eu").open(), pipeline.replica("na").open()];
    for id in 1..=1000 {
        pipeline.exec(&format!("INSERT INTO t VALUES ({id}, {id})"));
        let lsn = pipeline.wal_lsn();
        let sink = ["sink=eu&", "sink=na&", ""][id % 3];
        let answer = api.get(&format!("/wait?{sink}lsn={lsn}&timeout=60s"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let read: &[usize] = [&[0][..], &[1][..], &[0, 1][..]][id % 3];
        for &replica in read {
            let rows = pipeline::rows(&replicas[replica], &format!("SELECT n FROM t WHERE id = {id}"));
            assert_eq!(rows.unwrap(), [id.to_string()]);
        }
        assert_eq!(answer.json()["sinks"].as_array().unwrap().len(), read.len());
    }
    drop(replicas);
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_wait_that_cannot_come_true_says_why() {
    let (mut pipeline, api) = started("");
    for query in ["", "?lsn=x", "?lsn=0/1&timeout=1h", "?lsn=0/1&timeout=soon", "?lsn=0/1&region=eu"] {
        api.get(&format!("/wait{query}")).assert_problem(400, "bad-request");
    }
    api.get("/wait?lsn=0/1&sink=asia").assert_problem(404, "not-found");
    let answer = api.get("/wait?lsn=7FFFFFFF/0&sink=eu&timeout=10ms");
    answer.assert_problem(504, "timeout");
    assert!(answer.json()["message"].as_str().unwrap().contains("sink eu is at "), "{answer:?}");
    // Who waits when the engine ends is told so.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| api.get("/wait?lsn=7FFFFFFF/0&timeout=60s"));
        let mut stream = TcpStream::connect(&api.address).unwrap();
        // Its own request is not answered before that of the other was begun.
        write!(stream, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(pipeline.stop(), Some(0));
        waiting.join().unwrap().assert_problem(503, "unavailable");
    });
}

#[test]
fn a_paused_sink_is_applied_nothing_and_holds_the_slot_until_it_is_resumed() {
    let (mut pipeline, api) = started("stall_timeout = \"1s\"");
    api.send("POST", "/sinks/na/pause", &[], "").assert_problem(401, "unauthorized");
    api.post_with("wrong", "/sinks/na/pause").assert_problem(401, "unauthorized");
    api.post_with(SECRET, "/sinks/asia/pause").assert_problem(404, "not-found");
    api.get_with(SECRET, "/sinks/na/pause").assert_problem(405, "method-not-allowed");
    let cross_origin = [("x-webhook-signature", SECRET), ("sec-fetch-site", "cross-site")];
    api.send("POST", "/sinks/na/pause", &cross_origin, "").assert_problem(403, "forbidden");
    assert_eq!(api.get("/readyz").status, 200);

    let paused = api.post_with(SECRET, "/sinks/na/pause");
    assert_eq!((paused.status, &paused.json()["state"]), (200, &json!("paused")));
    let before = pipeline.replica("na").checkpoint().unwrap();
    pipeline.exec(&insert("1, 10"));
    pipeline.catch_up_one("eu");
    let body = api.get("/readyz");
    assert_eq!((body.status, &body.json()["problems"][0]["subject"]), (503, &json!("sink na")));
    assert_eq!(body.json()["problems"][0]["hint"], "POST /sinks/na/resume");
    assert_eq!(pipeline.replica("na").ask("SELECT count(*) FROM t"), "0");
    assert!(pipeline.confirmed_flush_lsn().unwrap() <= pipeline.replica("na").checkpoint().unwrap().lsn);
    let status = api.get("/status").json();
    assert_eq!((&status["is_ok"], &status["sinks"][1]["state"]), (&json!(false), &json!("paused")));
    assert_eq!(status["sinks"][0]["state"], "attached");

    // A shutdown does not wait for it, and the next start knows nothing of it.
    assert_eq!(pipeline.stop(), Some(0));
    assert!(!pipeline.log().contains("shutdown.timeout is over"));
    assert_eq!(pipeline.replica("na").checkpoint().unwrap().transactions, before.transactions);
    pipeline.clear_log();
    pipeline.start();
    pipeline.catch_up();
    let api = Api::of(&pipeline);
    assert_eq!(api.post_with(SECRET, "/sinks/eu/pause").json()["state"], "paused");
    pipeline.exec(&insert("11, 20"));
    pipeline.catch_up_one("na");
    assert_eq!(pipeline.replica("eu").ask("SELECT count(*) FROM t"), "10");
    assert_eq!(api.post_with(SECRET, "/sinks/eu/resume").json()["state"], "attached");
    pipeline.catch_up();
    pipeline.assert_equal("SELECT * FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_paused_sink_whose_queue_is_full_holds_a_slot_of_its_own_and_catches_up_once_it_is_resumed() {
    let (mut pipeline, api) = started_with(
        "stall_timeout = \"5s\"",
        "max_bytes = \"64KiB\"\n[transaction]\npart_max_bytes = \"16KiB\"\n",
    );
    api.post_with(SECRET, "/sinks/na/pause");
    let before = pipeline.replica("na").checkpoint().unwrap();
    let status_of_na = || api.get("/status").json()["sinks"][1].clone();
    let mut round = 0;
    let mut load = || {
        round += 1;
        pipeline.exec(&insert(&format!("{round} * 1000 + 1, {round} * 1000 + 1000")));
        pipeline.catch_up_one("eu");
    };
    let na = pipeline.eventually("na's own slot", || {
        load();
        Some(status_of_na()).filter(|na| na["copy"]["name"] == "walcast__na")
    });
    assert_eq!((&na["state"], &na["lag_bytes"].is_u64()), (&json!("paused"), &true), "{na}");
    pipeline.eventually("the main slot to go on without it", || {
        load();
        (pipeline.confirmed_flush_lsn().unwrap() > before.lsn).then_some(())
    });
    // For longer than its stream may be stuck, and than the stall limit.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(12);
    while std::time::Instant::now() < until {
        load();
        let answer = api.get("/livez");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let body = api.get("/readyz").json();
    assert_eq!((&body["problems"][0]["message"], &body["catching_up"]), (&json!("is paused"), &json!([])));
    assert_eq!(
        (status_of_na()["state"].as_str(), &status_of_na()["copy"]["name"]),
        (Some("paused"), &json!("walcast__na"))
    );
    assert_eq!(pipeline.replica("na").checkpoint().unwrap().lsn, before.lsn);

    // While it catches up it is behind, but right.
    let held = lock(&pipeline, "na");
    assert_eq!(api.post_with(SECRET, "/sinks/na/resume").json()["state"], "catching-up");
    let body = await_status(&pipeline, &api, "/readyz", 200);
    assert_eq!(body["catching_up"][0]["subject"], "sink na");
    pipeline.eventually("the metric", || {
        let labels = "{sink=\"na\",state=\"catching-up\"}";
        (sample(&api, "walcast_sink_state", labels) == Some(1.0)).then_some(())
    });
    drop(held);
    pipeline.catch_up();
    pipeline.await_log("the copy of the slot is dropped");
    await_status(&pipeline, &api, "/readyz", 200);
    pipeline.eventually("na to be attached", || (status_of_na()["state"] == "attached").then_some(()));
    pipeline.assert_equal("SELECT * FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");

    // A shutdown does not wait for one that is paused on its own stream.
    api.post_with(SECRET, "/sinks/na/pause");
    pipeline.clear_log();
    pipeline.eventually("na's own slot", || {
        load();
        pipeline.log().contains("catching up on a copy of the slot").then_some(())
    });
    assert_eq!(pipeline.stop(), Some(0));
    assert!(!pipeline.log().contains("shutdown.timeout is over"));
    pipeline.clear_log();
    pipeline.start();
    pipeline.await_log("was catching up");
    pipeline.catch_up();
    pipeline.assert_equal("SELECT * FROM t ORDER BY id", "SELECT * FROM t ORDER BY id");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn the_sync_log_says_what_each_region_took_and_what_failed() {
    let (pipeline, api) = started("");
    api.get("/logs").assert_problem(404, "not-found");
    drop(pipeline);

    let (mut pipeline, api) = started("[log]\nsync_file = \"sync.db\"");
    for round in 0..5 {
        pipeline.exec(&insert(&format!("{round} * 10 + 1, {round} * 10 + 10")));
    }
    pipeline.catch_up();
    let sum = |path: &str, field: &str| -> i64 {
        let page = api.get(path).json();
        page["entries"].as_array().unwrap().iter().map(|entry| entry[field].as_i64().unwrap()).sum()
    };
    for sink in ["eu", "na"] {
        let path = format!("/logs?sink={sink}&outcome=applied&limit=1000");
        pipeline.eventually("the entries", || (sum(&path, "changes") == 50).then_some(()));
        assert_eq!(sum(&path, "transactions"), 5);
        let of_table = api.get(&format!("{path}&table=t")).json();
        let changes = |entry: &Value| entry["tables"]["t"].as_i64().unwrap();
        assert_eq!(of_table["entries"].as_array().unwrap().iter().map(changes).sum::<i64>(), 50);
        assert_eq!(sum(&format!("{path}&table=other"), "changes"), 0);
        assert!(sum(&path, "batches") >= 1 && sum(&path, "took_micros") > 0 && sum(&path, "bytes") > 0);
    }
    let held = lock(&pipeline, "na");
    pipeline.exec(&insert("51, 60"));
    let failed = pipeline.eventually("the failure", || {
        let page = api.get("/logs?sink=na&outcome=failed").json();
        page["entries"].as_array().unwrap().first().cloned()
    });
    assert!(failed["problem"].as_str().unwrap().contains("database is locked"), "{failed}");
    drop(held);
    pipeline.catch_up();
    // Page by page it is the same as at once.
    assert_eq!(pipeline.stop(), Some(0));
    pipeline.clear_log();
    pipeline.start();
    let api = Api::of(&pipeline);
    await_status(&pipeline, &api, "/readyz", 200);
    let until = "until=2999-01-01T00:00:00Z";
    let all = api.get(&format!("/logs?limit=3&{until}")).json();
    let (first, second) = (&all["entries"][0], &all["entries"][1]);
    let page = api.get(&format!("/logs?limit=1&{until}&before={}", first["id"])).json();
    assert_eq!((&page["entries"][0], &page["next"]), (second, &second["id"]));
    assert_eq!(api.get("/logs?since=2999-01-01T00:00:00Z").json()["entries"], json!([]));
    // Of one row: found by its key, with the secret, and by nothing that the file shows.
    let of_key = |query: &str| api.get_with(SECRET, &format!("/logs?{query}&sink=eu")).json();
    api.get("/logs?table=t&key=17").assert_problem(401, "unauthorized");
    api.get_with(SECRET, "/logs?key=17").assert_problem(400, "bad-request");
    api.get_with(SECRET, "/logs?table=other&key=17").assert_problem(404, "not-found");
    let inserted = of_key("table=t&key=17");
    assert_eq!((inserted["entries"].as_array().unwrap().len(), &inserted["unknown"]), (1, &json!(0)));
    assert_eq!(of_key("table=t&key=1700")["entries"], json!([]));
    pipeline.exec("UPDATE t SET id = 1700 WHERE id = 17");
    pipeline.eventually("the move to be logged under both keys", || {
        let count = |key: &str| of_key(&format!("table=t&key={key}"))["entries"].as_array().unwrap().len();
        (count("17") == 2 && count("1700") == 1).then_some(())
    });
    for query in ["outcome=good", "since=yesterday", "limit=0", "before=x", "tables=t"] {
        api.get(&format!("/logs?{query}")).assert_problem(400, "bad-request");
    }
    assert_eq!(pipeline.stop(), Some(0));
}
