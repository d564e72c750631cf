//! The real decoder, mapper, chunk encoder and log of touched keys between the models: readers, crashes, new beginnings.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use walcast::Lsn;
use walcast::capture::chunk::InDoubt;
use walcast::capture::copy_text::CopyRows;
use walcast::capture::frame::FrameRun;
use walcast::capture::snapshot::{CommitId, ReadPoint};
use walcast::capture::table::ReplicaIdentity;
use walcast::decode::Decoder;
use walcast::encode::chunk;
use walcast::encode::mapper::Mapper;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::encode::schema_file::SchemaFile;
use walcast::encode::touched::{Horizon, Owed, Ticket, Touched};

use super::sink::{Item, Target};
use super::snapshots::{IDS, ITEMS, Rows, Source, copy};
use super::{Seen, Without, wire};

/// What one seed does before it is drained.
const STEPS: u32 = 600;
/// Far more than draining takes.
const DRAIN_STEPS_MAX: u32 = 20_000;
const PART_BYTES_MAX: usize = 400;

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

pub struct Simulation {
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
    pub fn run(seed: u64, without: Without) -> Seen {
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
            engine.mapper.map(event);
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

fn plan() -> Arc<Plan> {
    let columns = r#"{ "id": "INTEGER", "name": "TEXT", "note": "TEXT" }"#;
    let schema = format!(r#"{{ "items": {{ "primaryKey": "id", "columns": {columns} }} }}"#);
    let schema = SchemaFile::parse("schema.json", &schema).unwrap();
    let columns = [("id", 20), ("name", 25), ("note", 25)];
    let tables = [wire::table(ITEMS, "items", &columns, &["id"], ReplicaIdentity::Default)];
    Arc::new(Plan::new(&schema, &tables).unwrap())
}
