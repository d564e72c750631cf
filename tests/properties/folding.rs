//! Of folding: its net effect is that of all changes in order, and it never invents a row.

use std::sync::Arc;

use proptest::prelude::*;
use walcast::Lsn;
use walcast::encode::cell::Cell;
use walcast::encode::fold::{ChangeRef, Fold, Net, Row};
use walcast::encode::plan::Plan;
use walcast::encode::run::{ChangeKind, Run};

use crate::changes::{Rows, Source, transactions};
use crate::{Owned, cases, delivered};

/// Columns of the plan of [`Source`].
const NAME: usize = 0;
const ID: usize = 1;
const NOTE: usize = 2;

fn owned_text(cell: &Owned) -> Option<String> {
    match cell {
        Owned::Null => None,
        Owned::Text(text) => Some(text.to_string()),
        other => panic!("{other:?} is no text"),
    }
}

fn owned_key(cell: &Owned) -> i64 {
    let Owned::Integer(key) = cell else { panic!("{cell:?} is no key") };
    *key
}

/// Applies changes in order, as a sink does that has the rows. A partial row that meets none has no effect.
fn apply_in_order(rows: &mut Rows, runs: &[Arc<Run>], plan: &Plan) {
    for run in runs {
        for &change in run.all_changes() {
            let owned = |cells: &[Cell]| -> Vec<Owned> {
                cells.iter().map(|&cell| Owned::from_cell(cell, run.arena())).collect()
            };
            match change.kind {
                ChangeKind::Upsert | ChangeKind::Update => write(rows, None, &owned(run.row(change, plan))),
                ChangeKind::Move => {
                    let old_key = owned_key(&owned(run.key(change, plan))[0]);
                    write(rows, Some(old_key), &owned(run.row(change, plan)));
                }
                ChangeKind::Delete => {
                    rows.remove(&owned_key(&owned(run.key(change, plan))[0]));
                }
                ChangeKind::Truncate => rows.clear(),
                ChangeKind::Reject => panic!("nothing is rejected here"),
            }
        }
    }
}

fn write(rows: &mut Rows, old_key: Option<i64>, row: &[Owned]) {
    let key = owned_key(&row[ID]);
    let before = rows.remove(&old_key.unwrap_or(key));
    let column = |index: usize, at: usize| match &row[index] {
        Owned::Absent => before.as_ref().map(|values| values[at].clone()),
        present => Some(owned_text(present)),
    };
    if let (Some(name), Some(note)) = (column(NAME, 0), column(NOTE, 1)) {
        rows.insert(key, [name, note]);
    }
}

/// Applies what folding left, stage by stage, each in the documented order.
fn apply_folded(rows: &mut Rows, runs: &[Arc<Run>], plan: &Plan) {
    let mut fold = Fold::new(plan);
    for run in runs {
        for span in run.spans() {
            span.changes.clone().for_each(|index| fold.add(ChangeRef { run, span, index }));
        }
    }
    for (_, table) in fold.tables() {
        if table.is_truncated {
            rows.clear();
        }
        for stage in &table.stages {
            let mut keys: Vec<&str> = stage.entries.iter().map(|entry| fold.key(entry)).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), stage.entries.len(), "one net effect for each key");
            for entry in stage.entries.iter().filter(|entry| matches!(entry.net, Net::Delete)) {
                rows.remove(&key_of(fold.key(entry)));
            }
            for entry in &stage.entries {
                let key = key_of(fold.key(entry));
                match &entry.net {
                    Net::Keep | Net::Delete => {}
                    Net::Upsert(row) => {
                        assert_eq!(row.mask(plan), 0b111, "an upsert is whole");
                        write(rows, None, &present(row, key, plan));
                    }
                    Net::Update(row) => write(rows, None, &present(row, key, plan)),
                }
            }
            for one in &stage.moves {
                let (old, new) = fold.move_keys(one);
                write(rows, Some(key_of(old)), &present(&one.row, key_of(new), plan));
            }
        }
    }
}

fn key_of(text: &str) -> i64 {
    text.trim_matches(['[', ']']).parse().unwrap()
}

/// A folded row's cells, which must have this key.
fn present(row: &Row<'_>, key: i64, plan: &Plan) -> Vec<Owned> {
    let mut text = String::new();
    row.push_text(plan, &mut text);
    let values: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(values[ID].as_i64(), Some(key), "the row has its key");
    let cells = values.into_iter().enumerate().map(|(index, value)| match value {
        _ if row.mask(plan) >> index & 1 == 0 => Owned::Absent,
        serde_json::Value::Null => Owned::Null,
        serde_json::Value::String(text) => Owned::Text(text),
        value => Owned::Integer(value.as_i64().unwrap()),
    });
    cells.collect()
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn folding_has_the_effect_of_all_changes_in_order(
        transactions in transactions(), is_full in any::<bool>(), batch_ends in prop::collection::vec(1..6usize, 1..8),
    ) {
        let source = Source::new(&transactions, is_full);
        let plan = Arc::new(source.plan());
        let runs = delivered(&source.stream, &plan, &[97], 150);
        let (mut folded, mut in_order) = (Rows::new(), Rows::new());
        let mut rest = &runs[..];
        for &length in batch_ends.iter().cycle() {
            let (batch, later) = rest.split_at(length.min(rest.len()));
            rest = later;
            apply_in_order(&mut in_order, batch, &plan);
            apply_folded(&mut folded, batch, &plan);
            prop_assert_eq!(&folded, &in_order);
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(in_order, source.at(Lsn(u64::MAX)));
    }

    /// Rows that the sink lacks, because they were set aside: what comes to be there is right all the same.
    #[test]
    fn folding_never_invents_a_row(
        transactions in transactions(), is_full in any::<bool>(), lost in prop::collection::btree_set(0..6i64, 0..4),
        at in any::<prop::sample::Index>(),
    ) {
        let source = Source::new(&transactions, is_full);
        let plan = Arc::new(source.plan());
        let runs = delivered(&source.stream, &plan, &[usize::MAX], 1);
        let (before, after) = runs.split_at(at.index(runs.len() + 1));
        let mut rows = Rows::new();
        apply_in_order(&mut rows, before, &plan);
        rows.retain(|key, _| !lost.contains(key));
        apply_folded(&mut rows, after, &plan);
        let truth = source.at(Lsn(u64::MAX));
        for (key, row) in rows {
            prop_assert_eq!(Some(&row), truth.get(&key));
        }
    }
}
