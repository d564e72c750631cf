//! Of runs: parts of a transaction belong together however the stream was cut, and what every sink has is left out.

use std::sync::Arc;

use proptest::prelude::*;
use walcast::Lsn;
use walcast::encode::cell::Cell;
use walcast::encode::plan::Plan;
use walcast::encode::run::{Change, ChangeKind, Run};

use crate::changes::{Source, transactions};
use crate::golden::Recording;
use crate::{Owned, RECORDINGS, cases, delivered, delivered_from};

/// The whole transactions in these runs: head, end, and changes. Fails where parts do not belong together.
fn rejoined(runs: &[Arc<Run>], plan: &Plan) -> Vec<(String, Lsn, Vec<String>)> {
    let mut whole = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for run in runs {
        let mut next_change = 0;
        for span in run.spans() {
            assert_eq!(span.changes.start, next_change, "spans follow each other without a gap");
            next_change = span.changes.end;
            let head = format!("{} {} {}", span.commit_lsn, span.xid, span.commit_time_micros);
            assert_eq!(span.is_start, open.is_none(), "the first part, and no other, is a start");
            let (begun, mut changes) = match open.take() {
                None => (head.clone(), Vec::new()),
                Some(open) => open,
            };
            assert_eq!(begun, head, "a part continues the transaction that is open");
            changes.extend(run.changes(span).iter().map(|&change| shown(run, change, plan)));
            match span.end_lsn {
                Some(end_lsn) => whole.push((begun, end_lsn, changes)),
                None => open = Some((begun, changes)),
            }
        }
        assert_eq!(next_change, run.all_changes().len(), "every change is in a span");
    }
    whole
}

fn shown(run: &Run, change: Change, plan: &Plan) -> String {
    let owned = |cells: &[Cell]| -> Vec<Owned> {
        cells.iter().map(|&cell| Owned::from_cell(cell, run.arena())).collect()
    };
    let cells = match change.kind {
        ChangeKind::Upsert | ChangeKind::Update => format!("{:?}", owned(run.row(change, plan))),
        ChangeKind::Delete => format!("{:?}", owned(run.key(change, plan))),
        ChangeKind::Move => format!("{:?}{:?}", owned(run.key(change, plan)), owned(run.row(change, plan))),
        ChangeKind::Truncate => String::new(),
        ChangeKind::Reject => format!("{:?}", run.rejection(change)),
    };
    format!("{:?} {} {cells}", change.kind, change.table)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn parts_rejoin_to_the_same_transactions_however_the_stream_is_cut(
        index in any::<prop::sample::Index>(),
        reads in prop::collection::vec(1..600usize, 1..20),
        part_bytes_max in prop_oneof![1..600usize, Just(usize::MAX / 4)],
    ) {
        let Recording { stream, plan, .. } = index.get(&RECORDINGS[..]);
        let expected = rejoined(&delivered(stream, plan, &[stream.len()], usize::MAX / 4), plan);
        let runs = delivered(stream, plan, &reads, part_bytes_max);
        prop_assert!(!expected.is_empty());
        prop_assert_eq!(rejoined(&runs, plan), expected);
    }

    #[test]
    fn what_every_sink_has_is_left_out_and_nothing_else(
        transactions in transactions(), needed_from in 900..1800u64, part_bytes_max in 1..600usize,
    ) {
        let (source, needed_from) = (Source::new(&transactions, false), Lsn(needed_from));
        let plan = Arc::new(source.plan());
        let mut expected = rejoined(&delivered(&source.stream, &plan, &[usize::MAX], usize::MAX / 4), &plan);
        // The source's commit records are 8 bytes long.
        expected.retain(|(_, end_lsn, _)| Lsn(end_lsn.0 - 8) >= needed_from);
        let runs = delivered_from(needed_from, &source.stream, &plan, &[83], part_bytes_max);
        prop_assert_eq!(rejoined(&runs, &plan), expected);
    }
}
