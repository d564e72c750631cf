//! Seeded simulation of fills: the real river, gate, queues, workers, detours and sinks, SQLite files and D1 databases
//! in memory, between a model of Postgres and readers that go one step at a time.
//!
//! Sinks reject, apply and lose the answer, lose their open transaction, are left behind, catch up on copies of the slot
//! and join again in the middle of a fill; regions are lost and begin empty, operators have tables filled and emptied
//! anew and rows read again, a column's type changes, rows disappear from replicas; readers lose their connection, and the log of touched keys
//! overflows; sessions break and the engine crashes.
//!
//! Readers never see a table that is built anew before it is all there. Whenever a table is live, its rows are what the source was at the checkpoint; no update of a live table misses its
//! row, unless somebody has taken it away; and at the end every table is live. Two safeguards are then taken away, and
//! the simulation must notice.
//!
//! A failure prints its seed; `WALCAST_SEED=n cargo test --test fill_simulation` replays it alone.

mod databases;
mod ddl;
mod engine;
mod keeper;
#[path = "../support/local_d1.rs"]
mod local_d1;
mod readers;
#[path = "../support/seeds.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod seeds;
#[path = "../support/snapshots.rs"]
mod snapshots;
mod streams;
#[path = "../support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use self::engine::Simulation;

const SEEDS: u64 = 200;

/// The safeguard that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// What was read joins the stream as it is.
    Gate,
    /// Reading begins without waiting for what was delivered before.
    Doubt,
}

#[test]
fn a_live_table_is_what_the_source_was_whatever_happens_to_its_fill() {
    let mut seen = Seen::default();
    let ran = seeds::each(SEEDS, |seed| Simulation::new(seed, Without::Nothing).run());
    ran.into_iter().for_each(|one| seen.add(one));
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
    let safeguards = [Without::Gate, Without::Doubt];
    seeds::each_is_missed(safeguards, SEEDS, |seed, without| Simulation::new(seed, without).run());
}

/// How often what happened, over all seeds.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    chunks: u32,
    stale: u32,
    refused_reads: u32,
    blind: u32,
    paid: u32,
    missed: u32,
    crashes: u32,
    lost_answers: u32,
    new_regions: u32,
    refills: u32,
    retries: u32,
    taken_away: u32,
    left: u32,
    back: u32,
    live: u32,
    beside: u32,
    swapped: u32,
    altered: u32,
    told: u32,
    stopped: u32,
    resumed: u32,
    unsound: u32,
    others: u32,
}

impl Seen {
    fn counts(&self) -> [(&'static str, u32); 23] {
        [
            ("chunks", self.chunks),
            ("stale chunks", self.stale),
            ("reads that saw too little", self.refused_reads),
            ("overflows of the log", self.blind),
            ("rows read by themselves", self.paid),
            ("updates of rows that were taken away", self.missed),
            ("crashes", self.crashes),
            ("lost answers", self.lost_answers),
            ("regions that began empty", self.new_regions),
            ("fills that were asked for", self.refills),
            ("rows that were asked for", self.retries),
            ("rows taken away", self.taken_away),
            ("sinks left behind", self.left),
            ("sinks back", self.back),
            ("looks at live tables", self.live),
            ("looks at tables that are built anew", self.beside),
            ("tables that took another's place", self.swapped),
            ("alterations of the table", self.altered),
            ("times that sinks were told of a table that is gone", self.told),
            ("looks at stopped tables", self.stopped),
            ("tables that went on", self.resumed),
            ("tables that changed while they went on", self.unsound),
            ("looks at the other table", self.others),
        ]
    }

    fn add(&mut self, other: Seen) {
        let Seen { chunks, stale, refused_reads, blind, paid, missed, crashes, .. } = other;
        let Seen { lost_answers, new_regions, refills, retries, taken_away, left, back, .. } = other;
        let Seen { live, beside, swapped, .. } = other;
        let Seen { altered, told, stopped, resumed, unsound, others, .. } = other;
        self.chunks += chunks;
        self.stale += stale;
        self.refused_reads += refused_reads;
        self.blind += blind;
        self.paid += paid;
        self.missed += missed;
        self.crashes += crashes;
        self.lost_answers += lost_answers;
        self.new_regions += new_regions;
        self.refills += refills;
        self.retries += retries;
        self.taken_away += taken_away;
        self.left += left;
        self.back += back;
        self.live += live;
        self.beside += beside;
        self.swapped += swapped;
        self.altered += altered;
        self.told += told;
        self.stopped += stopped;
        self.resumed += resumed;
        self.unsound += unsound;
        self.others += others;
    }
}
