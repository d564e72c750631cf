//! The D1 sink on a real workerd: thousands of batches with every fault that D1 is known for between them, databases that
//! are restored, made anew or deleted, and rows that a database refuses. What depends on the way there is tried through
//! the REST API and through the Worker.

#[path = "support/changes.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod changes;
#[path = "support/d1.rs"]
mod d1;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/seeds.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod seeds;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::sync::Arc;

use changes::{Op, Rows, Source};
use runs::runs;
use serde_json::{Value, json};
use walcast::Lsn;
use walcast::app::demo::Workerd;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::error::{Error, Kind};
use walcast::fanout::sink::{Applied, Batch, Checkpoint, Sink};
use walcast::sink::d1::limits::RequestLimits;
use walcast::sink::d1::rest::RestTransport;
use walcast::sink::d1::transport::{Statement, Transport};
use walcast::sink::d1::{D1Sink, Options};
use walcast::sink::replica::OnRejected;

const TRANSACTIONS: usize = 2_500;
/// Faults that go away by themselves, without one of the rate limit: the budget would keep to it. And whether the request takes effect all the same.
const FAULTS: [(&str, bool); 15] = [
    ("reset", false),
    ("reset", true),
    ("internal-error", true),
    ("internal-error", false),
    ("network-connection-lost", true),
    ("storage-reset", true),
    ("code-updated", false),
    ("502", true),
    ("504", true),
    ("not-json", true),
    ("truncated", true),
    ("queued-too-long", false),
    ("storage-timeout", false),
    ("memory", true),
    ("import-running", false),
];

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

/// A workerd with one database.
struct Rig {
    workerd: Workerd,
    plan: Arc<Plan>,
}

impl Rig {
    fn new(source: &Source) -> Rig {
        let workerd = Workerd::start().unwrap();
        workerd.create_database("eu").unwrap();
        Rig { workerd, plan: Arc::new(source.plan()) }
    }

    fn transport(&self) -> RestTransport {
        d1::rest(&self.workerd, "eu")
    }

    fn sink(&self, rows_max: usize) -> D1Sink {
        let request = RequestLimits { rows_max, ..RequestLimits::default() };
        D1Sink::new("eu", Box::new(self.transport()), Options { request, ..Options::default() })
    }

    /// An opened sink, with a checkpoint.
    fn opened(&self, rows_max: usize) -> D1Sink {
        let mut sink = self.sink(rows_max);
        if sink.open(&self.plan, &identity()).unwrap().is_none() {
            sink.start_at(Lsn(1)).unwrap();
        }
        sink
    }

    fn order(&self, mut fault: Value) {
        fault["db"] = json!("eu");
        self.workerd.order(&fault).unwrap();
    }

    fn exec(&self, sql: &str) {
        let statement = Statement { sql: sql.into(), params: Vec::new() };
        self.transport().execute(&[statement]).unwrap();
    }

    /// The first column of a query's rows, which is TEXT.
    fn texts(&self, sql: &str) -> Vec<String> {
        let statement = Statement { sql: sql.into(), params: Vec::new() };
        let answers = self.transport().execute(&[statement]).unwrap();
        let rows = answers[0].rows.iter();
        rows.map(|row| row.values().next().unwrap().as_str().unwrap_or("NULL").to_owned()).collect()
    }

    fn rows(&self) -> Rows {
        let rows = self.texts("SELECT json_array(id, name, note) FROM items");
        rows.iter()
            .map(|row| {
                let (id, name, note) = serde_json::from_str(row).unwrap();
                (id, [name, note])
            })
            .collect()
    }
}

/// Applies runs until they are there, as a worker does that does not wait.
fn insist(sink: &mut D1Sink, runs: &[Arc<Run>], failures: &mut u32) -> Applied {
    let mut attempts = 0;
    loop {
        match sink.apply(&Batch::new(runs, Lsn(1), None)) {
            Ok(applied) => return applied,
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Transient | Kind::Throttled { .. }), "{error:?}");
                *failures += 1;
                if matches!(error.kind(), Kind::Throttled { .. }) {
                    // The token is paused for a moment that the budget knows.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                attempts += 1;
                assert!(attempts < 200, "{error:?}");
            }
        }
    }
}

/// Every value that is written is written once, so that the database can tell whether something came twice.
fn transactions(rng: &mut fastrand::Rng) -> Vec<Vec<Op>> {
    let mut number = 0;
    (0..TRANSACTIONS)
        .map(|_| {
            let changes = if rng.u32(..40) == 0 { rng.usize(100..300) } else { rng.usize(1..8) };
            (0..changes)
                .map(|_| {
                    number += 1;
                    let key = rng.i64(0..400);
                    let row =
                        [Some(format!("value {number}")), rng.bool().then(|| "n".repeat(rng.usize(..200)))];
                    let partial = [Some(row[0].clone()), None];
                    match rng.u32(..20) {
                        0..10 => Op::Insert(key, row),
                        10..15 => Op::Update(key, partial),
                        15..17 => Op::Move(key, rng.i64(0..400), partial),
                        17..19 => Op::Delete(key),
                        _ if rng.u32(..200) == 0 => Op::Truncate,
                        _ => Op::Delete(key),
                    }
                })
                .collect()
        })
        .collect()
}

#[test]
fn thousands_of_batches_with_faults_between_them_end_equal_and_nothing_is_written_twice() {
    let mut rng = fastrand::Rng::with_seed(seeds::one());
    let source = Source::new(&transactions(&mut rng), false);
    let mut rig = Rig::new(&source);
    let runs = runs(&source.stream, &rig.plan, 600);
    assert!(runs.len() > 1_000, "{} runs", runs.len());
    let mut sink = rig.opened(50);
    rig.exec("CREATE TABLE written (value TEXT)");
    for event in ["INSERT", "UPDATE"] {
        rig.exec(&format!(
            "CREATE TRIGGER on_{event} AFTER {event} ON items BEGIN INSERT INTO written VALUES (NEW.name); END"
        ));
    }
    let (mut at, mut failures, mut lives) = (0, 0, 1);
    while at < runs.len() {
        let end = (at + rng.usize(1..4)).min(runs.len());
        if rng.bool() {
            let (kind, applied) = FAULTS[rng.usize(..FAULTS.len())];
            rig.order(json!({"kind": kind, "applied": applied, "after": rng.u32(..2), "retry_after": 0}));
        }
        insist(&mut sink, &runs[at..end], &mut failures);
        at = end;
        if rng.u32(..150) == 0 {
            lives += 1;
            rig.workerd.clear_faults().unwrap();
            if rng.bool() {
                rig.workerd.kill().unwrap();
                rig.workerd.start_again().unwrap();
            }
            // Another engine, whose stream begins a little earlier.
            sink = rig.opened(50);
            at = at.saturating_sub(rng.usize(..20));
            let is_start = |run: &Run| run.spans().first().is_none_or(|span| span.is_start);
            while !is_start(&runs[at.min(runs.len() - 1)]) {
                at -= 1;
            }
            let Checkpoint { lsn, open, .. } = sink.checkpoint().unwrap();
            if open.is_none() {
                assert_eq!(rig.rows(), source.at(lsn), "after {lives} lives");
            }
        }
    }
    rig.workerd.clear_faults().unwrap();
    assert!(failures > 300 && lives > 2, "{failures} failures in {lives} lives");
    assert_eq!(rig.rows(), source.at(Lsn(u64::MAX)));
    let transactions = rig.texts("SELECT CAST(transactions AS TEXT) FROM _walcast_checkpoint");
    assert_eq!(transactions, [TRANSACTIONS.to_string()], "each transaction once");
    let twice = rig.texts("SELECT value FROM written GROUP BY value HAVING count(*) > 1");
    let written = rig.texts("SELECT CAST(count(*) AS TEXT) FROM written");
    assert!(twice.is_empty(), "{} of {written:?} twice: {:?}", twice.len(), &twice[..twice.len().min(10)]);
    assert!(rig.texts("SELECT reason FROM _walcast_dead_letters").is_empty());
    assert_eq!(rig.workerd.violations().unwrap(), 0, "{}", rig.workerd.stats().unwrap());
    eprintln!("{failures} failures in {lives} lives");
}

// ---- restored, made anew, refused -------------------------------------------------------------------------------

fn few_transactions() -> Source {
    let insert = |key: i64| vec![Op::Insert(key, [Some(format!("row {key}")), None])];
    Source::new(&[insert(1), insert(2), insert(3), insert(4)], false)
}

fn apply(sink: &mut D1Sink, runs: &[Arc<Run>]) -> Result<Applied, Error> {
    sink.apply(&Batch::new(runs, Lsn(1), None))
}

/// The runs of the first `transactions` transactions, and the others.
fn split(runs: &[Arc<Run>], transactions: usize) -> (&[Arc<Run>], &[Arc<Run>]) {
    let ends =
        runs.iter().enumerate().filter(|(_, run)| run.spans().iter().any(|span| span.end_lsn.is_some()));
    let last = ends.map(|(index, _)| index).nth(transactions - 1).unwrap();
    runs.split_at(last + 1)
}

#[test]
fn time_travel_and_a_database_made_anew_are_recognised_while_running() {
    let source = few_transactions();
    for is_anew in [false, true] {
        let rig = Rig::new(&source);
        let runs = runs(&source.stream, &rig.plan, 1);
        let mut sink = rig.opened(1_000);
        let (first, rest) = split(&runs, 1);
        apply(&mut sink, first).unwrap();
        let bookmark = rig.workerd.bookmark("eu").unwrap();
        let (second, rest) = split(rest, 1);
        apply(&mut sink, second).unwrap();
        match is_anew {
            true => rig.workerd.recreate("eu").unwrap(),
            false => rig.workerd.restore("eu", &bookmark).unwrap(),
        }
        let error = apply(&mut sink, rest).unwrap_err();
        assert_eq!(error.kind(), Kind::NeedsBackfill, "{error:?}");
        if !is_anew {
            assert_eq!(rig.rows(), source.at(source.transactions[0].end_lsn), "nothing was written");
        }
    }
}

#[test]
fn a_second_engine_takes_over_and_the_first_stops_for_good() {
    let source = few_transactions();
    let rig = Rig::new(&source);
    let runs = runs(&source.stream, &rig.plan, 1);
    let (first, rest) = split(&runs, 1);
    let mut old = rig.opened(1_000);
    apply(&mut old, first).unwrap();
    // The old one's last request is applied, and its answer is lost.
    rig.order(json!({"kind": "reset", "applied": true, "times": 1}));
    let (second, rest) = split(rest, 1);
    assert_eq!(apply(&mut old, second).unwrap_err().kind(), Kind::Transient);
    let mut new = rig.sink(1_000);
    let checkpoint = new.open(&rig.plan, &identity()).unwrap().unwrap();
    assert_eq!(checkpoint.lsn, source.transactions[1].end_lsn);
    let error = apply(&mut old, rest).unwrap_err();
    assert!(error.to_string().contains("another walcast engine has taken this replica over"), "{error}");
    apply(&mut new, rest).unwrap();
    assert_eq!(rig.rows(), source.at(Lsn(u64::MAX)));
}

#[test]
fn poison_rows_are_found_without_a_reader_seeing_a_part_of_their_transaction() {
    let ops: Vec<Op> = (0..500).map(|key| Op::Insert(key, [Some(format!("row {key}")), None])).collect();
    let source = Source::new(&[ops], false);
    let rig = Rig::new(&source);
    let runs = runs(&source.stream, &rig.plan, usize::MAX / 4);
    let mut sink = rig.opened(1_000);
    rig.exec(
        "CREATE TRIGGER refuse BEFORE INSERT ON items WHEN NEW.id IN (17, 251, 499)
         BEGIN SELECT raise(ABORT, 'not this one'); END",
    );
    let applied = apply(&mut sink, &runs).unwrap();
    assert_eq!((applied.changes, applied.dead_letters, applied.transactions), (497, 3, 1));
    let letters = rig.texts("SELECT key FROM _walcast_dead_letters ORDER BY id");
    assert_eq!(letters, ["[17]", "[251]", "[499]"]);
    let rows = rig.rows();
    assert_eq!(rows.len(), 497);
    assert!(!rows.contains_key(&251));
    let sequence = rig.texts("SELECT CAST(sequence AS TEXT) FROM _walcast_checkpoint");
    assert_eq!(sequence, ["1"], "one request had an effect");
    assert_eq!(rig.workerd.violations().unwrap(), 0);
}

// ---- both ways there --------------------------------------------------------------------------------------------

const DATABASE: &str = "walcast-eu";
const BINDING: &str = "DB_EU";
/// Fewer than through one way: each is there twice.
const TRANSACTIONS_EACH_WAY: usize = 250;
/// How many attempts a batch may need.
const ATTEMPTS_MAX: u32 = 200;
/// Faults that say that nothing is known, or that come again at once, by the share of requests that they meet.
const SHARES: [(&str, bool, f64); 7] = [
    ("reset", true, 0.06),
    ("reset", false, 0.03),
    ("503", true, 0.03),
    ("internal-error", false, 0.03),
    ("storage-reset", true, 0.03),
    ("truncated", true, 0.03),
    ("too-many-queued", false, 0.03),
];

fn way(workerd: &Workerd, name: &str) -> Box<dyn Transport> {
    match name {
        "rest" => Box::new(d1::rest(workerd, DATABASE)),
        _ => Box::new(d1::worker(workerd, BINDING)),
    }
}

/// A sink that sets nothing aside, with small requests.
fn strict(workerd: &Workerd, name: &str) -> D1Sink {
    let request = RequestLimits { rows_max: 8, bytes_max: 4 << 20 };
    let options = Options { on_rejected: OnRejected::Halt, request, ..Options::default() };
    D1Sink::new("eu", way(workerd, name), options)
}

fn order_shares(workerd: &Workerd, seed: u64) {
    for (kind, is_applied, share) in SHARES {
        let fault = json!({ "db": DATABASE, "kind": kind, "applied": is_applied, "share": share, "seed": seed,
            "times": "until cleared" });
        workerd.order(&fault).unwrap();
    }
}

fn rows_by(workerd: &Workerd, name: &str) -> Rows {
    let sql = "SELECT CAST(id AS TEXT) AS id, json_array(name, note) AS cells FROM items";
    let answer = d1::run(&mut *way(workerd, name), sql).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let row = |row: &serde_json::Map<_, _>| {
        (text(&row["id"]).parse().unwrap(), serde_json::from_str(&text(&row["cells"])).unwrap())
    };
    answer.rows.iter().map(row).collect()
}

#[test]
fn a_database_equals_its_source_at_every_checkpoint_whatever_fails_on_the_way() {
    for (name, seed) in [("rest", 1), ("worker", 2)] {
        let mut workerd = Workerd::start().unwrap();
        workerd.create_database(DATABASE).unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        let source = Source::new(&transactions(&mut rng)[..TRANSACTIONS_EACH_WAY], seed == 2);
        let plan = Arc::new(source.plan());
        let runs = runs::runs(&source.stream, &plan, 400);
        let mut replica = strict(&workerd, name);
        assert_eq!(replica.open(&plan, &identity()).unwrap(), None);
        replica.start_at(Lsn(1)).unwrap();

        let (mut next, mut restarts) = (0, 0);
        order_shares(&workerd, seed);
        while next < runs.len() {
            let end = (next + rng.usize(1..8)).min(runs.len());
            // The batch before comes again too, as after a restart of the stream.
            let batch = Batch::new(&runs[next.saturating_sub(3)..end], Lsn(1), None);
            let mut attempts = 0;
            while let Err(error) = replica.apply(&batch) {
                assert!(
                    matches!(error.kind(), Kind::Transient | Kind::Throttled { .. }),
                    "{name}: {error:?}"
                );
                attempts += 1;
                assert!(attempts < ATTEMPTS_MAX, "{name}: {error:?}");
            }
            next = end;
            if rng.u32(..12) == 0 {
                workerd.kill().unwrap();
                assert!(replica.apply(&batch).is_ok() || replica.checkpoint().is_err());
                workerd.start_again().unwrap();
                restarts += 1;
            }
            workerd.clear_faults().unwrap();
            if rng.u32(..12) == 0 {
                // Another engine takes over; the one before can no longer write.
                let mut newer = strict(&workerd, name);
                newer.open(&plan, &identity()).unwrap();
                replica = newer;
            }
            let checkpoint = replica.checkpoint().unwrap();
            if checkpoint.open.is_none() {
                assert_eq!(
                    rows_by(&workerd, name),
                    source.at(checkpoint.lsn),
                    "{name} at {}",
                    checkpoint.lsn
                );
            }
            order_shares(&workerd, seed + next as u64);
        }
        workerd.clear_faults().unwrap();
        assert_eq!(rows_by(&workerd, name), source.at(Lsn(u64::MAX)), "{name}");
        assert_eq!(replica.checkpoint().unwrap().transactions as usize, source.transactions.len(), "{name}");
        assert!(restarts > 0, "{name}: nothing was killed");
        let stats = workerd.stats().unwrap();
        assert_eq!(stats["violations"], 0, "{name}: {}", stats["violated"]);
    }
}

#[test]
fn a_row_whose_json_is_longer_than_a_parameter_arrives_both_ways() {
    let text = "\"\\\n".repeat(350_000);
    let source = Source::new(
        &[
            vec![Op::Insert(1, [Some(text.clone()), None]), Op::Insert(2, [Some("ü".into()), None])],
            vec![
                Op::Update(1, [None, Some(Some("new".into()))]),
                Op::Update(2, [Some(Some(text.clone())), None]),
            ],
        ],
        false,
    );
    for name in ["rest", "worker"] {
        let workerd = Workerd::start().unwrap();
        workerd.create_database(DATABASE).unwrap();
        let plan = Arc::new(source.plan());
        let runs = runs(&source.stream, &plan, usize::MAX / 4);
        // The second request holds the updates alone.
        let mut sink = D1Sink::new("eu", way(&workerd, name), Options::default());
        sink.open(&plan, &identity()).unwrap();
        sink.start_at(Lsn(1)).unwrap();
        let (first, rest) = split(&runs, 1);
        assert_eq!(apply(&mut sink, first).unwrap().dead_letters, 0);
        assert_eq!(apply(&mut sink, rest).unwrap().dead_letters, 0);
        let sql = "SELECT CAST(id AS TEXT) AS id, name, note FROM items ORDER BY items.id";
        let answer = d1::run(&mut *way(&workerd, name), sql).unwrap();
        let found: Vec<Value> = answer.rows.into_iter().map(Value::Object).collect();
        let expected = [
            json!({ "id": "1", "name": text, "note": "new" }),
            json!({ "id": "2", "name": text, "note": null }),
        ];
        assert!(found == expected, "{name}: a row is not as it is at the source");
        assert_eq!(workerd.violations().unwrap(), 0, "{name}");
    }
}

#[test]
fn a_database_that_was_deleted_asks_for_a_new_one_and_a_backfill() {
    let source = few_transactions();
    let rig = Rig::new(&source);
    let runs = runs(&source.stream, &rig.plan, 1);
    let (first, rest) = split(&runs, 1);
    let mut sink = rig.opened(1_000);
    apply(&mut sink, first).unwrap();
    rig.workerd.delete_database("eu").unwrap();
    // A sink that was given the name asks for the id by it, and is told that there is none.
    for error in
        [apply(&mut sink, rest).unwrap_err(), rig.sink(1_000).open(&rig.plan, &identity()).unwrap_err()]
    {
        assert_eq!(error.kind(), Kind::NeedsBackfill, "{error:?}");
        assert!(error.to_string().contains("the database is not there"), "{error}");
        assert!(error.hint_text().unwrap().contains("npx wrangler d1 create"), "{error:?}");
    }
}
