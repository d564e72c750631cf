//! What the routes that callers of the earlier Workers know answer, with the right secret, a wrong one and none: every
//! exchange as curl would show it, against the committed `tests/golden/transcripts.txt`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test transcripts` writes that file anew.

#[path = "support/http.rs"]
mod http;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::fmt::Write;
use std::path::Path;

use http::{Answer, Api};
use pipeline::Pipeline;
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-more-than-thirty-two-characters";
const CREATE: &str = "
    CREATE TABLE apps (id int PRIMARY KEY, name text);
    INSERT INTO apps VALUES (17, 'seventeen');";
/// Headers that say something about the answer.
const HEADERS: [&str; 5] = ["allow", "content-type", "location", "retry-after", "www-authenticate"];
/// Values that are other ones each time, by their names.
const VARYING: [&str; 5] = ["started", "ended", "lsn", "checkpoint_lsn", "outcome"];
/// How far a job was when the answer was written.
const HOW_FAR: [&str; 2] = ["progress", "waits_for"];

/// What callers of the earlier Workers send: method, path, body.
const SENT: [(&str, &str, &str); 13] = [
    ("GET", "/", ""),
    ("POST", "/webhook?wait=true", ""),
    ("POST", "/sync?wait=true", ""),
    ("POST", "/nuke", r#"{"type": "all"}"#),
    ("POST", "/nuke", r#"{"type": "db", "db": "eu"}"#),
    ("POST", "/nuke", r#"{"type": "table", "db": "eu", "table": "apps"}"#),
    ("POST", "/nuke", r#"{"type": "table", "table": "apps"}"#),
    ("POST", "/backfill", r#"{"type": "all"}"#),
    ("POST", "/retry-failed", ""),
    ("GET", "/status/apps/17", ""),
    ("GET", "/failed", ""),
    ("GET", "/logs?limit=1&table=nothing", ""),
    ("POST", "/sinks/eu/resume", ""),
];
/// What is refused whoever asks, and with the secret too.
const REFUSED: [(&str, &str, &str); 8] = [
    ("GET", "/webhook", ""),
    ("POST", "/", ""),
    ("POST", "/no-such-route", ""),
    ("POST", "/nuke", "no JSON"),
    ("POST", "/nuke", r#"{"type": "everything"}"#),
    ("POST", "/nuke", r#"{"type": "db", "db": "nowhere"}"#),
    ("POST", "/nuke", r#"{"type": "table", "db": "eu", "table": "nothing"}"#),
    ("GET", "/status/nothing/17", ""),
];

#[derive(Clone, Copy, PartialEq)]
enum Shows {
    Nothing,
    Wrong,
    Right,
}

/// A route's exchange as curl would show it.
fn exchange(
    api: &Api,
    shows: Shows,
    (method, path, body): (&str, &str, &str),
    transcript: &mut String,
) -> Answer {
    let secret = match shows {
        Shows::Nothing => None,
        Shows::Wrong => Some("not-the-secret"),
        Shows::Right => Some(SECRET),
    };
    let headers: Vec<_> = secret.map(|secret| ("x-webhook-signature", secret)).into_iter().collect();
    let answer = api.send(method, path, &headers, body);
    let mut command = String::from("$ curl -i");
    if method != "GET" {
        write!(command, " -X {method}").unwrap();
    }
    match shows {
        Shows::Nothing => {}
        Shows::Wrong => command.push_str(" -H 'x-webhook-signature: not-the-secret'"),
        Shows::Right => command.push_str(" -H \"x-webhook-signature: $SECRET\""),
    }
    if !body.is_empty() {
        write!(command, " -d '{body}'").unwrap();
    }
    let quote = if path.contains(['?', '&']) { "'" } else { "" };
    writeln!(transcript, "{command} {quote}http://127.0.0.1:8080{path}{quote}\nHTTP/1.1 {}", answer.status)
        .unwrap();
    for name in HEADERS {
        if let Some(value) = answer.headers.get(name) {
            writeln!(transcript, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
    }
    let body = match serde_json::from_str::<Value>(&answer.body) {
        Ok(mut body) => {
            settle(&mut body);
            serde_json::to_string_pretty(&body).unwrap()
        }
        // The health in a few lines names positions and times.
        Err(_) => {
            let health = answer.body.lines().next().unwrap_or_default();
            health.replace(env!("CARGO_PKG_VERSION"), "…") + "\n…"
        }
    };
    writeln!(transcript, "\n{body}\n").unwrap();
    answer
}

/// Puts what is another one each time out of sight.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    name if HOW_FAR.contains(&name) => *value = json!("…"),
                    name if VARYING.contains(&name) && !value.is_null() => *value = json!("…"),
                    _ => settle(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

#[test]
fn the_routes_of_the_workers_answer_as_written_with_the_right_secret_a_wrong_one_and_none() {
    let mut pipeline = Pipeline::builder()
        .sections(&format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\nsecret = \"{SECRET}\"\n[log]\nsync_file = \"sync.db\"\n"
        ))
        .build(CREATE, &json!({"apps": {"primaryKey": "id", "columns": {"id": "INTEGER", "name": "TEXT"}}}));
    pipeline.start();
    pipeline.filled("eu");
    pipeline.filled("na");
    let api = Api::of(&pipeline);
    pipeline.eventually("everything to be live", || (api.get("/readyz").status == 200).then_some(()));
    let mut transcript = String::new();
    for (title, shows) in [
        ("Without a secret", Shows::Nothing),
        ("With the right one", Shows::Right),
        ("With a wrong one", Shows::Wrong),
    ] {
        writeln!(transcript, "# {title}\n").unwrap();
        // Who shows too many wrong ones has to wait: see tests/admin.rs.
        for sent in SENT.into_iter().take(if shows == Shows::Wrong { 10 } else { SENT.len() }) {
            let answer = exchange(&api, shows, sent, &mut transcript);
            // One job at a time: the next one finds nothing running.
            if let (Shows::Right, Some(job)) = (shows, answer.headers.get("location")) {
                pipeline.eventually("the job to end", || {
                    let job = api.get(job.to_str().unwrap()).json();
                    assert_ne!(job["state"], "failed", "{job}");
                    (job["state"] == "done").then_some(())
                });
            }
        }
        if shows == Shows::Right {
            writeln!(transcript, "# What is not there, or not meant so\n").unwrap();
            for sent in REFUSED {
                exchange(&api, shows, sent, &mut transcript);
            }
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/transcripts.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &transcript).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    for (line, (now, before)) in transcript.lines().zip(committed.lines()).enumerate() {
        assert_eq!(now, before, "line {} of {}", line + 1, file.display());
    }
    assert_eq!(transcript.lines().count(), committed.lines().count());
    pipeline.assert_equal("SELECT * FROM apps", "SELECT * FROM apps");
    assert_eq!(pipeline.stop(), Some(0));
}
