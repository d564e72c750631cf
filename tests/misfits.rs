//! A stream that does not fit the plan for a while, step by step: the real river, gate, worker and SQLite sink, and
//! hand-written messages in the place of a source.

#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use walcast::Lsn;
use walcast::app::fill::gate::{Gate, Resumed};
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::capture::slot::SourceIdentity;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::current::CurrentPlan;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::encode::schema_file::SchemaFile;
use walcast::fanout::chain::chain;
use walcast::fanout::fill::{Action, FillStep, Fills, TableFill, TableState};
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::SinkProgress;
use walcast::fanout::retry::Backoff;
use walcast::fanout::sink::Sink;
use walcast::fanout::worker::{BatchLimits, Step, Worker};
use walcast::sink::replica::OnRejected;
use walcast::sink::sqlite::SqliteSink;
use wire::text;

const T: u32 = 50_001;
const OTHER: u32 = 50_002;
const ANEW: u32 = 50_003;
/// What `t` is as it was planned, and what it becomes.
const FIT: [(&str, u32, bool); 2] = [("id", 23, true), ("v", 23, false)];
const UNFIT: [(&str, u32, bool); 2] = [("id", 23, true), ("w", 23, false)];

fn plan_of(t: u32) -> Arc<Plan> {
    let columns = [("id", 23), ("v", 23)];
    let tables = [(t, "t"), (OTHER, "other")]
        .map(|(oid, name)| wire::table(oid, name, &columns, &["id"], ReplicaIdentity::Default));
    let entry = r#"{"primaryKey": "id", "columns": {"id": "INTEGER", "v": "INTEGER"}}"#;
    let schema = format!(r#"{{"t": {entry}, "other": {entry}}}"#);
    Arc::new(Plan::new(&SchemaFile::parse("schema.json", &schema).unwrap(), &tables).unwrap())
}

struct Rig {
    directory: TempDir,
    current: Arc<CurrentPlan>,
    gate: Arc<Gate>,
    river: River,
    worker: Worker<SqliteSink>,
    progress: Arc<SinkProgress>,
    _inlets: crossbeam_channel::Sender<walcast::fanout::chain::Inlet>,
}

impl Rig {
    fn new() -> Rig {
        let directory = TempDir::new().unwrap();
        let plan = plan_of(T);
        let mut sink = SqliteSink::new(directory.path().join("eu.db"), OnRejected::DeadLetter);
        let source = SourceIdentity {
            system_identifier: 7,
            timeline: 1,
            slot: "walcast".into(),
            database: "app".into(),
        };
        assert_eq!(sink.open(&plan, &source).unwrap(), None);
        sink.start_at(Lsn(1)).unwrap();
        let progress = SinkProgress::new("eu");
        progress.set_fills(Fills(plan.tables.iter().map(|_| Some(TableFill::complete())).collect()));
        let (outlets, _) = Outlets::new(Duration::MAX);
        let (outlet, inlet) = outlets.queue(&progress, usize::MAX);
        outlets.attach(outlet);
        let (inlets, chain) = chain();
        inlets.send(inlet).unwrap();
        let outlets = Arc::new(outlets);
        let limits = BatchLimits { rows_max: 1000, bytes_max: 1 << 20 };
        let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
        let random = fastrand::Rng::with_seed(1);
        let worker = Worker::new(sink, chain, progress.clone(), Lsn(1), limits, backoff, random);
        let options = RiverOptions {
            part_bytes_max: 1 << 20,
            idle_interval: Duration::ZERO,
            needed_from: Lsn::ZERO,
            older: OlderForms::default(),
        };
        let current = Arc::new(CurrentPlan::new(plan));
        let gate = Arc::new(Gate::new(outlets.clone(), current.clone()));
        let river = River::of(current.clone(), outlets, options).with_gate(Some(gate.clone()));
        Rig { directory, current, gate, river, worker, progress, _inlets: inlets }
    }

    /// A transaction that is committed here arrives and is applied.
    fn transaction(&mut self, at: u64, messages: &[Vec<u8>]) {
        let mut stream = Vec::new();
        wire::xlog(&mut stream, Lsn(at), &wire::begin(Lsn(at), 946_684_800_000_000, at as u32));
        messages.iter().for_each(|message| wire::xlog(&mut stream, Lsn(at), message));
        wire::xlog(&mut stream, Lsn(at), &wire::commit(Lsn(at), Lsn(at + 8)));
        self.river.flow(&FrameRun::new(stream.into())).unwrap();
        self.work();
    }

    fn work(&mut self) {
        for _ in 0..8 {
            let step = self.worker.step(false);
            assert!(matches!(step, Step::Done), "{step:?}");
        }
    }

    fn resume(&mut self, from: u64) -> Resumed {
        let fill = TableFill { clears: true, is_beside: true, from: Lsn(from), ..TableFill::waiting(0) };
        let action = Action::Resume { fill, sinks: vec!["eu".to_owned()] };
        let step = FillStep { table: 0, action, sent_at: Lsn::ZERO, receipt: None };
        let resumed = self.gate.resume(step, Lsn(from));
        self.work();
        resumed
    }

    fn rows(&self, table: &str) -> Vec<i64> {
        let connection = rusqlite::Connection::open(self.directory.path().join("eu.db")).unwrap();
        let mut statement = connection.prepare(&format!("SELECT id FROM \"{table}\" ORDER BY id")).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn state(&self) -> TableState {
        self.progress.fills().state(0, self.progress.durable_lsn())
    }

    /// Since when the replica says that `t` is stopped.
    fn stopped_since(&self) -> Option<Lsn> {
        self.progress.fills().get(0)?.stopped.as_ref().map(|stopped| stopped.since)
    }
}

fn fits(oid: u32) -> Vec<u8> {
    wire::relation(oid, "t", b'd', &FIT)
}

fn other() -> Vec<u8> {
    wire::relation(OTHER, "other", b'd', &FIT)
}

fn insert(oid: u32, id: u64) -> Vec<u8> {
    wire::insert(oid, &[text(id), text(0)])
}

const BESIDE: &str = "_walcast_new_t";

#[test]
fn a_table_goes_on_from_behind_everything_that_was_left_out_and_stops_again_where_it_does_not_fit() {
    let mut rig = Rig::new();
    rig.transaction(100, &[fits(T), other(), insert(T, 1), insert(OTHER, 1)]);
    // The other table's changes of the same transaction arrive.
    let unfit = wire::relation(T, "t", b'd', &UNFIT);
    rig.transaction(200, &[insert(OTHER, 2), unfit.clone(), insert(T, 2), insert(OTHER, 3)]);
    assert_eq!((rig.rows("t"), rig.rows("other")), (vec![1], vec![1, 2, 3]));
    assert_eq!((rig.state(), rig.stopped_since()), (TableState::Stopped, Some(Lsn(200))));
    // It fits again, but what is missing is missing.
    rig.transaction(300, &[fits(T), insert(T, 3), wire::truncate(&[T, OTHER])]);
    assert_eq!((rig.rows("t"), rig.rows("other")), (vec![1], vec![]));

    assert_eq!(rig.resume(450), Resumed::Sent);
    assert_eq!(rig.state(), TableState::Waiting);
    rig.transaction(400, &[insert(T, 4)]);
    rig.transaction(500, &[insert(T, 5)]);
    assert_eq!(rig.rows("t"), [1], "its readers see what they saw");
    assert_eq!(rig.rows(BESIDE), [5], "what is read has what was committed before 450");

    // A form that was left out and known before is told again, now that it would be missing.
    rig.transaction(600, &[unfit, insert(T, 6)]);
    rig.transaction(700, &[insert(T, 7)]);
    assert_eq!((rig.rows(BESIDE), rig.stopped_since()), (vec![5], Some(Lsn(600))));
    assert_eq!(rig.resume(650), Resumed::Unsound, "the one of 700 would be missing");
    assert_eq!(rig.stopped_since(), Some(Lsn(600)));
    assert_eq!(rig.resume(750), Resumed::Sent);
    rig.transaction(800, &[insert(T, 8)]);
    assert_eq!(rig.stopped_since(), Some(Lsn(800)), "said once before, and again after it was to go on");
}

#[test]
fn another_relation_under_the_name_is_left_out_until_the_plan_is_made_from_it() {
    let mut rig = Rig::new();
    rig.transaction(100, &[fits(T), insert(T, 1)]);
    rig.transaction(200, &[fits(ANEW), insert(ANEW, 2)]);
    assert_eq!((rig.rows("t"), rig.state()), (vec![1], TableState::Stopped));
    rig.current.renew(0, plan_of(ANEW).tables[0].clone());
    assert_eq!(rig.resume(250), Resumed::Sent);
    // Without being described again.
    rig.transaction(300, &[insert(ANEW, 3)]);
    assert_eq!((rig.rows("t"), rig.rows(BESIDE)), (vec![1], vec![3]));
    // What is sent again of the one before is not for it.
    rig.transaction(400, &[insert(T, 4)]);
    assert_eq!((rig.rows(BESIDE), rig.stopped_since()), (vec![3], Some(Lsn(400))));
}

#[test]
fn a_key_that_updates_do_not_carry_any_more_stops_the_table() {
    let mut rig = Rig::new();
    let other_key = [("id", 23, false), ("v", 23, true)];
    rig.transaction(100, &[wire::relation(T, "t", b'i', &other_key), insert(T, 1)]);
    assert_eq!((rig.rows("t"), rig.stopped_since()), (vec![], Some(Lsn(100))));
    // The whole row has it.
    let mut rig = Rig::new();
    rig.transaction(
        100,
        &[wire::relation(T, "t", b'f', &FIT.map(|(name, oid, _)| (name, oid, true))), insert(T, 1)],
    );
    assert_eq!((rig.rows("t"), rig.stopped_since()), (vec![1], None));
}
