//! What becomes of a table that is stopped, and goes on.

use super::*;
use crate::Lsn;
use crate::fanout::stop::Stopped;

const RELATION: u32 = 7;

fn step(action: Action) -> FillStep {
    FillStep { table: 0, action, sent_at: Lsn(1), receipt: None }
}

fn stop(since: u64, sinks: Option<&[&str]>) -> FillStep {
    let (reason, hint) = ("column n is gone".to_owned(), "walcast backfill".to_owned());
    let stopped = Stopped { reason, hint, since: Lsn(since), returns: false };
    let sinks = sinks.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    step(Action::Stop { stopped, sinks })
}

fn resume(from: u64) -> FillStep {
    let fill = TableFill {
        clears: true,
        is_beside: true,
        from: Lsn(from),
        relation: Some(RELATION),
        ..TableFill::waiting(9)
    };
    step(Action::Resume { fill, sinks: vec!["eu".to_owned()] })
}

fn taken(fills: &mut Fills, position: u64, step: &FillStep) -> bool {
    let after = fills.after("eu", Lsn(position), step);
    let is_taken = after.is_some();
    after.into_iter().for_each(|fill| fills.set(step.table, fill));
    is_taken
}

#[test]
fn a_stopped_table_takes_nothing_until_it_goes_on_from_behind_what_was_left_out() {
    let mut fills = Fills::default();
    assert!(!taken(&mut fills, 60, &stop(50, None)), "the sink has that transaction");
    assert!(taken(&mut fills, 50, &stop(50, None)));
    assert!(!taken(&mut fills, 50, &stop(55, None)), "it is stopped");
    assert_eq!(fills.state(0, Lsn(99)), TableState::Stopped);
    assert!(fills.get(0).unwrap().leaves_out(Lsn(99)));
    let begin = |sinks| Action::Begin { fill: TableFill::waiting(9), sinks };
    let owed = OwedKey { key: vec!["1".to_owned()], commit_lsn: Lsn(60), xid: 4 };
    for action in [
        begin(None),
        begin(Some(vec!["eu".to_owned()])),
        Action::Owe(owed.clone()),
        Action::Miss(vec![owed.clone()]),
        Action::Retry { owed: vec![owed], sinks: vec!["eu".to_owned()] },
    ] {
        assert!(!taken(&mut fills, 60, &step(action)));
    }
    assert!(taken(&mut fills, 60, &resume(100)));
    let fill = fills.get(0).unwrap();
    assert_eq!((fill.state(Lsn(60)), fill.is_beside, fill.clears), (TableState::Waiting, true, false));
    assert!(fill.leaves_out(Lsn(99)) && !fill.leaves_out(Lsn(100)));
    assert!(!taken(&mut fills, 60, &stop(99, None)), "what is read has what that left out");
    assert!(taken(&mut fills, 60, &stop(100, None)));
    assert_eq!(fills.get(0).unwrap().relation, Some(RELATION));
}

#[test]
fn a_table_that_is_gone_stops_in_the_sinks_that_are_named_wherever_they_are() {
    let mut fills = Fills::default();
    assert!(!taken(&mut fills, 60, &stop(50, Some(&["na"]))));
    assert!(taken(&mut fills, 60, &stop(50, Some(&["na", "eu"]))));
    assert!(!taken(&mut Fills::default(), 60, &resume(100)), "a table that flows is not filled anew");
}

#[test]
fn a_table_that_was_left_empty_goes_on_empty_and_one_that_is_being_built_is_built_anew() {
    let mut fills = Fills::default();
    fills.set(0, TableFill { is_left_empty: true, ..TableFill::waiting(0) });
    assert!(taken(&mut fills, 50, &stop(50, None)));
    assert!(taken(&mut fills, 50, &resume(100)));
    let fill = fills.get(0).unwrap();
    assert_eq!((fill.state(Lsn(50)), fill.is_beside), (TableState::Incomplete, false));
    let beside = TableFill { is_beside: true, ..TableFill::waiting(0) };
    let mut fills = Fills(vec![Some(beside)]);
    assert!(taken(&mut fills, 50, &stop(50, None)));
    assert_eq!(fills.get(0).unwrap().swapped(Lsn(99)), None);
    assert!(taken(&mut fills, 50, &resume(100)) && fills.get(0).unwrap().is_beside);
}

#[test]
fn why_a_table_is_stopped_is_the_same_after_it_was_kept() {
    let mut fills = Fills::default();
    assert!(taken(&mut fills, 50, &stop(50, None)));
    let text = serde_json::to_string(fills.get(0).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<TableFill>(&text).unwrap(), *fills.get(0).unwrap());
}
