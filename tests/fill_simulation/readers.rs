//! The readers, step by step: as `app::fill` has them, without a server.

use std::collections::BTreeSet;
use std::sync::Arc;

use walcast::Lsn;
use walcast::app::fill::gate::{Gate, Offered};
use walcast::app::fill::job::{Job, jobs, jobs_to_begin};
use walcast::app::fill::pending::Pending;
use walcast::capture::chunk::{InDoubt, Key, KeyRange};
use walcast::capture::copy_text::CopyRows;
use walcast::capture::snapshot::{CommitId, ReadPoint};
use walcast::capture::table::Oid;
use walcast::encode::chunk;
use walcast::encode::current::CurrentPlan;
use walcast::encode::run::Run;
use walcast::encode::touched::Ticket;
use walcast::fanout::delivery::Delivery;
use walcast::fanout::fill::{Action, FillStep, OwedKey, RangeFill, TableFill};
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::{Progress, State};

use super::ddl::is_fit;
use super::snapshots::{IDS, OTHER_IDS, Rows, Source, copy};
use super::{Seen, Without};

/// The table that is altered, by its index in the plan, and the other one.
pub const TABLE: usize = 0;
pub const OTHER_TABLE: usize = 1;

/// All readers of an engine.
pub struct Readers {
    readers: Vec<Reader>,
    /// By table: which relation is read, once whatever was delivered before is visible to every read.
    ready: [Option<Oid>; 2],
    is_watched: [bool; 2],
    gate: Arc<Gate>,
    outlets: Arc<Outlets>,
    progress: Progress,
    current: Arc<CurrentPlan>,
    without: Without,
    pending: Pending,
}

#[derive(Default)]
struct Reader {
    job: Option<Job>,
    at: At,
}

/// What a reader does next for its job.
#[derive(Default)]
enum At {
    /// It makes sure that the table can be read.
    #[default]
    Start,
    /// It waits for those who wrote to the table before it was published.
    Writers(Oid, BTreeSet<u64>),
    /// It waits until this is visible.
    Doubt(Oid, InDoubt, u64),
    /// It may begin.
    Ready(Oid),
    /// It has begun; the snapshot is not taken yet.
    Opened(Oid, Ticket, u64),
    /// It is read, and waits for its place in the queues.
    Read(Oid, Box<Read>),
}

struct Read {
    /// The read point stays known while this is held.
    _ticket: Ticket,
    generation: u64,
    read_point: ReadPoint,
    run: Option<Run>,
    last_key: Option<Key>,
    is_last: bool,
    seen_lsn: Lsn,
}

impl Readers {
    pub fn new(
        count: usize,
        without: Without,
        (gate, outlets): (&Arc<Gate>, &Arc<Outlets>),
        progress: Progress,
        current: &Arc<CurrentPlan>,
    ) -> Readers {
        Readers {
            readers: (0..count).map(|_| Reader::default()).collect(),
            ready: [None; 2],
            is_watched: [false; 2],
            gate: gate.clone(),
            outlets: outlets.clone(),
            progress,
            current: current.clone(),
            without,
            pending: Pending::default(),
        }
    }

    /// Sends a step without rows, unless the river is inside a transaction.
    pub fn send(&self, action: Action) -> bool {
        self.send_to(TABLE, action)
    }

    fn send_to(&self, table: usize, action: Action) -> bool {
        let mut action = Some(action);
        self.gate.send_step(|| FillStep {
            table,
            action: action.take().unwrap(),
            sent_at: Lsn::ZERO,
            receipt: None,
        })
    }

    /// Every table begins with doubt again.
    pub fn forget_all(&mut self) {
        self.ready = [None; 2];
    }

    /// One reader goes one step.
    pub fn step(&mut self, source: &mut Source, rng: &mut fastrand::Rng, seen: &mut Seen) {
        let index = rng.usize(..self.readers.len());
        let Reader { job, at } = std::mem::take(&mut self.readers[index]);
        // Its connection breaks now and then.
        let next = match job.or_else(|| self.take(rng)) {
            Some(job) if rng.u32(..100) == 0 => self.fail(job.table()),
            Some(job) => self.work(job, at, source, rng, seen),
            None => None,
        };
        match next {
            Some((job, at)) => self.readers[index] = Reader { job: Some(job), at },
            None => {
                if self.gate.restart_if_blind() {
                    seen.blind += 1;
                    self.forget_all();
                }
            }
        }
    }

    fn fail(&mut self, table: usize) -> Option<(Job, At)> {
        self.ready[table] = None;
        None
    }

    /// The next job that nobody does yet.
    fn take(&mut self, rng: &mut fastrand::Rng) -> Option<Job> {
        let all = jobs(&self.progress, self.ready.len());
        let jobs = jobs_to_begin(&self.progress, self.ready.len(), &self.pending);
        let busy: Vec<&Job> = self.readers.iter().filter_map(|reader| reader.job.as_ref()).collect();
        let needed: BTreeSet<usize> = all.iter().chain(busy.iter().copied()).map(Job::table).collect();
        let free: Vec<Job> =
            jobs.into_iter().filter(|job| !busy.iter().any(|other| other.is_in_the_way_of(job))).collect();
        for table in [TABLE, OTHER_TABLE].into_iter().filter(|table| !needed.contains(table)) {
            self.ready[table] = None;
            if std::mem::take(&mut self.is_watched[table]) {
                self.gate.unwatch(table);
            }
        }
        (!free.is_empty()).then(|| free[rng.usize(..free.len())].clone())
    }

    /// What the reader does next, if anything.
    fn work(
        &mut self,
        job: Job,
        at: At,
        source: &mut Source,
        rng: &mut fastrand::Rng,
        seen: &mut Seen,
    ) -> Option<(Job, At)> {
        let table = job.table();
        let at = match at {
            At::Start => match self.ready[table] {
                Some(oid) => At::Ready(oid),
                None => {
                    let oid = self.current.plan().tables[table].oid;
                    if table == TABLE && !is_readable(source, oid) {
                        return self.fail(table);
                    }
                    self.gate.watch(table);
                    self.is_watched[table] = true;
                    let early = if table == TABLE { source.early.clone() } else { BTreeSet::new() };
                    At::Writers(oid, early)
                }
            },
            At::Writers(oid, early) if early.is_disjoint(&source.running) => {
                let generation = self.gate.generation();
                At::Doubt(oid, source.in_doubt(), generation)
            }
            At::Writers(..) => at,
            At::Doubt(oid, in_doubt, generation) => {
                let read_point = source.snapshot();
                let is_settled = in_doubt.is_settled(&read_point) || self.without == Without::Doubt;
                match is_settled.then(|| self.gate.begin(&read_point, generation)) {
                    Some(Some(horizon)) if horizon.open().saw(&read_point) => {
                        self.ready[table] = Some(oid);
                        At::Ready(oid)
                    }
                    // What was in doubt when the log began anew is another question.
                    Some(None) => At::Doubt(oid, source.in_doubt(), self.gate.generation()),
                    Some(Some(_)) | None => At::Doubt(oid, in_doubt, generation),
                }
            }
            At::Ready(oid) => match &job {
                Job::Begin(_) => return (!self.begin(table, rng)).then_some((job, At::Ready(oid))),
                Job::Range(..) | Job::Owed(..) => match self.gate.horizon() {
                    Some((horizon, generation)) => At::Opened(oid, horizon.open(), generation),
                    None => return self.fail(table),
                },
            },
            At::Opened(oid, ticket, generation) => {
                if source.is_locked() && table == TABLE {
                    // It waits for its lock.
                    return Some((job, At::Opened(oid, ticket, generation)));
                }
                if table == TABLE && !is_readable(source, oid) {
                    return self.fail(table);
                }
                self.read(&job, (oid, ticket, generation), source, rng, seen)
            }
            At::Read(oid, read) => return self.offer(job, oid, *read, rng, seen),
        };
        Some((job, at))
    }

    fn begin(&self, table: usize, rng: &mut fastrand::Rng) -> bool {
        let keys = (0..rng.usize(..3)).map(|part| Key(vec![(IDS / 3 * (part as i64 + 1)).to_string()]));
        let ranges = KeyRange::between(keys.collect());
        let fill = TableFill {
            key_columns: vec!["id".to_owned()],
            ranges: ranges.into_iter().map(|rest| RangeFill { rest, is_done: false }).collect(),
            ..TableFill::waiting(IDS as u64)
        };
        let is_sent = self.send_to(table, Action::Begin { fill, sinks: None });
        if is_sent {
            self.note(Job::Begin(table));
        }
        is_sent
    }

    /// It is on its way to whoever takes the main stream.
    fn note(&self, job: Job) {
        let sinks = self.progress.sinks().into_iter();
        self.pending.sent(job, sinks.filter(|sink| sink.state() == State::Attached));
    }

    fn read(
        &self,
        job: &Job,
        (oid, ticket, generation): (Oid, Ticket, u64),
        source: &Source,
        rng: &mut fastrand::Rng,
        seen: &mut Seen,
    ) -> At {
        let (read_point, rows, table) = (source.snapshot(), &source.visible, job.table());
        let limit = rng.usize(1..6);
        let (rows, last_key, is_last) = match job {
            Job::Range(_, rest) => range(rows, table, rest, limit),
            Job::Owed(_, owed) => (by_key(rows, owed), None, true),
            Job::Begin(_) => panic!("nothing is read to begin"),
        };
        let cause = |owed: &OwedKey| CommitId { xid: owed.xid, commit_lsn: owed.commit_lsn };
        let is_seen = match job {
            Job::Owed(_, owed) => owed.iter().all(|owed| read_point.sees(cause(owed))),
            Job::Range(..) | Job::Begin(_) => true,
        };
        if !ticket.saw(&read_point) || !is_seen {
            seen.refused_reads += 1;
            return At::Ready(oid);
        }
        let mut run = chunk::encode(&rows, table, &self.current.plan()).unwrap();
        if let Job::Owed(_, owed) = job {
            let keys = owed.iter().map(|owed| owed.key.as_slice());
            chunk::push_gone(&mut run, keys, table, &self.current.plan());
        }
        let run = Some(run);
        let seen_lsn = Lsn(source.lsn);
        let read = Read { _ticket: ticket, generation, read_point, run, last_key, is_last, seen_lsn };
        At::Read(oid, Box::new(read))
    }

    fn offer(
        &mut self,
        job: Job,
        oid: Oid,
        mut read: Read,
        rng: &mut fastrand::Rng,
        seen: &mut Seen,
    ) -> Option<(Job, At)> {
        let (last_key, is_last, seen_lsn) = (read.last_key.clone(), read.is_last, read.seen_lsn);
        let action = |run| match &job {
            Job::Range(_, rest) => {
                Action::Chunk { rest: rest.clone(), last_key, is_last, run, seen_lsn, is_partial: false }
            }
            Job::Owed(_, owed) => Action::Paid { owed: owed.clone(), run, seen_lsn },
            Job::Begin(_) => panic!("nothing is read to begin"),
        };
        let table = job.table();
        let make =
            |run| FillStep { table, action: action(run), sent_at: self.outlets.position(), receipt: None };
        let offered = match self.without {
            Without::Gate => self.pass_by(&mut read.run, make),
            Without::Nothing | Without::Doubt => {
                self.gate.offer(table, &mut read.run, (&read.read_point, read.generation), make)
            }
        };
        if offered == Offered::Sent {
            self.note(job.clone());
        }
        match (offered, job) {
            (Offered::NotNow, job) => Some((job, At::Read(oid, Box::new(read)))),
            (Offered::Stale, job) => {
                seen.stale += 1;
                (!self.gate.restart_if_blind()).then_some((job, At::Ready(oid))).or_else(|| {
                    seen.blind += 1;
                    self.forget_all();
                    None
                })
            }
            (Offered::Sent, Job::Range(table, mut rest)) => {
                seen.chunks += 1;
                // It goes on before the sinks have it, or looks for something else.
                if read.is_last || rng.bool() {
                    return None;
                }
                rest.after = read.last_key.or(rest.after);
                Some((Job::Range(table, rest), At::Ready(oid)))
            }
            (Offered::Sent, Job::Owed(..) | Job::Begin(_)) => {
                seen.paid += 1;
                None
            }
        }
    }

    /// Past the gate.
    fn pass_by(&self, run: &mut Option<Run>, make: impl FnOnce(Arc<Run>) -> FillStep) -> Offered {
        let is_sent = self.outlets.send_between(|| {
            let run = Arc::new(run.take().unwrap());
            vec![Delivery::Fill(Arc::new(make(run)))]
        });
        if is_sent { Offered::Sent } else { Offered::NotNow }
    }
}

/// The first rows of a range, the last one's key, and whether there are no more.
fn range(rows: &Rows, table: usize, rest: &KeyRange, limit: usize) -> (CopyRows, Option<Key>, bool) {
    let id = |key: &Option<Key>| key.as_ref().map(|key| key.0[0].parse::<i64>().unwrap());
    let (after, up_to) = (id(&rest.after).unwrap_or(0), id(&rest.up_to).unwrap_or(i64::MAX));
    let is_in = |id: &i64| (after + 1..=up_to).contains(id) && table_of(*id) == table;
    let found: Vec<_> = rows.iter().filter(|(id, _)| is_in(id)).take(limit).collect();
    let last_key = found.last().map(|(id, _)| Key(vec![id.to_string()]));
    let is_last = found.len() < limit;
    (copy(found.into_iter()), last_key, is_last)
}

fn by_key(rows: &Rows, owed: &[OwedKey]) -> CopyRows {
    let ids: BTreeSet<i64> = owed.iter().map(|owed| owed.key[0].parse().unwrap()).collect();
    copy(rows.iter().filter(|(id, _)| ids.contains(id)))
}

/// Whether that relation is there as it is to be read.
fn is_readable(source: &Source, oid: Oid) -> bool {
    is_fit(source.visible_form) && source.visible_form.oid == oid.0
}

/// Where a row is.
pub fn table_of(id: i64) -> usize {
    if OTHER_IDS.contains(&id) { OTHER_TABLE } else { TABLE }
}
