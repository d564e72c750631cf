//! The real river, queues, workers and detours between the models, and everything that can happen to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::Sender;
use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::capture::slot::{SinkCheckpoint, SinkVerdict, Slot, SlotVerdict, TimelineHistory, judge};
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::fanout::chain::{Inlet, chain};
use walcast::fanout::delivery::Delivery;
use walcast::fanout::detour::{Detour, Progressed, may_drop};
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::{Phase, Progress, SinkProgress, State};
use walcast::fanout::retry::Backoff;
use walcast::fanout::worker::{BatchLimits, Step, Worker};

use super::sink::{Faults, ModelSink, NO_FAULTS, Target};
use super::source::{Source, Walsender};
use super::{Seen, identity, plan};

/// Far more rounds than the workers need for what a simulation leaves.
const DRAIN_ROUNDS_MAX: u32 = 10_000;

pub struct Simulation {
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
    pub fn new(seed: u64) -> Self {
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

    pub fn run(mut self) -> Seen {
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
