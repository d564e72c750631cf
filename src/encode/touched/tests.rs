//! The decision, case by case. What follows from many of them is `tests/backfill_simulation`' matter.

use std::sync::Arc;

use super::{Decision, Horizon, Owed, Stale, Touched};
use crate::Lsn;
use crate::capture::copy_text::CopyRows;
use crate::capture::snapshot::{CommitId, ReadPoint};
use crate::capture::table::{Oid, TableName};
use crate::encode::cell::{Cell, push};
use crate::encode::chunk;
use crate::encode::column_type::ColumnType;
use crate::encode::plan::{Plan, PlannedColumn, PlannedTable};
use crate::encode::run::{Change, ChangeKind, Run, Span};
use crate::encode::value::Conversion;

/// Key (a, b), and a note.
pub(in crate::encode) fn plan() -> Plan {
    let column = |name: &str, column_type, base: u32| PlannedColumn {
        source: name.into(),
        target: name.into(),
        column_type,
        type_oid: Oid(base),
        base_type_oid: Oid(base),
        conversion: Conversion::choose(Oid(base), None, column_type).unwrap().0,
    };
    Plan {
        tables: vec![PlannedTable {
            is_partitioned: false,
            source: TableName { schema: "public".into(), name: "t".into() },
            oid: Oid(1),
            target: "t".into(),
            columns: vec![
                column("note", ColumnType::Text, 25),
                column("b", ColumnType::Text, 25),
                column("a", ColumnType::Integer, 23),
                column("score", ColumnType::Integer, 1700),
            ],
            key: vec![2, 1],
            indexes: Vec::new(),
            soft_delete: None,
            estimated_rows: -1,
            problem: None,
        }],
    }
}

pub(in crate::encode) enum Did {
    Upsert(i64, &'static str),
    Update(i64, &'static str),
    Delete(i64),
    Move(i64, i64),
    Truncate,
}

/// A run of one transaction. Every key's `b` is `x`.
pub(in crate::encode) fn run(xid: u32, did: &[Did]) -> Run {
    let mut run = Run::default();
    let mut text = |text: &str| push(&mut run.arena, text.as_bytes());
    let (b, mut changes, mut cells) = (Cell::Text(text("x")), Vec::new(), Vec::new());
    for did in did {
        let (kind, new): (_, Vec<Cell>) = match did {
            Did::Upsert(a, note) => {
                (ChangeKind::Upsert, vec![Cell::Text(text(note)), b, Cell::Integer(*a), Cell::Null])
            }
            Did::Update(a, note) => {
                (ChangeKind::Update, vec![Cell::Text(text(note)), b, Cell::Integer(*a), Cell::Absent])
            }
            Did::Delete(a) => (ChangeKind::Delete, vec![Cell::Integer(*a), b]),
            Did::Move(from, to) => (
                ChangeKind::Move,
                vec![Cell::Integer(*from), b, Cell::Absent, b, Cell::Integer(*to), Cell::Absent],
            ),
            Did::Truncate => (ChangeKind::Truncate, Vec::new()),
        };
        if let Did::Move(_, to) = did {
            run.source_keys.push((changes.len(), Some(vec![to.to_string(), "x".to_owned()])));
        }
        changes.push(Change { kind, table: 0, first_cell: cells.len() as u32 });
        cells.extend(new);
    }
    run.spans.push(Span {
        commit_lsn: Lsn(u64::from(xid) * 10),
        xid,
        commit_time_micros: 0,
        is_start: true,
        changes_before: 0,
        end_lsn: Some(Lsn(u64::from(xid) * 10 + 5)),
        changes: 0..changes.len(),
    });
    (run.changes, run.cells) = (changes, cells);
    run
}

/// A primary's snapshot that sees all below `xmax` but these.
fn sees(xmax: u64, but: &[u64]) -> ReadPoint {
    let xip = but.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let xmin = but.iter().min().unwrap_or(&xmax);
    ReadPoint::Primary(format!("{xmin}:{xmax}:{xip}").parse().unwrap())
}

fn log(runs: &[Run]) -> Touched {
    let mut log = Touched::new(1 << 20);
    log.watch(0);
    runs.iter().for_each(|run| log.record(run, &plan(), &sees(10, &[])));
    log
}

fn decision(log: &Touched, a: i64, read_point: &ReadPoint) -> &'static str {
    match log.decide(0, format!("[{a},\"x\"]").as_bytes(), read_point) {
        Decision::Keep => "keep",
        Decision::LeaveOut => "leave out",
        Decision::Overlay { .. } => "overlay",
    }
}

#[test]
fn what_a_chunk_saw_is_kept_and_what_it_did_not_see_decides() {
    let log = log(&[
        run(20, &[Did::Upsert(1, "n"), Did::Update(2, "n"), Did::Delete(3), Did::Move(4, 5)]),
        run(21, &[Did::Update(1, "m"), Did::Update(2, "m")]),
    ]);
    let all = |read_point: &ReadPoint| (1..=6).map(|a| decision(&log, a, read_point)).collect::<Vec<_>>();
    let nothing = ["leave out", "overlay", "leave out", "leave out", "leave out", "keep"];
    assert_eq!(all(&sees(20, &[])), nothing);
    // Committed and delivered, and still in the list of what runs.
    assert_eq!(all(&sees(30, &[20, 21])), nothing);
    assert_eq!(all(&sees(30, &[21])), ["overlay", "overlay", "keep", "keep", "keep", "keep"]);
    assert_eq!(all(&sees(30, &[])), ["keep"; 6]);
    // On a standby, the position says it.
    assert_eq!(all(&ReadPoint::Standby { replayed: Lsn(205) })[0], "overlay");
    assert_eq!(all(&ReadPoint::Standby { replayed: Lsn(215) }), ["keep"; 6]);
}

#[test]
fn a_truncate_takes_every_row_of_an_older_chunk() {
    let log = log(&[run(20, &[Did::Truncate, Did::Upsert(1, "n")])]);
    assert_eq!([decision(&log, 1, &sees(20, &[])), decision(&log, 9, &sees(20, &[]))], ["leave out"; 2]);
    assert_eq!([decision(&log, 1, &sees(21, &[])), decision(&log, 9, &sees(21, &[]))], ["keep"; 2]);
}

#[test]
fn partial_updates_are_written_over_the_row_they_left_values_out_of() {
    let plan = plan();
    let mut log =
        log(&[run(20, &[Did::Update(1, "new")]), run(21, &[Did::Update(1, "newer"), Did::Delete(2)])]);
    let mut rows = CopyRows::default();
    for row in ["old\tx\t1\t5", "old\tx\t2\t5", "old\tx\t3\t5", "old\tx\t4\t1.5"] {
        rows.push(row.as_bytes());
    }
    let mut chunk = chunk::encode(&rows, 0, &plan).unwrap();
    let settled = log.settle(0, &mut chunk, &plan, &sees(20, &[])).unwrap();
    assert_eq!((settled.kept, settled.left_out, settled.overlaid), (2, 1, 1));
    let kinds: Vec<ChangeKind> = chunk.all_changes().iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::Upsert, ChangeKind::Upsert, ChangeKind::Reject]);
    let row = chunk.row(chunk.all_changes()[0], &plan);
    let Cell::Text(note) = row[0] else { panic!("{row:?}") };
    assert_eq!((note.of(chunk.arena()), row[2], row[3]), (&b"newer"[..], Cell::Integer(1), Cell::Integer(5)));
    let rejected = chunk.rejection(chunk.all_changes()[2]);
    assert_eq!((rejected.operation, &*rejected.key), ("backfill", "[4,\"x\"]"));
}

#[test]
fn a_row_that_moved_in_part_and_a_rejected_one_that_changed_are_read_by_themselves() {
    let plan = plan();
    let moved = run(20, &[Did::Move(1, 2), Did::Update(7, "n")]);
    let owed: Vec<Owed> = Owed::of(&moved).collect();
    let mut log = log(&[moved]);
    assert_eq!(owed.len(), 1);
    assert_eq!(owed[0].key.as_deref(), Some(&["2".to_owned(), "x".to_owned()][..]));
    assert_eq!(owed[0].commit, CommitId { xid: 20, commit_lsn: Lsn(200) });

    let mut rows = CopyRows::default();
    rows.push(b"old\tx\t7\t1.5");
    let mut chunk = chunk::encode(&rows, 0, &plan).unwrap();
    let settled = log.settle(0, &mut chunk, &plan, &sees(20, &[])).unwrap();
    assert_eq!((settled.left_out, chunk.all_changes().len()), (1, 0));
    assert_eq!(settled.owed.len(), 1);
    assert_eq!(settled.owed[0].key.as_deref(), Some(&["7".to_owned(), "x".to_owned()][..]));
}

#[test]
fn only_what_some_chunk_may_not_see_is_remembered() {
    let plan = plan();
    let horizon = Horizon::new(sees(10, &[]));
    let mut log = Touched::new(1 << 20);
    log.record(&run(20, &[Did::Delete(1)]), &plan, &horizon.floor());
    log.watch(0);
    log.record(&run(9, &[Did::Delete(1)]), &plan, &horizon.floor());
    assert_eq!(log.bytes(), 0, "before it is watched, and what every chunk sees");

    let first = horizon.open();
    log.record(&run(20, &[Did::Update(1, "n")]), &plan, &horizon.floor());
    log.record(&run(21, &[Did::Delete(2)]), &plan, &horizon.floor());
    let second = horizon.open();
    assert!(second.saw(&sees(30, &[20])));
    let third = horizon.open();
    log.prune(&horizon.floor());
    assert_eq!(decision(&log, 2, &sees(11, &[])), "leave out", "the first chunk may still be that old");
    assert!(first.saw(&sees(12, &[])));
    drop(first);
    log.prune(&horizon.floor());
    assert_eq!(
        decision(&log, 2, &sees(11, &[])),
        "leave out",
        "the second one began when the first had not seen it"
    );
    drop(second);
    log.prune(&horizon.floor());
    assert_eq!(
        [decision(&log, 1, &sees(30, &[20])), decision(&log, 2, &sees(30, &[20]))],
        ["overlay", "keep"]
    );
    assert!(!third.saw(&sees(15, &[])), "another server, that lags behind");
    drop(third);
    assert!(horizon.open().saw(&sees(31, &[])));
    log.prune(&horizon.floor());
    assert_eq!(log.bytes(), 0);
}

#[test]
fn a_log_that_outgrows_its_limit_has_chunks_read_again_until_they_see_what_it_forgot() {
    let plan = plan();
    let mut log = Touched::new(2000);
    log.watch(0);
    for xid in 20..60 {
        log.record(&run(xid, &[Did::Delete(xid.into())]), &plan, &sees(10, &[]));
        assert!(log.bytes() <= 2000);
    }
    let mut settle =
        |read_point| log.settle(0, &mut chunk(&plan), &plan, &read_point).map(|settled| settled.kept);
    assert_eq!(settle(sees(20, &[])), Err(Stale));
    assert_eq!(settle(sees(70, &[21])), Err(Stale));
    assert_eq!(settle(sees(70, &[])), Ok(1));
    log.prune(&sees(70, &[]));
    assert_eq!(log.settle(0, &mut chunk(&plan), &plan, &sees(20, &[])).map(|settled| settled.kept), Ok(1));

    for xid in 100..3000 {
        log.record(&run(xid, &[Did::Delete(xid.into())]), &plan, &sees(70, &[]));
    }
    assert!(log.is_blind());
    assert_eq!(log.settle(0, &mut chunk(&plan), &plan, &sees(9000, &[])), Err(Stale));
    log.restart();
    assert!(log.settle(0, &mut chunk(&plan), &plan, &sees(9000, &[])).is_ok());
}

fn chunk(plan: &Plan) -> Run {
    let mut rows = CopyRows::default();
    rows.push(b"old\tx\t1\t5");
    chunk::encode(&rows, 0, plan).unwrap()
}

#[test]
fn what_was_delivered_before_a_fill_began_leaves_no_row_out_but_must_be_seen() {
    let plan = plan();
    let mut log = log(&[run(20, &[Did::Upsert(1, "then gone with its table")])]);
    log.begin(0);
    assert_eq!(log.bytes(), 0);
    log.record(&run(21, &[Did::Upsert(1, "again")]), &plan, &sees(10, &[]));
    let mut settle = |read_point| {
        log.settle(0, &mut chunk(&plan), &plan, &read_point).map(|settled| (settled.kept, settled.left_out))
    };
    assert_eq!(settle(sees(22, &[20])), Err(Stale));
    assert_eq!(settle(sees(22, &[21])), Ok((0, 1)));
    assert_eq!(settle(sees(22, &[])), Ok((1, 0)));
}

#[test]
fn a_filled_table_is_forgotten() {
    let mut log = log(&[run(20, &[Did::Delete(1), Did::Move(2, 3)])]);
    assert!(log.is_watching() && log.bytes() > 0);
    log.unwatch(0);
    assert!(!log.is_watching() && log.bytes() == 0);
    let plan = Arc::new(plan());
    log.record(&run(21, &[Did::Delete(1)]), &plan, &sees(10, &[]));
    assert_eq!(log.bytes(), 0);
}

#[test]
fn a_row_that_was_asked_for_and_is_gone_is_removed_unless_something_unseen_touched_it() {
    let plan = plan();
    let mut log = log(&[run(20, &[Did::Upsert(2, "again")]), run(21, &[Did::Delete(3)])]);
    let mut rows = CopyRows::default();
    // One that is there, and one that is there and has no valid form.
    rows.push(b"note\tx\t1\t5");
    rows.push(b"note\tx\t9\tNaN");
    let mut read = chunk::encode(&rows, 0, &plan).unwrap();
    let keys = ["1", "2", "3", "4", "9", "no number"].map(|a| vec![a.to_owned(), "x".to_owned()]);
    chunk::push_gone(&mut read, keys.iter().map(Vec::as_slice), 0, &plan);
    let settled = log.settle(0, &mut read, &plan, &sees(22, &[20])).unwrap();
    assert_eq!((settled.kept, settled.left_out), (4, 1));
    let done = read.changes.iter().map(|&change| match change.kind {
        ChangeKind::Upsert => format!("write {:?}", read.row(change, &plan)[2]),
        ChangeKind::Delete => format!("remove {:?}", read.key(change, &plan)[0]),
        kind => format!("{kind:?}"),
    });
    let done: Vec<String> = done.collect();
    assert_eq!(done, ["write Integer(1)", "Reject", "remove Integer(3)", "remove Integer(4)"]);
}
