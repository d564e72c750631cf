//! Seeded simulation: the real decoder, mapper, queues and workers between a model of Postgres and model sinks that
//! reject, apply and lose the answer, lose their open transaction, are throttled, or answer late; with crashes and
//! restarts of the engine. After every step the invariants of the engine are checked, and after the drain every sink
//! equals the model.
//!
//! A failure prints its seed; `WALCAST_SEED=n cargo test --test simulation` replays it alone.

#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::capture::slot::SourceIdentity;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::cell::Cell;
use walcast::encode::plan::Plan;
use walcast::encode::run::ChangeKind;
use walcast::encode::schema_file::SchemaFile;
use walcast::error::{Error, Kind, Result};
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::{Progress, SinkProgress};
use walcast::fanout::queue;
use walcast::fanout::retry::Backoff;
use walcast::fanout::sink::{Applied, Batch, Checkpoint, Sink};
use walcast::fanout::worker::{BatchLimits, Delivery, Step, Worker};
use wire::{Value, text};

const SEEDS: u64 = 400;
/// Far more rounds than a worker needs for what a simulation leaves.
const DRAIN_STEPS_MAX: u32 = 10_000;
const ITEMS: u32 = 50_001;
const PARTS: u32 = 50_002;

/// Rows by table and key, as target values.
type State = BTreeMap<&'static str, BTreeMap<Vec<String>, Vec<String>>>;

#[test]
fn every_sink_equals_the_model_whatever_fails() {
    let seeds = match std::env::var("WALCAST_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("WALCAST_SEED is a number"),
        Err(_) => 0..SEEDS,
    };
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        let result = std::panic::catch_unwind(|| Simulation::new(seed).run());
        match result {
            Ok(one) => seen.add(one),
            Err(panic) => {
                eprintln!("simulation failed; replay it with WALCAST_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{seen:?}");
    if seeds.end - seeds.start > 1 {
        // The simulation is worth something only if it went where it claims to go.
        let Seen { crashes, lost_answers, replays, parts, rejected_attempts } = seen;
        for (what, count) in [
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
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.crashes += other.crashes;
        self.lost_answers += other.lost_answers;
        self.replays += other.replays;
        self.parts += other.parts;
        self.rejected_attempts += other.rejected_attempts;
    }
}

// ---- the source -------------------------------------------------------------------------------------------------

struct Source {
    rng: fastrand::Rng,
    state: Arc<State>,
    /// The state before the first transaction.
    empty: Arc<State>,
    /// Every committed transaction: its end, its bytes, and the state after it.
    transactions: Vec<Committed>,
    lsn: u64,
    confirmed_flush_lsn: Lsn,
}

struct Committed {
    commit_lsn: Lsn,
    end_lsn: Lsn,
    messages: Vec<Vec<u8>>,
    after: Arc<State>,
}

impl Source {
    fn new(rng: fastrand::Rng) -> Self {
        let state = Arc::new(State::from([("items", BTreeMap::new()), ("parts", BTreeMap::new())]));
        let empty = state.clone();
        Source { rng, state, empty, transactions: Vec::new(), lsn: 1000, confirmed_flush_lsn: Lsn(1000) }
    }

    fn commit(&mut self) {
        let changes = if self.rng.u32(..8) == 0 { self.rng.u32(30..90) } else { self.rng.u32(1..6) };
        let bodies: Vec<_> = (0..changes).filter_map(|_| self.change()).collect();
        // A commit record may stand right behind the one before.
        self.lsn += self.rng.u64(..50) * self.rng.u64(..2);
        let (commit_lsn, end_lsn) = (Lsn(self.lsn), Lsn(self.lsn + 8));
        self.lsn += 8;
        let xid = self.transactions.len() as u32 + 1;
        let mut messages = vec![wire::begin(commit_lsn, i64::from(xid) * 1_000_000, xid)];
        messages.extend(bodies);
        messages.push(wire::commit(commit_lsn, end_lsn));
        self.transactions.push(Committed { commit_lsn, end_lsn, messages, after: self.state.clone() });
    }

    /// A random change, applied to the model and spelt as pgoutput spells it.
    fn change(&mut self) -> Option<Vec<u8>> {
        match self.rng.u32(..20) {
            0..8 => Some(self.insert_item()),
            8..12 => self.update_item(),
            12..14 => self.delete_item(),
            14..19 => Some(self.touch_part()),
            _ if self.rng.u32(..6) == 0 => {
                Arc::make_mut(&mut self.state).values_mut().for_each(BTreeMap::clear);
                Some(wire::truncate(&[ITEMS, PARTS]))
            }
            _ => None,
        }
    }

    fn insert_item(&mut self) -> Vec<u8> {
        let id = loop {
            let id = self.rng.i64(1..60);
            if !self.items().contains_key(&vec![id.to_string()]) {
                break id;
            }
            if self.items().len() > 40 {
                self.items().clear();
                return wire::truncate(&[ITEMS]);
            }
        };
        let row = [id.to_string(), self.word(), self.word()];
        self.items().insert(vec![id.to_string()], row.to_vec());
        wire::insert(ITEMS, &row.map(text))
    }

    /// `items` has the default replica identity and a column that updates may leave out.
    fn update_item(&mut self) -> Option<Vec<u8>> {
        let key = self.any_item()?;
        let mut row = self.items().remove(&key)?;
        let old_id = row[0].clone();
        row[1] = self.word();
        let is_partial = self.rng.bool();
        if !is_partial {
            row[2] = self.word();
        }
        let free =
            (60..90).map(|id: i64| id.to_string()).find(|id| !self.items().contains_key(&vec![id.clone()]));
        if let (Some(id), 0) = (free, self.rng.u32(..4)) {
            row[0] = id;
        }
        self.items().insert(vec![row[0].clone()], row.clone());
        let third = if is_partial { Value::Unchanged } else { text(&row[2]) };
        let new = [text(&row[0]), text(&row[1]), third];
        let old = [text(&old_id), Value::Null, Value::Null];
        Some(wire::update(ITEMS, (row[0] != old_id).then_some((b'K', &old[..])), &new))
    }

    fn delete_item(&mut self) -> Option<Vec<u8>> {
        let key = self.any_item()?;
        self.items().remove(&key);
        Some(wire::delete(ITEMS, b'K', &[text(&key[0]), Value::Null, Value::Null]))
    }

    /// `parts` has a composite key and replica identity FULL.
    fn touch_part(&mut self) -> Vec<u8> {
        let key = vec![self.rng.i64(1..6).to_string(), ["a", "b", "c"][self.rng.usize(..3)].to_owned()];
        let row = vec![key[0].clone(), key[1].clone(), self.rng.i64(..).to_string()];
        let values = |row: &[String]| row.iter().map(text).collect::<Vec<_>>();
        let is_delete = self.rng.u32(..3) == 0;
        let parts = Arc::make_mut(&mut self.state).get_mut("parts").unwrap();
        match parts.get(&key).cloned() {
            Some(old) if is_delete => {
                parts.remove(&key);
                wire::delete(PARTS, b'O', &values(&old))
            }
            Some(old) => {
                parts.insert(key, row.clone());
                wire::update(PARTS, Some((b'O', &values(&old))), &values(&row))
            }
            None => {
                parts.insert(key, row.clone());
                wire::insert(PARTS, &values(&row))
            }
        }
    }

    fn items(&mut self) -> &mut BTreeMap<Vec<String>, Vec<String>> {
        Arc::make_mut(&mut self.state).get_mut("items").unwrap()
    }

    fn any_item(&mut self) -> Option<Vec<String>> {
        let index = self.rng.usize(..60);
        let keys: Vec<_> = self.items().keys().cloned().collect();
        (!keys.is_empty()).then(|| keys[index % keys.len()].clone())
    }

    fn word(&mut self) -> String {
        (0..self.rng.usize(..12)).map(|_| self.rng.alphabetic()).collect()
    }

    /// The state at a checkpoint, and how many transactions led to it.
    fn at(&self, checkpoint: Lsn) -> (u64, &Arc<State>) {
        let applied = self.transactions.partition_point(|one| one.end_lsn <= checkpoint);
        let state = applied.checked_sub(1).map_or(&self.empty, |last| &self.transactions[last].after);
        (applied as u64, state)
    }
}

/// A session's walsender: what it has still to send, message by message.
struct Walsender {
    rng: fastrand::Rng,
    next: usize,
    message: usize,
    is_described: bool,
}

impl Walsender {
    fn new(source: &Source, rng: fastrand::Rng) -> Self {
        let confirmed = source.confirmed_flush_lsn;
        let next = source.transactions.iter().take_while(|one| one.commit_lsn < confirmed).count();
        Walsender { rng, next, message: 0, is_described: false }
    }

    /// Up to `messages` more messages; a keepalive when everything was sent, and now and then one before that.
    fn send(&mut self, source: &Source, messages: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..messages {
            let Some(transaction) = source.transactions.get(self.next) else {
                wire::keepalive(&mut out, Lsn(source.lsn));
                break;
            };
            wire::xlog(&mut out, transaction.commit_lsn, &transaction.messages[self.message]);
            if self.message == 0 && !self.is_described {
                self.is_described = true;
                let items = [("id", 20, true), ("name", 25, false), ("note", 25, false)];
                let parts = [("item", 20, true), ("code", 25, true), ("amount", 20, true)];
                wire::xlog(&mut out, Lsn::ZERO, &wire::relation(ITEMS, "items", b'd', &items));
                wire::xlog(&mut out, Lsn::ZERO, &wire::relation(PARTS, "parts", b'f', &parts));
            }
            self.message += 1;
            if self.message == transaction.messages.len() {
                (self.next, self.message) = (self.next + 1, 0);
            }
            if self.rng.u32(..20) == 0 {
                // Between transactions it says how far the server has read, which is not yet the next commit record.
                // Inside one it may lie beyond everything that is still to be sent.
                let wal_end = match source.transactions.get(self.next) {
                    Some(next) if self.message == 0 => next.commit_lsn,
                    _ => Lsn(source.lsn),
                };
                wire::keepalive(&mut out, wal_end);
            }
        }
        out
    }
}

// ---- the sinks --------------------------------------------------------------------------------------------------

/// What survives a crash of the engine.
struct Target {
    state: Arc<State>,
    /// It was written since it was last compared with the source.
    is_unchecked: bool,
    lsn: Lsn,
    transactions: u64,
    faults: Faults,
    seen: Seen,
}

/// Chances in a thousand.
#[derive(Clone, Copy)]
struct Faults {
    reject: u32,
    lose_answer: u32,
    throttle: u32,
    lose_transaction: u32,
}

const NO_FAULTS: Faults = Faults { reject: 0, lose_answer: 0, throttle: 0, lose_transaction: 0 };

struct ModelSink {
    target: Arc<Mutex<Target>>,
    plan: Arc<Plan>,
    source: SourceIdentity,
    rng: fastrand::Rng,
    /// The open transaction, invisible to readers.
    open: Option<Arc<State>>,
}

impl Sink for ModelSink {
    fn open(&mut self, _: &Arc<Plan>, _: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.checkpoint().map(Some)
    }

    fn start_at(&mut self, _: Lsn) -> Result<()> {
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.open = None;
        let target = self.target.lock().unwrap();
        Ok(Checkpoint {
            lsn: target.lsn,
            commit_time_micros: None,
            source: self.source.clone(),
            epoch: 1,
            transactions: target.transactions,
            open: None,
        })
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied> {
        let target = self.target.clone();
        let mut target = target.lock().unwrap();
        let faults = target.faults;
        if self.chance(faults.reject) {
            target.seen.rejected_attempts += 1;
            return Err(Error::transient("rejected"));
        }
        if self.chance(faults.throttle) {
            return Err(Error::new(Kind::Throttled { retry_after: Duration::from_secs(1) }, "throttled"));
        }
        if self.open.is_some() && self.chance(faults.lose_transaction) {
            self.open = None;
            return Err(Error::transient("the open transaction was lost"));
        }
        let mut applied = Applied::default();
        let mut state = self.open.take().unwrap_or_else(|| target.state.clone());
        let mut end_lsn = None;
        let mut is_open = false;
        for (run, span) in batch.spans() {
            assert!(span.is_start || is_open || end_lsn.is_none(), "a part follows its own start");
            if span.is_start && span.end_lsn.is_none() {
                target.seen.parts += 1;
                self.keep(&mut target, &state, end_lsn.take(), &mut applied);
            }
            for &change in run.changes(span) {
                apply_change(Arc::make_mut(&mut state), &self.plan, run, change);
                applied.changes += 1;
            }
            is_open = span.end_lsn.is_none();
            if span.end_lsn.is_some() {
                end_lsn = span.end_lsn;
                applied.transactions += 1;
            }
        }
        if is_open {
            self.open = Some(state);
        } else {
            self.keep(&mut target, &state, end_lsn.max(batch.idle()), &mut applied);
        }
        if self.chance(faults.lose_answer) {
            target.seen.lost_answers += 1;
            return Err(Error::transient("the answer was lost"));
        }
        Ok(applied)
    }
}

impl ModelSink {
    fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.u32(..1000) < per_mille
    }

    fn keep(&mut self, target: &mut Target, state: &Arc<State>, lsn: Option<Lsn>, applied: &mut Applied) {
        let Some(lsn) = lsn else { return };
        assert!(lsn >= target.lsn, "a checkpoint never goes back");
        target.state.clone_from(state);
        target.is_unchecked = true;
        target.lsn = lsn;
        target.transactions += applied.transactions;
        applied.transactions = 0;
    }
}

fn apply_change(
    state: &mut State,
    plan: &Plan,
    run: &walcast::encode::run::Run,
    change: walcast::encode::run::Change,
) {
    let planned = &plan.tables[change.table as usize];
    let table = state.get_mut(planned.target.as_str()).unwrap();
    let show = |cell: &Cell| match cell {
        Cell::Integer(value) => value.to_string(),
        Cell::Text(slice) => String::from_utf8(slice.of(run.arena()).to_vec()).unwrap(),
        cell => panic!("unexpected {cell:?}"),
    };
    let merge = |before: Option<Vec<String>>, row: &[Cell]| -> Vec<String> {
        row.iter()
            .enumerate()
            .map(|(index, cell)| match cell {
                Cell::Absent => before.as_ref().expect("a partial row has a predecessor")[index].clone(),
                cell => show(cell),
            })
            .collect()
    };
    let key_of = |row: &[String]| planned.key.iter().map(|&index| row[index].clone()).collect::<Vec<_>>();
    match change.kind {
        ChangeKind::Upsert => {
            let row = merge(None, run.row(change, plan));
            table.insert(key_of(&row), row);
        }
        ChangeKind::Update => {
            let cells = run.row(change, plan);
            let key: Vec<_> = planned.key.iter().map(|&index| show(&cells[index])).collect();
            let row = merge(table.get(&key).cloned(), cells);
            table.insert(key, row);
        }
        ChangeKind::Delete => {
            let key: Vec<_> = run.key(change, plan).iter().map(show).collect();
            assert!(table.remove(&key).is_some(), "a deleted row was there");
        }
        ChangeKind::Move => {
            let old: Vec<_> = run.key(change, plan).iter().map(show).collect();
            let before = table.remove(&old);
            let row = merge(before, run.row(change, plan));
            table.insert(key_of(&row), row);
        }
        ChangeKind::Truncate => table.clear(),
        ChangeKind::Reject => panic!("nothing is rejected here"),
    }
}

// ---- the engine and its world -----------------------------------------------------------------------------------

struct Simulation {
    rng: fastrand::Rng,
    source: Source,
    plan: Arc<Plan>,
    targets: Vec<Arc<Mutex<Target>>>,
    crashes: u32,
    replays: u32,
}

/// One life of the engine.
struct Engine {
    outlets: Outlets,
    workers: Vec<Worker<ModelSink>>,
    progress: Progress,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let source = Source::new(rng.fork());
        let targets = (0..rng.usize(1..5))
            .map(|_| {
                let faults = Faults {
                    reject: rng.u32(..300),
                    lose_answer: rng.u32(..300),
                    throttle: rng.u32(..100),
                    lose_transaction: rng.u32(..300),
                };
                let (transactions, state) = source.at(Lsn(1000));
                Arc::new(Mutex::new(Target {
                    state: state.clone(),
                    is_unchecked: true,
                    lsn: Lsn(1000),
                    transactions,
                    faults,
                    seen: Seen::default(),
                }))
            })
            .collect();
        Simulation { rng, source, plan: plan(), targets, crashes: 0, replays: 0 }
    }

    fn run(mut self) -> Seen {
        let lives = self.rng.u32(2..6);
        for _ in 0..lives {
            let steps = self.rng.u32(20..200);
            self.live(steps);
            self.crashes += 1;
        }
        self.drain();
        let mut seen = Seen { crashes: self.crashes, replays: self.replays, ..Seen::default() };
        self.targets.iter().for_each(|target| seen.add(target.lock().unwrap().seen));
        seen
    }

    fn start(&mut self) -> Engine {
        let (mut queues, mut workers, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
        for (index, target) in self.targets.iter().enumerate() {
            let (sender, receiver) = queue::bounded(usize::MAX);
            let progress = SinkProgress::new(&format!("sink{index}"));
            let limits =
                BatchLimits { rows_max: self.rng.usize(1..40), bytes_max: self.rng.usize(200..4000) };
            let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
            let sink = ModelSink {
                target: target.clone(),
                plan: self.plan.clone(),
                source: identity(),
                rng: self.rng.fork(),
                open: None,
            };
            let position = target.lock().unwrap().lsn;
            workers.push(Worker::new(
                sink,
                receiver,
                progress.clone(),
                position,
                limits,
                backoff,
                self.rng.fork(),
            ));
            queues.push(sender);
            sinks.push(progress);
        }
        Engine { outlets: Outlets::new(queues), workers, progress: Progress::new(sinks) }
    }

    /// Sessions of one engine, until it is killed after `steps` steps.
    fn live(&mut self, steps: u32) {
        let mut engine = self.start();
        let mut left = steps;
        while left > 0 {
            let options = RiverOptions {
                part_bytes_max: self.rng.usize(300..3000),
                idle_interval: Duration::ZERO,
                needed_from: engine.progress.needed_from(),
            };
            engine.outlets.send(&Delivery::Restart).unwrap();
            let mut walsender = Walsender::new(&self.source, self.rng.fork());
            let Engine { outlets, workers, progress } = &mut engine;
            let mut river = River::new(self.plan.clone(), outlets, options);
            let replays_before = progress.replays_requested();
            while left > 0 {
                left -= 1;
                match self.rng.u32(..10) {
                    0..2 => self.source.commit(),
                    2 => self.source.lsn += self.rng.u64(..100), // somebody else's WAL
                    3..6 => {
                        let bytes = walsender.send(&self.source, self.rng.usize(1..40));
                        river.flow(&FrameRun::new(bytes.into())).unwrap();
                    }
                    6..9 => {
                        let worker = self.rng.usize(..workers.len());
                        self.step(&mut workers[worker]);
                    }
                    _ => self.confirm(progress),
                }
                self.check();
                // The connection breaks, or a sink needs the stream again.
                let needs_replay = progress.replays_requested() > replays_before;
                self.replays += u32::from(needs_replay);
                if needs_replay || self.rng.u32(..60) == 0 {
                    break;
                }
            }
        }
    }

    fn step(&self, worker: &mut Worker<ModelSink>) {
        match worker.step(false) {
            Step::Done | Step::Wait(_) => {}
            Step::Closed => panic!("the queue is open"),
            Step::Stopped(error) => panic!("a sink stopped: {error:?}"),
        }
    }

    fn confirm(&mut self, progress: &Progress) {
        let confirmed = self.source.confirmed_flush_lsn.max(progress.confirmable());
        self.source.confirmed_flush_lsn = confirmed;
    }

    /// The invariants that hold at every moment.
    fn check(&self) {
        for target in &self.targets {
            let mut target = target.lock().unwrap();
            assert!(
                self.source.confirmed_flush_lsn <= target.lsn,
                "invariant 1: {} was confirmed, a sink is at {}",
                self.source.confirmed_flush_lsn,
                target.lsn
            );
            if std::mem::take(&mut target.is_unchecked) {
                let (transactions, state) = self.source.at(target.lsn);
                assert_eq!(target.transactions, transactions, "invariant 3: each transaction once");
                assert!(target.state == *state, "invariant 4: readers see whole transactions, in order");
            }
        }
    }

    /// Without faults, everything arrives.
    fn drain(&mut self) {
        self.targets.iter().for_each(|target| target.lock().unwrap().faults = NO_FAULTS);
        self.source.commit();
        let mut engine = self.start();
        let options = RiverOptions {
            part_bytes_max: 2000,
            idle_interval: Duration::ZERO,
            needed_from: engine.progress.needed_from(),
        };
        engine.outlets.send(&Delivery::Restart).unwrap();
        let mut walsender = Walsender::new(&self.source, self.rng.fork());
        let mut river = River::new(self.plan.clone(), &engine.outlets, options);
        let bytes = walsender.send(&self.source, usize::MAX);
        river.flow(&FrameRun::new(bytes.into())).unwrap();
        for (worker, target) in engine.workers.iter_mut().zip(&self.targets) {
            for _ in 0..DRAIN_STEPS_MAX {
                self.step(worker);
                if target.lock().unwrap().lsn == Lsn(self.source.lsn) {
                    break;
                }
            }
            // What is still to come changes nothing.
            (0..20).for_each(|_| self.step(worker));
        }
        self.check();
        self.confirm(&engine.progress);
        for target in &self.targets {
            assert!(target.lock().unwrap().state == self.source.state, "equal after the drain");
        }
        assert_eq!(self.source.confirmed_flush_lsn, Lsn(self.source.lsn), "nothing keeps WAL back");
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
