//! A model of a sink: rows, checkpoint and progress, which commit together, and what is queued for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use walcast::Lsn;
use walcast::encode::cell::Cell;
use walcast::encode::plan::Plan;
use walcast::encode::run::{Change, ChangeKind, Run};

use super::snapshots::Rows;

pub enum Item {
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
pub struct Target {
    pub rows: Rows,
    pub lsn: Lsn,
    /// For each range: where its next chunk begins, and whether there is none.
    pub ranges: Vec<(i64, bool)>,
    /// Rows that are owed, each with the position of what makes it so.
    pub owed: BTreeSet<(i64, Lsn)>,
    /// The last chunk's LSN: beyond it the table is live.
    pub filled_at: Lsn,
}

impl Target {
    pub fn is_filled(&self) -> bool {
        self.ranges.iter().all(|(_, is_done)| *is_done) && self.owed.is_empty()
    }

    pub fn is_live(&self) -> bool {
        self.is_filled() && self.lsn >= self.filled_at
    }

    /// Writes a change; true where an update's row is not there.
    pub fn change(&mut self, plan: &Plan, run: &Run, change: Change) -> bool {
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
