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

#[path = "support/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use bytes::Bytes;
use walcast::Lsn;
use walcast::capture::chunk::InDoubt;
use walcast::capture::copy_text::CopyRows;
use walcast::capture::frame::FrameRun;
use walcast::capture::snapshot::{CommitId, ReadPoint};
use walcast::capture::table::ReplicaIdentity;
use walcast::decode::Decoder;
use walcast::encode::cell::Cell;
use walcast::encode::chunk;
use walcast::encode::mapper::Mapper;
use walcast::encode::plan::Plan;
use walcast::encode::run::{Change, ChangeKind, Run};
use walcast::encode::schema_file::SchemaFile;
use walcast::encode::touched::{Horizon, Owed, Ticket, Touched};
use wire::{Value, text};

const SEEDS: u64 = 600;
const ITEMS: u32 = 50_001;
const IDS: i64 = 30;
/// What one seed does before it is drained.
const STEPS: u32 = 600;
/// Far more than draining takes.
const DRAIN_STEPS_MAX: u32 = 20_000;
const PART_BYTES_MAX: usize = 400;

/// By id: name, and the note that updates may leave out.
type Rows = BTreeMap<i64, [String; 2]>;

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
    let seeds = match std::env::var("WALCAST_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("WALCAST_SEED is a number"),
        Err(_) => 0..SEEDS,
    };
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        match catch_unwind(|| Simulation::run(seed, Without::Nothing)) {
            Ok(one) => seen.add(&one),
            Err(panic) => {
                eprintln!("simulation failed; replay it with WALCAST_SEED={seed}");
                resume_unwind(panic);
            }
        }
    }
    eprintln!("{seen:?}");
    if seeds.end - seeds.start > 1 {
        // The simulation is worth something only if it went where it claims to go.
        for (what, count) in seen.counts() {
            assert!(count >= 20, "only {count} {what}");
        }
    }
}

#[test]
fn without_any_one_safeguard_the_simulation_goes_wrong() {
    if std::env::var("WALCAST_SEED").is_ok() {
        return;
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let safeguards =
        [Without::Visibility, Without::XidsButLsns, Without::Overlay, Without::Owed, Without::InDoubt];
    let failures = safeguards.map(|without| {
        let fails = |seed| catch_unwind(AssertUnwindSafe(|| Simulation::run(seed, without))).is_err();
        (without, (0..SEEDS).find(|&seed| fails(seed)))
    });
    std::panic::set_hook(hook);
    eprintln!("the first seed that goes wrong: {failures:?}");
    for (without, failure) in failures {
        assert!(failure.is_some(), "nothing shows that {without:?} is missing");
    }
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

// ---- the source -------------------------------------------------------------------------------------------------

/// Postgres: what its snapshots see, and what is in its WAL.
struct Source {
    rng: fastrand::Rng,
    /// What a new snapshot sees.
    visible: Rows,
    /// What is in the WAL, in its order.
    wal: Vec<Committed>,
    /// In the WAL and not visible yet, by index. They hold their locks still.
    limbo: Vec<usize>,
    /// Xids that were given out and have not ended.
    running: BTreeSet<u64>,
    next_xid: u64,
    /// All below it and not running have ended, as `pg_snapshot_xmax` says.
    xmax: u64,
    lsn: u64,
    truncates: u32,
}

struct Committed {
    xid: u64,
    commit_lsn: Lsn,
    end_lsn: Lsn,
    messages: Vec<Vec<u8>>,
    /// The rows it leaves, or `None` where it leaves none.
    effects: BTreeMap<i64, Option<[String; 2]>>,
    empties: bool,
    /// What a standby has that has replayed it.
    after: Rows,
}

impl Source {
    fn new(mut rng: fastrand::Rng) -> Self {
        // So that xids wrap around on the way in many a seed.
        let next_xid = (1 << 32) - rng.u64(..150);
        let ids: Vec<i64> = (1..=IDS).filter(|_| rng.u32(..3) > 0).collect();
        let visible: Rows = ids.iter().map(|&id| (id, [word(&mut rng), word(&mut rng)])).collect();
        Source {
            rng,
            visible,
            wal: Vec::new(),
            limbo: Vec::new(),
            running: BTreeSet::new(),
            next_xid,
            xmax: next_xid,
            lsn: 1000,
            truncates: 0,
        }
    }

    /// Gives out an xid.
    fn assign(&mut self) -> u64 {
        // The reserved ones after a wrap-around are passed over.
        self.next_xid += 1;
        if (self.next_xid as u32) < 3 {
            self.next_xid += 3;
        }
        self.running.insert(self.next_xid);
        self.next_xid
    }

    fn end(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.xmax = self.xmax.max(xid + 1);
    }

    /// One step of the application.
    fn step(&mut self) {
        match self.rng.u32(..10) {
            0 if self.running.len() < 6 => {
                self.assign();
            }
            1 => {
                // Rolled back.
                if let Some(xid) = self.any_open() {
                    self.end(xid);
                }
            }
            2..6 => self.commit(),
            _ => self.show(),
        }
    }

    /// Running and not in the WAL.
    fn any_open(&mut self) -> Option<u64> {
        let committed: BTreeSet<u64> = self.limbo.iter().map(|&index| self.wal[index].xid).collect();
        let open: Vec<u64> = self.running.difference(&committed).copied().collect();
        (!open.is_empty()).then(|| open[self.rng.usize(..open.len())])
    }

    /// A transaction that was written becomes visible.
    fn show(&mut self) {
        if self.limbo.is_empty() {
            return;
        }
        let index = self.limbo.swap_remove(self.rng.usize(..self.limbo.len()));
        apply(&mut self.visible, &self.wal[index]);
        self.end(self.wal[index].xid);
    }

    /// Writes a transaction to the WAL. It touches no row that one in limbo has locked.
    fn commit(&mut self) {
        if self.limbo.iter().any(|&index| self.wal[index].empties) {
            return;
        }
        let locked: BTreeSet<i64> =
            self.limbo.iter().flat_map(|&index| self.wal[index].effects.keys().copied()).collect();
        let xid = match self.any_open() {
            Some(xid) if self.rng.bool() => xid,
            _ => self.assign(),
        };
        let mut rows = self.visible.clone();
        let mut effects = BTreeMap::new();
        let mut bodies = Vec::new();
        let empties = self.limbo.is_empty() && self.rng.u32(..40) == 0;
        if empties {
            self.truncates += 1;
            rows.clear();
            bodies.push(wire::truncate(&[ITEMS]));
        }
        for _ in 0..self.rng.u32(1..6) {
            // Some rows are hot.
            let id = if self.rng.bool() { self.rng.i64(1..5) } else { self.rng.i64(1..=IDS) };
            let to = self.rng.i64(1..=IDS);
            if locked.contains(&id) {
                continue;
            }
            bodies.extend(self.change(&mut rows, &mut effects, id, to, locked.contains(&to)));
        }
        self.lsn += self.rng.u64(1..50);
        let (commit_lsn, end_lsn) = (Lsn(self.lsn), Lsn(self.lsn + 8));
        self.lsn += 8;
        let mut messages = vec![wire::begin(commit_lsn, 1, xid as u32)];
        messages.extend(bodies);
        messages.push(wire::commit(commit_lsn, end_lsn));
        let after = self.wal.last().map_or_else(|| self.visible.clone(), |last| last.after.clone());
        let mut committed = Committed { xid, commit_lsn, end_lsn, messages, effects, empties, after };
        let mut after = std::mem::take(&mut committed.after);
        apply(&mut after, &committed);
        committed.after = after;
        self.limbo.push(self.wal.len());
        self.wal.push(committed);
    }

    /// One row's change, as the application makes it and as pgoutput spells it.
    fn change(
        &mut self,
        rows: &mut Rows,
        effects: &mut BTreeMap<i64, Option<[String; 2]>>,
        id: i64,
        to: i64,
        is_to_locked: bool,
    ) -> Option<Vec<u8>> {
        let key = [text(id), Value::Null, Value::Null];
        let Some(row) = rows.get(&id).cloned() else {
            let row = [word(&mut self.rng), word(&mut self.rng)];
            rows.insert(id, row.clone());
            effects.insert(id, Some(row.clone()));
            return Some(wire::insert(ITEMS, &[text(id), text(&row[0]), text(&row[1])]));
        };
        let kind = self.rng.u32(..10);
        if kind == 0 {
            rows.remove(&id);
            effects.insert(id, None);
            return Some(wire::delete(ITEMS, b'K', &key));
        }
        let is_move = kind < 3 && !is_to_locked && !rows.contains_key(&to);
        let is_partial = self.rng.u32(..4) > 0;
        let note = if is_partial { row[1].clone() } else { word(&mut self.rng) };
        let row = [word(&mut self.rng), note];
        let note = if is_partial { Value::Unchanged } else { text(&row[1]) };
        let new_id = if is_move { to } else { id };
        rows.remove(&id);
        effects.insert(id, None);
        rows.insert(new_id, row.clone());
        effects.insert(new_id, Some(row.clone()));
        let new = [text(new_id), text(&row[0]), note];
        Some(wire::update(ITEMS, is_move.then_some((b'K', &key[..])), &new))
    }

    fn snapshot(&self) -> ReadPoint {
        let open: Vec<u64> = self.running.range(..self.xmax).copied().collect();
        let xmin = open.first().copied().unwrap_or(self.xmax);
        let xip = open.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        ReadPoint::Primary(format!("{xmin}:{}:{xip}", self.xmax).parse().unwrap())
    }

    /// What may be delivered and not visible. Who waits for his client is known not to be among them.
    fn in_doubt(&mut self) -> InDoubt {
        let committed: BTreeSet<u64> = self.limbo.iter().map(|&index| self.wal[index].xid).collect();
        let rng = &mut self.rng;
        let xids = self.running.iter().filter(|xid| committed.contains(xid) || rng.bool());
        InDoubt::new(xids.map(|&xid| xid as u32).collect(), Lsn(self.lsn))
    }
}

fn apply(rows: &mut Rows, committed: &Committed) {
    if committed.empties {
        rows.clear();
    }
    for (&id, row) in &committed.effects {
        match row {
            Some(row) => rows.insert(id, row.clone()),
            None => rows.remove(&id),
        };
    }
}

fn word(rng: &mut fastrand::Rng) -> String {
    (0..rng.usize(1..8)).map(|_| rng.alphabetic()).collect()
}

// ---- the sink ---------------------------------------------------------------------------------------------------

enum Item {
    Run(Arc<Run>),
    Chunk {
        run: Run,
        range: usize,
        last_key: Option<i64>,
        is_last: bool,
        wal_lsn: Lsn,
    },
    /// The row must be read by itself; kept before what makes it so is applied.
    Owe(i64, Lsn),
    /// It was read.
    Paid {
        run: Run,
        owed: (i64, Lsn),
        wal_lsn: Lsn,
    },
}

/// What survives a crash: rows, checkpoint and progress, which commit together.
#[derive(Clone)]
struct Target {
    rows: Rows,
    lsn: Lsn,
    /// For each range: where its next chunk begins, and whether there is none.
    ranges: Vec<(i64, bool)>,
    /// Rows that are owed, each with the position of what makes it so.
    owed: BTreeSet<(i64, Lsn)>,
    /// The last chunk's LSN: beyond it the table is live.
    filled_at: Lsn,
}

impl Target {
    fn is_filled(&self) -> bool {
        self.ranges.iter().all(|(_, is_done)| *is_done) && self.owed.is_empty()
    }

    fn is_live(&self) -> bool {
        self.is_filled() && self.lsn >= self.filled_at
    }

    /// Writes a change; true where an update's row is not there.
    fn change(&mut self, plan: &Plan, run: &Run, change: Change) -> bool {
        let row = |cells: &[Cell]| -> (i64, Option<String>, Option<String>) {
            let text = |cell: Cell| match cell {
                Cell::Text(slice) => Some(String::from_utf8(slice.of(run.arena()).to_vec()).unwrap()),
                Cell::Absent => None,
                cell => panic!("unexpected {cell:?}"),
            };
            (id(cells[0]), text(cells[1]), text(cells[2]))
        };
        match change.kind {
            ChangeKind::Upsert => {
                let (id, name, note) = row(run.row(change, plan));
                self.rows.insert(id, [name.unwrap(), note.unwrap()]);
            }
            ChangeKind::Update => {
                let (id, name, note) = row(run.row(change, plan));
                let Some(found) = self.rows.get_mut(&id) else { return true };
                found[0] = name.unwrap();
                found[1] = note.unwrap_or_else(|| found[1].clone());
            }
            ChangeKind::Delete => {
                self.rows.remove(&id(run.key(change, plan)[0]));
            }
            ChangeKind::Move => {
                let (to, name, note) = row(run.row(change, plan));
                let old = self.rows.remove(&id(run.key(change, plan)[0]));
                // A chunk may have brought the row under its new key before the move arrives.
                let Some(note) =
                    note.or_else(|| Some(old.or_else(|| self.rows.get(&to).cloned())?[1].clone()))
                else {
                    return true;
                };
                self.rows.insert(to, [name.unwrap(), note]);
            }
            ChangeKind::Truncate => self.rows.clear(),
            ChangeKind::Reject => panic!("nothing is rejected"),
        }
        false
    }
}

fn id(cell: Cell) -> i64 {
    let Cell::Integer(id) = cell else { panic!("unexpected {cell:?}") };
    id
}

// ---- the engine -------------------------------------------------------------------------------------------------

/// What a crash ends.
struct Engine {
    decoder: Decoder,
    mapper: Mapper,
    /// The next transaction and the next of its messages.
    next: (usize, usize),
    is_described: bool,
    queue: VecDeque<Item>,
    /// What the sink has done with the queue since it last committed.
    working: Target,
    is_open: bool,
    log: Touched,
    in_doubt: Option<InDoubt>,
    horizon: Option<Horizon>,
    readers: Vec<Reader>,
    /// Rows to be read by themselves, with a transaction that the read must see.
    owed: Vec<(i64, Lsn, Option<CommitId>)>,
    /// The log watches.
    is_filling: bool,
}

/// A reader's chunk on its way.
enum Reader {
    /// It may begin.
    Idle,
    /// It has begun; the snapshot is not taken yet.
    Opened(Ticket),
    /// It is read, and waits for its place in the queue.
    Read {
        ticket: Ticket,
        read_point: ReadPoint,
        rows: CopyRows,
        last_key: Option<i64>,
        is_last: bool,
        wal_lsn: Lsn,
    },
    /// It is queued; the next one begins behind it.
    Queued,
}

struct Simulation {
    rng: fastrand::Rng,
    without: Without,
    plan: Arc<Plan>,
    source: Source,
    /// How far each standby has replayed, as an index into the WAL; without any, the primary is read.
    standbys: Vec<usize>,
    target: Target,
    engine: Engine,
    seen: Seen,
}

impl Simulation {
    fn run(seed: u64, without: Without) -> Seen {
        let mut rng = fastrand::Rng::with_seed(seed);
        let source = Source::new(rng.fork());
        let ranges = vec![(0, false), (IDS / 2, false)];
        let target =
            Target { rows: Rows::new(), lsn: Lsn(1000), ranges, owed: BTreeSet::new(), filled_at: Lsn::ZERO };
        let standbys = vec![0; [0, 0, 1, 2][rng.usize(..4)]];
        let plan = plan();
        let engine = Engine::start(&plan, &target, &source, &mut rng);
        let mut simulation =
            Simulation { rng, without, plan, source, standbys, target, engine, seen: Seen::default() };
        // Something is delivered, and perhaps not visible, before the fill begins.
        simulation.engine.is_filling = false;
        for _ in 0..simulation.rng.u32(..60) {
            simulation.source.step();
            simulation.deliver();
            simulation.sink();
        }
        // A new fill: what the stream has brought until now is a part of the rows, or nothing.
        while simulation.engine.decoder.is_in_transaction() {
            simulation.deliver();
        }
        simulation.begin_filling();
        let steps = simulation.rng.u32(STEPS / 2..STEPS);
        for _ in 0..steps {
            simulation.step();
        }
        simulation.drain();
        simulation.seen.truncates = simulation.source.truncates;
        simulation.seen
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..30 => self.source.step(),
            30..55 => self.deliver(),
            55..75 => self.read(),
            75..95 => self.sink(),
            95..98 => self.replay(),
            98 => {
                if let Some(horizon) = &self.engine.horizon {
                    self.engine.log.prune(&horizon.floor());
                }
            }
            _ if self.rng.u32(..4) == 0 => self.crash(),
            _ => {}
        }
    }

    fn drain(&mut self) {
        let mut steps = 0;
        loop {
            self.source.show();
            self.source.running.retain(|xid| {
                let is_limbo = self.source.limbo.iter().any(|&index| self.source.wal[index].xid == *xid);
                is_limbo || {
                    self.source.xmax = self.source.xmax.max(xid + 1);
                    false
                }
            });
            self.standbys.fill(self.source.wal.len());
            self.deliver();
            if !self.engine.decoder.is_in_transaction() {
                self.flush();
            }
            self.read();
            self.sink();
            let is_delivered = self.engine.next.0 == self.source.wal.len() && self.source.limbo.is_empty();
            if is_delivered && self.engine.queue.is_empty() && self.target.is_filled() {
                break;
            }
            steps += 1;
            let progress = (&self.target.ranges, &self.target.owed, &self.engine.owed, &self.standbys);
            assert!(steps < DRAIN_STEPS_MAX, "the fill does not end: {progress:?}");
        }
        assert!(self.target.is_live(), "{:?} {:?}", self.target.lsn, self.target.filled_at);
        assert_eq!(self.target.rows, self.source.visible);
    }

    /// Ends the engine and starts another one with what the sink has.
    fn crash(&mut self) {
        self.seen.crashes += 1;
        self.engine = Engine::start(&self.plan, &self.target, &self.source, &mut self.rng);
        if !self.target.is_live() {
            self.begin_filling();
        }
    }

    fn begin_filling(&mut self) {
        let engine = &mut self.engine;
        engine.is_filling = true;
        engine.log.watch(0);
        engine.in_doubt = Some(self.source.in_doubt());
        engine.horizon = None;
        // The reads that are to come see all of what made them so.
        engine.owed = self.target.owed.iter().map(|&(id, lsn)| (id, lsn, None)).collect();
    }

    // The river.

    /// One message of the stream.
    fn deliver(&mut self) {
        let engine = &mut self.engine;
        let Some(transaction) = self.source.wal.get(engine.next.0) else { return };
        let mut bytes = Vec::new();
        wire::xlog(&mut bytes, transaction.commit_lsn, &transaction.messages[engine.next.1]);
        if engine.next.1 == 0 {
            self.seen.delivered_unseen += u32::from(self.source.limbo.contains(&engine.next.0));
            if !engine.is_described {
                engine.is_described = true;
                let columns = [("id", 20, true), ("name", 25, false), ("note", 25, false)];
                wire::xlog(&mut bytes, Lsn::ZERO, &wire::relation(ITEMS, "items", b'd', &columns));
            }
        }
        engine.next.1 += 1;
        if engine.next.1 == transaction.messages.len() {
            engine.next = (engine.next.0 + 1, 0);
        }
        for frame in FrameRun::new(Bytes::from(bytes)).iter() {
            let event = engine.decoder.decode(frame.unwrap()).unwrap().unwrap();
            engine.mapper.map(event).unwrap();
            if let Some(run) = engine.mapper.take_full() {
                self.send(run);
                return;
            }
        }
        if !self.engine.decoder.is_in_transaction()
            && self.rng.bool()
            && let Some(run) = self.engine.mapper.take_whole()
        {
            self.send(run);
        }
    }

    fn send(&mut self, run: Run) {
        let engine = &mut self.engine;
        let floor = engine.horizon.as_ref().map(Horizon::floor);
        // Before the fill has begun no chunk has seen anything.
        let floor = floor.unwrap_or(ReadPoint::Standby { replayed: Lsn::ZERO });
        engine.log.record(&run, &self.plan, &floor);
        for Owed { key, commit, .. } in Owed::of(&run).filter(|_| engine.is_filling) {
            let id = key.expect("keys are text")[0].parse().unwrap();
            if self.without != Without::Owed {
                self.seen.owed += 1;
                engine.queue.push_back(Item::Owe(id, commit.commit_lsn));
                engine.owed.push((id, commit.commit_lsn, Some(commit)));
            }
        }
        engine.queue.push_back(Item::Run(Arc::new(run)));
    }

    // The readers.

    fn read(&mut self) {
        if !self.engine.is_filling {
            return;
        }
        if self.engine.horizon.is_none() {
            self.begin_reading();
            return;
        }
        if self.rng.u32(..4) == 0 {
            self.pay();
            return;
        }
        let index = self.rng.usize(..self.engine.readers.len());
        let (after, is_done) = self.engine.working.ranges[index];
        let reader = std::mem::replace(&mut self.engine.readers[index], Reader::Idle);
        self.engine.readers[index] = match reader {
            Reader::Idle if is_done => Reader::Idle,
            Reader::Idle => Reader::Opened(self.engine.horizon.as_ref().unwrap().open()),
            Reader::Opened(ticket) => match self.look() {
                Some((read_point, rows)) => self.read_chunk(ticket, read_point, &rows, index, after),
                None => Reader::Opened(ticket),
            },
            Reader::Read { ticket, read_point, rows, last_key, is_last, wal_lsn } => {
                // Between transactions only, and behind everything that was mapped.
                if self.engine.decoder.is_in_transaction() {
                    Reader::Read { ticket, read_point, rows, last_key, is_last, wal_lsn }
                } else {
                    self.flush();
                    match self.settle(&rows, &read_point) {
                        Some(run) => {
                            let item = Item::Chunk { run, range: index, last_key, is_last, wal_lsn };
                            self.engine.queue.push_back(item);
                            Reader::Queued
                        }
                        None => Reader::Idle,
                    }
                }
            }
            Reader::Queued => Reader::Queued,
        };
    }

    /// Waits until everything that was delivered before is visible.
    fn begin_reading(&mut self) {
        let Some((read_point, _)) = self.look() else { return };
        let in_doubt = self.engine.in_doubt.as_ref().unwrap();
        if in_doubt.is_settled(&read_point) || self.without == Without::InDoubt {
            // What was read before that is given up.
            for reader in &mut self.engine.readers {
                if !matches!(reader, Reader::Queued) {
                    *reader = Reader::Idle;
                }
            }
            self.engine.horizon = Some(Horizon::new(read_point));
        }
    }

    /// Takes a snapshot: what it sees, as it knows it and as rows.
    fn look(&mut self) -> Option<(ReadPoint, Rows)> {
        if self.standbys.is_empty() {
            if self.source.limbo.iter().any(|&index| self.source.wal[index].empties) {
                // The reader waits for its lock.
                return None;
            }
            let read_point = match self.without {
                Without::XidsButLsns => ReadPoint::Standby { replayed: Lsn(self.source.lsn + 1) },
                _ => self.source.snapshot(),
            };
            return Some((read_point, self.source.visible.clone()));
        }
        self.seen.standby_reads += 1;
        // A connection string may name several.
        let replayed = self.standbys[self.rng.usize(..self.standbys.len())];
        let last = self.source.wal[..replayed].last();
        let rows = match (last, self.source.wal.first()) {
            (Some(last), _) => last.after.clone(),
            (None, None) => self.source.visible.clone(),
            // Before the first transaction; the model does not keep that.
            (None, Some(_)) => return None,
        };
        Some((ReadPoint::Standby { replayed: last.map_or(Lsn(1000), |last| last.end_lsn) }, rows))
    }

    fn read_chunk(
        &mut self,
        ticket: Ticket,
        read_point: ReadPoint,
        rows: &Rows,
        index: usize,
        after: i64,
    ) -> Reader {
        if !ticket.saw(&read_point) {
            self.seen.refused_reads += 1;
            return Reader::Idle;
        }
        let up_to = if index == 0 { IDS / 2 } else { i64::MAX };
        let limit = self.rng.usize(1..6);
        let found: Vec<_> =
            rows.iter().filter(|(id, _)| (after + 1..=up_to).contains(*id)).take(limit).collect();
        let is_last = found.len() < limit;
        let last_key = found.last().map(|(id, _)| **id);
        Reader::Read {
            ticket,
            read_point,
            rows: copy(found.into_iter()),
            last_key,
            is_last,
            wal_lsn: Lsn(self.source.lsn),
        }
    }

    /// Reads one row that is owed.
    fn pay(&mut self) {
        if self.engine.owed.is_empty() || self.engine.decoder.is_in_transaction() {
            return;
        }
        let index = self.rng.usize(..self.engine.owed.len());
        let (id, lsn, commit) = self.engine.owed[index];
        let ticket = self.engine.horizon.as_ref().unwrap().open();
        let Some((read_point, rows)) = self.look() else { return };
        // Time goes by between the read and its place in the queue.
        for _ in 0..self.rng.u32(..6) {
            self.source.step();
            self.deliver();
        }
        if !ticket.saw(&read_point)
            || commit.is_some_and(|commit| !read_point.sees(commit))
            || self.engine.decoder.is_in_transaction()
        {
            return;
        }
        self.flush();
        let wal_lsn = Lsn(self.source.lsn);
        let found = copy(rows.get_key_value(&id).into_iter());
        if let Some(run) = self.settle(&found, &read_point) {
            self.engine.owed.swap_remove(index);
            self.engine.queue.push_back(Item::Paid { run, owed: (id, lsn), wal_lsn });
        }
    }

    /// Hands on what is mapped, so that the log and the queue have it.
    fn flush(&mut self) {
        if let Some(run) = self.engine.mapper.take_whole() {
            self.send(run);
        }
    }

    /// The rows of a chunk that may be queued now; `None` where it must be read again.
    fn settle(&mut self, rows: &CopyRows, read_point: &ReadPoint) -> Option<Run> {
        let mut run = chunk::encode(rows, 0, &self.plan).unwrap();
        if self.without == Without::Visibility {
            return Some(run);
        }
        let mut plain = chunk::encode(rows, 0, &self.plan).unwrap();
        match self.engine.log.settle(0, &mut run, &self.plan, read_point) {
            Ok(settled) => {
                self.seen.left_out += settled.left_out as u32;
                self.seen.overlaid += settled.overlaid as u32;
                if self.without == Without::Overlay && settled.overlaid > 0 && settled.left_out == 0 {
                    std::mem::swap(&mut run, &mut plain);
                }
                Some(run)
            }
            Err(_) => {
                self.seen.stale += 1;
                if self.engine.log.is_blind() {
                    self.seen.restarts += 1;
                    self.engine.log.restart();
                    self.engine.in_doubt = Some(self.source.in_doubt());
                    self.engine.horizon = None;
                }
                None
            }
        }
    }

    /// The standbys replay a little.
    fn replay(&mut self) {
        for replayed in &mut self.standbys {
            *replayed = (*replayed + self.rng.usize(..8)).min(self.source.wal.len());
        }
    }

    // The sink.

    fn sink(&mut self) {
        let engine = &mut self.engine;
        let Some(item) = engine.queue.pop_front() else { return };
        let working = &mut engine.working;
        match item {
            Item::Run(run) => {
                for span in run.spans().iter().filter(|span| span.commit_lsn >= self.target.lsn) {
                    for &change in run.changes(span) {
                        let is_live = working.is_live();
                        if working.change(&self.plan, &run, change) && engine.is_filling {
                            assert!(!is_live, "an update of a live table misses its row");
                            self.seen.misses += 1;
                        }
                    }
                    engine.is_open = span.end_lsn.is_none();
                    if let Some(end_lsn) = span.end_lsn {
                        working.lsn = end_lsn;
                    }
                }
            }
            Item::Chunk { run, range, last_key, is_last, wal_lsn } => {
                assert!(!engine.is_open, "no chunk is written inside a transaction");
                for &change in run.all_changes() {
                    working.change(&self.plan, &run, change);
                }
                if let Some(last_key) = last_key {
                    working.ranges[range].0 = last_key;
                }
                working.ranges[range].1 = is_last;
                working.filled_at = working.filled_at.max(wal_lsn);
                engine.readers[range] = Reader::Idle;
            }
            Item::Owe(id, lsn) => drop(working.owed.insert((id, lsn))),
            Item::Paid { run, owed, wal_lsn } => {
                assert!(!engine.is_open, "no row is written inside a transaction");
                for &change in run.all_changes() {
                    working.change(&self.plan, &run, change);
                }
                working.filled_at = working.filled_at.max(wal_lsn);
                working.owed.remove(&owed);
            }
        }
        if !engine.is_open {
            self.target.clone_from(working);
        }
    }
}

impl Engine {
    /// A new engine for a sink, which it knows only by what is in it.
    fn start(plan: &Arc<Plan>, target: &Target, source: &Source, rng: &mut fastrand::Rng) -> Self {
        // The slot may be behind the sink: what it sends again is left out by the sink.
        let first = source.wal.partition_point(|one| one.end_lsn <= target.lsn);
        Engine {
            decoder: Decoder::new(),
            mapper: Mapper::new(plan.clone(), PART_BYTES_MAX, target.lsn),
            next: (first.saturating_sub(rng.usize(..3)), 0),
            is_described: false,
            queue: VecDeque::new(),
            working: target.clone(),
            is_open: false,
            // So small that it overflows in many a seed.
            log: Touched::new([300, 1500, 1 << 20][rng.usize(..3)]),
            in_doubt: None,
            horizon: None,
            readers: target.ranges.iter().map(|_| Reader::Idle).collect(),
            owed: Vec::new(),
            is_filling: false,
        }
    }
}

/// Rows as COPY writes them.
fn copy<'a>(rows: impl Iterator<Item = (&'a i64, &'a [String; 2])>) -> CopyRows {
    let mut copied = CopyRows::default();
    for (id, [name, note]) in rows {
        copied.push(format!("{id}\t{name}\t{note}\n").as_bytes());
    }
    copied
}

fn plan() -> Arc<Plan> {
    let schema = r#"{
        "items": { "primaryKey": "id", "columns": { "id": "INTEGER", "name": "TEXT", "note": "TEXT" } }
    }"#;
    let schema = SchemaFile::parse("schema.json", schema).unwrap();
    let columns = [("id", 20), ("name", 25), ("note", 25)];
    let tables = [wire::table(ITEMS, "items", &columns, &["id"], ReplicaIdentity::Default)];
    Arc::new(Plan::new(&schema, &tables).unwrap())
}
