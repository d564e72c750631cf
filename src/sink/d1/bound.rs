//! Rows whose JSON is longer than a parameter may be, although the row itself is not: text with many quotes or line
//! breaks. Each gets a statement of its own and each of its values a parameter.
//!
//! Not the form of every row, nor of those of wide tables, whose JSON SQLite reads again for each column: a statement has
//! a hundred parameters and a request fifty statements, so that a request would hold fifty rows of a table of sixty
//! columns instead of thousands. On one local D1 a table of 100 columns takes 10,600 rows/s as JSON and 15,200 as
//! parameters; through the API, at four requests a second, it would be 200.

use super::limits::{ROW_BYTES_MAX, VALUE_BYTES_MAX};
use crate::encode::cell::Cell;
use crate::encode::fold::{ChangeRef, Value};
use crate::encode::json_rows;
use crate::encode::plan::Plan;
use crate::encode::run::ChangeKind;

/// A row's values as expressions, and the parameters in them.
pub(super) struct Bound {
    expressions: Vec<String>,
    pub(super) params: Vec<String>,
}

impl Bound {
    pub(super) fn new(values: &[Value<'_>]) -> Self {
        let mut bound = Bound { expressions: Vec::with_capacity(values.len()), params: Vec::new() };
        for value in values {
            let expression = bound.bind(value.cell(), value.arena());
            bound.expressions.push(expression);
        }
        bound
    }

    /// SQL for the value of the `index`-th column.
    pub(super) fn expression(&self, index: usize) -> String {
        self.expressions[index].clone()
    }

    fn bind(&mut self, cell: Cell, arena: &[u8]) -> String {
        let text = match cell {
            Cell::Absent | Cell::Null => return "NULL".to_owned(),
            Cell::Text(slice) => slice.of(arena).to_vec(),
            Cell::Blob(slice) => hex::encode(slice.of(arena)).into_bytes(),
            Cell::Integer(_) | Cell::Real(_) => {
                let mut text = Vec::new();
                json_rows::value(cell, arena, &mut text);
                text
            }
        };
        // What is mapped to text is UTF-8.
        self.params.push(String::from_utf8_lossy(&text).into_owned());
        let number = self.params.len();
        match cell {
            Cell::Blob(_) => format!("unhex(?{number})"),
            // A parameter is a string.
            Cell::Integer(_) => format!("CAST(?{number} AS INTEGER)"),
            Cell::Real(_) => format!("CAST(?{number} AS REAL)"),
            Cell::Absent | Cell::Null | Cell::Text(_) => format!("?{number}"),
        }
    }
}

/// Why D1 takes the row of a change in no form, if it does not; its JSON, of so many bytes, is too long for a parameter.
pub(super) fn unfit(from: ChangeRef<'_>, plan: &Plan, json_bytes: usize) -> Option<String> {
    let change = from.change();
    let too_long = |what: &str, bytes: usize| {
        Some(format!("{what} has {bytes} bytes, more than the {VALUE_BYTES_MAX} that D1 takes"))
    };
    match change.kind {
        ChangeKind::Upsert | ChangeKind::Update => {}
        ChangeKind::Delete | ChangeKind::Move | ChangeKind::Truncate | ChangeKind::Reject => {
            return too_long("the row as JSON", json_bytes);
        }
    }
    let row = from.run.row(change, plan);
    let stored: usize = row.iter().map(|&cell| stored_bytes(cell)).sum();
    if stored > ROW_BYTES_MAX {
        return too_long("the row", stored);
    }
    let longest = row.iter().filter_map(|cell| match cell {
        Cell::Blob(slice) => Some(slice.len as usize * 2),
        Cell::Absent | Cell::Null | Cell::Integer(_) | Cell::Real(_) | Cell::Text(_) => None,
    });
    let longest = longest.max().filter(|&bytes| bytes > VALUE_BYTES_MAX)?;
    too_long("a value in hexadecimal digits, as which bytes travel,", longest)
}

fn stored_bytes(cell: Cell) -> usize {
    match cell {
        Cell::Absent | Cell::Null => 0,
        Cell::Integer(_) | Cell::Real(_) => 8,
        Cell::Text(slice) | Cell::Blob(slice) => slice.len as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::cell::push;

    #[test]
    fn every_kind_of_value_has_an_expression_that_keeps_its_type() {
        let mut arena = Vec::new();
        let (text, bytes) = (push(&mut arena, "a\"b".as_bytes()), push(&mut arena, &[0, 255]));
        let cells = [
            Cell::Integer(i64::MIN),
            Cell::Null,
            Cell::Real(0.1),
            Cell::Real(f64::NEG_INFINITY),
            Cell::Text(text),
            Cell::Blob(bytes),
        ];
        let values: Vec<Value<'_>> = cells.iter().map(|&cell| Value::new(cell, &arena)).collect();
        let bound = Bound::new(&values);
        let expressions: Vec<String> = (0..cells.len()).map(|index| bound.expression(index)).collect();
        assert_eq!(
            expressions,
            ["CAST(?1 AS INTEGER)", "NULL", "CAST(?2 AS REAL)", "CAST(?3 AS REAL)", "?4", "unhex(?5)"]
        );
        assert_eq!(bound.params, ["-9223372036854775808", "0.1", "-9e999", "a\"b", "00ff"]);
    }
}
