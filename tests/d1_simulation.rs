//! Seeded simulation of D1 sinks: the real decoder, mapper, queues, workers and sinks between a source and databases in
//! memory, whose requests get lost, are applied without an answer, are throttled or are too much, most of them while the
//! next one is composed; with crashes of the engine, and transactions that are larger than a request. After every step a database holds what the source held at
//! its checkpoint, and after the drain it holds everything, each transaction once.
//!
//! A failure prints its seed; `WALCAST_SEED=n cargo test --test d1_simulation` replays it alone.

#[path = "support/changes.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod changes;
#[path = "support/local_d1.rs"]
mod local_d1;
#[path = "support/seeds.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod seeds;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use changes::{Op, Rows, Source};
use crossbeam_channel::Sender;
use local_d1::{Faults, LocalD1, Seen};
use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::fanout::chain::{Inlet, chain};
use walcast::fanout::delivery::Delivery;
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::SinkProgress;
use walcast::fanout::retry::Backoff;
use walcast::fanout::sink::Sink;
use walcast::fanout::worker::{BatchLimits, Step, Worker};
use walcast::sink::d1::limits::RequestLimits;
use walcast::sink::d1::{D1Sink, Options};

const SEEDS: u64 = 150;
/// Far more rounds than a worker needs for what a simulation leaves.
const DRAIN_STEPS_MAX: u32 = 20_000;

#[test]
fn every_database_equals_the_source_whatever_fails() {
    let (mut seen, mut splits) = (Seen::default(), 0);
    for (one, split) in seeds::each(SEEDS, |seed| Simulation::new(seed).run()) {
        seen.add(one);
        splits += split;
    }
    eprintln!("{seen:?}, {splits} moments inside a transaction");
    if seeds::asked().is_none() {
        // It is worth something only if it went where it claims to go.
        for count in [seen.lost, seen.lost_answers, seen.refused, seen.overlapped, splits] {
            assert!(count >= 500, "{seen:?} {splits}");
        }
    }
}

struct Simulation {
    rng: fastrand::Rng,
    source: Source,
    plan: Arc<Plan>,
    databases: Vec<Database>,
    splits: u32,
}

struct Database {
    local: LocalD1,
    faults: Faults,
    options: Options,
    /// The checkpoint when it was last looked at.
    lsn: Lsn,
}

/// One life of the engine.
struct Engine {
    outlets: Arc<Outlets>,
    workers: Vec<Worker<D1Sink>>,
    progress: Vec<Arc<SinkProgress>>,
    /// More queues could come, as long as these are there.
    _chains: Vec<Sender<Inlet>>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let transactions: Vec<Vec<Op>> = (0..rng.usize(20..80)).map(|_| transaction(&mut rng)).collect();
        let source = Source::new(&transactions, rng.bool());
        let plan = Arc::new(source.plan());
        let databases = (0..rng.usize(1..4))
            .map(|_| {
                let local = LocalD1::new(rng.u64(..));
                let faults = Faults {
                    lost: rng.u32(..150),
                    lost_answer: rng.u32(..200),
                    throttled: rng.u32(..100),
                    overloaded: rng.u32(..50),
                    too_much: rng.u32(..50),
                    busy: rng.u32(..50),
                };
                // From where every larger transaction is split to where none is.
                let request = RequestLimits { rows_max: [1, 3, 10, 100][rng.usize(..4)], bytes_max: 1 << 20 };
                let options = Options { request, skip_unchanged: rng.bool(), ..Options::default() };
                let mut sink = D1Sink::new("d1", Box::new(local.clone()), options);
                sink.open(&plan, &identity()).unwrap();
                sink.start_at(Lsn(1)).unwrap();
                Database { local, faults, options, lsn: Lsn(1) }
            })
            .collect();
        Simulation { rng, source, plan, databases, splits: 0 }
    }

    fn run(mut self) -> (Seen, u32) {
        for _ in 0..self.rng.u32(2..6) {
            let steps = self.rng.u32(20..150);
            self.live(steps);
        }
        self.drain();
        let mut seen = Seen::default();
        for database in &self.databases {
            seen.add(database.local.seen());
        }
        (seen, self.splits)
    }

    fn start(&mut self) -> Engine {
        let (outlets, _) = Outlets::new(Duration::MAX);
        let (mut workers, mut progresses, mut chains) = (Vec::new(), Vec::new(), Vec::new());
        for database in &self.databases {
            database.local.set_faults(Faults::default());
            let mut sink = D1Sink::new("d1", Box::new(database.local.clone()), database.options);
            let checkpoint = sink.open(&self.plan, &identity()).unwrap().unwrap();
            database.local.set_faults(database.faults);
            let progress = SinkProgress::new("d1");
            let (outlet, inlet) = outlets.queue(&progress, usize::MAX);
            outlets.attach(outlet);
            let (inlets, queue) = chain();
            inlets.send(inlet).unwrap();
            chains.push(inlets);
            let limits =
                BatchLimits { rows_max: self.rng.usize(1..40), bytes_max: self.rng.usize(200..4000) };
            let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
            let rng = self.rng.fork();
            workers.push(Worker::new(sink, queue, progress.clone(), checkpoint.lsn, limits, backoff, rng));
            progresses.push(progress);
        }
        Engine { outlets: Arc::new(outlets), workers, progress: progresses, _chains: chains }
    }

    fn options(&mut self, engine: &Engine) -> RiverOptions {
        RiverOptions {
            part_bytes_max: self.rng.usize(100..3000),
            idle_interval: Duration::ZERO,
            needed_from: engine.progress.iter().map(|one| one.durable_lsn()).min().unwrap(),
            older: OlderForms::default(),
        }
    }

    /// Sessions of one engine, until it is killed after `steps` steps.
    fn live(&mut self, steps: u32) {
        let mut engine = self.start();
        let mut left = steps;
        while left > 0 {
            let options = self.options(&engine);
            engine.outlets.send(&Delivery::Restart);
            let Engine { outlets, workers, .. } = &mut engine;
            let mut river = River::new(self.plan.clone(), outlets.clone(), options);
            let stream = self.source.stream.clone();
            let frames = frames(&stream);
            let mut sent = 0;
            while left > 0 && self.rng.u32(..60) > 0 {
                left -= 1;
                if self.rng.u32(..3) == 0 && sent < frames.len() {
                    let end = (sent + self.rng.usize(1..60)).min(frames.len());
                    let bytes = frames[sent..end].concat();
                    river.flow(&FrameRun::new(bytes.into())).unwrap();
                    sent = end;
                } else {
                    let index = self.rng.usize(..workers.len());
                    step(&mut workers[index]);
                }
                self.check();
            }
        }
    }

    /// What holds at every moment.
    fn check(&mut self) {
        for database in &mut self.databases {
            let sql = "SELECT lsn, open_changes, transactions FROM _walcast_checkpoint";
            let row = &database.local.rows(sql)[0];
            let fields: Vec<&str> = row.split('|').collect();
            let lsn: Lsn = fields[0].parse().unwrap();
            assert!(lsn >= database.lsn, "a checkpoint never goes back");
            database.lsn = lsn;
            let applied = self.source.transactions.iter().take_while(|one| one.end_lsn <= lsn).count();
            assert_eq!(fields[2], applied.to_string(), "each transaction once");
            if fields[1] == "NULL" {
                assert_eq!(rows(&database.local), self.source.at(lsn), "whole transactions, in order");
            } else {
                self.splits += 1;
                assert!(database.options.request.rows_max < 100, "a transaction that fits is never split");
            }
        }
    }

    /// Without faults, everything arrives.
    fn drain(&mut self) {
        let mut engine = self.start();
        self.databases.iter().for_each(|database| database.local.set_faults(Faults::default()));
        let options = self.options(&engine);
        engine.outlets.send(&Delivery::Restart);
        let mut river = River::new(self.plan.clone(), engine.outlets.clone(), options);
        river.flow(&FrameRun::new(self.source.stream.clone().into())).unwrap();
        let end = self.source.transactions.last().unwrap().end_lsn;
        for (index, worker) in engine.workers.iter_mut().enumerate() {
            for _ in 0..DRAIN_STEPS_MAX {
                step(worker);
                self.check();
                if self.databases[index].lsn >= end {
                    break;
                }
            }
            // What is still to come changes nothing.
            (0..20).for_each(|_| step(worker));
        }
        self.check();
        for database in &self.databases {
            assert_eq!(database.lsn, end);
            assert_eq!(rows(&database.local), self.source.at(Lsn(u64::MAX)), "equal after the drain");
            assert!(database.local.rows("SELECT * FROM _walcast_dead_letters").is_empty());
        }
    }
}

fn step(worker: &mut Worker<D1Sink>) {
    match worker.step(false) {
        Step::Done | Step::Wait(_) => {}
        Step::Closed => panic!("the queue is open"),
        Step::Stopped(error) => panic!("a sink stopped: {error:?}"),
    }
}

/// The stream, frame by frame.
fn frames(stream: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    let mut rest = stream;
    while rest.len() > 5 {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize + 1;
        let (frame, after) = rest.split_at(length);
        frames.push(frame);
        rest = after;
    }
    frames
}

fn rows(database: &LocalD1) -> Rows {
    database
        .rows("SELECT id, json_array(name, note) FROM items")
        .iter()
        .map(|row| {
            let (id, values) = row.split_once('|').unwrap();
            (id.parse().unwrap(), serde_json::from_str(values).unwrap())
        })
        .collect()
}

fn transaction(rng: &mut fastrand::Rng) -> Vec<Op> {
    let changes = if rng.u32(..5) == 0 { rng.usize(20..60) } else { rng.usize(0..5) };
    (0..changes)
        .map(|_| {
            let key = rng.i64(0..30);
            let mut value =
                || (rng.u32(..5) > 0).then(|| rng.alphabetic().to_string().repeat(rng.usize(..20)));
            let row = [value(), value()];
            match rng.u32(..20) {
                0..8 => Op::Insert(key, row),
                8..13 => Op::Update(key, row.map(|value| rng.bool().then_some(value))),
                13..16 => Op::Move(key, rng.i64(0..30), row.map(|value| rng.bool().then_some(value))),
                16..19 => Op::Delete(key),
                _ if rng.u32(..5) == 0 => Op::Truncate,
                _ => Op::Delete(key),
            }
        })
        .collect()
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}
