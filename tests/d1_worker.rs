//! The companion Worker as it is deployed, on real workerd with real D1 bindings: who gets in, what it takes, that a
//! batch is one transaction, and that values arrive through it as through the REST API.

#[path = "support/d1.rs"]
mod d1;

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::hmac;
use serde_json::{Value, json};
use walcast::app::demo::Workerd;
use walcast::sink::d1::transport::Transport;
use walcast::sink::d1::verdict::Verdict;
use walcast::sink::d1::worker::Offer;

use d1::{rest, run, statement, worker, worker_options};

const QUERY: &str = "/v1/databases/DB_EU/query";
const SELECT: &str = r#"{"batch":[{"sql":"SELECT 1 AS n"}]}"#;

/// One request to the Worker, with everything that a test may want to get wrong.
#[derive(Clone)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    kind: &'a str,
    body: &'a [u8],
    key: &'a str,
    /// How far the clock is off, in seconds.
    skew: i64,
    /// What is signed in place of what is sent.
    signed_path: Option<&'a str>,
    signed_method: Option<&'a str>,
    signed_body: Option<&'a [u8]>,
    /// What is sent in place of a signature.
    signature: Option<&'a str>,
    time: Option<&'a str>,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Request {
            method: "POST",
            path: QUERY,
            kind: "application/json",
            body: SELECT.as_bytes(),
            key: Workerd::KEY,
            skew: 0,
            signed_path: None,
            signed_method: None,
            signed_body: None,
            signature: None,
            time: None,
        }
    }
}

/// Sends a request, by the words of `worker/README.md` rather than by walcast's own code.
fn send(workerd: &Workerd, request: &Request<'_>) -> (u16, Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let time = request.time.map_or_else(|| (now + request.skew).to_string(), str::to_owned);
    let method = request.signed_method.unwrap_or(request.method);
    let path = request.signed_path.unwrap_or(request.path);
    let mut message = format!("v1\n{time}\n{method}\n{path}\n").into_bytes();
    message.extend_from_slice(request.signed_body.unwrap_or(request.body));
    let key = hmac::Key::new(hmac::HMAC_SHA256, request.key.as_bytes());
    let signature = format!("v1={}", hex::encode(hmac::sign(&key, &message)));
    let signature = request.signature.unwrap_or(&signature);

    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let agent: ureq::Agent = config.timeout_global(Some(Duration::from_secs(30))).build().into();
    let sent = ureq::http::Request::builder()
        .method(request.method)
        .uri(format!("{}{}", workerd.worker_url(), request.path))
        .header("content-type", request.kind)
        .header("walcast-timestamp", time)
        .header("walcast-signature", signature)
        .body(request.body)
        .unwrap();
    let mut response = agent.run(sent).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    (response.status().as_u16(), answer)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The request is turned away like this, and nothing of it reaches a database.
fn turned_away(workerd: &Workerd, request: &Request<'_>, status: u16, said: &str) {
    let (found, answer) = send(workerd, request);
    let message = answer["errors"][0]["message"].as_str().unwrap_or_default();
    assert_eq!((found, &answer["success"]), (status, &json!(false)), "{answer}");
    assert!(message.contains(said), "{message}");
    let stats = workerd.stats().unwrap();
    assert_eq!(stats["databases"]["walcast-eu"]["statements"].as_u64().unwrap_or(0), 0, "{answer}");
}

#[test]
fn a_signed_batch_is_answered_as_by_the_rest_api() {
    let workerd = Workerd::start().unwrap();
    let body = json!({ "batch": [
        { "sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)" },
        { "sql": "INSERT INTO t SELECT value->>0, value->>1 FROM json_each(?1)", "params": ["[[1,\"x\"],[2,null]]"] },
        { "sql": "SELECT * FROM t" },
    ]})
    .to_string();
    for (kind, body) in
        [("application/json", body.clone().into_bytes()), ("application/gzip", gzip(body.as_bytes()))]
    {
        let path = format!("/v1/databases/{}/query", if kind.ends_with("gzip") { "DB_NA" } else { "DB_EU" });
        let (status, answer) =
            send(&workerd, &Request { path: &path, kind, body: &body, ..Request::default() });
        assert_eq!(status, 200, "{answer}");
        assert_eq!((&answer["success"], &answer["errors"]), (&json!(true), &json!([])));
        let rows = json!([{ "id": 1, "v": "x" }, { "id": 2, "v": null }]);
        assert_eq!((&answer["result"][2]["results"], &answer["result"][2]["success"]), (&rows, &json!(true)));
        assert_eq!(answer["result"][1]["meta"]["rows_written"], 2);
        assert!(answer["result"][1]["meta"]["size_after"].is_u64());
    }
    assert_eq!(workerd.violations().unwrap(), 0);
}

#[test]
fn the_bindings_are_told_to_who_signs() {
    let workerd = Workerd::start().unwrap();
    let mut names: Vec<String> = Workerd::BINDINGS.iter().map(|(binding, _)| (*binding).to_owned()).collect();
    names.sort();
    let offer = worker(&workerd, "DB_EU").offer().unwrap();
    assert_eq!(offer, Offer { protocol: "v1".to_owned(), databases: names });
    let list = Request { method: "GET", path: "/v1/databases", body: b"", ..Request::default() };
    turned_away(&workerd, &Request { signature: Some("v1="), ..list.clone() }, 401, "Authentication error");
    assert_eq!(send(&workerd, &list).0, 200);
}

#[test]
fn only_a_signature_over_exactly_what_is_sent_opens() {
    let workerd = Workerd::start().unwrap();
    let other = "fedcba9876543210fedcba9876543210";
    let wrong = [
        Request { key: other, ..Request::default() },
        Request { signature: Some(""), ..Request::default() },
        Request { signature: Some("v1=00"), ..Request::default() },
        Request { signature: Some(&"v1=".repeat(30)), ..Request::default() },
        Request { signed_body: Some(b"{}"), ..Request::default() },
        Request { signed_path: Some("/v1/databases/DB_NA/query"), ..Request::default() },
        Request { signed_method: Some("GET"), ..Request::default() },
        Request { time: Some("soon"), ..Request::default() },
        Request { time: Some("-1"), ..Request::default() },
        Request { time: Some(""), ..Request::default() },
    ];
    for request in &wrong {
        turned_away(&workerd, request, 401, "Authentication error");
    }
    assert_eq!(send(&workerd, &Request::default()).0, 200);
    // The same signature in capitals is another text, which nobody makes.
    let capitals = format!("v1={}", "AB".repeat(32));
    assert_eq!(send(&workerd, &Request { signature: Some(&capitals), ..Request::default() }).0, 401);
}

#[test]
fn a_signature_holds_for_a_minute_and_a_wrong_clock_is_called_that() {
    let workerd = Workerd::start().unwrap();
    for skew in [-3600, -70, 70, 3600] {
        turned_away(&workerd, &Request { skew, ..Request::default() }, 401, "a clock is wrong");
    }
    for skew in [-50, 50] {
        assert_eq!(send(&workerd, &Request { skew, ..Request::default() }).0, 200, "{skew}");
    }
}

#[test]
fn two_keys_are_accepted_while_one_replaces_the_other() {
    let previous = "fedcba9876543210fedcba9876543210";
    let workerd = Workerd::start_with_keys([Workerd::KEY, previous]).unwrap();
    for key in [Workerd::KEY, previous] {
        assert_eq!(send(&workerd, &Request { key, ..Request::default() }).0, 200);
    }
    assert_eq!(
        send(&workerd, &Request { key: "0000000000000000fedcba9876543210", ..Request::default() }).0,
        401
    );
}

#[test]
fn a_short_key_opens_nothing() {
    let short = "0123456789abcdef0123456789abcde";
    for keys in [[short, ""], ["", ""], ["", short]] {
        let workerd = Workerd::start_with_keys(keys).unwrap();
        turned_away(&workerd, &Request { key: short, ..Request::default() }, 401, "less than 32 bytes");
    }
    let workerd = Workerd::start().unwrap();
    let mut options = worker_options(&workerd, "DB_EU");
    options.key = short.to_owned().into();
    let error = walcast::sink::d1::worker::WorkerTransport::new(options).unwrap_err();
    assert!(!format!("{error:?}").contains(short), "{error:?}");
    assert!(error.hint_text().unwrap().contains("openssl rand"));
}

#[test]
fn a_body_is_bounded_as_it_is_sent_and_as_it_unfolds() {
    let workerd = Workerd::start().unwrap();
    let eight = vec![b' '; (8 << 20) + 1];
    turned_away(&workerd, &Request { body: &eight, ..Request::default() }, 413, "larger than 8388608");
    // A thousand times what is sent: it is left after sixteen MiB.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 128 << 10);
    let kind = "application/gzip";
    turned_away(&workerd, &Request { kind, body: &bomb, ..Request::default() }, 413, "larger than 16777216");
    // Without the key nothing of it is unfolded.
    let unsigned =
        Request { kind, body: &bomb, key: "fedcba9876543210fedcba9876543210", ..Request::default() };
    turned_away(&workerd, &unsigned, 401, "Authentication error");
    turned_away(&workerd, &Request { kind, ..Request::default() }, 400, "no gzip");
    let cut = gzip(SELECT.as_bytes());
    turned_away(
        &workerd,
        &Request { kind, body: &cut[..cut.len() - 4], ..Request::default() },
        400,
        "no gzip",
    );

    let mut most = SELECT.as_bytes().to_vec();
    most.resize(8 << 20, b' ');
    assert_eq!(send(&workerd, &Request { body: &most, ..Request::default() }).0, 200);
}

#[test]
fn only_batches_of_the_documented_form_are_run() {
    let workerd = Workerd::start().unwrap();
    let long = format!("SELECT '{}'", "\u{20ac}".repeat(33_400));
    let wrong = [
        json!({}),
        json!([]),
        json!(null),
        json!({ "batch": [] }),
        json!({ "batch": "SELECT 1" }),
        json!({ "batch": [null] }),
        json!({ "batch": ["SELECT 1"] }),
        json!({ "sql": "SELECT 1" }),
        json!({ "batch": [{ "sql": 1 }] }),
        json!({ "batch": [{ "sql": long }] }),
        json!({ "batch": [{ "sql": "SELECT ?1", "params": [1] }] }),
        json!({ "batch": [{ "sql": "SELECT ?1", "params": [null] }] }),
        json!({ "batch": [{ "sql": "SELECT ?1", "params": { "1": "x" } }] }),
        json!({ "batch": [{ "sql": "SELECT 1", "params": vec!["x"; 101] }] }),
        json!({ "batch": vec![json!({ "sql": "SELECT 1" }); 51] }),
    ];
    for body in wrong {
        let body = body.to_string();
        turned_away(&workerd, &Request { body: body.as_bytes(), ..Request::default() }, 400, "batch");
    }
    for body in [&b"{\"batch\":"[..], b"\xff", b""] {
        turned_away(&workerd, &Request { body, ..Request::default() }, 400, "no JSON");
    }
    let fifty = json!({ "batch": vec![json!({ "sql": "SELECT 1" }); 50] }).to_string();
    assert_eq!(send(&workerd, &Request { body: fifty.as_bytes(), ..Request::default() }).0, 200);
}

#[test]
fn other_paths_methods_and_bindings_lead_nowhere() {
    let workerd = Workerd::start().unwrap();
    for path in [
        "/",
        "/v1",
        "/v2/databases/DB_EU/query",
        "/v1/databases/DB_EU",
        "/v1/databases/DB_EU/query/",
        "/v1/databases/DB_EU/raw",
        "/v1/databases//query",
        "/v1/databases/DB-EU/query",
        "/v1/databases/DB_EU/query?x=1",
    ] {
        turned_away(&workerd, &Request { path, ..Request::default() }, 404, "No route");
    }
    for method in ["PUT", "DELETE", "PATCH"] {
        turned_away(&workerd, &Request { method, ..Request::default() }, 405, "POST");
    }
    // What the Worker has beside databases is not one.
    for name in ["DB_MISSING", "WALCAST_KEY", "constructor", "__proto__", "toString"] {
        let path = format!("/v1/databases/{name}/query");
        turned_away(
            &workerd,
            &Request { path: &path, ..Request::default() },
            404,
            "no D1 database is bound as",
        );
    }
    let failure = run(&mut worker(&workerd, "DB_MISSING"), "SELECT 1").unwrap_err();
    assert_eq!(failure.verdict, Verdict::Refused);
}

#[test]
fn a_batch_is_one_transaction() {
    let workerd = Workerd::start().unwrap();
    let mut transport = worker(&workerd, "DB_EU");
    run(&mut transport, "CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
    for last in ["INSERT INTO t VALUES (1)", "INSERT INTO missing VALUES (1)", "INSRT"] {
        let batch = ["INSERT INTO t VALUES (1)", "CREATE TABLE made (id INTEGER)", last];
        let failure = transport.execute(&batch.map(|sql| statement(sql, &[]))).unwrap_err();
        assert!(matches!(failure.verdict, Verdict::Rejected | Verdict::SchemaMissing), "{failure:?}");
        let count = run(&mut transport, "SELECT count(*) AS n FROM t").unwrap();
        assert_eq!(count.rows[0]["n"], 0, "after {last}");
        assert!(run(&mut transport, "SELECT * FROM made").is_err());
    }
}

#[test]
fn a_request_that_is_replayed_within_its_minute_has_no_second_effect() {
    let workerd = Workerd::start().unwrap();
    let mut transport = worker(&workerd, "DB_EU");
    run(&mut transport, "CREATE TABLE fence (k INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT").unwrap();
    run(&mut transport, "CREATE TABLE t (n INTEGER)").unwrap();
    run(&mut transport, "INSERT INTO fence VALUES (1, 0)").unwrap();
    // As walcast fences every batch: the first statement moves the checkpoint by one, or fails.
    let body = json!({ "batch": [
        { "sql": "INSERT INTO fence VALUES (1, (SELECT seq + 1 FROM fence WHERE seq = CAST(?1 AS INTEGER))) \
                  ON CONFLICT (k) DO UPDATE SET seq = excluded.seq", "params": ["0"] },
        { "sql": "INSERT INTO t VALUES (1)" },
    ]})
    .to_string();
    let request = Request { body: body.as_bytes(), ..Request::default() };
    assert_eq!(send(&workerd, &request).0, 200);
    for _ in 0..3 {
        let (status, answer) = send(&workerd, &request);
        assert_eq!(status, 400, "{answer}");
    }
    assert_eq!(run(&mut transport, "SELECT count(*) AS n FROM t").unwrap().rows[0]["n"], 1);
}

#[test]
fn values_arrive_exactly_through_both_transports() {
    let workerd = Workerd::start().unwrap();
    let create = "CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, r REAL, s TEXT, b BLOB) STRICT";
    let insert = "INSERT INTO t SELECT value->>0, value->>1, value->>2, value->>3, unhex(value->>4) FROM json_each(?1)";
    let text = "\u{0}\u{1f600} 'quoted' \"double\" \\ back \r\n tab\t \u{feff}\u{7f}";
    let rows = json!([
        [1, i64::MAX, 0.1, text, "00ff"],
        [2, i64::MIN, -0.0, "", ""],
        [3, 9_007_199_254_740_993_i64, 1.7976931348623157e308, "12345678901234567890.10", "deadbeef"],
        [4, -9_007_199_254_740_993_i64, 5e-324, "null", null],
        [5, null, null, null, null],
    ])
    .to_string();
    // Beyond the size from which a body is compressed.
    let long = "\u{20ac}uro ".repeat(2000);
    let dump = "SELECT id, typeof(i) || quote(i) AS i, typeof(r) || format('%!.17g', r) AS r, typeof(s) || hex(s) AS s, \
                typeof(b) || quote(b) AS b FROM t ORDER BY id";

    workerd.create_database("walcast-eu").unwrap();
    workerd.create_database("walcast-na").unwrap();
    let mut dumps = Vec::new();
    let ways: [Box<dyn Transport>; 2] =
        [Box::new(rest(&workerd, "walcast-na")), Box::new(worker(&workerd, "DB_EU"))];
    for mut way in ways {
        let long = json!([[6, 6, 6.5, long, null]]).to_string();
        let batch = [statement(create, &[]), statement(insert, &[&rows]), statement(insert, &[&long])];
        let answers = way.execute(&batch).unwrap();
        assert_eq!((answers[1].rows_written, answers[2].rows_written), (5, 1));
        dumps.push(run(&mut *way, dump).unwrap().rows);
    }
    assert_eq!(dumps[0], dumps[1]);
    assert_eq!(dumps[0][0]["i"], "integer9223372036854775807");
    assert_eq!(dumps[0][1]["i"], "integer-9223372036854775808");
    assert_eq!(dumps[0][2]["i"], "integer9007199254740993");
    assert_eq!(dumps[0][0]["b"], "blobX'00FF'");
    assert_eq!(dumps[0][3]["r"], "real4.9406564584124654e-324");
    assert_eq!(dumps[0][0]["s"], format!("text{}", hex::encode_upper(text)));
    assert_eq!(dumps[0][5]["s"], format!("text{}", hex::encode_upper(&long)));

    // What one has written, the other reads: they are the same databases.
    for (one, other) in [("walcast-na", "DB_NA"), ("walcast-eu", "DB_EU")] {
        assert_eq!(run(&mut rest(&workerd, one), dump), run(&mut worker(&workerd, other), dump));
    }
    assert_eq!(workerd.violations().unwrap(), 0);
}
