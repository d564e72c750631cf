//! Seeded simulation: the real decoder, mapper, queues, workers and detours between a model of Postgres and model sinks
//! that reject, apply and lose the answer, lose their open transaction, are throttled, or answer late, and that are left
//! behind, catch up on copies of the slot and come back; with broken sessions, crashes and restarts of the engine between
//! any two steps. After every step the invariants of the engine are checked, and after the drain every sink equals the
//! model.
//!
//! A failure prints its seed; `WALCAST_SEED=n cargo test --test simulation` replays it alone.

#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Sender;
use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::capture::slot::{
    SinkCheckpoint, SinkVerdict, Slot, SlotVerdict, SourceIdentity, TimelineHistory, judge,
};
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::cell::Cell;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::encode::run::ChangeKind;
use walcast::encode::schema_file::SchemaFile;
use walcast::error::{Error, Kind, Result};
use walcast::fanout::chain::{Inlet, chain};
use walcast::fanout::detour::{Detour, Progressed, may_drop};
use walcast::fanout::fill::{FillWrite, Fills};
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::{Phase, Progress, SinkProgress, State};
use walcast::fanout::retry::Backoff;
use walcast::fanout::sink::{Applied, Batch, Checkpoint, Sink};
use walcast::fanout::worker::{BatchLimits, Delivery, Step, Worker};
use wire::{Value, text};

const SEEDS: u64 = 400;
/// Far more rounds than the workers need for what a simulation leaves.
const DRAIN_ROUNDS_MAX: u32 = 10_000;
const ITEMS: u32 = 50_001;
const PARTS: u32 = 50_002;

/// Rows by table and key, as target values.
type Rows = BTreeMap<&'static str, BTreeMap<Vec<String>, Vec<String>>>;

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

// ---- the source -------------------------------------------------------------------------------------------------

struct Source {
    rng: fastrand::Rng,
    state: Arc<Rows>,
    /// The state before the first transaction.
    empty: Arc<Rows>,
    /// Every committed transaction: its end, its bytes, and the state after it.
    transactions: Vec<Committed>,
    lsn: u64,
    confirmed_flush_lsn: Lsn,
    /// What the copy of the slot was confirmed to that each sink has, by the sink's number.
    copies: BTreeMap<usize, Lsn>,
}

struct Committed {
    commit_lsn: Lsn,
    end_lsn: Lsn,
    messages: Vec<Vec<u8>>,
    after: Arc<Rows>,
}

impl Source {
    fn new(rng: fastrand::Rng) -> Self {
        let state = Arc::new(Rows::from([("items", BTreeMap::new()), ("parts", BTreeMap::new())]));
        let empty = state.clone();
        Source {
            rng,
            state,
            empty,
            transactions: Vec::new(),
            lsn: 1000,
            confirmed_flush_lsn: Lsn(1000),
            copies: BTreeMap::new(),
        }
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
    fn at(&self, checkpoint: Lsn) -> (u64, &Arc<Rows>) {
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
    /// A walsender on a slot that was confirmed to `confirmed`.
    fn new(source: &Source, confirmed: Lsn, rng: fastrand::Rng) -> Self {
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
    state: Arc<Rows>,
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
    open: Option<Arc<Rows>>,
}

impl Sink for ModelSink {
    fn open(&mut self, _: &Arc<Plan>, _: &SourceIdentity) -> Result<Option<Checkpoint>> {
        self.checkpoint().map(Some)
    }

    fn start_at(&mut self, _: Lsn) -> Result<()> {
        Ok(())
    }

    fn fill(&mut self, _: &FillWrite<'_>) -> Result<Applied> {
        Err(Error::bug("nothing is filled here"))
    }

    fn fills(&mut self) -> Result<Fills> {
        Ok(Fills::default())
    }

    fn begin_anew(&mut self, _: Lsn) -> Result<()> {
        Err(Error::bug("no sink falls out here"))
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

    fn keep(&mut self, target: &mut Target, state: &Arc<Rows>, lsn: Option<Lsn>, applied: &mut Applied) {
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
    state: &mut Rows,
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
    seen: Seen,
}

/// One life of the engine.
struct Engine {
    main: Arc<Outlets>,
    workers: Vec<Worker<ModelSink>>,
    inlets: Vec<Sender<Inlet>>,
    sinks: Vec<Arc<SinkProgress>>,
    session: Session,
    /// The sinks that do not only take the main stream, by their numbers.
    branches: BTreeMap<usize, Branch>,
}

/// A session of the main stream or of a sink's own: a river behind a walsender.
struct Session {
    walsender: Walsender,
    river: River,
    outlets: Arc<Outlets>,
    progress: Progress,
    replays_before: u64,
    /// A status update that the server has not read yet.
    in_flight: Option<Lsn>,
}

/// How far a sink is that was left behind.
enum Branch {
    /// It has no copy of the slot yet.
    Left,
    /// It gets none, and waits for the main stream to start again.
    Returning,
    /// It has one, and no stream yet.
    Copied,
    /// It has a stream of its own.
    Away(Box<(Detour, Session)>),
    /// It is attached, and has its copy still.
    Back,
}

impl Session {
    /// Starts on a slot that was confirmed to `confirmed`.
    fn start(
        simulation: &mut Simulation,
        confirmed: Lsn,
        outlets: &Arc<Outlets>,
        progress: Progress,
    ) -> Self {
        let options = RiverOptions {
            part_bytes_max: simulation.rng.usize(300..3000),
            idle_interval: Duration::ZERO,
            needed_from: progress.needed_from(),
            older: OlderForms::default(),
        };
        let replays_before = outlets.replays_requested();
        outlets.send(&Delivery::Restart);
        Session {
            walsender: Walsender::new(&simulation.source, confirmed, simulation.rng.fork()),
            river: River::new(simulation.plan.clone(), outlets.clone(), options),
            outlets: outlets.clone(),
            progress,
            replays_before,
            in_flight: None,
        }
    }

    fn flow(&mut self, source: &Source, messages: usize) {
        let bytes = self.walsender.send(source, messages);
        self.river.flow(&FrameRun::new(bytes.into())).unwrap();
    }

    /// Sends a status update, or has the server read the one that is under way.
    fn confirm(&mut self, confirmed: &mut Lsn) {
        match self.in_flight.take() {
            None => self.in_flight = Some(self.progress.confirmable()),
            Some(lsn) => *confirmed = lsn.max(*confirmed),
        }
    }

    fn needs_replay(&self) -> bool {
        self.outlets.replays_requested() > self.replays_before
    }
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
        Simulation { rng, source, plan: plan(), targets, seen: Seen::default() }
    }

    fn run(mut self) -> Seen {
        let lives = self.rng.u32(2..6);
        let mut engine = self.start();
        for _ in 0..lives {
            for _ in 0..self.rng.u32(20..400) {
                self.act(&mut engine);
                self.check();
            }
            if self.rng.u32(..4) > 0 {
                self.seen.crashes += 1;
                engine = self.start();
            }
        }
        self.drain(engine);
        let mut seen = self.seen;
        self.targets.iter().for_each(|target| seen.add(target.lock().unwrap().seen));
        seen
    }

    /// What the engine finds is what an engine judges by.
    fn start(&mut self) -> Engine {
        let (main, _) = Outlets::new(Duration::ZERO);
        let main = Arc::new(main);
        let (mut workers, mut inlets, mut sinks, mut branches) =
            (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        for (index, target) in self.targets.clone().into_iter().enumerate() {
            let sink = SinkProgress::new(&format!("sink{index}"));
            let limits =
                BatchLimits { rows_max: self.rng.usize(1..40), bytes_max: self.rng.usize(200..4000) };
            let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
            let model = ModelSink {
                target: target.clone(),
                plan: self.plan.clone(),
                source: identity(),
                rng: self.rng.fork(),
                open: None,
            };
            let position = target.lock().unwrap().lsn;
            let (queues, chain) = chain();
            workers.push(Worker::new(model, chain, sink.clone(), position, limits, backoff, self.rng.fork()));
            match self.judge(index, position) {
                SinkVerdict::Resume => {
                    self.seen.restarts_beside_copy += u32::from(self.source.copies.remove(&index).is_some());
                    let (outlet, inlet) = main.queue(&sink, usize::MAX);
                    main.attach(outlet);
                    queues.send(inlet).unwrap();
                }
                SinkVerdict::CatchUp { .. } => {
                    self.seen.restarts_on_copy += 1;
                    sink.stand_apart();
                    branches.insert(index, Branch::Copied);
                }
                verdict => panic!("a sink cannot go on: {verdict:?}"),
            }
            inlets.push(queues);
            sinks.push(sink);
        }
        let progress = Progress::new(sinks.clone());
        let session = Session::start(self, self.source.confirmed_flush_lsn, &main, progress);
        Engine { main, workers, inlets, sinks, session, branches }
    }

    fn judge(&self, index: usize, checkpoint: Lsn) -> SinkVerdict {
        let slot = |confirmed| Slot {
            plugin: Some("pgoutput".into()),
            database: Some("app".into()),
            confirmed_flush_lsn: Some(confirmed),
            ..Slot::default()
        };
        let sink = SinkCheckpoint {
            sink: format!("sink{index}"),
            lsn: Some(checkpoint),
            system_identifier: 7,
            timeline: 1,
            slot: "walcast".into(),
            copy: self.source.copies.get(&index).map(|&confirmed| slot(confirmed)),
        };
        let (main, current) = (slot(self.source.confirmed_flush_lsn), Lsn(self.source.lsn));
        let mut judgement = judge(&identity(), current, &TimelineHistory::default(), Some(&main), &[sink]);
        assert_eq!(judgement.slot, SlotVerdict::Resume);
        judgement.sinks.remove(0).1
    }

    /// One thing happens.
    fn act(&mut self, engine: &mut Engine) {
        match self.rng.u32(..16) {
            0..2 => self.source.commit(),
            2 => self.source.lsn += self.rng.u64(..100), // somebody else's WAL
            3..6 => engine.session.flow(&self.source, self.rng.usize(1..40)),
            6..9 => {
                let worker = self.rng.usize(..engine.workers.len());
                self.step(&mut engine.workers[worker]);
            }
            9..11 => engine.session.confirm(&mut self.source.confirmed_flush_lsn),
            11 => self.leave(engine),
            _ => {
                let index = self.rng.usize(..engine.sinks.len());
                self.branch(engine, index);
            }
        }
        // The connection breaks now and then.
        let is_broken = self.rng.u32(..60) == 0;
        self.restart(engine, is_broken);
    }

    /// The main stream flows, and starts again where a sink needs that.
    fn stream(&mut self, engine: &mut Engine) {
        engine.session.flow(&self.source, 40);
        self.restart(engine, false);
    }

    fn restart(&mut self, engine: &mut Engine, is_broken: bool) {
        let needs_replay = engine.session.needs_replay();
        self.seen.replays += u32::from(needs_replay);
        if needs_replay || is_broken {
            let confirmed = self.source.confirmed_flush_lsn;
            let progress = engine.session.progress.clone();
            assert!(progress.behind(confirmed).is_none(), "what the engine checks before a start");
            engine.session = Session::start(self, confirmed, &engine.main, progress);
        }
    }

    fn step(&self, worker: &mut Worker<ModelSink>) {
        match worker.step(false) {
            Step::Done | Step::Wait(_) => {}
            Step::Closed => panic!("the chain is open"),
            Step::Stopped(error) => panic!("a sink stopped: {error:?}"),
        }
    }

    /// A sink exhausts the patience, if another one is there.
    fn leave(&mut self, engine: &mut Engine) {
        let index = self.rng.usize(..engine.sinks.len());
        let is_attached = |sink: &SinkProgress| sink.state() == State::Attached;
        let sink = &engine.sinks[index];
        if engine.sinks.iter().enumerate().all(|(other, sink)| other == index || !is_attached(sink)) {
            return;
        }
        match sink.state() {
            State::Attached => {
                self.seen.left += 1;
                engine.main.leave(sink);
                // One that has just come back has its copy dropped first.
                engine.branches.entry(index).or_insert(Branch::Left);
            }
            State::CatchingUp(Phase::Joining(_)) => {
                self.seen.left_again += 1;
                engine.main.leave(sink);
            }
            _ => {}
        }
    }

    /// The next step of a sink that was left behind.
    fn branch(&mut self, engine: &mut Engine, index: usize) {
        let sink = &engine.sinks[index];
        let progress = Progress::of_copy(sink.clone());
        let next = match engine.branches.remove(&index) {
            None => return,
            // No slot is free.
            Some(Branch::Left) if sink.has_drained() && self.rng.bool() => {
                let (outlet, inlet) = engine.main.queue(sink, usize::MAX);
                engine.inlets[index].send(inlet).unwrap();
                engine.main.come_back(outlet);
                Branch::Returning
            }
            Some(Branch::Returning) if engine.main.is_returning(sink) => Branch::Returning,
            Some(Branch::Returning) => {
                self.seen.came_back += 1;
                match sink.state() {
                    State::Attached => return,
                    _ => Branch::Left,
                }
            }
            Some(Branch::Left) => {
                self.source.copies.insert(index, self.source.confirmed_flush_lsn);
                Branch::Copied
            }
            Some(Branch::Copied) => {
                let detour = Detour::begin(sink, &engine.main, engine.inlets[index].clone(), usize::MAX);
                let session = Session::start(self, self.source.copies[&index], detour.outlets(), progress);
                Branch::Away(Box::new((detour, session)))
            }
            Some(Branch::Away(mut away)) => {
                let (detour, session) = &mut *away;
                let mut progressed = Progressed::On;
                match self.rng.u32(..8) {
                    0..4 => session.flow(&self.source, self.rng.usize(1..40)),
                    4..6 => session.confirm(self.source.copies.get_mut(&index).unwrap()),
                    _ => progressed = detour.step(),
                }
                match progressed {
                    Progressed::On => {
                        let needs_replay = session.needs_replay();
                        self.seen.own_replays += u32::from(needs_replay);
                        if needs_replay || self.rng.u32(..40) == 0 {
                            let confirmed = self.source.copies[&index];
                            assert!(progress.behind(confirmed).is_none());
                            *session = Session::start(self, confirmed, detour.outlets(), progress);
                        }
                        Branch::Away(away)
                    }
                    Progressed::Back => {
                        self.seen.back += 1;
                        away.0.arrive();
                        Branch::Back
                    }
                    Progressed::Over => panic!("no sink stops here"),
                }
            }
            Some(Branch::Back) if may_drop(sink, self.source.confirmed_flush_lsn) => {
                self.source.copies.remove(&index);
                match sink.state() {
                    State::Attached => return,
                    _ => Branch::Left,
                }
            }
            Some(Branch::Back) => Branch::Back,
        };
        engine.branches.insert(index, next);
    }

    /// The invariants that hold at every moment.
    fn check(&self) {
        let confirmed = self.source.confirmed_flush_lsn;
        for (index, target) in self.targets.iter().enumerate() {
            let mut target = target.lock().unwrap();
            match self.source.copies.get(&index) {
                Some(&copy) => {
                    assert!(
                        copy <= target.lsn,
                        "invariant 1: the copy is at {copy}, its sink at {}",
                        target.lsn
                    );
                }
                None => assert!(
                    confirmed <= target.lsn,
                    "invariant 1: {confirmed} was confirmed, a sink without a copy is at {}",
                    target.lsn
                ),
            }
            if std::mem::take(&mut target.is_unchecked) {
                let (transactions, state) = self.source.at(target.lsn);
                assert_eq!(target.transactions, transactions, "invariant 3: each transaction once");
                assert!(target.state == *state, "invariant 4: readers see whole transactions, in order");
            }
        }
    }

    /// Without faults, everything arrives and every sink comes back, also without a restart.
    fn drain(&mut self, mut engine: Engine) {
        self.targets.iter().for_each(|target| target.lock().unwrap().faults = NO_FAULTS);
        self.source.commit();
        let end = Lsn(self.source.lsn);
        for _ in 0..DRAIN_ROUNDS_MAX {
            self.stream(&mut engine);
            for index in 0..engine.workers.len() {
                self.step(&mut engine.workers[index]);
                self.branch(&mut engine, index);
            }
            engine.session.confirm(&mut self.source.confirmed_flush_lsn);
            self.check();
            let is_there = engine.sinks.iter().all(|sink| sink.durable_lsn() == end);
            if is_there && engine.branches.is_empty() && self.source.confirmed_flush_lsn == end {
                break;
            }
        }
        // What is still to come changes nothing.
        for worker in &mut engine.workers {
            (0..20).for_each(|_| self.step(worker));
        }
        self.check();
        for target in &self.targets {
            assert!(target.lock().unwrap().state == self.source.state, "equal after the drain");
        }
        assert!(engine.sinks.iter().all(|sink| sink.state() == State::Attached), "all are back");
        assert_eq!(self.source.copies, BTreeMap::new(), "no copy is left");
        assert_eq!(self.source.confirmed_flush_lsn, end, "nothing keeps WAL back");
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
