//! One change of one relation → cells and a change in the run.
//!
//! Enters: the tuples as the stream brings them, and how the relation's columns lie to the plan's. A row without a valid
//! form is taken back and leaves as a rejection. Which table that is, and whether the change is wanted, was decided
//! before.

use crate::decode;
use crate::decode::message::{Old, Relation, Tuple, Value};
use crate::encode::cell::Cell;
use crate::encode::misfit::{self, Why};
use crate::encode::plan::PlannedTable;
use crate::encode::row_writer::{Rejected, RowWriter};
use crate::encode::run::ChangeKind;

/// How one relation's tuples fill one table's cells.
pub(super) struct TableMap {
    pub(super) table: u32,
    /// For each tuple column: the plan's column, or `None` where it is not mapped.
    columns: Vec<Option<u32>>,
    /// For each key part, in key order: the tuple's column.
    key: Vec<usize>,
    /// Planned columns are not sent, because the tuples are from before they were.
    is_partial: bool,
}

impl TableMap {
    pub(super) fn new(
        index: usize,
        table: &PlannedTable,
        relation: &Relation,
        may_be_partial: bool,
    ) -> Result<TableMap, Why> {
        misfit::check_relation(table, relation)?;
        let mut is_partial = false;
        let mut columns = vec![None; relation.columns.len()];
        let mut position_of = Vec::with_capacity(table.columns.len());
        for (planned_index, planned) in table.columns.iter().enumerate() {
            let is_key = table.key.contains(&planned_index);
            match misfit::position(table, planned, relation)? {
                Some(position) => {
                    columns[position] = Some(planned_index as u32);
                    position_of.push(position);
                }
                None if may_be_partial && !is_key => {
                    is_partial = true;
                    position_of.push(usize::MAX);
                }
                None => return Err(Why::no_column(table, planned)),
            }
        }
        let key: Vec<usize> = table.key.iter().map(|&planned| position_of[planned]).collect();
        misfit::check_identity(table, relation, &key)?;
        Ok(TableMap { table: index as u32, columns, key, is_partial })
    }
}

/// Writes the changes of one relation's tuples into the run.
pub(super) struct TupleWriter<'a> {
    pub(super) map: &'a TableMap,
    pub(super) writer: RowWriter<'a>,
}

impl TupleWriter<'_> {
    #[inline]
    pub(super) fn change(&mut self, change: decode::Change<'_>) {
        let mark = self.writer.mark();
        let (operation, tuple, result) = match change {
            decode::Change::Insert(new) => ("insert", new, self.row(new, None, ChangeKind::Upsert)),
            decode::Change::Update(old, new) => ("update", new, self.update(old, new)),
            decode::Change::Delete(old) => ("delete", old.tuple(), self.delete(old.tuple())),
        };
        if let Err(rejected) = result {
            self.writer.undo(mark);
            if let decode::Change::Update(Some(old), _) = change {
                // The old key is gone from the source even where its successor has no valid form.
                if self.has_new_key(old, tuple) && self.delete(old.tuple()).is_err() {
                    self.writer.undo(mark);
                }
            }
            let map = self.map;
            let key = map.key.iter().map(|&position| tuple.values().nth(position).unwrap_or(Value::Null));
            self.writer.reject(operation, key, rejected);
        }
    }

    fn update(&mut self, old: Option<Old<'_>>, new: Tuple<'_>) -> Result<(), Rejected> {
        match old {
            Some(old) if self.has_new_key(old, new) => {
                let mark = self.writer.mark();
                if self.key(old.tuple()).is_ok() {
                    return self.row(new, Some(old), ChangeKind::Move);
                }
                // A key without a valid form never reached a sink, so there is nothing to move away from.
                self.writer.undo(mark);
                self.row(new, Some(old), ChangeKind::Upsert)
            }
            old => self.row(new, old, ChangeKind::Upsert),
        }
    }

    /// Whether the key that we use differs between the old and the new tuple. (The server's replica identity may hold
    /// more columns than our key, and it also sends an old key that did not change but lies out of line.)
    fn has_new_key(&self, old: Old<'_>, new: Tuple<'_>) -> bool {
        self.map.key.iter().any(|&position| {
            let new = new.values().nth(position);
            new != Some(Value::Unchanged) && new != old.tuple().values().nth(position)
        })
    }

    fn delete(&mut self, old: Tuple<'_>) -> Result<(), Rejected> {
        let first_cell = self.writer.run.cells.len();
        self.key(old)?;
        self.writer.push(ChangeKind::Delete, first_cell);
        Ok(())
    }

    /// Appends the key's cells in key order.
    fn key(&mut self, tuple: Tuple<'_>) -> Result<(), Rejected> {
        for (&position, &planned) in self.map.key.iter().zip(&self.writer.table.key) {
            let value = tuple.values().nth(position).expect("the decoder checked the tuple's width");
            match self.writer.cell(planned, value)? {
                Cell::Null | Cell::Absent => return Err(Rejected::null_key(planned)),
                cell => self.writer.run.cells.push(cell),
            }
        }
        Ok(())
    }

    /// Appends the row's cells and its change. A row with absent values is an update, never an upsert.
    #[inline]
    fn row(&mut self, new: Tuple<'_>, old: Option<Old<'_>>, kind: ChangeKind) -> Result<(), Rejected> {
        let first_cell = self.writer.begin_row();
        let mut has_absent = self.map.is_partial;
        for (position, value) in new.values().enumerate() {
            let Some(planned) = self.map.columns[position] else { continue };
            let planned = planned as usize;
            let value = match value {
                Value::Unchanged => self.unchanged(position, planned, old),
                value => value,
            };
            has_absent |= self.writer.set(first_cell, planned, value)? == Cell::Absent;
        }
        self.writer.check_key(first_cell)?;
        match kind {
            ChangeKind::Move => {
                let first_cell = first_cell - self.writer.table.key.len();
                if has_absent {
                    self.keep_moved_key(new, old);
                }
                self.writer.push(ChangeKind::Move, first_cell);
            }
            _ if has_absent => self.writer.push(ChangeKind::Update, first_cell),
            _ => self.writer.push(ChangeKind::Upsert, first_cell),
        }
        Ok(())
    }

    /// Keeps the new key of a row that moves without all of its values: where the old row is not in a sink yet, the new
    /// one must be read by its key.
    fn keep_moved_key(&mut self, new: Tuple<'_>, old: Option<Old<'_>>) {
        let values = self.map.key.iter().zip(&self.writer.table.key).map(|(&position, &planned)| {
            match new.values().nth(position) {
                Some(Value::Unchanged) | None => self.unchanged(position, planned, old),
                Some(value) => value,
            }
        });
        let text = |value| match value {
            Value::Text(text) => String::from_utf8(text.to_vec()).ok(),
            Value::Binary(_) | Value::Null | Value::Unchanged => None,
        };
        let key: Option<Vec<String>> = values.map(text).collect();
        let change = self.writer.run.changes.len();
        self.writer.run.source_keys.push((change, key));
    }

    /// A value that was not sent again: a whole old row has it, and so has the old key for its own columns. A NULL in
    /// the old tuple never stands for it, because a NULL is always sent: it is a column outside the key, also in an `O`
    /// tuple where a partition's replica identity is less than its root's.
    fn unchanged<'a>(&self, position: usize, planned: usize, old: Option<Old<'a>>) -> Value<'a> {
        let old = match old {
            Some(Old::Full(tuple)) => tuple,
            Some(Old::Key(tuple)) if self.writer.table.key.contains(&planned) => tuple,
            _ => return Value::Unchanged,
        };
        match old.values().nth(position) {
            Some(value @ (Value::Text(_) | Value::Binary(_))) => value,
            Some(Value::Null | Value::Unchanged) | None => Value::Unchanged,
        }
    }
}
