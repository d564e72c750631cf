//! The stream that the page lives from, and how `/` tells browsers from everything else.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use http::Api;
use pipeline::Pipeline;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
/// As `admin::events` has it.
const SUBSCRIBERS_MAX: usize = 64;

fn started(admin: &str) -> (Pipeline, Api) {
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n{admin}\n[log]\nsync_file = \"sync-log.db\"\n"
        ))
        .build(
            "CREATE TABLE t (id int, part text, n int, PRIMARY KEY (part, id));",
            &json!({"t": {
                "primaryKey": ["part", "id"], "target": "things",
                "columns": {"id": "INTEGER", "part": "TEXT", "n": "INTEGER"}
            }}),
        );
    pipeline.begin();
    let api = Api::of(&pipeline);
    // Its tables are filled, though there is nothing to fill them with.
    pipeline.eventually("readiness", || (api.get("/readyz").status == 200).then_some(()));
    (pipeline, api)
}

/// A subscriber, as a socket.
struct Subscriber(BufReader<TcpStream>);

impl Subscriber {
    fn new(api: &Api) -> Self {
        let mut stream = TcpStream::connect(&api.address).unwrap();
        stream.set_read_timeout(Some(pipeline::LIMIT)).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
            .unwrap();
        Subscriber(BufReader::new(stream))
    }

    /// The next line that says something; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.0.read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    /// The data of the next event of this name.
    fn next(&mut self, name: &str) -> Value {
        loop {
            let line = self.line().expect("the stream goes on");
            if line == format!("event: {name}") {
                let data = self.line().unwrap();
                return serde_json::from_str(data.strip_prefix("data: ").expect("data")).unwrap();
            }
        }
    }
}

#[test]
fn a_browser_gets_the_page_and_everything_else_the_health_as_text() {
    let (mut pipeline, api) = started("");
    let asks = |accept: &str| api.send("GET", "/", &[("accept", accept)], "");
    let page = asks("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
    let header = |name: &str| page.headers[name].to_str().unwrap();
    assert_eq!((page.status, header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.body.starts_with("<!doctype html>"));
    let policy = header("content-security-policy");
    for part in ["default-src 'none'", "script-src 'sha256-", "connect-src 'self'", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!((header("x-content-type-options"), header("vary")), ("nosniff", "accept"));
    assert_eq!((header("x-frame-options"), header("referrer-policy")), ("DENY", "no-referrer"));
    for accept in ["*/*", "text/plain"] {
        let text = asks(accept);
        assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
        assert!(text.body.starts_with("walcast ") && text.body.contains("streaming, ready"), "{text:?}");
    }
    api.send("GET", "/", &[("host", "rebound.example.com"), ("accept", "text/html")], "")
        .assert_problem(403, "forbidden");
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn a_subscriber_is_told_the_state_at_once_and_again_and_what_is_new_in_the_log() {
    let (mut pipeline, api) = started("");
    pipeline.exec("INSERT INTO t SELECT i, 'a', i FROM generate_series(1, 10) i");
    pipeline.catch_up();
    let mut subscriber = Subscriber::new(&api);
    assert_eq!(subscriber.line().unwrap(), "HTTP/1.1 200 OK");
    let state = subscriber.next("state");
    assert_eq!(
        (&state["liveness"]["is_live"], &state["readiness"]["is_ready"]),
        (&json!(true), &json!(true)),
        "{state}"
    );
    let mut expected = api.get("/status").json();
    let mut told = state["status"].clone();
    // What goes on meanwhile.
    for status in [&mut expected, &mut told] {
        status["source"] = Value::Null;
        status["slot"] = Value::Null;
        for sink in status["sinks"].as_array_mut().unwrap() {
            for field in ["checkpoint_lsn", "lag_bytes", "lag_seconds"] {
                sink[field] = Value::Null;
            }
        }
    }
    assert_eq!(told, expected);
    assert_eq!(
        state["tables"][0],
        json!({"name": "t", "target": "things", "key": ["part", "id"], "columns": 3, "estimated_rows": null})
    );

    pipeline.exec("INSERT INTO t SELECT i, 'b', i FROM generate_series(1, 7) i");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let entries = subscriber.next("entries");
        for entry in entries.as_array().unwrap() {
            if entry["changes"] == 7 {
                seen.push(entry["sink"].as_str().unwrap().to_owned());
            }
        }
    }
    seen.sort();
    assert_eq!(seen, ["eu", "na"]);
    let again = subscriber.next("state");
    assert!(again["at"].as_str() > state["at"].as_str());

    // It ends with the engine, and does not keep it from ending.
    assert_eq!(pipeline.stop(), Some(0));
    while subscriber.line().is_some() {}
}

#[test]
fn many_subscribers_cost_one_look_and_one_more_than_may_be_is_told_so() {
    let (mut pipeline, api) = started("");
    let sessions =
        || pipeline.ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'");
    let mut subscribers: Vec<Subscriber> = vec![Subscriber::new(&api)];
    subscribers[0].next("state");
    let with_one = sessions();
    subscribers.extend((1..SUBSCRIBERS_MAX).map(|_| Subscriber::new(&api)));
    // All are told the same.
    let told: Vec<Value> = subscribers[1..].iter_mut().map(|subscriber| subscriber.next("state")).collect();
    let at = |state: &Value| state["at"].as_str().unwrap().to_owned();
    let last = told.iter().map(at).max().unwrap();
    for subscriber in &mut subscribers {
        while at(&subscriber.next("state")) <= last {}
    }
    assert_eq!(sessions(), with_one);
    let refused = api.get("/events");
    refused.assert_problem(429, "throttled");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(api.get("/livez").status, 200);
    // Whoever goes makes room.
    subscribers.pop();
    pipeline.eventually("a place", || {
        let mut subscriber = Subscriber::new(&api);
        (subscriber.line()? == "HTTP/1.1 200 OK").then_some(())
    });
    assert_eq!(pipeline.stop(), Some(0));
}

#[test]
fn with_protect_reads_the_page_is_there_and_what_it_asks_for_is_not() {
    let (_pipeline, api) = started("protect_reads = true");
    assert_eq!(api.send("GET", "/", &[("accept", "text/html")], "").status, 200);
    api.get("/").assert_problem(401, "unauthorized");
    for path in ["/events", "/status", "/logs", "/openapi.json"] {
        api.get(path).assert_problem(401, "unauthorized");
        api.send("GET", path, &[("accept", "text/html")], "").assert_problem(401, "unauthorized");
    }
}
