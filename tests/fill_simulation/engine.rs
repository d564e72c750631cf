//! The engine between the models, and everything that can happen to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use walcast::Lsn;
use walcast::app::fill::gate::Gate;
use walcast::app::fill::settled::settled;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::current::CurrentPlan;
use walcast::encode::plan::Plan;
use walcast::fanout::chain::{Inlet, chain};
use walcast::fanout::detour::{Detour, Progressed, may_drop};
use walcast::fanout::fill::{Action, FillWrite, Fills, OwedKey, TableFill, TableState};
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::{Phase, Progress, SinkProgress, State};
use walcast::fanout::retry::Backoff;
use walcast::fanout::sink::Sink;
use walcast::fanout::worker::{BatchLimits, Step, Worker};

use super::databases::{Database, FaultySink};
use super::ddl::{is_fit, plan};
use super::keeper::Keeper;
use super::readers::{OTHER_TABLE, Readers, TABLE, table_of};
use super::snapshots::{Committed, IDS, Rows, Source};
use super::streams::{Route, Session};
use super::{Seen, Without};

/// Far more rounds than filling takes without faults.
const DRAIN_ROUNDS_MAX: u32 = 20_000;

pub struct Simulation {
    rng: fastrand::Rng,
    without: Without,
    source: Source,
    /// What the source held before its WAL began.
    before: Rows,
    /// What the main slot was confirmed to.
    confirmed: Lsn,
    /// What the copy of the slot was confirmed to that a sink has, by its number.
    copies: BTreeMap<usize, Lsn>,
    /// Ids are text in the replicas.
    is_text: bool,
    /// The publication has whatever there is.
    publishes_all: bool,
    /// Somebody alters the table.
    is_altered: bool,
    databases: Vec<Database>,
    seen: Seen,
    _directory: tempfile::TempDir,
}

/// One life of the engine.
struct Engine {
    main: Arc<Outlets>,
    gate: Arc<Gate>,
    workers: Vec<Worker<FaultySink>>,
    inlets: Vec<Sender<Inlet>>,
    sinks: Vec<Arc<SinkProgress>>,
    progress: Progress,
    current: Arc<CurrentPlan>,
    session: Session,
    readers: Readers,
    keeper: Keeper,
    /// The sinks that do not only take the main stream, by their numbers.
    branches: BTreeMap<usize, Branch>,
}

/// How far a sink is that was left behind.
enum Branch {
    /// It has no copy of the slot yet.
    Left,
    /// It has one, and no stream yet.
    Copied,
    /// It has a stream of its own.
    Away(Box<(Detour, Session)>),
    /// It is attached, and has its copy still.
    Back,
}

impl Simulation {
    pub fn new(seed: u64, without: Without) -> Simulation {
        let mut rng = fastrand::Rng::with_seed(seed);
        let source = Source::new(rng.fork()).with_others();
        // In memory, where there is such a place.
        let memory = std::path::Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::tempdir_in(place).unwrap();
        let count = rng.usize(1..4);
        let databases = (0..count).map(|number| Database::new(&mut rng, directory.path(), number)).collect();
        Simulation {
            without,
            before: source.visible.clone(),
            confirmed: Lsn(source.lsn),
            source,
            copies: BTreeMap::new(),
            is_text: false,
            publishes_all: rng.bool(),
            // Where it is stopped much of the time, little else happens to it.
            is_altered: rng.bool(),
            databases,
            seen: Seen::default(),
            _directory: directory,
            rng,
        }
    }

    pub fn run(mut self) -> Seen {
        // There may be something delivered that is not visible before the first fill begins.
        (0..self.rng.u32(..40)).for_each(|_| self.source.step());
        let mut engine = self.start(true);
        for _ in 0..self.rng.u32(1..4) {
            for _ in 0..self.rng.u32(100..1000) {
                self.act(&mut engine);
            }
            self.seen.crashes += 1;
            drop(engine);
            if self.rng.u32(..3) == 0 {
                let index = self.rng.usize(..self.databases.len());
                self.seen.new_regions += 1;
                self.copies.remove(&index);
                self.databases[index].lose(&mut self.rng);
            }
            if self.rng.u32(..3) == 0 {
                self.is_text = !self.is_text;
            }
            engine = self.start(true);
        }
        drop(engine);
        self.drain();
        for database in &self.databases {
            self.seen.lost_answers += database.seen().lost_answers;
            self.seen.missed += database.seen().missed;
        }
        self.seen
    }

    fn start(&mut self, is_faulty: bool) -> Engine {
        let (plan, came) = self.draw();
        let (main, _) = Outlets::new(Duration::ZERO);
        let main = Arc::new(main);
        let (mut workers, mut inlets, mut sinks, mut branches) =
            (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        for (index, database) in self.databases.iter().enumerate() {
            let progress = SinkProgress::new(&format!("sink{index}"));
            let mut sink = database.sink(self.rng.fork());
            let position = match sink.open(&plan, &identity()).unwrap() {
                Some(checkpoint) => checkpoint.lsn,
                None => {
                    sink.start_at(self.confirmed).unwrap();
                    self.confirmed
                }
            };
            progress.set_fills(settle(&mut sink, &plan, position, came));
            if is_faulty {
                database.set_faulty(&mut sink);
            }
            let limits =
                BatchLimits { rows_max: self.rng.usize(1..40), bytes_max: self.rng.usize(200..4000) };
            let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
            let (queues, chain) = chain();
            workers.push(Worker::new(
                sink,
                chain,
                progress.clone(),
                position,
                limits,
                backoff,
                self.rng.fork(),
            ));
            if position >= self.confirmed {
                self.copies.remove(&index);
                let (outlet, inlet) = main.queue(&progress, usize::MAX);
                main.attach(outlet);
                queues.send(inlet).unwrap();
            } else {
                assert!(self.copies.contains_key(&index), "a slot holds what the sink lacks");
                progress.stand_apart();
                branches.insert(index, Branch::Copied);
            }
            inlets.push(queues);
            sinks.push(progress);
        }
        let progress = Progress::new(sinks.clone());
        // So small that it overflows in many a seed.
        let log_bytes_max = [300, 1500, 1 << 20][self.rng.usize(..3)];
        let current = Arc::new(CurrentPlan::new(plan));
        let gate = Arc::new(Gate::with_log_of(log_bytes_max, main.clone(), current.clone()));
        let count = self.rng.usize(1..4);
        let readers = Readers::new(count, self.without, (&gate, &main), progress.clone(), &current);
        let keeper = Keeper::new((&gate, &current), &progress, &self.source, self.is_text);
        let route =
            Route { current: &current, outlets: &main, gate: Some(gate.clone()), progress: progress.clone() };
        let session = Session::start(&self.source, &mut self.rng, self.confirmed, route);
        Engine { main, gate, workers, inlets, sinks, progress, current, session, readers, keeper, branches }
    }

    /// What is replicated, and whether the publication did not have the table until now. A table that no sink has been fed
    /// has to be there as it is to be read.
    fn draw(&mut self) -> (Arc<Plan>, bool) {
        let has_fed = self.databases.iter().any(|database| database.lsn > Lsn::ZERO);
        while !is_fit(self.source.visible_form) && (!has_fed || self.rng.u32(..3) == 0) {
            self.source.put_back(self.publishes_all);
            self.source.show();
        }
        let form = self.source.visible_form;
        let is_new = is_fit(form) && !form.is_published;
        while is_new && !self.source.publish() {
            self.source.show();
        }
        (plan(self.is_text, form), is_new)
    }

    /// One thing happens.
    fn act(&mut self, engine: &mut Engine) {
        match self.rng.u32(..100) {
            0..14 => {
                // What does not fit is soon put back.
                let is_restless = !is_fit(self.source.form) || engine.keeper.is_resuming();
                if self.is_altered && self.rng.u32(..100) < if is_restless { 25 } else { 3 } {
                    self.seen.altered += 1;
                    self.source.alter(self.publishes_all);
                } else {
                    self.source.step();
                }
            }
            14..32 => {
                let messages = self.rng.usize(1..20);
                engine.session.flow(&self.source, messages);
            }
            32..60 => engine.readers.step(&mut self.source, &mut self.rng, &mut self.seen),
            60..84 => {
                let index = self.rng.usize(..engine.workers.len());
                self.step(&mut engine.workers[index]);
                self.look(index);
            }
            84..86 => engine.session.confirm(&mut self.confirmed),
            86..92 => {
                let index = self.rng.usize(..engine.sinks.len());
                self.branch(engine, index);
            }
            96 if self.rng.bool() => self.leave(engine),
            92..97 => {
                let (rng, seen) = (&mut self.rng, &mut self.seen);
                engine.keeper.step(&mut self.source, &mut engine.readers, rng, seen);
            }
            97 if self.rng.u32(..4) == 0 => self.ask(engine),
            98 => {
                let index = self.rng.usize(..self.databases.len());
                self.look(index);
                let id = self.rng.i64(1..=IDS);
                self.seen.taken_away += u32::from(self.databases[index].take_away(id));
            }
            _ => {}
        }
        let is_broken = self.rng.u32(..200) == 0;
        self.restart(engine, is_broken);
    }

    fn step(&self, worker: &mut Worker<FaultySink>) {
        match worker.step(false) {
            Step::Done | Step::Wait(_) => {}
            Step::Closed => panic!("the chain is open"),
            Step::Stopped(error) => panic!("a sink stopped: {error:?}"),
        }
    }

    fn restart(&mut self, engine: &mut Engine, is_broken: bool) {
        if engine.session.needs_replay() || is_broken {
            let gate = Some(engine.gate.clone());
            let progress = engine.progress.clone();
            assert!(progress.behind(self.confirmed).is_none(), "what the engine checks before a start");
            let route = Route { current: &engine.current, outlets: &engine.main, gate, progress };
            engine.session = Session::start(&self.source, &mut self.rng, self.confirmed, route);
        }
    }

    /// An operator wants tables filled, or rows read again.
    fn ask(&mut self, engine: &mut Engine) {
        let count = self.rng.usize(1..=engine.sinks.len());
        let mut sinks: Vec<String> = engine.sinks.iter().map(|sink| sink.name.clone()).collect();
        self.rng.shuffle(&mut sinks);
        sinks.truncate(count);
        if self.rng.bool() {
            engine.keeper.ask(&self.source, Some(&sinks));
            let fill = TableFill { clears: self.rng.bool(), ..TableFill::waiting(IDS as u64) };
            self.seen.refills += u32::from(engine.readers.send(Action::Begin { fill, sinks: Some(sinks) }));
        } else {
            let id = self.rng.i64(1..=IDS).to_string();
            let Some(cause) = self.source.wal.last() else { return };
            let owed = OwedKey { key: vec![id], commit_lsn: cause.commit_lsn, xid: cause.xid as u32 };
            self.seen.retries += u32::from(engine.readers.send(Action::Retry { owed: vec![owed], sinks }));
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
            State::CatchingUp(Phase::Joining(_)) => engine.main.leave(sink),
            _ => {}
        }
    }

    /// The next step of a sink that was left behind.
    fn branch(&mut self, engine: &mut Engine, index: usize) {
        let sink = &engine.sinks[index];
        let progress = Progress::of_copy(sink.clone());
        let next = match engine.branches.remove(&index) {
            None => return,
            Some(Branch::Left) => {
                self.copies.insert(index, self.confirmed);
                Branch::Copied
            }
            Some(Branch::Copied) => {
                let detour = Detour::begin(sink, &engine.main, engine.inlets[index].clone(), usize::MAX);
                let current = &engine.current;
                let route = Route { current, outlets: detour.outlets(), gate: None, progress };
                let session = Session::start(&self.source, &mut self.rng, self.copies[&index], route);
                Branch::Away(Box::new((detour, session)))
            }
            Some(Branch::Away(mut away)) => {
                let (detour, session) = &mut *away;
                let mut progressed = Progressed::On;
                match self.rng.u32(..8) {
                    0..4 => session.flow(&self.source, self.rng.usize(1..40)),
                    4..6 => session.confirm(self.copies.get_mut(&index).unwrap()),
                    _ => progressed = detour.step(),
                }
                match progressed {
                    Progressed::On => {
                        if session.needs_replay() || self.rng.u32(..40) == 0 {
                            let confirmed = self.copies[&index];
                            let current = &engine.current;
                            let route = Route { current, outlets: detour.outlets(), gate: None, progress };
                            *session = Session::start(&self.source, &mut self.rng, confirmed, route);
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
            Some(Branch::Back) if may_drop(sink, self.confirmed) => {
                self.copies.remove(&index);
                match sink.state() {
                    State::Attached => return,
                    _ => Branch::Left,
                }
            }
            Some(Branch::Back) => Branch::Back,
        };
        engine.branches.insert(index, next);
    }

    /// What holds of a database at every moment.
    fn look(&mut self, index: usize) {
        let database = &mut self.databases[index];
        let content = database.content();
        assert!(content.lsn >= database.lsn, "a checkpoint never goes back");
        database.lsn = content.lsn;
        let is_beside = content.fill.as_ref().is_some_and(|fill| fill.is_beside);
        match (is_beside, &database.readers_see) {
            (true, None) => database.readers_see = Some(content.rows.clone()),
            (false, Some(_)) => {
                self.seen.swapped += 1;
                // The one that takes its place was filled from the beginning.
                (database.readers_see, database.is_damaged) = (None, false);
            }
            (true, Some(_)) | (false, None) => {}
        }
        if let Some(rows) = &database.readers_see {
            self.seen.beside += 1;
            assert_eq!(content.rows, *rows, "what readers see stays as it was until it is all there");
        }
        let others = content.others_fill.as_ref();
        let is_live =
            |fill: Option<&TableFill>| fill.is_none_or(|fill| fill.state(content.lsn) == TableState::Live);
        if is_live(others) {
            database.has_others = true;
            self.seen.others += 1;
        }
        assert!(is_live(others) || !database.has_others, "nothing happens to the other table: {others:?}");
        let is_stopped = content.fill.as_ref().is_some_and(|fill| fill.stopped.is_some() && !fill.is_beside);
        let was_live = std::mem::replace(&mut database.was_live, is_live(content.fill.as_ref()));
        let stopped_at = match is_stopped {
            true if was_live && !content.is_split => Some(content.rows.clone()),
            true => database.stopped_at.take(),
            false => None,
        };
        if let Some(rows) = &stopped_at {
            self.seen.stopped += 1;
            assert_eq!(content.rows, *rows, "a stopped table stays as it was");
        }
        let has_stopped = stopped_at.is_some() && database.stopped_at.is_none();
        database.stopped_at = stopped_at;
        let (is_damaged, has_live) = (database.is_damaged, database.was_live && !content.is_split);
        if has_stopped && !is_damaged {
            self.assert_was(&content.rows, content.lsn);
        }
        if has_live && !is_damaged {
            self.seen.live += 1;
            let relation = content.fill.as_ref().and_then(|fill| fill.relation);
            assert_eq!(
                content.rows,
                self.at(content.lsn, TABLE, relation),
                "a live table is what the source was at {}",
                content.lsn
            );
        }
        if is_live(others) && !content.is_split {
            assert_eq!(content.others, self.at(content.lsn, OTHER_TABLE, None), "nor to its rows");
        }
        let is_damaged = self.databases.iter().any(|database| database.is_damaged);
        let seen = self.databases[index].seen();
        assert!(
            is_damaged || self.seen.taken_away > 0 || seen.missed == 0,
            "an update of a live table misses its row"
        );
    }

    /// What was in a table at that position, or at its end where it is another relation now.
    fn at(&self, lsn: Lsn, table: usize, relation: Option<u32>) -> Rows {
        let applied = &self.source.wal[..self.source.wal.partition_point(|one| one.end_lsn <= lsn)];
        let rows_of = |one: &Committed| match (relation, &one.dropped) {
            (Some(relation), Some((dropped, rows))) if relation == *dropped => Some(rows.clone()),
            (Some(relation), _) if relation != one.form.oid || !one.form.is_there => None,
            _ => Some(one.after.clone()),
        };
        of(table, &applied.iter().rev().find_map(rows_of).unwrap_or_else(|| self.before.clone()))
    }

    /// At that position or before it these were the rows of the table, all at the same time.
    fn assert_was(&self, rows: &Rows, lsn: Lsn) {
        let applied = &self.source.wal[..self.source.wal.partition_point(|one| one.end_lsn <= lsn)];
        let dropped = |one: &'_ Committed| one.dropped.clone().map(|(_, rows)| rows);
        let behind = applied.iter().map(|one| one.after.clone());
        let mut states = behind.chain(applied.iter().filter_map(dropped)).chain([self.before.clone()]);
        assert!(
            states.any(|all| of(TABLE, &all) == *rows),
            "a table that is stopped is what the source was: {rows:?}"
        );
    }

    /// Without faults every table becomes live, and every sink comes back. What was taken away is filled once more.
    fn drain(&mut self) {
        self.databases.iter_mut().for_each(Database::set_faultless);
        while !self.source.limbo.is_empty() {
            self.source.show();
        }
        while let Some(xid) = self.source.running.first().copied() {
            self.source.end(xid);
        }
        while !is_fit(self.source.visible_form) || !self.source.limbo.is_empty() {
            self.source.put_back(self.publishes_all);
            self.source.show();
        }
        let mut engine = self.start(false);
        let damaged: Vec<String> = engine
            .sinks
            .iter()
            .zip(&self.databases)
            .filter(|(_, database)| database.is_damaged)
            .map(|(sink, _)| sink.name.clone())
            .collect();
        let mut asked = damaged.is_empty();
        let end = Lsn(self.source.lsn);
        for _ in 0..DRAIN_ROUNDS_MAX {
            engine.session.flow(&self.source, 40);
            self.restart(&mut engine, false);
            for index in 0..engine.workers.len() {
                self.step(&mut engine.workers[index]);
                self.branch(&mut engine, index);
                self.look(index);
            }
            engine.readers.step(&mut self.source, &mut self.rng, &mut self.seen);
            let (rng, seen) = (&mut self.rng, &mut self.seen);
            engine.keeper.step(&mut self.source, &mut engine.readers, rng, seen);
            if !engine.keeper.is_resuming() {
                let all: Vec<String> = engine.sinks.iter().map(|sink| sink.name.clone()).collect();
                engine.keeper.ask(&self.source, Some(&all));
            }
            engine.session.confirm(&mut self.confirmed);
            let is_back = engine.branches.is_empty();
            if is_back && !asked {
                let fill = TableFill::waiting(IDS as u64);
                asked = engine.readers.send(Action::Begin { fill, sinks: Some(damaged.clone()) });
                continue;
            }
            let is_live = |sink: &Arc<SinkProgress>| {
                let fills = sink.fills();
                let is_live = |table| fills.state(table, end) == TableState::Live;
                sink.durable_lsn() == end && is_live(TABLE) && is_live(OTHER_TABLE)
            };
            if is_back && engine.sinks.iter().all(is_live) {
                // What is still to come changes nothing, unless it is what was asked for.
                for worker in &mut engine.workers {
                    (0..20).for_each(|_| self.step(worker));
                }
                if engine.sinks.iter().all(is_live) {
                    break;
                }
            }
        }
        for (database, sink) in self.databases.iter().zip(&engine.sinks) {
            let content = database.content();
            let fill = content.fill.as_ref().map(|fill| fill.state(content.lsn));
            assert_eq!(
                (content.lsn, fill),
                (end, Some(TableState::Live)),
                "{} {:?}",
                sink.name,
                content.fill
            );
            assert_eq!(content.rows, of(TABLE, &self.source.visible), "equal after the drain");
            assert_eq!(content.others, of(OTHER_TABLE, &self.source.visible), "equal after the drain");
        }
        self.heal(&mut engine);
        assert!(engine.sinks.iter().all(|sink| sink.state() == State::Attached), "all are back");
        assert_eq!(self.copies, BTreeMap::new(), "no copy is left");
    }
}

impl Simulation {
    /// A row that only a replica has goes once it is read again.
    fn heal(&mut self, engine: &mut Engine) {
        let Some(id) = (1..=IDS).find(|id| !self.source.visible.contains_key(id)) else { return };
        let (cause, visible) = (self.source.wal.last(), of(TABLE, &self.source.visible));
        self.databases.iter().for_each(|database| database.put(id));
        let owed = OwedKey {
            key: vec![id.to_string()],
            commit_lsn: cause.map_or(Lsn::ZERO, |cause| cause.commit_lsn),
            xid: cause.map_or(0, |cause| cause.xid as u32),
        };
        let sinks: Vec<String> = engine.sinks.iter().map(|sink| sink.name.clone()).collect();
        while !engine.readers.send(Action::Retry { owed: vec![owed.clone()], sinks: sinks.clone() }) {
            engine.session.flow(&self.source, 40);
        }
        for _ in 0..DRAIN_ROUNDS_MAX {
            for worker in &mut engine.workers {
                self.step(worker);
            }
            engine.readers.step(&mut self.source, &mut self.rng, &mut self.seen);
            if self.databases.iter().all(|database| database.content().rows == visible) {
                return;
            }
        }
        panic!("row {id}, which only the replicas have, stays");
    }
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

/// Writes what a sink has to keep of the tables at a start.
fn settle(sink: &mut FaultySink, plan: &Plan, position: Lsn, came: bool) -> Fills {
    let mut fills = sink.fills().unwrap();
    for (table, planned) in plan.tables.iter().enumerate() {
        let came = came && table == TABLE;
        let Some(fill) = settled(planned, fills.get(table), position, came) else { continue };
        sink.fill(&FillWrite { table, fill: &fill, run: None, clears: false, swaps: false }).unwrap();
        fills.set(table, fill);
    }
    fills
}

/// The rows of one table.
fn of(table: usize, rows: &Rows) -> Rows {
    rows.iter().filter(|(id, _)| table_of(**id) == table).map(|(id, row)| (*id, row.clone())).collect()
}
