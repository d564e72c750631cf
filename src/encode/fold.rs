//! Folding: the net effect of many changes to the same rows, for sinks that pay for every row they write.
//!
//! Pure. Applying the folded changes (truncated tables first, then deletes, then upserts, then updates) leaves the
//! sink in the state that applying all changes in order leaves it in.

use std::collections::HashMap;
use std::sync::Arc;

use super::cell::Cell;
use super::json_rows;
use super::plan::Plan;
use super::run::{Change, ChangeKind, Run};

/// The net effect of a batch on one table.
#[derive(Debug, Default)]
pub struct Folded {
    /// The table was truncated; everything else happened after that.
    pub is_truncated: bool,
    /// By key (as JSON array text, in order of first touch): what is left to do.
    pub rows: Vec<(String, Net)>,
}

/// The net effect on one key.
#[derive(Debug, Clone, PartialEq)]
pub enum Net {
    /// The key is not there afterwards.
    Delete,
    /// The row is exactly this afterwards.
    Upsert(Vec<Owned>),
    /// These columns have these values afterwards; absent ones keep theirs.
    Update(Vec<Owned>),
    /// A row came from another key without all of its values: no single write expresses it. Apply the batch in order.
    Entangled,
}

/// A cell with its bytes, because folding mixes values of several runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Owned {
    /// See [`Cell::Absent`].
    Absent,
    /// SQL NULL.
    Null,
    /// See [`Cell::Integer`].
    Integer(i64),
    /// See [`Cell::Real`].
    Real(f64),
    /// See [`Cell::Text`]; shared where it is folded over.
    Text(Arc<str>),
    /// See [`Cell::Blob`].
    Blob(Arc<[u8]>),
}

impl Owned {
    /// The cell with its bytes taken from the arena it lies in.
    pub fn from_cell(cell: Cell, arena: &[u8]) -> Owned {
        match cell {
            Cell::Absent => Owned::Absent,
            Cell::Null => Owned::Null,
            Cell::Integer(value) => Owned::Integer(value),
            Cell::Real(value) => Owned::Real(value),
            Cell::Text(slice) => Owned::Text(String::from_utf8_lossy(slice.of(arena)).into()),
            Cell::Blob(slice) => Owned::Blob(slice.of(arena).into()),
        }
    }
}

/// Folds the changes of each table. Rejections are not changes and are left out.
pub fn fold<'a>(changes: impl IntoIterator<Item = (&'a Run, Change)>, plan: &Plan) -> HashMap<usize, Folded> {
    let mut folders: HashMap<usize, Folder> = HashMap::new();
    for (run, change) in changes {
        let folder = folders.entry(change.table as usize).or_default();
        let table = &plan.tables[change.table as usize];
        let owned = |cells: &[Cell]| -> Vec<Owned> {
            cells.iter().map(|&cell| Owned::from_cell(cell, run.arena())).collect()
        };
        match change.kind {
            ChangeKind::Truncate => *folder = Folder { is_truncated: true, ..Folder::default() },
            ChangeKind::Delete => folder.set(key_text(run.key(change, plan), run), Net::Delete),
            ChangeKind::Upsert | ChangeKind::Update => {
                let row = run.row(change, plan);
                let key: Vec<Cell> = table.key.iter().map(|&index| row[index]).collect();
                folder.merge(key_text(&key, run), owned(row));
            }
            ChangeKind::Move => {
                let row = run.row(change, plan);
                let key: Vec<Cell> = table.key.iter().map(|&index| row[index]).collect();
                folder.rename(key_text(run.key(change, plan), run), key_text(&key, run), owned(row));
            }
            ChangeKind::Reject => {}
        }
    }
    folders.into_iter().map(|(table, folder)| (table, folder.finish())).collect()
}

fn key_text(key: &[Cell], run: &Run) -> String {
    let mut text = Vec::new();
    json_rows::array(key, run.arena(), &mut text);
    String::from_utf8(text).expect("rendered JSON is UTF-8")
}

#[derive(Default)]
struct Folder {
    is_truncated: bool,
    order: Vec<String>,
    net: HashMap<String, Net>,
}

impl Folder {
    fn set(&mut self, key: String, net: Net) {
        if self.net.insert(key.clone(), net).is_none() {
            self.order.push(key);
        }
    }

    /// An upsert, or an update where values are absent, on top of what the batch did to the key before.
    fn merge(&mut self, key: String, row: Vec<Owned>) {
        let is_whole = !row.contains(&Owned::Absent);
        let net = match self.net.get(&key).cloned() {
            _ if is_whole => Net::Upsert(row),
            None => Net::Update(row),
            Some(Net::Upsert(before)) => Net::Upsert(over(before, row)),
            Some(Net::Update(before)) => {
                let row = over(before, row);
                if row.contains(&Owned::Absent) { Net::Update(row) } else { Net::Upsert(row) }
            }
            // An update of a row that the batch removed hits nothing.
            Some(Net::Delete) => Net::Delete,
            Some(Net::Entangled) => Net::Entangled,
        };
        self.set(key, net);
    }

    /// A key change: what the batch knows of the old row moves along.
    fn rename(&mut self, old: String, new: String, row: Vec<Owned>) {
        let net = match self.net.get(&old) {
            _ if !row.contains(&Owned::Absent) => Net::Upsert(row),
            Some(Net::Upsert(before)) => Net::Upsert(over(before.clone(), row)),
            _ => Net::Entangled,
        };
        self.set(old, Net::Delete);
        self.set(new, net);
    }

    fn finish(mut self) -> Folded {
        let rows = self
            .order
            .into_iter()
            .filter_map(|key| {
                let net = self.net.remove(&key)?;
                Some((key, net))
            })
            .collect();
        Folded { is_truncated: self.is_truncated, rows }
    }
}

/// `row`, with its absent values taken from `before`.
fn over(before: Vec<Owned>, row: Vec<Owned>) -> Vec<Owned> {
    before.into_iter().zip(row).map(|(old, new)| if new == Owned::Absent { old } else { new }).collect()
}
