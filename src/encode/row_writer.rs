//! One table's source values → cells and changes of a run: what the stream's tuples and the rows of a chunk share, so
//! that a value becomes the same cell whichever way it came.

use super::cell::{Cell, push};
use super::json_rows;
use super::plan::PlannedTable;
use super::run::{Change, ChangeKind, RejectedRow, Run};
use crate::decode::message::Value;

/// Writes one table's changes into a run.
pub(super) struct RowWriter<'a> {
    /// The table.
    pub table: &'a PlannedTable,
    /// Its index in the plan.
    pub index: u32,
    /// Where cells and changes go.
    pub run: &'a mut Run,
}

/// Which column had no valid form, and why.
pub(super) struct Rejected {
    pub column: usize,
    pub reason: String,
}

/// How much the run held before a row, to take back what was written of one that is rejected.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    cells: usize,
    arena: usize,
}

impl RowWriter<'_> {
    pub fn mark(&self) -> Mark {
        Mark { cells: self.run.cells.len(), arena: self.run.arena.len() }
    }

    /// Takes back everything since the mark. Changes must not have been pushed meanwhile.
    pub fn undo(&mut self, mark: Mark) {
        self.run.cells.truncate(mark.cells);
        self.run.arena.truncate(mark.arena);
    }

    /// Appends a row without any value and returns where its cells begin.
    #[inline]
    pub fn begin_row(&mut self) -> usize {
        let first_cell = self.run.cells.len();
        self.run.cells.resize(first_cell + self.table.columns.len(), Cell::Absent);
        first_cell
    }

    /// Sets one of the row's values and returns its cell.
    #[inline]
    pub fn set(&mut self, first_cell: usize, planned: usize, value: Value<'_>) -> Result<Cell, Rejected> {
        let cell = self.cell(planned, value)?;
        self.run.cells[first_cell + planned] = cell;
        Ok(cell)
    }

    /// Whether the row can be told from others: no part of its key is missing.
    #[inline]
    pub fn check_key(&self, first_cell: usize) -> Result<(), Rejected> {
        let is_missing =
            |planned: usize| matches!(self.run.cells[first_cell + planned], Cell::Null | Cell::Absent);
        match self.table.key.iter().find(|&&planned| is_missing(planned)) {
            Some(&planned) => Err(Rejected::null_key(planned)),
            None => Ok(()),
        }
    }

    #[inline]
    pub fn cell(&mut self, planned: usize, value: Value<'_>) -> Result<Cell, Rejected> {
        let column = &self.table.columns[planned];
        let converted = match value {
            Value::Null => return Ok(Cell::Null),
            Value::Unchanged => return Ok(Cell::Absent),
            Value::Text(text) => column.conversion.text(text, &mut self.run.arena),
            Value::Binary(bytes) => {
                column.conversion.binary(column.base_type_oid, bytes, &mut self.run.arena)
            }
        };
        converted.map_err(|rejection| Rejected { column: planned, reason: rejection.to_string() })
    }

    #[inline]
    pub fn push(&mut self, kind: ChangeKind, first_cell: usize) {
        self.run.changes.push(Change { kind, table: self.index, first_cell: first_cell as u32 });
    }

    /// Keeps why a row is not applied. `key` holds the values of its key, in key order.
    pub fn reject<'v>(
        &mut self,
        operation: &'static str,
        key: impl Iterator<Item = Value<'v>>,
        rejected: Rejected,
    ) {
        let arena = self.run.arena.len();
        let table = self.table;
        let mut cells = Vec::with_capacity(table.key.len());
        for (&planned, value) in table.key.iter().zip(key) {
            cells.push(match (self.cell(planned, value), value) {
                (Ok(cell), _) => cell,
                // The key itself has no valid form: what the server sent still says which row it is.
                (Err(_), Value::Text(text)) => Cell::Text(push(&mut self.run.arena, text)),
                (Err(_), Value::Binary(bytes)) => {
                    let digits = format!("\\x{}", hex::encode(bytes));
                    Cell::Text(push(&mut self.run.arena, digits.as_bytes()))
                }
                (Err(_), Value::Null | Value::Unchanged) => Cell::Null,
            });
        }
        let mut text = Vec::new();
        json_rows::array(cells, &self.run.arena, &mut text);
        self.run.arena.truncate(arena);
        let index = self.run.rejections.len();
        self.run.rejections.push(RejectedRow {
            operation,
            key: String::from_utf8_lossy(&text).into_owned(),
            reason: format!("{}: {}", table.columns[rejected.column].source, rejected.reason),
        });
        self.push(ChangeKind::Reject, index);
    }
}

impl Rejected {
    /// A key with a part that is NULL.
    pub fn null_key(column: usize) -> Self {
        Rejected { column, reason: "is NULL in the key".to_owned() }
    }
}
