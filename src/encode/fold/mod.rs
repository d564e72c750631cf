//! Folding: the net effect of many changes to the same rows, for sinks that pay for every row they write.
//!
//! Pure. Changes enter in commit order; for each table leave [`Stage`]s, which are applied one after the other and
//! leave the sink as all changes in order leave it. Nearly always there is one stage; a second begins where a change
//! builds on what no single write expresses.
//!
//! Nothing is copied: a row that one change brings whole stays where it is, and is written from the text that all sinks
//! share. Only a row put together from several changes has cells of its own.

mod row;

use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

pub use self::row::{ChangeRef, Mask, Row, Value};
use super::cell::Cell;
use super::json_rows;
use super::plan::{Plan, PlannedTable};
use super::run::{ChangeKind, Run, Span};

/// What a statement for one row is assumed to take beyond the row's text.
const COMMA: usize = 1;

/// The net effect on one key.
#[derive(Debug, Clone)]
pub enum Net<'a> {
    /// Its row is not written.
    Keep,
    /// The key is not there afterwards, not even as a soft-deleted row.
    Delete,
    /// The row is exactly this afterwards.
    Upsert(Row<'a>),
    /// The present columns have these values afterwards, if the row is there; absent ones keep theirs.
    Update(Row<'a>),
}

/// What happens to one key within a stage.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    key: Range<usize>,
    /// What is written.
    pub net: Net<'a>,
    /// The transaction that touched the key last.
    pub span: &'a Span,
    /// The transaction that soft-deleted the row, after `net`.
    pub soft_deleted: Option<&'a Span>,
    /// A partial move takes the row away or brings it here, after `net`.
    is_moved: bool,
    bytes: usize,
}

/// A row that goes to another key without all of its values.
#[derive(Debug, Clone)]
pub struct Move<'a> {
    old_key: Range<usize>,
    new_key: Range<usize>,
    /// The present values, the new key's among them.
    pub row: Row<'a>,
    /// The transaction.
    pub span: &'a Span,
}

/// Changes of one table that a fixed order of writes expresses: the soft truncation; then deletes, upserts, updates and
/// moves; then soft deletions. Within each kind the order does not matter, no key occurs twice.
#[derive(Debug, Default)]
pub struct Stage<'a> {
    /// The transaction that marked all rows as deleted, before anything else.
    pub soft_truncated: Option<&'a Span>,
    /// By key, in the order of first touch.
    pub entries: Vec<Entry<'a>>,
    /// Rows that go to another key.
    pub moves: Vec<Move<'a>>,
    by_key: HashTable<u32>,
    kinds: u8,
    masks: Vec<Mask>,
}

/// The net effect on one table.
#[derive(Debug, Default)]
pub struct TableFold<'a> {
    /// All rows were removed before the first stage.
    pub is_truncated: bool,
    /// In order; none is empty but the last.
    pub stages: Vec<Stage<'a>>,
    size: Size,
}

/// How much is left to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Bytes of their texts, roughly.
    pub bytes: usize,
    /// Kinds of writes, by table, stage and columns: each takes a statement, or two where it must find a row.
    pub statements: usize,
}

/// Folds changes as they are added.
#[derive(Debug)]
pub struct Fold<'a> {
    plan: &'a Plan,
    tables: Vec<TableFold<'a>>,
    /// The texts of all keys.
    keys: Vec<u8>,
    hasher: RandomState,
    size: Size,
}

const DELETE: u8 = 1;
const UPSERT: u8 = 2;
const MARK: u8 = 4;
const MOVE: u8 = 8;

impl<'a> Fold<'a> {
    /// Nothing, yet, of the tables of this plan.
    pub fn new(plan: &'a Plan) -> Self {
        Fold {
            plan,
            tables: plan.tables.iter().map(|_| TableFold::default()).collect(),
            keys: Vec::new(),
            hasher: RandomState::default(),
            size: Size::default(),
        }
    }

    /// How much is left to write of everything that was added.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The tables that are written to, by their index in the plan.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &TableFold<'a>)> {
        self.tables.iter().enumerate().filter(|(_, table)| table.is_truncated || !table.stages.is_empty())
    }

    /// The key's values as JSON array text, in key order.
    pub fn key(&self, entry: &Entry<'a>) -> &str {
        self.text(&entry.key)
    }

    /// The key that the row has before, and the one it has afterwards.
    pub fn move_keys(&self, one: &Move<'a>) -> (&str, &str) {
        (self.text(&one.old_key), self.text(&one.new_key))
    }

    fn text(&self, key: &Range<usize>) -> &str {
        std::str::from_utf8(&self.keys[key.clone()]).expect("rendered JSON is UTF-8")
    }

    /// Adds a change. A rejection changes nothing.
    pub fn add(&mut self, from: ChangeRef<'a>) {
        let change = from.change();
        let table = change.table as usize;
        let planned = &self.plan.tables[table];
        match change.kind {
            ChangeKind::Reject => {}
            ChangeKind::Truncate if planned.soft_delete.is_some() => {
                let stage = self.next_stage(table);
                stage.soft_truncated = Some(from.span);
                self.count(table, 1, 0, 1);
            }
            ChangeKind::Truncate => self.truncate(table),
            ChangeKind::Delete => {
                let key = self.push_key(from.run.key(change, self.plan).iter().copied(), from.run);
                match planned.soft_delete {
                    Some(_) => self.soft_delete(table, key, from.span),
                    None => self.set(table, key, Net::Delete, from.span),
                }
            }
            ChangeKind::Upsert => {
                let key = self.push_row_key(planned, from);
                self.set(table, key, Net::Upsert(Row::Shared(from)), from.span);
            }
            ChangeKind::Update => {
                let key = self.push_row_key(planned, from);
                self.update(table, key, from);
            }
            ChangeKind::Move => {
                let old = self.push_key(from.run.key(change, self.plan).iter().copied(), from.run);
                let new = self.push_row_key(planned, from);
                self.rename(table, old, new, from);
            }
        }
    }

    fn truncate(&mut self, table: usize) {
        let TableFold { size, .. } = std::mem::take(&mut self.tables[table]);
        self.size.rows -= size.rows;
        self.size.bytes -= size.bytes;
        self.size.statements -= size.statements;
        self.tables[table].is_truncated = true;
        // The table and its indexes, away and made again.
        self.count(table, 2, 0, 2 + self.plan.tables[table].indexes.len());
    }

    /// A partial row on top of what is known of its key.
    fn update(&mut self, table: usize, key: Range<usize>, from: ChangeRef<'a>) {
        let found = self
            .find(table, &key)
            .map(|entry| &self.tables[table].stages.last().expect("found").entries[entry]);
        let net = match found.map(|entry| (&entry.net, entry.is_moved)) {
            None | Some((Net::Keep, false)) => Net::Update(Row::Shared(from)),
            Some((Net::Upsert(before), false)) => Net::Upsert(self.over(before, from)),
            Some((Net::Update(before), false)) => match self.over(before, from) {
                Row::Merged(values) if values.iter().all(|value| value.cell != Cell::Absent) => {
                    Net::Upsert(Row::Merged(values))
                }
                row => Net::Update(row),
            },
            // It hits nothing, or a row that has yet to come: that is found out at the sink.
            Some((Net::Delete, _) | (_, true)) => {
                self.next_stage(table);
                Net::Update(Row::Shared(from))
            }
        };
        self.set(table, key, net, from.span);
    }

    /// A key change: what is known of the old row moves along.
    fn rename(&mut self, table: usize, old: Range<usize>, new: Range<usize>, from: ChangeRef<'a>) {
        let is_whole = !from.run.row(from.change(), self.plan).contains(&Cell::Absent);
        if self.keys[old.clone()] == self.keys[new.clone()] {
            // Equal at the sink, though not at the source: -0.0 and 0.0.
            return match is_whole {
                true => self.set(table, new, Net::Upsert(Row::Shared(from)), from.span),
                false => self.update(table, new, from),
            };
        }
        let before = self.find(table, &old).map(|entry| {
            let entry = &self.tables[table].stages.last().expect("found").entries[entry];
            (&entry.net, entry.is_moved, entry.soft_deleted.is_some())
        });
        let row = match before {
            _ if is_whole => Row::Shared(from),
            Some((Net::Upsert(before), false, false)) => self.over(before, from),
            before => {
                let may_leave = matches!(before, None | Some((Net::Update(_) | Net::Keep, false, false)));
                let taken = self.find(table, &new).map(|entry| {
                    let entry = &self.tables[table].stages.last().expect("found").entries[entry];
                    !entry.is_moved && matches!(entry.net, Net::Delete)
                });
                if !may_leave || taken == Some(false) {
                    self.next_stage(table);
                }
                return self.push_move(table, old, new, from);
            }
        };
        // Not a deletion at the source, so never a soft one here.
        self.set(table, old, Net::Delete, from.span);
        self.set(table, new, Net::Upsert(row), from.span);
    }

    fn push_move(&mut self, table: usize, old_key: Range<usize>, new_key: Range<usize>, from: ChangeRef<'a>) {
        for key in [&old_key, &new_key] {
            let entry = self.entry(table, key.clone(), from.span);
            let stage = self.tables[table].stages.last_mut().expect("there is one with an entry");
            stage.entries[entry].is_moved = true;
        }
        let row = Row::Shared(from);
        let bytes = row.text_bytes(self.plan) + old_key.len() + 4 * COMMA;
        let mask = row.mask(self.plan);
        let stage = self.tables[table].stages.last_mut().expect("there is one with an entry");
        stage.moves.push(Move { old_key, new_key, row, span: from.span });
        let kind = stage.is_new_kind(MOVE) + stage.is_new_mask(mask);
        self.count(table, 1, bytes as isize, 2 * kind);
    }

    /// Replaces what happens to a key.
    fn set(&mut self, table: usize, key: Range<usize>, net: Net<'a>, span: &'a Span) {
        if let Some(entry) = self.find(table, &key)
            && self.tables[table].stages.last().expect("found").entries[entry].is_moved
        {
            self.next_stage(table);
        }
        let bytes = COMMA
            + match &net {
                Net::Keep => 0,
                Net::Delete => key.len(),
                Net::Upsert(row) | Net::Update(row) => row.text_bytes(self.plan),
            };
        let mask = match &net {
            Net::Update(row) => Some(row.mask(self.plan)),
            Net::Keep | Net::Delete | Net::Upsert(_) => None,
        };
        let entry = self.entry(table, key, span);
        let stage = self.tables[table].stages.last_mut().expect("there is one with an entry");
        let statements = match (&net, mask) {
            (Net::Delete, _) => stage.is_new_kind(DELETE),
            (Net::Upsert(_), _) => stage.is_new_kind(UPSERT),
            (_, Some(mask)) => 2 * stage.is_new_mask(mask),
            (_, None) => 0,
        };
        let entry = &mut stage.entries[entry];
        let grown = bytes as isize - entry.bytes as isize;
        (entry.net, entry.span, entry.bytes, entry.soft_deleted) = (net, span, bytes, None);
        self.count(table, 0, grown, statements);
    }

    fn soft_delete(&mut self, table: usize, key: Range<usize>, span: &'a Span) {
        let is_moved = |fold: &Self, entry: usize| {
            fold.tables[table].stages.last().is_some_and(|stage| stage.entries[entry].is_moved)
        };
        if self.find(table, &key).is_some_and(|entry| is_moved(self, entry)) {
            self.next_stage(table);
        }
        let bytes = key.len() + 40;
        let entry = self.entry(table, key, span);
        let stage = self.tables[table].stages.last_mut().expect("there is one with an entry");
        let statements = stage.is_new_kind(MARK);
        let entry = &mut stage.entries[entry];
        let is_first = entry.soft_deleted.replace(span).is_none();
        entry.span = span;
        if is_first {
            entry.bytes += bytes;
        }
        self.count(table, usize::from(is_first), if is_first { bytes as isize } else { 0 }, statements);
    }

    /// `from`'s row, with its absent values taken from `before`.
    fn over(&self, before: &Row<'a>, from: ChangeRef<'a>) -> Row<'a> {
        let mut values = before.values(self.plan);
        let arena = from.run.arena();
        for (value, &cell) in values.iter_mut().zip(from.run.row(from.change(), self.plan)) {
            if cell != Cell::Absent {
                *value = Value { cell, arena };
            }
        }
        Row::Merged(values)
    }

    fn push_row_key(&mut self, table: &PlannedTable, from: ChangeRef<'a>) -> Range<usize> {
        let row = from.run.row(from.change(), self.plan);
        self.push_key(table.key.iter().map(|&index| row[index]), from.run)
    }

    fn push_key(&mut self, cells: impl Iterator<Item = Cell>, run: &Run) -> Range<usize> {
        let start = self.keys.len();
        // SQLite holds -0.0 and 0.0 for the same key.
        let cells = cells.map(|cell| if cell == Cell::Real(0.0) { Cell::Real(0.0) } else { cell });
        json_rows::array(cells, run.arena(), &mut self.keys);
        start..self.keys.len()
    }

    /// The key's entry in the table's last stage.
    fn find(&self, table: usize, key: &Range<usize>) -> Option<usize> {
        let stage = self.tables[table].stages.last()?;
        let text = &self.keys[key.clone()];
        let is_equal = |&entry: &u32| self.keys[stage.entries[entry as usize].key.clone()] == *text;
        stage.by_key.find(self.hasher.hash_one(text), is_equal).map(|&entry| entry as usize)
    }

    /// The key's entry in the table's last stage, made where there is none.
    fn entry(&mut self, table: usize, key: Range<usize>, span: &'a Span) -> usize {
        if let Some(entry) = self.find(table, &key) {
            return entry;
        }
        if self.tables[table].stages.is_empty() {
            self.tables[table].stages.push(Stage::default());
        }
        let hash = self.hasher.hash_one(&self.keys[key.clone()]);
        let stage = self.tables[table].stages.last_mut().expect("there is one");
        let entry = stage.entries.len();
        stage.entries.push(Entry {
            key,
            net: Net::Keep,
            span,
            soft_deleted: None,
            is_moved: false,
            bytes: 0,
        });
        let Stage { by_key, entries, .. } = stage;
        let (keys, hasher) = (&self.keys, &self.hasher);
        let rehash = |&entry: &u32| hasher.hash_one(&keys[entries[entry as usize].key.clone()]);
        by_key.insert_unique(hash, entry as u32, rehash);
        self.count(table, 1, 0, 0);
        entry
    }

    /// Ends the table's last stage, unless it is empty.
    fn next_stage(&mut self, table: usize) -> &mut Stage<'a> {
        let stages = &mut self.tables[table].stages;
        if stages.last().is_none_or(|stage| !stage.entries.is_empty() || stage.soft_truncated.is_some()) {
            stages.push(Stage::default());
        }
        stages.last_mut().expect("there is one")
    }

    fn count(&mut self, table: usize, rows: usize, bytes: isize, statements: usize) {
        for size in [&mut self.size, &mut self.tables[table].size] {
            size.rows += rows;
            size.bytes = size.bytes.saturating_add_signed(bytes);
            size.statements += statements;
        }
    }
}

impl Stage<'_> {
    /// 1 for a kind of write that the stage did not have yet.
    fn is_new_kind(&mut self, kind: u8) -> usize {
        let is_new = self.kinds & kind == 0;
        self.kinds |= kind;
        usize::from(is_new)
    }

    fn is_new_mask(&mut self, mask: Mask) -> usize {
        let is_new = !self.masks.contains(&mask);
        if is_new {
            self.masks.push(mask);
        }
        usize::from(is_new)
    }
}
