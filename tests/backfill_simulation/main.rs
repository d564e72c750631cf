//! Seeded simulation of a backfill under a stream: the real decoder, mapper, chunk encoder and log of touched keys,
//! between a model of Postgres and a model of a sink.
//!
//! The model of Postgres has what makes a backfill hard: a commit is in the WAL, and may be delivered, before it is
//! visible; xids are given out in another order than commits; updates leave unchanged TOAST out; keys change; rows come
//! back under their key; tables are emptied. Chunks are read by several readers from snapshots of the primary or from a
//! standby that lags behind, and are queued long after they were read. The engine crashes and goes on from what the
//! sink has.
//!
//! At the end the sink must equal the source, and once the table is live no update may miss its row. Each safeguard is
//! then taken away, one at a time ([`Without`]), and the simulation must notice.
//!
//! A failure prints its seed; `WALCAST_SEED=n cargo test --test backfill_simulation` replays it alone.

mod engine;
#[path = "../support/seeds.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod seeds;
mod sink;
#[path = "../support/snapshots.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod snapshots;
#[path = "../support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use self::engine::Simulation;

const SEEDS: u64 = 600;

/// The safeguard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Chunk rows are written as they were read.
    Visibility,
    /// What a chunk saw is told by its LSN.
    XidsButLsns,
    /// A row that was updated in part is written as it was read.
    Overlay,
    /// Rows that moved here in part are not read again.
    Owed,
    /// A fill begins without waiting for what was delivered before it.
    InDoubt,
}

#[test]
fn a_filled_table_equals_the_source_whatever_happens_meanwhile() {
    let mut seen = Seen::default();
    seeds::each(SEEDS, |seed| Simulation::run(seed, Without::Nothing)).iter().for_each(|one| seen.add(one));
    eprintln!("{seen:?}");
    if seeds::asked().is_none() {
        // The simulation is worth something only if it went where it claims to go.
        for (what, count) in seen.counts() {
            assert!(count >= 20, "only {count} {what}");
        }
    }
}

#[test]
fn without_any_one_safeguard_the_simulation_goes_wrong() {
    let safeguards =
        [Without::Visibility, Without::XidsButLsns, Without::Overlay, Without::Owed, Without::InDoubt];
    seeds::each_is_missed(safeguards, SEEDS, Simulation::run);
}

/// How often what happened, over all seeds.
#[derive(Debug, Default, Clone)]
struct Seen {
    delivered_unseen: u32,
    left_out: u32,
    overlaid: u32,
    stale: u32,
    owed: u32,
    misses: u32,
    crashes: u32,
    standby_reads: u32,
    refused_reads: u32,
    truncates: u32,
    restarts: u32,
}

impl Seen {
    fn counts(&self) -> [(&'static str, u32); 11] {
        [
            ("transactions delivered before they are visible", self.delivered_unseen),
            ("rows left out", self.left_out),
            ("rows overlaid", self.overlaid),
            ("stale chunks", self.stale),
            ("rows owed", self.owed),
            ("updates of rows that are not filled yet", self.misses),
            ("crashes", self.crashes),
            ("reads of a standby", self.standby_reads),
            ("reads of a standby that lags", self.refused_reads),
            ("truncates", self.truncates),
            ("new beginnings", self.restarts),
        ]
    }

    fn add(&mut self, other: &Seen) {
        self.delivered_unseen += other.delivered_unseen;
        self.left_out += other.left_out;
        self.overlaid += other.overlaid;
        self.stale += other.stale;
        self.owed += other.owed;
        self.misses += other.misses;
        self.crashes += other.crashes;
        self.standby_reads += other.standby_reads;
        self.refused_reads += other.refused_reads;
        self.truncates += other.truncates;
        self.restarts += other.restarts;
    }
}
