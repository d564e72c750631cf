//! What becomes of a table step by step.

use std::sync::Arc;

use super::after::OWED_MAX;
use super::*;
use crate::Lsn;
use crate::capture::chunk::{Key, KeyRange};

fn key(id: u32) -> Option<Key> {
    Some(Key(vec![id.to_string()]))
}

fn step(action: Action) -> FillStep {
    FillStep { table: 0, action, sent_at: Lsn(1), receipt: None }
}

fn chunk(after: Option<Key>, last: Option<Key>, is_last: bool, seen: u64) -> FillStep {
    step(Action::Chunk {
        rest: KeyRange { after, up_to: None },
        last_key: last,
        is_last,
        run: Arc::default(),
        seen_lsn: Lsn(seen),
        is_partial: false,
    })
}

fn begin(sinks: Option<&[&str]>) -> FillStep {
    let ranges = vec![RangeFill { rest: KeyRange::default(), is_done: false }];
    let sinks = sinks.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    step(Action::Begin { fill: TableFill { ranges, clears: true, ..TableFill::waiting(9) }, sinks })
}

fn taken(fills: &mut Fills, step: &FillStep) -> bool {
    match fills.after("eu", Lsn(1), step) {
        Some(fill) => {
            fills.set(step.table, fill);
            true
        }
        None => false,
    }
}

#[test]
fn a_table_waits_is_filled_catches_up_and_is_live() {
    let mut fills = Fills::default();
    assert_eq!(fills.state(0, Lsn(1)), TableState::Live, "it never had to be filled");
    fills.set(0, TableFill::waiting(9));
    assert_eq!(fills.state(0, Lsn(1)), TableState::Waiting);
    assert!(taken(&mut fills, &begin(None)));
    assert!(!taken(&mut fills, &begin(None)), "it has begun");
    assert_eq!(fills.state(0, Lsn(1)), TableState::Filling);
    assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
    assert!(!taken(&mut fills, &chunk(None, key(5), false, 100)), "it has that one");
    assert!(taken(&mut fills, &chunk(key(5), None, true, 90)));
    assert_eq!(fills.state(0, Lsn(99)), TableState::CatchingUp);
    assert_eq!(fills.state(0, Lsn(100)), TableState::Live);
}

#[test]
fn a_row_that_is_owed_keeps_the_table_from_being_live_until_it_is_paid() {
    let mut fills = Fills::default();
    let owed = OwedKey { key: vec!["7".to_owned()], commit_lsn: Lsn(50), xid: 4 };
    assert!(!taken(&mut fills, &step(Action::Owe(owed.clone()))), "the table has all its rows");
    fills.set(0, TableFill::complete());
    assert!(!taken(&mut fills, &step(Action::Owe(owed.clone()))), "still");
    assert!(taken(&mut fills, &step(Action::Miss(vec![owed.clone()]))), "but it proved wrong");
    assert!(!taken(&mut fills, &step(Action::Miss(vec![owed.clone()]))));
    assert_eq!(fills.state(0, Lsn(60)), TableState::Filling);
    let paid = step(Action::Paid { owed: vec![owed], run: Arc::default(), seen_lsn: Lsn(70) });
    assert!(taken(&mut fills, &paid));
    assert!(!taken(&mut fills, &paid));
    assert_eq!(
        (fills.state(0, Lsn(60)), fills.state(0, Lsn(70))),
        (TableState::CatchingUp, TableState::Live)
    );
}

#[test]
fn a_row_that_is_retried_is_owed_by_the_named_sinks_and_leaves_what_is_being_filled_as_it_is() {
    let owed = OwedKey { key: vec!["7".to_owned()], commit_lsn: Lsn(50), xid: 4 };
    let retry = |sinks: &[&str]| {
        let sinks = sinks.iter().map(|name| (*name).to_owned()).collect();
        step(Action::Retry { owed: vec![owed.clone()], sinks })
    };
    let mut fills = Fills::default();
    assert!(!taken(&mut fills, &retry(&["na"])));
    assert!(taken(&mut fills, &retry(&["na", "eu"])));
    assert_eq!(fills.state(0, Lsn(60)), TableState::Filling);
    assert!(!taken(&mut fills, &retry(&["eu"])), "it is owed already");
    assert!(taken(&mut fills, &begin(Some(&["eu"]))));
    assert!(!taken(&mut fills, &retry(&["eu"])), "it still is: what makes it so may not be visible yet");
    assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
    let other = OwedKey { key: vec!["8".to_owned()], ..owed.clone() };
    let other = step(Action::Retry { owed: vec![other], sinks: vec!["eu".to_owned()] });
    assert!(taken(&mut fills, &other));
    assert_eq!(fills.get(0).unwrap().open_ranges().count(), 1, "the fill goes on");
    fills.set(0, TableFill { is_left_empty: true, ..TableFill::complete() });
    assert!(!taken(&mut fills, &retry(&["eu"])), "it is wanted empty");
}

#[test]
fn a_table_that_owes_too_many_rows_begins_anew_and_may_owe_more_the_next_time() {
    let owed = |id: usize| OwedKey { key: vec![id.to_string()], commit_lsn: Lsn(50), xid: 4 };
    let mut fills = Fills::default();
    fills.set(0, TableFill { is_beside: true, ..TableFill::waiting(9) });
    for limit in [OWED_MAX, 2 * OWED_MAX] {
        assert!(!taken(&mut fills, &step(Action::Owe(owed(0)))), "what is read once it begins sees it");
        assert!(taken(&mut fills, &begin(None)));
        for id in 0..limit {
            assert!(taken(&mut fills, &step(Action::Owe(owed(id)))));
        }
        assert_eq!(fills.get(0).unwrap().owed.len(), limit);
        assert!(taken(&mut fills, &step(Action::Owe(owed(limit)))));
        let fill = fills.get(0).unwrap();
        assert_eq!((fill.state(Lsn(60)), fill.owed.len(), fill.is_beside), (TableState::Waiting, 0, true));
    }
}

#[test]
fn a_sink_that_is_further_than_the_rows_that_come_passes_them_over() {
    let mut fills = Fills::default();
    fills.set(0, TableFill::waiting(9));
    assert!(taken(&mut fills, &begin(None)));
    let early = FillStep { sent_at: Lsn::ZERO, ..chunk(None, key(5), false, 100) };
    assert!(!taken(&mut fills, &early), "it has changes that were not looked at");
    assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
}

#[test]
fn rows_that_meet_a_condition_are_passed_over_by_a_sink_that_lacks_the_others_too() {
    let some = step(Action::Chunk {
        rest: KeyRange::default(),
        last_key: key(5),
        is_last: true,
        run: Arc::default(),
        seen_lsn: Lsn(100),
        is_partial: true,
    });
    let mut fills = Fills::default();
    fills.set(0, TableFill::waiting(9));
    assert!(taken(&mut fills, &begin(None)));
    assert!(!taken(&mut fills, &some));
    fills.set(0, TableFill { is_partial: true, ..TableFill::waiting(9) });
    assert!(taken(&mut fills, &begin(None)));
    let mut all = fills.clone();
    assert!(taken(&mut fills, &some), "it was asked for");
    assert!(taken(&mut all, &chunk(None, None, true, 100)), "all rows have those in them");
}

#[test]
fn a_fill_that_is_asked_for_begins_in_the_named_sinks_only() {
    let mut fills = Fills::default();
    assert!(!taken(&mut fills, &begin(Some(&["na"]))));
    assert!(taken(&mut fills, &begin(Some(&["na", "eu"]))));
    assert!(taken(&mut fills, &begin(Some(&["eu"]))), "and anew");
}

#[test]
fn a_table_beside_another_takes_its_place_once_it_would_be_live() {
    let mut fills = Fills::default();
    fills.set(0, TableFill { is_beside: true, ..TableFill::waiting(9) });
    assert!(taken(&mut fills, &begin(None)));
    assert!(taken(&mut fills, &begin(Some(&["eu"]))), "also if it is begun anew on the way");
    assert!(taken(&mut fills, &chunk(None, None, true, 100)));
    let fill = fills.get(0).unwrap();
    assert_eq!(fill.swapped(Lsn(99)), None);
    assert_eq!(fill.state(Lsn(100)), TableState::CatchingUp, "its readers do not see it");
    let swapped = fill.swapped(Lsn(100)).unwrap();
    assert_eq!((swapped.state(Lsn(100)), swapped.swapped(Lsn(100))), (TableState::Live, None));
}

#[test]
fn a_fill_is_the_same_after_it_was_kept() {
    let mut fills = Fills::default();
    fills.set(0, TableFill::waiting(9));
    assert!(taken(&mut fills, &begin(None)));
    assert!(taken(&mut fills, &chunk(None, key(5), false, 100)));
    let fill = fills.get(0).unwrap();
    let text = serde_json::to_string(fill).unwrap();
    assert_eq!(serde_json::from_str::<TableFill>(&text).unwrap(), *fill);
}
