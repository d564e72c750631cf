//! The stand-in for D1's REST API, on real workerd: it answers in the API's form, runs a batch as one transaction,
//! refuses what D1's documentation refuses and counts it, gives every fault that can be ordered, and keeps what it has
//! committed when it is killed.

#[path = "support/holder.rs"]
mod holder;

use std::io::ErrorKind;
use std::time::Duration;

use holder::runs;
use serde_json::{Value, json};
use walcast::app::demo::Workerd;

/// Every kind of fault with the status it comes with and a part of its body.
const FAULTS: [(&str, u16, &str); 34] = [
    ("429", 429, "Please wait and consider throttling your request speed"),
    ("429-without-retry-after", 429, "971"),
    ("429-html", 429, "error code: 1015"),
    ("internal-error", 500, "internal error; reference = "),
    ("502", 502, "<html>"),
    ("503", 503, "<html>"),
    ("504", 504, "<html>"),
    ("not-json", 200, "upstream connect error"),
    ("slow", 200, "\"n\":1"),
    ("exhausted", 200, "\"n\":1"),
    ("network-connection-lost", 500, "Network connection lost."),
    ("code-updated", 500, "D1 DB reset because its code was updated."),
    ("storage-reset", 500, "Internal error in D1 DB storage caused object to be reset."),
    ("startup-reset", 500, "Internal error while starting up D1 DB storage caused object to be reset."),
    ("replica-disconnected", 500, "Replica disconnected from primary."),
    ("client-disconnected", 500, "Can't read from request stream because client disconnected."),
    ("remote-node", 500, "Cannot resolve D1 DB due to transient issue on remote node."),
    ("queued-too-long", 500, "D1 DB is overloaded. Requests queued for too long."),
    ("too-many-queued", 500, "D1 DB is overloaded. Too many requests queued."),
    ("storage-timeout", 500, "storage operation exceeded timeout which caused object to be reset."),
    ("memory", 500, "isolate exceeded its memory limit and was reset."),
    ("cpu", 500, "D1 DB exceeded its CPU time limit and was reset."),
    ("import-running", 400, "Currently processing a long-running import."),
    ("export-running", 400, "Currently processing a long-running export."),
    ("out-of-memory", 400, "SQLITE_NOMEM"),
    ("database-full", 400, "Exceeded maximum DB size"),
    ("disk-full", 400, "database or disk is full: SQLITE_FULL"),
    ("account-full", 400, "exceeded D1's maximum account storage limit"),
    ("daily-limit", 400, "exceeded D1's free tier daily row write limit"),
    ("401", 401, "10000"),
    ("403", 403, "7403"),
    ("404", 404, "7404"),
    ("reset", 0, ""),
    ("truncated", 0, ""),
];

/// A rig and a client without any of walcast's own.
struct Rig {
    workerd: Workerd,
    agent: ureq::Agent,
}

impl Rig {
    fn start() -> Self {
        let config = ureq::Agent::config_builder();
        let config = config.http_status_as_error(false).timeout_global(Some(Duration::from_secs(30)));
        Rig { workerd: Workerd::start().unwrap(), agent: config.build().into() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/accounts/{}/d1/database{path}", self.workerd.base_url(), Workerd::ACCOUNT)
    }

    /// Sends a body with a token and returns status and text.
    fn send(&self, path: &str, token: &str, body: &Value) -> Result<(u16, String), ureq::Error> {
        let request = self.agent.post(self.url(path)).header("authorization", format!("Bearer {token}"));
        let mut response = request.send(body.to_string())?;
        Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let request = self.agent.get(self.url(path));
        let mut response =
            request.header("authorization", format!("Bearer {}", Workerd::TOKEN)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap())
    }

    fn query(&self, id: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.send(&format!("/{id}/query"), Workerd::TOKEN, body).unwrap();
        (status, serde_json::from_str(&text).unwrap())
    }

    /// Runs one statement and returns its rows.
    fn rows(&self, id: &str, sql: &str) -> Value {
        let (status, answer) = self.query(id, &json!({ "sql": sql }));
        assert_eq!(status, 200, "{sql}: {answer}");
        answer["result"][0]["results"].clone()
    }

    fn database(&self, name: &str) -> String {
        self.workerd.create_database(name).unwrap()
    }

    /// The rules that were broken since the last look, which must be these.
    fn violated(&self, rule: &str, times: u64) {
        let stats = self.workerd.stats().unwrap();
        assert_eq!(stats["violated"][rule]["times"], times, "{rule} in {}", stats["violated"]);
    }
}

fn message(answer: &Value) -> &str {
    assert_eq!(answer["success"], false, "{answer}");
    assert_eq!(answer["result"], json!([]), "{answer}");
    answer["errors"][0]["message"].as_str().unwrap()
}

#[test]
fn databases_are_created_found_by_name_described_and_deleted() {
    let rig = Rig::start();
    let id = rig.database("walcast-na");
    let (status, answer) = rig.get("?name=walcast-na");
    assert_eq!((status, &answer["result"][0]["uuid"]), (200, &json!(id)));
    assert_eq!(answer["result_info"]["total_count"], 1);
    assert_eq!(rig.get("?name=other").1["result"], json!([]));
    assert_eq!(rig.get(&format!("/{id}")).1["result"]["name"], "walcast-na");
    assert_eq!(rig.get("/walcast-na").1["errors"][0]["code"], 7404, "a name is no id");
    assert!(rig.get(&format!("/{id}/time_travel/bookmark")).1["result"]["bookmark"].is_string());

    let again = rig.send("", Workerd::TOKEN, &json!({ "name": "walcast-na" })).unwrap();
    assert_eq!(again.0, 400, "{}", again.1);
    let hint = json!({ "name": "walcast-eu", "primary_location_hint": "europe" });
    assert_eq!(rig.send("", Workerd::TOKEN, &hint).unwrap().0, 400);

    let delete = rig.agent.delete(rig.url(&format!("/{id}")));
    let deleted = delete.header("authorization", format!("Bearer {}", Workerd::TOKEN)).call().unwrap();
    assert_eq!(deleted.status().as_u16(), 200);
    assert_eq!(rig.get(&format!("/{id}")).0, 404);
}

#[test]
fn who_may_not_is_told_with_the_apis_own_codes() {
    let rig = Rig::start();
    let id = rig.database("na");
    let query = json!({ "sql": "SELECT 1" });
    let (status, text) = rig.send(&format!("/{id}/query"), "another", &query).unwrap();
    assert_eq!(status, 401);
    assert!(text.contains("10000"), "{text}");
    let elsewhere =
        rig.url(&format!("/{id}/query")).replace(Workerd::ACCOUNT, "ffffffffffffffffffffffffffffffff");
    let request = rig.agent.post(elsewhere).header("authorization", format!("Bearer {}", Workerd::TOKEN));
    let mut response = request.send(query.to_string()).unwrap();
    assert_eq!(response.status().as_u16(), 403);
    assert!(response.body_mut().read_to_string().unwrap().contains("7403"));
    let (status, answer) = rig.query("5f4e0bd2-0000-4000-8000-000000000000", &query);
    assert_eq!((status, &answer["errors"][0]["code"]), (404, &json!(7404)));
}

#[test]
fn query_answers_objects_raw_answers_arrays_and_both_count_rows_as_d1_bills_them() {
    let rig = Rig::start();
    let id = rig.database("na");
    let insert = "INSERT INTO t SELECT value->>0, value->>1 FROM json_each(?1)";
    let (status, answer) = rig.query(
        &id,
        &json!({ "batch": [
            { "sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT) STRICT" },
            { "sql": "CREATE INDEX t_v ON t (v)" },
            { "sql": insert, "params": ["[[1,\"x\"],[2,\"y\"]]"] },
            { "sql": "SELECT id, v FROM t ORDER BY id" },
        ]}),
    );
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["result"][2]["meta"]["rows_written"], 4, "two rows and their index entries");
    assert_eq!(answer["result"][2]["meta"]["changes"], 2);
    assert!(answer["result"][2]["meta"]["size_after"].as_u64() > Some(0));
    assert_eq!(answer["result"][3]["results"], json!([{ "id": 1, "v": "x" }, { "id": 2, "v": "y" }]));
    assert_eq!(answer["result"][3]["meta"]["rows_written"], 0);

    let select = json!({ "sql": "SELECT id, v FROM t WHERE id = CAST(?1 AS INTEGER)", "params": ["2"] });
    let (_, text) = rig.send(&format!("/{id}/raw"), Workerd::TOKEN, &select).unwrap();
    let raw: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(raw["result"][0]["results"], json!({ "columns": ["id", "v"], "rows": [[2, "y"]] }));
    let billed: u64 = (0..4).map(|at| answer["result"][at]["meta"]["rows_written"].as_u64().unwrap()).sum();
    assert_eq!(rig.workerd.stats().unwrap()["databases"]["na"]["rows_written"], billed);
    assert_eq!(rig.workerd.violations().unwrap(), 0);
}

#[test]
fn a_batch_is_one_transaction() {
    let rig = Rig::start();
    let id = rig.database("na");
    rig.rows(&id, "CREATE TABLE t (id INTEGER PRIMARY KEY)");
    for last in [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO missing VALUES (1)",
        "INSRT",
        "INSERT OR FAIL INTO t VALUES (1)",
    ] {
        let batch = json!({ "batch": [
            { "sql": "INSERT INTO t VALUES (1)" },
            { "sql": "CREATE TABLE made (id INTEGER)" },
            { "sql": last },
        ]});
        let (status, answer) = rig.query(&id, &batch);
        assert_eq!(status, 400, "{answer}");
        assert_eq!(answer["errors"][0]["code"], 7500);
        assert_eq!(rig.rows(&id, "SELECT count(*) AS n FROM t"), json!([{ "n": 0 }]), "after {last}");
        assert_eq!(rig.rows(&id, "SELECT name FROM sqlite_schema WHERE name = 'made'"), json!([]));
    }
}

#[test]
fn every_documented_limit_is_kept_and_what_breaks_it_is_counted() {
    let rig = Rig::start();
    let id = rig.database("na");
    rig.rows(&id, "CREATE TABLE t (a TEXT, b TEXT)");
    let refused = |body: Value, rule: &str, said: &str| {
        let (status, answer) = rig.query(&id, &body);
        assert_eq!(status, 400, "{rule}");
        assert!(message(&answer).contains(said), "{rule}: {answer}");
        rig.violated(rule, 1);
    };
    let select = |params: Vec<String>| json!({ "sql": "SELECT length(?1)", "params": params });

    // Three bytes each, so that a limit in characters would let it pass.
    let over = "\u{20ac}".repeat(666_667);
    refused(select(vec![over]), "value_bytes", "string or blob too big: SQLITE_TOOBIG");
    let half = "x".repeat(1_000_001);
    let row = json!({ "sql": "INSERT INTO t (a, b) VALUES (?1, ?2)", "params": [half, half] });
    refused(row, "row_bytes", "string or blob too big: SQLITE_TOOBIG");
    let long = format!("SELECT '{}'", "x".repeat(100_000));
    refused(json!({ "sql": long }), "sql_bytes", "statement too long: SQLITE_TOOBIG");
    refused(select(vec!["1".to_owned(); 101]), "params", "too many SQL variables");
    let many: Vec<Value> = (0..101).map(|_| json!({ "sql": "SELECT 1" })).collect();
    refused(json!({ "batch": many }), "statements", "too many SQL statements");
    refused(json!({ "sql": "SELECT 1; SELECT 2" }), "joined", "several statements");
    refused(json!({ "sql": "SELECT ?1", "params": [1] }), "params_not_strings", "strings");
    let columns: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    refused(
        json!({ "sql": format!("CREATE TABLE wide ({})", columns.join(",")) }),
        "columns",
        "too many columns",
    );
    assert_eq!(rig.workerd.violations().unwrap(), 8);
}

#[test]
fn what_is_just_within_the_limits_is_no_violation() {
    let rig = Rig::start();
    let id = rig.database("na");
    let longest = "x".repeat(2_000_000);
    let sql = format!("SELECT '{}'", "x".repeat(100_000 - "SELECT ''".len()));
    let placeholders: Vec<String> = (1..=100).map(|n| format!("?{n}")).collect();
    let widest = format!("SELECT {}", placeholders.join(","));
    let batch: Vec<Value> = (0..97)
        .map(|_| json!({ "sql": "SELECT ';--' AS \"a;b\" /* ; */ -- ; x" }))
        .chain([
            json!({ "sql": "SELECT length(?1) AS n", "params": [longest] }),
            json!({ "sql": sql }),
            json!({ "sql": widest, "params": vec!["1"; 100] }),
        ])
        .collect();
    let (status, answer) = rig.query(&id, &json!({ "batch": batch }));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["result"][97]["results"], json!([{ "n": 2_000_000 }]));
    assert_eq!(rig.workerd.violations().unwrap(), 0);
    let numbers = &rig.workerd.stats().unwrap()["databases"]["na"];
    assert_eq!((&numbers["statements_max"], &numbers["in_flight_max"]), (&json!(100), &json!(1)));
}

#[test]
fn two_requests_at_once_to_one_database_are_counted() {
    let rig = Rig::start();
    let id = rig.database("na");
    let other = rig.database("eu");
    let slow = |db: &str| rig.workerd.order(&json!({ "db": db, "kind": "slow", "delay_ms": 500 })).unwrap();
    let both = |one: &str, two: &str| {
        std::thread::scope(|scope| {
            scope.spawn(|| rig.rows(one, "SELECT 1"));
            scope.spawn(|| rig.rows(two, "SELECT 1"));
        });
    };
    slow("na");
    slow("eu");
    both(&id, &other);
    assert_eq!(rig.workerd.violations().unwrap(), 0);
    slow("na");
    both(&id, &id);
    rig.violated("concurrent", 1);
}

#[test]
fn every_fault_comes_once_and_then_no_more() {
    let rig = Rig::start();
    let id = rig.database("na");
    rig.rows(&id, "CREATE TABLE t (n INTEGER)");
    let query = json!({ "sql": "SELECT 1 AS n" });
    for (kind, status, part) in FAULTS {
        rig.workerd.order(&json!({ "db": "na", "kind": kind })).unwrap();
        match rig.send(&format!("/{id}/query"), Workerd::TOKEN, &query) {
            Ok((found, text)) => {
                assert_eq!(found, status, "{kind}: {text}");
                assert!(text.contains(part), "{kind}: {text}");
            }
            Err(error) => assert_eq!(status, 0, "{kind}: {error}"),
        }
        assert_eq!(rig.rows(&id, "SELECT 1 AS n"), json!([{ "n": 1 }]), "after {kind}");
    }
    let numbers = &rig.workerd.stats().unwrap()["databases"]["na"];
    assert_eq!(numbers["faults"].as_object().unwrap().len(), FAULTS.len());
    assert_eq!(rig.workerd.violations().unwrap(), 0);
}

#[test]
fn a_hanging_request_gets_no_answer() {
    let rig = Rig::start();
    let id = rig.database("na");
    rig.workerd.order(&json!({ "db": "na", "kind": "hang" })).unwrap();
    let request = rig.agent.post(rig.url(&format!("/{id}/query")));
    let request = request.config().timeout_global(Some(Duration::from_millis(300))).build();
    let request = request.header("authorization", format!("Bearer {}", Workerd::TOKEN));
    let error = request.send(json!({ "sql": "SELECT 1" }).to_string()).unwrap_err();
    assert!(matches!(error, ureq::Error::Timeout(_)), "{error}");
    assert_eq!(rig.rows(&id, "SELECT 1 AS n"), json!([{ "n": 1 }]));
}

#[test]
fn an_answer_can_be_lost_after_the_commit() {
    let rig = Rig::start();
    let id = rig.database("na");
    rig.rows(&id, "CREATE TABLE t (n INTEGER)");
    let insert = json!({ "sql": "INSERT INTO t VALUES (1)" });
    let kinds = ["reset", "truncated", "502", "503", "504", "not-json", "internal-error", "storage-timeout"];
    for (done, kind) in kinds.into_iter().enumerate() {
        rig.workerd.order(&json!({ "db": "na", "kind": kind, "applied": true })).unwrap();
        let _lost = rig.send(&format!("/{id}/query"), Workerd::TOKEN, &insert);
        assert_eq!(rig.rows(&id, "SELECT count(*) AS n FROM t"), json!([{ "n": done + 1 }]), "{kind}");
        rig.workerd.order(&json!({ "db": "na", "kind": kind })).unwrap();
        let _refused = rig.send(&format!("/{id}/query"), Workerd::TOKEN, &insert);
        assert_eq!(rig.rows(&id, "SELECT count(*) AS n FROM t"), json!([{ "n": done + 1 }]), "{kind}");
    }
}

#[test]
fn a_reset_ends_the_connection_without_an_answer() {
    let rig = Rig::start();
    let id = rig.database("na");
    rig.workerd.order(&json!({ "db": "na", "kind": "reset" })).unwrap();
    let error = rig.send(&format!("/{id}/query"), Workerd::TOKEN, &json!({ "sql": "SELECT 1" })).unwrap_err();
    let is_gone = match &error {
        ureq::Error::Io(error) => {
            matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            )
        }
        _ => false,
    };
    assert!(is_gone, "{error:?}");
}

#[test]
fn faults_can_begin_later_last_and_fall_on_a_share_of_the_requests() {
    let rig = Rig::start();
    let id = rig.database("na");
    let other = rig.database("eu");
    let status = |id: &str| rig.query(id, &json!({ "sql": "SELECT 1" })).0;
    rig.workerd.order(&json!({ "db": id, "kind": "internal-error", "after": 2, "times": 2 })).unwrap();
    assert_eq!([status(&id), status(&id), status(&id), status(&id), status(&id)], [200, 200, 500, 500, 200]);
    rig.workerd.order(&json!({ "db": "na", "kind": "internal-error", "times": "until cleared" })).unwrap();
    assert_eq!([status(&id), status(&id), status(&other)], [500, 500, 200]);
    rig.workerd.clear_faults().unwrap();

    let shared =
        json!({ "db": "*", "kind": "internal-error", "times": "until cleared", "share": 0.3, "seed": 7 });
    let statuses = || -> Vec<u16> { (0..100).map(|_| status(&id)).collect() };
    rig.workerd.order(&shared).unwrap();
    let once = statuses();
    rig.workerd.clear_faults().unwrap();
    rig.workerd.order(&shared).unwrap();
    assert_eq!(once, statuses(), "the same seed, the same faults");
    assert!((10..60).contains(&once.iter().filter(|status| **status == 500).count()));
    assert!(rig.workerd.order(&json!({ "db": "na", "kind": "no such" })).is_err());
}

#[test]
fn a_token_over_its_limit_is_turned_away_and_what_it_sends_too_early_is_counted() {
    let rig = Rig::start();
    let id = rig.database("na");
    let send =
        |token: &str| rig.send(&format!("/{id}/query"), token, &json!({ "sql": "SELECT 1" })).unwrap().0;
    rig.workerd.limit(3, 3600).unwrap();
    let statuses: Vec<u16> = (0..5).map(|_| send("test-token-a")).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(send("test-token-b"), 200);
    rig.workerd.limit(0, 0).unwrap();

    rig.workerd.order(&json!({ "db": "na", "kind": "429", "retry_after": 3600 })).unwrap();
    assert_eq!([send("test-token-b"), send("test-token-b"), send("test-token-a")], [429, 200, 200]);
    let tokens = &rig.workerd.stats().unwrap()["tokens"];
    assert_eq!(
        (&tokens["test-token-a"]["turned_away"], &tokens["test-token-a"]["sent_early"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        (&tokens["test-token-b"]["turned_away"], &tokens["test-token-b"]["sent_early"]),
        (&json!(0), &json!(1))
    );
}

#[test]
fn a_bookmark_brings_back_every_value_as_it_was() {
    let rig = Rig::start();
    let id = rig.database("na");
    let fill = "INSERT INTO t VALUES (9007199254740993, X'00FF', 0.1, 'a''b'), (-9223372036854775808, NULL, 9e999, ''), \
                (9223372036854775807, X'', -0.0, 'z')";
    rig.rows(&id, "CREATE TABLE t (i INTEGER PRIMARY KEY, b BLOB, r REAL, s TEXT) STRICT, WITHOUT ROWID");
    rig.rows(&id, "CREATE INDEX t_s ON t (s)");
    rig.rows(&id, fill);
    let content = || {
        rig.rows(&id, "SELECT quote(i) AS i, quote(b) AS b, quote(r) AS r, quote(s) AS s FROM t ORDER BY i")
    };
    let (before, bookmark) = (content(), rig.workerd.bookmark("na").unwrap());
    rig.rows(&id, "DELETE FROM t");
    rig.rows(&id, "CREATE TABLE later (n INTEGER)");
    rig.workerd.restore("na", &bookmark).unwrap();
    assert_eq!(content(), before);
    assert_eq!(
        rig.rows(&id, "SELECT name FROM sqlite_schema WHERE name IN ('t_s', 'later')"),
        json!([{ "name": "t_s" }])
    );

    rig.workerd.recreate("na").unwrap();
    assert_eq!(rig.get(&format!("/{id}")).1["result"]["num_tables"], 0);
    assert!(rig.workerd.restore("na", "no such").is_err());
}

#[test]
fn what_was_committed_outlives_a_kill_on_the_same_port() {
    let mut rig = Rig::start();
    let id = rig.database("na");
    rig.rows(&id, "CREATE TABLE t (n INTEGER)");
    let (url, pid) = (rig.workerd.base_url(), rig.workerd.pid());
    for n in 1..=5 {
        rig.rows(&id, &format!("INSERT INTO t VALUES ({n})"));
        rig.workerd.kill().unwrap();
        assert!(rig.send(&format!("/{id}/query"), Workerd::TOKEN, &json!({ "sql": "SELECT 1" })).is_err());
        rig.workerd.start_again().unwrap();
        assert_eq!(rig.rows(&id, "SELECT count(*) AS n FROM t"), json!([{ "n": n }]));
    }
    assert_eq!(rig.workerd.base_url(), url);
    assert_ne!(rig.workerd.pid(), pid);

    let file = rig.workerd.stats().unwrap()["known"]["na"]["file"].as_str().unwrap().to_owned();
    rig.workerd.kill().unwrap();
    let replica = rusqlite::Connection::open(rig.workerd.data_directory().join(file)).unwrap();
    assert_eq!(replica.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(5));
}

#[test]
fn drop_ends_the_process_and_removes_its_directory() {
    let workerd = Workerd::start().unwrap();
    let (pid, directory) = (workerd.pid().unwrap(), workerd.data_directory());
    assert!(runs(pid) && directory.exists());
    drop(workerd);
    assert!(!runs(pid) && !directory.parent().unwrap().exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_owner_leaves_no_process_and_the_next_start_removes_the_directory() {
    let directory = holder::killed("holds_a_workerd_for_another_test");
    let _workerd = Workerd::start().unwrap();
    assert!(!directory.exists());
}

/// No test of its own: it is run in a second process, which holds a workerd until it is killed.
#[test]
fn holds_a_workerd_for_another_test() {
    if holder::is_meant() {
        let workerd = Workerd::start().unwrap();
        holder::hold(workerd.pid().unwrap(), &workerd.data_directory());
    }
}
