//! Rows as folding knows them: where one change brought them, or put together from several.

use crate::encode::cell::Cell;
use crate::encode::json_rows::{self, JsonRows};
use crate::encode::plan::Plan;
use crate::encode::run::{Change, Run, Span};

/// One change where it lies.
#[derive(Debug, Clone, Copy)]
pub struct ChangeRef<'a> {
    /// The run that holds it.
    pub run: &'a Run,
    /// Its transaction's share of the run.
    pub span: &'a Span,
    /// Its index among all of the run's changes.
    pub index: usize,
}

impl<'a> ChangeRef<'a> {
    /// The change.
    pub fn change(self) -> Change {
        self.run.all_changes()[self.index]
    }

    /// Its rendered row, or key, as JSON array text.
    pub fn text(self, plan: &Plan) -> &'a str {
        JsonRows::of(self.run, plan).get(self.index)
    }

    /// How many changes of its transaction come before it: with the transaction's commit LSN, its name.
    pub fn number(self) -> u64 {
        self.span.changes_before + (self.index - self.span.changes.start) as u64
    }
}

/// A cell with the arena that it lies in.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pub(super) cell: Cell,
    pub(super) arena: &'a [u8],
}

/// The values of one row, absent ones among them.
#[derive(Debug, Clone)]
pub enum Row<'a> {
    /// As one change brought them.
    Shared(ChangeRef<'a>),
    /// Put together from several.
    Merged(Box<[Value<'a>]>),
}

/// Which columns of a table are present, the first in the lowest bit. Columns beyond 128 have none: the sinks that fold
/// take a hundred.
pub type Mask = u128;

impl<'a> Value<'a> {
    /// The cell, whose text or bytes lie in `arena`.
    pub fn new(cell: Cell, arena: &'a [u8]) -> Self {
        Value { cell, arena }
    }

    /// The cell.
    pub fn cell(self) -> Cell {
        self.cell
    }

    /// The arena that its text or bytes lie in.
    pub fn arena(self) -> &'a [u8] {
        self.arena
    }
}

impl<'a> Row<'a> {
    /// Its values, in the order of the plan's columns.
    pub fn values(&self, plan: &Plan) -> Box<[Value<'a>]> {
        match self {
            Row::Shared(from) => {
                let arena = from.run.arena();
                from.run.row(from.change(), plan).iter().map(|&cell| Value { cell, arena }).collect()
            }
            Row::Merged(values) => values.clone(),
        }
    }

    /// Which columns are present.
    pub fn mask(&self, plan: &Plan) -> Mask {
        match self {
            Row::Shared(from) => mask(from.run.row(from.change(), plan).iter().copied()),
            Row::Merged(values) => mask(values.iter().map(|value| value.cell)),
        }
    }

    /// Appends the row as JSON array text, absent values as `null`.
    pub fn push_text(&self, plan: &Plan, text: &mut String) {
        match self {
            // The text of a move is its row; its old key is rendered by itself.
            Row::Shared(from) => text.push_str(from.text(plan)),
            Row::Merged(values) => {
                let mut bytes = Vec::new();
                bytes.push(b'[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        bytes.push(b',');
                    }
                    json_rows::value(value.cell, value.arena, &mut bytes);
                }
                bytes.push(b']');
                text.push_str(std::str::from_utf8(&bytes).expect("rendered JSON is UTF-8"));
            }
        }
    }

    /// How many bytes its text has: exactly for a row that one change brought, roughly for one put together.
    pub fn text_bytes(&self, plan: &Plan) -> usize {
        match self {
            Row::Shared(from) => from.text(plan).len(),
            Row::Merged(values) => values.iter().map(|value| value_bytes(value.cell)).sum(),
        }
    }
}

fn mask(cells: impl Iterator<Item = Cell>) -> Mask {
    let bits = (0u32..).zip(cells).filter(|(_, cell)| *cell != Cell::Absent);
    bits.fold(0, |mask, (index, _)| mask | 1u128.checked_shl(index).unwrap_or(0))
}

fn value_bytes(cell: Cell) -> usize {
    match cell {
        Cell::Absent | Cell::Null => 5,
        Cell::Integer(_) | Cell::Real(_) => 24,
        Cell::Text(slice) => slice.len as usize + 3,
        Cell::Blob(slice) => 2 * slice.len as usize + 3,
    }
}
