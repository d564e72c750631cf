//! The D1 sink against a database in memory: whatever its changes are and whatever happens to its requests, it holds
//! what the source held at its checkpoint.

#[path = "support/changes.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod changes;
#[path = "support/interruptions.rs"]
mod interruptions;
#[path = "support/local_d1.rs"]
mod local_d1;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::sync::Arc;

use changes::{Op, Rows, Source, transactions};
use interruptions::{Event, events};
use local_d1::{Faults, LocalD1};
use proptest::prelude::*;
use runs::runs;
use walcast::Lsn;
use walcast::capture::slot::SourceIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::error::{Error, Kind};
use walcast::fanout::sink::{Batch, Checkpoint, Sink};
use walcast::sink::d1::limits::RequestLimits;
use walcast::sink::d1::{D1Sink, Options};
use walcast::sink::replica::OnRejected;

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

fn options(rows_max: usize) -> Options {
    Options {
        on_rejected: OnRejected::DeadLetter,
        skip_unchanged: false,
        request: RequestLimits { rows_max, bytes_max: 4 << 20 },
        ..Options::default()
    }
}

struct Replica<'a> {
    database: LocalD1,
    sink: D1Sink,
    source: &'a Source,
    plan: Arc<Plan>,
    options: Options,
    /// Where the stream stands: an index of the runs.
    next: usize,
    last: std::ops::Range<usize>,
    checkpoint: Checkpoint,
}

impl Replica<'_> {
    fn new(source: &Source, options: Options) -> Replica<'_> {
        Replica::with(source, source.plan(), options)
    }

    fn with(source: &Source, plan: Plan, options: Options) -> Replica<'_> {
        let (database, plan) = (LocalD1::new(1), Arc::new(plan));
        let mut sink = D1Sink::new("d1", Box::new(database.clone()), options);
        assert_eq!(sink.open(&plan, &identity()).unwrap(), None);
        sink.start_at(Lsn(1)).unwrap();
        let checkpoint = sink.checkpoint().unwrap();
        Replica { database, sink, source, plan, options, next: 0, last: 0..0, checkpoint }
    }

    fn happen(&mut self, event: Event, runs: &[Arc<Run>]) {
        match event {
            Event::Batch(length) => {
                let end = (self.next + length).min(runs.len());
                self.last = self.next..end;
                self.next = end;
                self.apply(runs);
            }
            Event::Again => self.apply(runs),
            Event::Restart(back) => self.restart(back, runs),
            Event::Crash(back) => {
                self.sink = D1Sink::new("d1", Box::new(self.database.clone()), self.options);
                let checkpoint = self.sink.open(&self.plan, &identity()).unwrap().unwrap();
                let Checkpoint { lsn, open, transactions, .. } = self.checkpoint;
                assert_eq!(
                    (checkpoint.lsn, checkpoint.open, checkpoint.transactions),
                    (lsn, open, transactions)
                );
                self.restart(back, runs);
            }
        }
    }

    /// Sends the last runs until they are there, as a worker does, but with the checkpoint that it began with.
    fn apply(&mut self, runs: &[Arc<Run>]) {
        let batch = Batch::new(&runs[self.last.clone()], Lsn(1), None);
        let mut attempts = 0;
        while let Err(error) = self.sink.apply(&batch) {
            assert!(matches!(error.kind(), Kind::Transient | Kind::Throttled { .. }), "{error:?}");
            attempts += 1;
            assert!(attempts < 1_000, "{error:?}");
        }
        self.checkpoint = self.sink.checkpoint().unwrap();
    }

    fn database_lsn(&self) -> Lsn {
        self.database.rows("SELECT lsn FROM _walcast_checkpoint")[0].parse().unwrap()
    }

    /// Starts the stream again, `back` whole transactions before the checkpoint.
    fn restart(&mut self, back: usize, runs: &[Arc<Run>]) {
        self.last = 0..0;
        self.next = self.source.resumed_at(self.checkpoint.lsn, back, runs);
    }

    fn rows(&self) -> Rows {
        let deleted = self.plan.tables[0].soft_delete.as_ref().map(|column| format!("\"{column}\""));
        let deleted = deleted.unwrap_or_else(|| "NULL".to_owned());
        let sql = format!("SELECT id, json_array(name, note) FROM items WHERE {deleted} IS NULL");
        let rows = self.database.rows(&sql);
        rows.iter()
            .map(|row| {
                let (id, values) = row.split_once('|').unwrap();
                (id.parse().unwrap(), serde_json::from_str(values).unwrap())
            })
            .collect()
    }

    fn number(&self, sql: &str) -> u64 {
        self.database.rows(sql)[0].parse().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Requests as large as the batches: what is composed has the effect of the changes in order, and every batch
    /// leaves whole transactions and nothing else.
    #[test]
    fn a_d1_replica_equals_its_source_whatever_comes_again(
        transactions in transactions(),
        is_full in any::<bool>(),
        events in events(),
        part_bytes_max in prop_oneof![1..600usize, Just(4000usize)],
        skip_unchanged in any::<bool>(),
        is_soft in any::<bool>(),
    ) {
        let source = Source::new(&transactions, is_full);
        let mut plan = source.plan();
        plan.tables[0].soft_delete = is_soft.then(|| "deleted at".to_owned());
        let mut replica = Replica::with(&source, plan, Options { skip_unchanged, ..options(1_000) });
        let runs = runs(&source.stream, &replica.plan, part_bytes_max);
        for event in events.into_iter().chain([Event::Restart(3), Event::Batch(usize::MAX / 2)]) {
            replica.happen(event, &runs);
            if replica.checkpoint.open.is_none() {
                prop_assert_eq!(replica.rows(), source.at(replica.checkpoint.lsn), "after {:?}", event);
            }
        }
        prop_assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
        let stored = replica.number("SELECT transactions FROM _walcast_checkpoint");
        prop_assert_eq!(stored as usize, transactions.len(), "each transaction once");
        prop_assert_eq!(replica.number("SELECT count(*) FROM _walcast_dead_letters"), 0);
    }

    /// Requests of a few rows, so that most transactions are split, and every second request fails in some way.
    #[test]
    fn split_transactions_arrive_once_whatever_fails(
        transactions in transactions(),
        is_full in any::<bool>(),
        events in events(),
        part_bytes_max in prop_oneof![1..600usize, Just(4000usize)],
        rows_max in 1..6usize,
    ) {
        let source = Source::new(&transactions, is_full);
        let mut replica = Replica::new(&source, options(rows_max));
        let runs = runs(&source.stream, &replica.plan, part_bytes_max);
        let faults = Faults { lost: 100, lost_answer: 200, throttled: 50, overloaded: 50, too_much: 0, busy: 50 };
        for event in events.into_iter().chain([Event::Restart(3), Event::Batch(usize::MAX / 2)]) {
            // A new engine is not what is tried here.
            replica.database.set_faults(if matches!(event, Event::Crash(_)) { Faults::default() } else { faults });
            replica.happen(event, &runs);
            if replica.checkpoint.open.is_none() {
                prop_assert_eq!(replica.rows(), source.at(replica.checkpoint.lsn), "after {:?}", event);
            }
        }
        prop_assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
        let stored = replica.number("SELECT transactions FROM _walcast_checkpoint");
        prop_assert_eq!(stored as usize, transactions.len(), "each transaction once");
    }
}

// ---- who may write, and from where ------------------------------------------------------------------------------

/// Each transaction of [`few_transactions`] comes in three runs: its beginning, its change, and its end.
const RUNS: usize = 3;

/// A source with a few transactions, and a replica that has the first of them.
fn fed(source: &Source) -> (Replica<'_>, Vec<Arc<Run>>) {
    let mut replica = Replica::new(source, options(1_000));
    let runs = runs(&source.stream, &replica.plan, 1);
    replica.happen(Event::Batch(RUNS), &runs);
    (replica, runs)
}

fn few_transactions() -> Source {
    let insert = |key: i64| vec![Op::Insert(key, [Some(format!("row {key}")), None])];
    Source::new(&[insert(1), insert(2), insert(3), insert(4)], false)
}

fn apply_next(replica: &mut Replica<'_>, runs: &[Arc<Run>]) -> Result<(), Error> {
    let next = replica.next..replica.next + RUNS;
    replica.sink.apply(&Batch::new(&runs[next], Lsn(1), None)).map(drop)
}

#[test]
fn an_engine_that_was_replaced_can_no_longer_write() {
    let source = few_transactions();
    let (mut replica, runs) = fed(&source);
    let mut second = D1Sink::new("d1", Box::new(replica.database.clone()), options(1_000));
    second.open(&replica.plan, &identity()).unwrap();
    let error = apply_next(&mut replica, &runs).unwrap_err();
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.to_string().contains("another walcast engine has taken this replica over"), "{error}");
    second.apply(&Batch::new(&runs[RUNS..], Lsn(1), None)).unwrap();
    assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
    // However often the first one tries.
    assert_eq!(replica.sink.checkpoint().unwrap_err().kind(), Kind::Halt);
    assert_eq!(apply_next(&mut replica, &runs).unwrap_err().kind(), Kind::Halt);
    assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
}

#[test]
fn a_database_that_was_restored_while_the_engine_runs_needs_a_backfill() {
    let source = few_transactions();
    let (mut replica, runs) = fed(&source);
    let before = replica.database.snapshot();
    replica.happen(Event::Batch(RUNS), &runs);
    replica.database.restore(&before);
    for _ in 0..2 {
        let error = apply_next(&mut replica, &runs).unwrap_err();
        assert_eq!(error.kind(), Kind::NeedsBackfill, "{error:?}");
        assert!(error.to_string().contains("was restored or made anew"), "{error}");
        assert_eq!(replica.sink.checkpoint().unwrap_err().kind(), Kind::NeedsBackfill);
    }
    assert_eq!(replica.rows(), source.at(source.transactions[0].end_lsn), "nothing was written");
}

#[test]
fn a_database_from_before_this_engine_needs_a_backfill() {
    let source = few_transactions();
    let (mut replica, runs) = fed(&source);
    let before = replica.database.snapshot();
    replica.happen(Event::Crash(0), &runs);
    replica.happen(Event::Batch(RUNS), &runs);
    replica.database.restore(&before);
    assert_eq!(apply_next(&mut replica, &runs).unwrap_err().kind(), Kind::NeedsBackfill);
}

#[test]
fn a_database_that_was_emptied_or_lost_a_table_needs_a_backfill() {
    for sql in [
        "DELETE FROM _walcast_checkpoint",
        "DROP TABLE _walcast_checkpoint",
        "DROP TABLE items",
        "DROP TABLE _walcast_checkpoint; DROP TABLE _walcast_tables; DROP TABLE _walcast_dead_letters; DROP TABLE items",
    ] {
        let source = few_transactions();
        let (mut replica, runs) = fed(&source);
        replica.database.exec(sql);
        let error = apply_next(&mut replica, &runs).unwrap_err();
        assert_eq!(error.kind(), Kind::NeedsBackfill, "{sql}: {error:?}");
    }
}

#[test]
fn a_foreign_database_is_refused_and_an_empty_one_is_not() {
    let source = few_transactions();
    let plan = Arc::new(source.plan());
    let database = LocalD1::new(1);
    database.exec("CREATE TABLE users (id INTEGER PRIMARY KEY); CREATE TABLE _cf_KV (k TEXT)");
    let error =
        D1Sink::new("d1", Box::new(database.clone()), options(10)).open(&plan, &identity()).unwrap_err();
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.to_string().contains("holds tables that walcast did not create"), "{error}");
    assert_eq!(database.rows("SELECT name FROM sqlite_schema WHERE name LIKE '%walcast%'").len(), 0);

    database.exec("DROP TABLE users");
    let mut sink = D1Sink::new("d1", Box::new(database.clone()), options(10));
    assert_eq!(sink.open(&plan, &identity()).unwrap(), None);
    sink.start_at(Lsn(5)).unwrap();
    let other = SourceIdentity { slot: "another".into(), ..identity() };
    let error = D1Sink::new("d1", Box::new(database.clone()), options(10)).open(&plan, &other).unwrap_err();
    assert!(error.to_string().contains("d1 is a replica of slot walcast"), "{error}");
    assert_eq!(sink.checkpoint().unwrap().lsn, Lsn(5));
}

// ---- rows that are not taken ------------------------------------------------------------------------------------

#[test]
fn a_row_that_the_database_refuses_is_set_aside_and_the_rest_arrives_whole() {
    let ops: Vec<Op> = (0..6).map(|key| Op::Insert(key, [Some(format!("row {key}")), None])).collect();
    let source = Source::new(&[ops, vec![Op::Insert(7, [Some("last".into()), None])]], false);
    for on_rejected in [OnRejected::DeadLetter, OnRejected::Halt] {
        let mut replica = Replica::new(&source, Options { on_rejected, ..options(1_000) });
        let runs = runs(&source.stream, &replica.plan, 4_000);
        replica.database.exec(
            "CREATE TRIGGER refuse BEFORE INSERT ON items WHEN NEW.id IN (2, 5)
             BEGIN SELECT raise(ABORT, 'not this one'); END",
        );
        let batch = Batch::new(&runs, Lsn(1), None);
        let applied = replica.sink.apply(&batch);
        let ids = replica.database.rows("SELECT id FROM items ORDER BY id");
        match on_rejected {
            OnRejected::DeadLetter => {
                assert_eq!(applied.unwrap().dead_letters, 2);
                assert_eq!(ids, ["0", "1", "3", "4", "7"]);
                let letters = "SELECT target, operation, key, reason LIKE '%not this one%', commit_lsn, xid
                                 FROM _walcast_dead_letters ORDER BY key";
                assert_eq!(
                    replica.database.rows(letters),
                    ["items|upsert|[2]|1|0/3E8|1", "items|upsert|[5]|1|0/3E8|1"]
                );
            }
            OnRejected::Halt => {
                let error = applied.unwrap_err();
                assert_eq!(error.kind(), Kind::Halt);
                assert!(error.to_string().contains("a row of table items has no valid form here, at 0/3E8"));
                assert!(ids.is_empty(), "{ids:?}");
            }
        }
    }
}

#[test]
fn a_row_above_the_limit_is_set_aside_and_one_just_below_it_is_not() {
    let row = |key: i64, bytes: usize| Op::Insert(key, [Some("x".repeat(bytes)), Some("ü".repeat(100_000))]);
    let source = Source::new(&[vec![row(1, 1_790_000), row(2, 1_800_000), row(3, 10)]], false);
    let mut replica = Replica::new(&source, options(1_000));
    let runs = runs(&source.stream, &replica.plan, usize::MAX / 4);
    let applied = replica.sink.apply(&Batch::new(&runs, Lsn(1), None)).unwrap();
    assert_eq!((applied.changes, applied.dead_letters, applied.transactions), (2, 1, 1));
    assert_eq!(replica.database.rows("SELECT id, length(name) FROM items"), ["1|1790000", "3|10"]);
    let letters = replica.database.rows("SELECT key, reason FROM _walcast_dead_letters");
    assert_eq!(letters, ["[2]|the row has 2000008 bytes, more than the 2000000 that D1 takes"]);
}

#[test]
fn a_row_arrives_although_its_json_is_longer_than_a_parameter_may_be() {
    let quotes = |count: usize| Some("\"".repeat(count));
    let transactions = [
        vec![Op::Insert(1, [quotes(1_100_000), None]), Op::Insert(2, [Some("short".into()), None])],
        // Of the one, another column; of the other, the long one.
        vec![Op::Update(1, [None, Some(quotes(10))]), Op::Update(2, [Some(quotes(1_200_000)), None])],
        // Neither alone, both together.
        vec![Op::Insert(3, [quotes(900_000), None]), Op::Update(3, [None, Some(quotes(900_000))])],
        // Together they are more than a row may have.
        vec![Op::Update(2, [None, Some(quotes(900_000))])],
    ];
    let source = Source::new(&transactions, false);
    // A row as JSON is more than the database gives, too.
    let lengths =
        "SELECT id, length(name), length(note) FROM items WHERE replace(name, '\"', '') IN ('', 'short')";
    let expected = ["1|1100000|10", "2|1200000|NULL", "3|900000|900000"];
    // Folded into one request, and row by row.
    for options in [options(1_000), Options { skip_unchanged: true, ..options(1) }] {
        let mut replica = Replica::new(&source, options);
        let runs = runs(&source.stream, &replica.plan, usize::MAX / 4);
        let applied = replica.sink.apply(&Batch::new(&runs, Lsn(1), None)).unwrap();
        assert_eq!((applied.dead_letters, applied.transactions), (1, 4));
        assert_eq!(replica.database.rows(lengths), expected);
        assert_eq!(replica.database.rows("SELECT operation, key FROM _walcast_dead_letters"), ["update|[2]"]);
    }
}

#[test]
fn an_update_of_some_columns_of_a_row_that_is_not_there_is_set_aside() {
    let partial = Op::Update(1, [Some(Some("new".into())), None]);
    let insert = |key| Op::Insert(key, [Some("a".into()), Some("b".into())]);
    let moved = Op::Move(2, 5, [Some(Some("moved".into())), None]);
    let source = Source::new(&[vec![insert(1), insert(2), insert(3)], vec![partial, moved]], false);
    let mut replica = Replica::new(&source, options(1_000));
    let runs = runs(&source.stream, &replica.plan, 1);
    replica.happen(Event::Batch(5), &runs);
    assert_eq!(replica.checkpoint.lsn, source.transactions[0].end_lsn);
    replica.database.exec("DELETE FROM items WHERE id <> 3");
    let applied = replica.sink.apply(&Batch::new(&runs, Lsn(1), None)).unwrap();
    assert_eq!(applied.dead_letters, 2);
    let letters = "SELECT operation, key, commit_lsn, xid FROM _walcast_dead_letters ORDER BY key";
    assert_eq!(replica.database.rows(letters), ["update|[1]|0/44C|2", "update|[2]|0/44C|2"]);
    assert_eq!(replica.database.rows("SELECT id FROM items"), ["3"]);
}

#[test]
fn a_sink_that_is_to_halt_does_so_at_an_update_of_some_columns_that_finds_no_row() {
    let partial = Op::Update(2, [Some(Some("new".into())), None]);
    let insert = |key| Op::Insert(key, [Some("a".into()), Some("b".into())]);
    let source = Source::new(&[vec![insert(1), insert(2)], vec![insert(3), partial]], false);
    let halt = Options { on_rejected: OnRejected::Halt, ..options(1_000) };
    let mut replica = Replica::new(&source, halt);
    let runs = runs(&source.stream, &replica.plan, 1);
    replica.happen(Event::Batch(3), &runs);
    replica.database.exec("DELETE FROM items WHERE id = 2");
    let error = replica.sink.apply(&Batch::new(&runs, Lsn(1), None)).unwrap_err();
    assert_eq!(error.kind(), Kind::Halt);
    let expected = "a row of table items has no valid form here, at 0/44C: the row is not in this replica";
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(replica.database.rows("SELECT id FROM items"), ["1"], "nothing of the transaction is there");
    assert!(replica.database.rows("SELECT * FROM _walcast_dead_letters").is_empty());
    // Once the row is there, the update is applied.
    replica.database.exec("INSERT INTO items (id, name, note) VALUES (2, 'old', 'b')");
    let mut sink = D1Sink::new("d1", Box::new(replica.database.clone()), halt);
    sink.open(&replica.plan, &identity()).unwrap();
    sink.apply(&Batch::new(&runs, Lsn(1), None)).unwrap();
    assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
}

#[test]
fn a_sink_that_ends_has_counted_every_row_that_was_written() {
    let source = few_transactions();
    let (mut replica, runs) = fed(&source);
    apply_next(&mut replica, &runs[..]).unwrap();
    let counted = |replica: &Replica<'_>| -> u64 {
        replica.database.rows("SELECT usage ->> 'rows_written' FROM _walcast_checkpoint")[0].parse().unwrap()
    };
    // The checkpoint's first row, which the sink begins with, is not its business.
    let written = |replica: &Replica<'_>| replica.database.seen().rows_written - 1;
    assert!(counted(&replica) < written(&replica), "what the last request came to is not known yet");
    replica.sink.end();
    assert_eq!(counted(&replica), written(&replica));
    replica.sink.end();
    assert_eq!(counted(&replica), written(&replica), "once");
    assert_eq!(replica.sink.checkpoint().unwrap().lsn, replica.database_lsn());
}
