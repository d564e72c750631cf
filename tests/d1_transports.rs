//! Both transports against every fault of the rig: the verdict that the sink gets, what was applied, and that a budget
//! never sends what it was told to hold back. Asserted by what the rig counted, not by times.

#[path = "support/d1.rs"]
mod d1;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use walcast::app::demo::Workerd;
use walcast::sink::d1::budget::{Budget, Limit};
use walcast::sink::d1::rest::RestTransport;
use walcast::sink::d1::transport::{Failure, Transport};
use walcast::sink::d1::verdict::Verdict;
use walcast::sink::d1::worker::WorkerTransport;

use d1::{rest, rest_options, run, statement, worker, worker_options};

const SECOND: Duration = Duration::from_secs(1);
const DATABASE: &str = "walcast-eu";
const BINDING: &str = "DB_EU";

/// What the sink must be told of every fault in front of the API or the Worker.
const FAULTS: [(&str, Verdict); 31] = [
    ("reset", Verdict::Unknown),
    ("truncated", Verdict::Unknown),
    ("502", Verdict::Unknown),
    ("503", Verdict::Unknown),
    ("504", Verdict::Unknown),
    ("not-json", Verdict::Unknown),
    ("internal-error", Verdict::Unknown),
    ("429", Verdict::Throttled { retry_after: SECOND }),
    ("429-without-retry-after", Verdict::Throttled { retry_after: SECOND }),
    ("429-html", Verdict::Throttled { retry_after: SECOND }),
    ("network-connection-lost", Verdict::Unknown),
    ("code-updated", Verdict::Unknown),
    ("storage-reset", Verdict::Unknown),
    ("startup-reset", Verdict::Unknown),
    ("replica-disconnected", Verdict::Unknown),
    ("client-disconnected", Verdict::Unknown),
    ("remote-node", Verdict::Unknown),
    ("queued-too-long", Verdict::Overloaded),
    ("too-many-queued", Verdict::Overloaded),
    ("storage-timeout", Verdict::TooMuch),
    ("memory", Verdict::TooMuch),
    ("cpu", Verdict::TooMuch),
    ("import-running", Verdict::Busy),
    ("export-running", Verdict::Busy),
    ("out-of-memory", Verdict::TooLarge),
    ("database-full", Verdict::Full),
    ("disk-full", Verdict::Full),
    ("account-full", Verdict::Full),
    ("daily-limit", Verdict::DailyLimit),
    ("401", Verdict::Refused),
    ("403", Verdict::Refused),
];
/// The same behind the Worker's binding, where only the database speaks and the network between.
const BINDING_FAULTS: [(&str, Verdict); 20] = [
    ("reset", Verdict::Unknown),
    ("truncated", Verdict::Unknown),
    ("502", Verdict::Unknown),
    ("503", Verdict::Unknown),
    ("not-json", Verdict::Unknown),
    ("internal-error", Verdict::Unknown),
    ("network-connection-lost", Verdict::Unknown),
    ("code-updated", Verdict::Unknown),
    ("storage-reset", Verdict::Unknown),
    ("startup-reset", Verdict::Unknown),
    ("remote-node", Verdict::Unknown),
    ("queued-too-long", Verdict::Overloaded),
    ("too-many-queued", Verdict::Overloaded),
    ("storage-timeout", Verdict::TooMuch),
    ("memory", Verdict::TooMuch),
    ("cpu", Verdict::TooMuch),
    ("import-running", Verdict::Busy),
    ("disk-full", Verdict::Full),
    ("database-full", Verdict::Full),
    ("daily-limit", Verdict::DailyLimit),
];
/// How often the seeded run sends.
const SEEDED_BATCHES: u64 = 400;

/// A rig with a database and a table in it.
fn rig() -> Workerd {
    let workerd = Workerd::start().unwrap();
    workerd.create_database(DATABASE).unwrap();
    run(&mut rest(&workerd, DATABASE), "CREATE TABLE t (n INTEGER)").unwrap();
    workerd
}

fn both(workerd: &Workerd) -> [(&'static str, Box<dyn Transport>); 2] {
    [("rest", Box::new(rest(workerd, DATABASE))), ("worker", Box::new(worker(workerd, BINDING)))]
}

fn count(workerd: &Workerd) -> u64 {
    // Over a budget of its own, which no pause of the test's reaches.
    let answer = run(&mut worker(workerd, BINDING), "SELECT count(*) AS n FROM t").unwrap();
    answer.rows[0]["n"].as_u64().unwrap()
}

fn insert(transport: &mut dyn Transport) -> Result<(), Failure> {
    run(transport, "INSERT INTO t VALUES (1)").map(|_| ())
}

fn faults(workerd: &Workerd, database: &str) -> u64 {
    let stats = workerd.stats().unwrap();
    let faults = stats["databases"][database]["faults"].as_object().cloned().unwrap_or_default();
    faults.values().filter_map(Value::as_u64).sum()
}

#[test]
fn every_fault_in_front_comes_out_as_the_verdict_of_the_retry_table() {
    let workerd = rig();
    for (name, mut transport) in both(&workerd) {
        for (kind, expected) in FAULTS {
            workerd.order(&json!({ "db": DATABASE, "kind": kind })).unwrap();
            // A pause holds for the whole budget, so each has its own.
            if name == "rest" {
                transport = Box::new(rest(&workerd, DATABASE));
            }
            let failure = insert(&mut *transport).unwrap_err();
            match (failure.verdict, expected) {
                (Verdict::Throttled { retry_after }, Verdict::Throttled { .. }) => {
                    assert!(retry_after <= SECOND)
                }
                (found, expected) => assert_eq!(found, expected, "{name} {kind}: {}", failure.message),
            }
            assert!(!failure.message.contains(Workerd::TOKEN) && !failure.message.contains("<html>"));
            assert!(!failure.message.contains(Workerd::KEY));
        }
    }
    assert_eq!(count(&workerd), 0);
    assert_eq!(faults(&workerd, DATABASE), 2 * FAULTS.len() as u64);
    assert_eq!(workerd.violations().unwrap(), 0);
}

#[test]
fn every_fault_behind_the_workers_binding_comes_out_the_same() {
    let workerd = rig();
    let mut transport = worker(&workerd, BINDING);
    for (kind, expected) in BINDING_FAULTS {
        workerd.order(&json!({ "db": DATABASE, "kind": kind, "at": "binding" })).unwrap();
        let failure = insert(&mut transport).unwrap_err();
        assert_eq!(failure.verdict, expected, "{kind}: {}", failure.message);
    }
    assert_eq!(count(&workerd), 0);
}

#[test]
fn what_is_applied_and_not_answered_is_never_called_not_applied() {
    let workerd = rig();
    let mut applied = 0;
    let places = [("front", "rest"), ("front", "worker"), ("binding", "worker")];
    let kinds = [
        "reset",
        "truncated",
        "502",
        "503",
        "504",
        "not-json",
        "internal-error",
        "storage-timeout",
        "memory",
    ];
    for (at, name) in places {
        for kind in
            kinds.into_iter().chain(["code-updated", "network-connection-lost", "client-disconnected"])
        {
            let mut transport: Box<dyn Transport> = match name {
                "rest" => Box::new(rest(&workerd, DATABASE)),
                _ => Box::new(worker(&workerd, BINDING)),
            };
            // The name is resolved before the fault is there.
            run(&mut *transport, "SELECT 1").unwrap();
            workerd.order(&json!({ "db": DATABASE, "kind": kind, "at": at, "applied": true })).unwrap();
            let failure = insert(&mut *transport).unwrap_err();
            assert!(
                matches!(failure.verdict, Verdict::Unknown | Verdict::TooMuch),
                "{at} {kind}: {failure:?}"
            );
            applied += 1;
            assert_eq!(count(&workerd), applied, "{at} {kind}");
        }
    }
}

#[test]
fn a_request_that_hangs_ends_by_its_timeout_and_is_unknown() {
    let workerd = rig();
    let timeout = Duration::from_millis(300);
    let rest_options = walcast::sink::d1::rest::RestOptions { timeout, ..rest_options(&workerd, DATABASE) };
    let worker_options =
        walcast::sink::d1::worker::WorkerOptions { timeout, ..worker_options(&workerd, BINDING) };
    let mut rest = RestTransport::new(rest_options, d1::ample()).unwrap();
    let mut worker = WorkerTransport::new(worker_options).unwrap();
    run(&mut rest, "SELECT 1").unwrap();
    for (at, is_applied) in [("front", false), ("front", true), ("binding", false), ("binding", true)] {
        for name in ["rest", "worker"] {
            let transport: &mut dyn Transport = if name == "rest" { &mut rest } else { &mut worker };
            if (name, at) == ("rest", "binding") {
                continue;
            }
            let before = count(&workerd);
            workerd
                .order(&json!({ "db": DATABASE, "kind": "hang", "at": at, "applied": is_applied }))
                .unwrap();
            let failure = insert(transport).unwrap_err();
            assert_eq!(failure.verdict, Verdict::Unknown, "{at} {name}: {failure:?}");
            assert_eq!(count(&workerd), before + u64::from(is_applied), "{at} {name}");
        }
    }
}

#[test]
fn a_server_that_is_gone_is_unknown_and_one_that_is_back_answers() {
    let mut workerd = rig();
    let mut ways = both(&workerd);
    for (_, transport) in &mut ways {
        insert(&mut **transport).unwrap();
    }
    workerd.kill().unwrap();
    for (name, transport) in &mut ways {
        for _ in 0..2 {
            assert_eq!(insert(&mut **transport).unwrap_err().verdict, Verdict::Unknown, "{name}");
        }
    }
    workerd.start_again().unwrap();
    for (name, transport) in &mut ways {
        assert_eq!(insert(&mut **transport), Ok(()), "{name}");
    }
    assert_eq!(count(&workerd), 4);
}

#[test]
fn sqlites_own_errors_have_the_same_verdict_through_both() {
    let workerd = rig();
    for (name, mut transport) in both(&workerd) {
        let mut verdict = |sql: &str| run(&mut *transport, sql).unwrap_err().verdict;
        assert_eq!(verdict("SELECT * FROM missing"), Verdict::SchemaMissing, "{name}");
        assert_eq!(verdict("SELECT missing FROM t"), Verdict::SchemaMissing, "{name}");
        assert_eq!(verdict("INSERT INTO t (missing) VALUES (1)"), Verdict::SchemaMissing, "{name}");
        assert_eq!(verdict("INSRT"), Verdict::Rejected, "{name}");
        assert_eq!(verdict("SELECT json('{')"), Verdict::Rejected, "{name}");
        assert_eq!(verdict("PRAGMA user_version = 1"), Verdict::Refused, "{name}");
        run(&mut *transport, "DROP TABLE IF EXISTS s").unwrap();
        run(&mut *transport, "CREATE TABLE s (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT").unwrap();
        run(&mut *transport, "CREATE TABLE IF NOT EXISTS _walcast_checkpoint (sequence INTEGER NOT NULL)")
            .unwrap();
        let mut verdict = |sql: &str| run(&mut *transport, sql).unwrap_err().verdict;
        assert_eq!(verdict("INSERT INTO s VALUES (1, NULL)"), Verdict::Rejected, "{name}");
        assert_eq!(verdict("INSERT INTO s VALUES (1, 'x')"), Verdict::Rejected, "{name}");
        assert_eq!(verdict("INSERT INTO s VALUES (1, 1), (1, 1)"), Verdict::Rejected, "{name}");
        assert_eq!(verdict("INSERT INTO _walcast_checkpoint VALUES (NULL)"), Verdict::Fenced, "{name}");
        let half = "x".repeat(1_500_000);
        let too_big = statement("SELECT length(?1 || ?1)", &[&half]);
        assert_eq!(transport.execute(&[too_big]).unwrap_err().verdict, Verdict::TooLarge, "{name}");
    }
}

#[test]
fn a_database_is_found_by_its_name_or_id_and_one_that_is_not_there_is_refused_with_the_command() {
    let workerd = Workerd::start().unwrap();
    // The API lists every name that has the asked one in it.
    for name in ["app-eu-old", "app", "app-eu"] {
        workerd.create_database(name).unwrap();
    }
    run(&mut rest(&workerd, "app-eu"), "CREATE TABLE t (n INTEGER)").unwrap();
    let id = workerd.stats().unwrap()["known"]["app-eu"]["id"].as_str().unwrap().to_owned();
    assert_eq!(run(&mut rest(&workerd, &id), "SELECT * FROM t").unwrap().rows.len(), 0);
    assert_eq!(
        run(&mut rest(&workerd, "app"), "SELECT * FROM t").unwrap_err().verdict,
        Verdict::SchemaMissing
    );

    let failure = run(&mut rest(&workerd, "app-e"), "SELECT 1").unwrap_err();
    assert_eq!(failure.verdict, Verdict::Gone);
    assert!(failure.message.contains("has no D1 database app-e"), "{}", failure.message);
    let missing = run(&mut rest(&workerd, "5f4e0bd2-0000-4000-8000-000000000000"), "SELECT 1").unwrap_err();
    assert_eq!(missing.verdict, Verdict::Gone);

    let mut options = rest_options(&workerd, "app-eu");
    options.token = "sesame".to_owned().into();
    let failure = run(&mut RestTransport::new(options, d1::ample()).unwrap(), "SELECT 1").unwrap_err();
    assert_eq!(failure.verdict, Verdict::Refused);
    assert!(!failure.message.contains("sesame"), "{}", failure.message);
}

#[test]
fn a_failing_list_of_databases_is_not_a_missing_database() {
    let workerd = rig();
    for (kind, expected) in
        [("503", Verdict::Unknown), ("internal-error", Verdict::Unknown), ("401", Verdict::Refused)]
    {
        workerd.order(&json!({ "db": "account", "kind": kind })).unwrap();
        let mut transport = rest(&workerd, DATABASE);
        let failure = insert(&mut transport).unwrap_err();
        assert_eq!(failure.verdict, expected, "{kind}: {failure:?}");
        insert(&mut transport).unwrap();
    }
}

#[test]
fn one_429_holds_back_every_database_of_the_token() {
    let workerd = Workerd::start().unwrap();
    let budget = Arc::new(Budget::new(Limit::default()));
    let mut ways: Vec<RestTransport> = ["na", "eu", "asia"]
        .map(|name| {
            workerd.create_database(name).unwrap();
            let mut way = RestTransport::new(rest_options(&workerd, name), budget.clone()).unwrap();
            run(&mut way, "SELECT 1").unwrap();
            way
        })
        .into();
    let sent = || workerd.stats().unwrap()["tokens"][Workerd::TOKEN]["requests"].as_u64().unwrap();
    workerd.order(&json!({ "db": "eu", "kind": "429", "retry_after": 3600 })).unwrap();
    let hour = Duration::from_secs(3600);
    let failure = run(&mut ways[1], "SELECT 1").unwrap_err();
    assert!(
        matches!(failure.verdict, Verdict::Throttled { retry_after } if retry_after > hour / 2),
        "{failure:?}"
    );
    let before = sent();
    for way in &mut ways {
        for _ in 0..5 {
            let failure = run(way, "SELECT 1").unwrap_err();
            assert!(matches!(failure.verdict, Verdict::Throttled { retry_after } if retry_after > hour / 2));
        }
    }
    assert_eq!(sent(), before);
    let standing = budget.standing();
    assert!(standing.paused.is_some_and(|paused| paused > hour / 2) && standing.throttled == 1);
}

#[test]
fn an_answer_that_says_nothing_is_left_holds_back_too() {
    let workerd = rig();
    let budget = Arc::new(Budget::new(Limit::default()));
    let mut way = RestTransport::new(rest_options(&workerd, DATABASE), budget.clone()).unwrap();
    workerd.order(&json!({ "db": DATABASE, "kind": "exhausted", "retry_after": 3600 })).unwrap();
    insert(&mut way).unwrap();
    let failure = insert(&mut way).unwrap_err();
    assert!(matches!(failure.verdict, Verdict::Throttled { .. }), "{failure:?}");
    assert_eq!(count(&workerd), 1);
    assert_eq!(workerd.stats().unwrap()["tokens"][Workerd::TOKEN]["sent_early"], 0);
}

/// Reads once, and waits where it is told to, as the sink's worker does.
fn select(transport: &mut dyn Transport) {
    loop {
        match run(transport, "SELECT 1") {
            Ok(_) => return,
            Err(Failure { verdict: Verdict::Throttled { retry_after }, .. }) => thread::sleep(retry_after),
            Err(failure) => panic!("{failure:?}"),
        }
    }
}

/// Reads so many times from each database, all of them at once, under one budget.
fn select_side_by_side(workerd: &Workerd, names: &[&str], budget: &Arc<Budget>, times: usize) {
    thread::scope(|scope| {
        for name in names {
            scope.spawn(move || {
                let mut way = RestTransport::new(rest_options(workerd, name), budget.clone()).unwrap();
                (0..times).for_each(|_| select(&mut way));
            });
        }
    });
}

#[test]
fn a_sink_that_is_throttled_again_and_again_sends_nothing_early() {
    let workerd = rig();
    let budget = Arc::new(Budget::new(Limit { requests: 4000, window: SECOND }));
    let mut way = RestTransport::new(rest_options(&workerd, DATABASE), budget).unwrap();
    run(&mut way, "SELECT 1").unwrap();
    for (after, kind) in [(0, "429"), (3, "exhausted"), (2, "429-without-retry-after"), (2, "429")] {
        let fault = json!({ "db": DATABASE, "kind": kind, "times": 2, "after": after, "retry_after": 1 });
        workerd.order(&fault).unwrap();
        (0..10).for_each(|_| select(&mut way));
    }
    assert_eq!(faults(&workerd, DATABASE), 8);
    assert_eq!(workerd.stats().unwrap()["tokens"][Workerd::TOKEN]["sent_early"], 0);
}

#[test]
fn a_storm_of_429_lets_through_only_what_was_on_its_way() {
    let workerd = Workerd::start().unwrap();
    let names = ["na", "eu", "asia", "sa", "oc", "af"];
    for name in names {
        workerd.create_database(name).unwrap();
    }
    for (seed, kind) in [(1, "429"), (2, "429-without-retry-after"), (3, "exhausted")] {
        let storm =
            json!({ "db": "*", "kind": kind, "times": 2, "after": 3, "seed": seed, "retry_after": 1 });
        workerd.order(&storm).unwrap();
    }
    let budget = Arc::new(Budget::new(Limit { requests: 4000, window: Duration::from_secs(1) }));
    select_side_by_side(&workerd, &names, &budget, 10);
    let stats = workerd.stats().unwrap();
    let given: u64 = names.iter().map(|name| faults(&workerd, name)).sum();
    assert_eq!(given, 6, "every fault was met: {stats}");
    // Those that were on their way when the pause began could not be held back: at most the other five, each time.
    let early = stats["tokens"][Workerd::TOKEN]["sent_early"].as_u64().unwrap();
    assert!(early <= 5 * given, "{early} requests came early");
    assert_eq!(workerd.violations().unwrap(), 0);
}

#[test]
fn databases_that_share_a_limit_stay_below_it_and_take_turns() {
    let workerd = Workerd::start().unwrap();
    let names = ["na", "eu", "asia"];
    for name in names {
        workerd.create_database(name).unwrap();
    }
    // The rig turns a token away for the rest of a window that it has used up, as the API does.
    workerd.limit(40, 2).unwrap();
    let budget = Arc::new(Budget::new(Limit { requests: 40, window: Duration::from_secs(2) }));
    select_side_by_side(&workerd, &names, &budget, 25);
    let stats = workerd.stats().unwrap();
    let token = &stats["tokens"][Workerd::TOKEN];
    assert_eq!((&token["turned_away"], &token["sent_early"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!(names.map(|name| stats["databases"][name]["requests"].as_u64()), [Some(25); 3]);
    assert_eq!(workerd.violations().unwrap(), 0);
}

#[test]
fn a_seeded_run_of_faults_ends_exactly_where_fenced_batches_say() {
    for seed in [7, 8] {
        let mut workerd = rig();
        let mut ways = both(&workerd);
        let fence =
            "CREATE TABLE _walcast_checkpoint (k INTEGER PRIMARY KEY, sequence INTEGER NOT NULL) STRICT";
        run(&mut *ways[0].1, fence).unwrap();
        run(&mut *ways[0].1, "INSERT INTO _walcast_checkpoint VALUES (1, 0)").unwrap();
        let order = |workerd: &Workerd| {
            for (at, kind, is_applied) in [
                ("front", "reset", true),
                ("front", "503", false),
                ("front", "internal-error", true),
                ("binding", "too-many-queued", false),
                ("binding", "storage-reset", true),
            ] {
                let fault = json!({ "db": DATABASE, "kind": kind, "at": at, "applied": is_applied,
                    "times": "until cleared", "share": 0.1, "seed": seed });
                workerd.order(&fault).unwrap();
            }
        };
        order(&workerd);
        let mut rng = fastrand::Rng::with_seed(seed);
        for sequence in 0..SEEDED_BATCHES {
            let batch = [
                statement(
                    "INSERT INTO _walcast_checkpoint VALUES (1, (SELECT sequence + 1 FROM _walcast_checkpoint \
                     WHERE sequence = CAST(?1 AS INTEGER))) ON CONFLICT (k) DO UPDATE SET sequence = excluded.sequence",
                    &[&sequence.to_string()],
                ),
                statement("INSERT INTO t VALUES (1)", &[]),
            ];
            if rng.u32(..100) == 0 {
                workerd.kill().unwrap();
                workerd.start_again().unwrap();
                order(&workerd);
            }
            loop {
                let (_, transport) = &mut ways[rng.usize(..2)];
                match transport.execute(&batch) {
                    Ok(_) => break,
                    // Nothing but this very batch can have moved it.
                    Err(Failure { verdict: Verdict::Fenced, .. }) => break,
                    Err(Failure { verdict: Verdict::Unknown | Verdict::Overloaded, .. }) => {}
                    Err(failure) => panic!("seed {seed}, batch {sequence}: {failure:?}"),
                }
            }
        }
        workerd.clear_faults().unwrap();
        assert_eq!(count(&workerd), SEEDED_BATCHES, "seed {seed}");
        assert_eq!(workerd.violations().unwrap(), 0);
    }
}
