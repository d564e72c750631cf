//! Seeded simulation: the real decoder, mapper, queues, workers and detours between a model of Postgres and model sinks
//! that reject, apply and lose the answer, lose their open transaction, are throttled, or answer late, and that are left
//! behind, catch up on copies of the slot and come back; with broken sessions, crashes and restarts of the engine between
//! any two steps. After every step the invariants of the engine are checked, and after the drain every sink equals the
//! model.
//!
//! A failure prints its seed; `WALCAST_SEED=n cargo test --test simulation` replays it alone.

mod engine;
#[path = "../support/seeds.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod seeds;
mod sink;
mod source;
#[path = "../support/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use walcast::capture::slot::SourceIdentity;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::schema_file::SchemaFile;

use self::engine::Simulation;

const SEEDS: u64 = 400;
const ITEMS: u32 = 50_001;
const PARTS: u32 = 50_002;

/// Rows by table and key, as target values.
type Rows = BTreeMap<&'static str, BTreeMap<Vec<String>, Vec<String>>>;

#[test]
fn every_sink_equals_the_model_whatever_fails() {
    let mut seen = Seen::default();
    seeds::each(SEEDS, |seed| Simulation::new(seed).run()).into_iter().for_each(|one| seen.add(one));
    eprintln!("{seen:?}");
    if seeds::asked().is_none() {
        // The simulation is worth something only if it went where it claims to go.
        let Seen { crashes, lost_answers, replays, parts, rejected_attempts, .. } = seen;
        for (what, count) in [
            ("sinks left behind", seen.left),
            ("sinks left behind again before they were back", seen.left_again),
            ("sinks that came back without a stream of their own", seen.came_back),
            ("sinks back", seen.back),
            ("restarts on a copy", seen.restarts_on_copy),
            ("restarts with a copy that was not needed", seen.restarts_beside_copy),
            ("replays of a sink's own stream", seen.own_replays),
            ("crashes", crashes),
            ("lost answers", lost_answers),
            ("replays", replays),
            ("transactions in parts", parts),
            ("rejected attempts", rejected_attempts),
        ] {
            assert!(count >= 100, "only {count} {what}");
        }
    }
}

/// What happened, over all seeds.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    crashes: u32,
    lost_answers: u32,
    replays: u32,
    parts: u32,
    rejected_attempts: u32,
    left: u32,
    left_again: u32,
    came_back: u32,
    back: u32,
    restarts_on_copy: u32,
    restarts_beside_copy: u32,
    own_replays: u32,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.crashes += other.crashes;
        self.lost_answers += other.lost_answers;
        self.replays += other.replays;
        self.parts += other.parts;
        self.rejected_attempts += other.rejected_attempts;
        self.left += other.left;
        self.left_again += other.left_again;
        self.came_back += other.came_back;
        self.back += other.back;
        self.restarts_on_copy += other.restarts_on_copy;
        self.restarts_beside_copy += other.restarts_beside_copy;
        self.own_replays += other.own_replays;
    }
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

fn plan() -> Arc<Plan> {
    let schema = r#"{
        "items": { "primaryKey": "id", "columns": { "id": "INTEGER", "name": "TEXT", "note": "TEXT" } },
        "parts": {
            "primaryKey": ["item", "code"],
            "columns": { "item": "INTEGER", "code": "TEXT", "amount": "INTEGER" }
        }
    }"#;
    let schema = SchemaFile::parse("schema.json", schema).unwrap();
    let tables = [
        wire::table(
            ITEMS,
            "items",
            &[("id", 20), ("name", 25), ("note", 25)],
            &["id"],
            ReplicaIdentity::Default,
        ),
        wire::table(
            PARTS,
            "parts",
            &[("item", 20), ("code", 25), ("amount", 20)],
            &["item", "code"],
            ReplicaIdentity::Full,
        ),
    ];
    Arc::new(Plan::new(&schema, &tables).unwrap())
}
