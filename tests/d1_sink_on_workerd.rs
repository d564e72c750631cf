//! The D1 sink over both transports on real workerd: seeded transactions, faults between and inside of its requests,
//! workerd killed on the way, and the engine replaced. At every checkpoint the database holds what the source held, and
//! no request breaks a documented limit.

#[path = "support/changes.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod changes;
#[path = "support/d1.rs"]
mod d1;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::sync::Arc;

use changes::{Op, Rows, Source, transactions};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;
use walcast::Lsn;
use walcast::app::demo::Workerd;
use walcast::capture::slot::SourceIdentity;
use walcast::error::Kind;
use walcast::fanout::sink::{Batch, Sink};
use walcast::sink::d1::limits::RequestLimits;
use walcast::sink::d1::transport::Transport;
use walcast::sink::d1::{D1Sink, Options};
use walcast::sink::replica::OnRejected;

use d1::{rest, run, worker};

const DATABASE: &str = "walcast-eu";
const BINDING: &str = "DB_EU";
/// How many times up to eight transactions are drawn.
const DRAWS: usize = 60;
/// How many attempts a batch may need.
const ATTEMPTS_MAX: u32 = 200;
/// Faults that say that nothing is known, or that come again at once, by the share of requests that they meet.
const FAULTS: [(&str, bool, f64); 7] = [
    ("reset", true, 0.06),
    ("reset", false, 0.03),
    ("503", true, 0.03),
    ("internal-error", false, 0.03),
    ("storage-reset", true, 0.03),
    ("truncated", true, 0.03),
    ("too-many-queued", false, 0.03),
];

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

/// Transactions that depend on nothing but the seed.
fn seeded(seed: u64) -> Vec<Vec<Op>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..DRAWS).flat_map(|_| transactions().new_tree(&mut runner).unwrap().current()).collect()
}

fn way(workerd: &Workerd, name: &str) -> Box<dyn Transport> {
    match name {
        "rest" => Box::new(rest(workerd, DATABASE)),
        _ => Box::new(worker(workerd, BINDING)),
    }
}

fn sink(workerd: &Workerd, name: &str) -> D1Sink {
    let request = RequestLimits { rows_max: 8, bytes_max: 4 << 20 };
    let options = Options { on_rejected: OnRejected::Halt, skip_unchanged: false, request };
    D1Sink::new("eu", way(workerd, name), options)
}

fn order(workerd: &Workerd, seed: u64) {
    for (kind, is_applied, share) in FAULTS {
        let fault = json!({ "db": DATABASE, "kind": kind, "applied": is_applied, "share": share, "seed": seed,
            "times": "until cleared" });
        workerd.order(&fault).unwrap();
    }
}

fn rows(workerd: &Workerd, name: &str) -> Rows {
    let sql = "SELECT CAST(id AS TEXT) AS id, json_array(name, note) AS cells FROM items";
    let answer = run(&mut *way(workerd, name), sql).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
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
        let source = Source::new(&seeded(seed), seed == 2);
        let plan = Arc::new(source.plan());
        let runs = runs::runs(&source.stream, &plan, 400);
        let mut replica = sink(&workerd, name);
        assert_eq!(replica.open(&plan, &identity()).unwrap(), None);
        replica.start_at(Lsn(1)).unwrap();

        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut next, mut restarts) = (0, 0);
        order(&workerd, seed);
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
                let mut newer = sink(&workerd, name);
                newer.open(&plan, &identity()).unwrap();
                replica = newer;
            }
            let checkpoint = replica.checkpoint().unwrap();
            if checkpoint.open.is_none() {
                assert_eq!(rows(&workerd, name), source.at(checkpoint.lsn), "{name} at {}", checkpoint.lsn);
            }
            order(&workerd, seed + next as u64);
        }
        workerd.clear_faults().unwrap();
        assert_eq!(rows(&workerd, name), source.at(Lsn(u64::MAX)), "{name}");
        assert_eq!(replica.checkpoint().unwrap().transactions as usize, source.transactions.len(), "{name}");
        assert!(restarts > 0, "{name}: nothing was killed");
        let stats = workerd.stats().unwrap();
        assert_eq!(stats["violations"], 0, "{name}: {}", stats["violated"]);
    }
}
