//! Rows as JSON array text, the wire form of sinks that bind whole row sets as one string (D1's `json_each`).
//!
//! Integers keep all 64 bits because SQLite parses them from the text; text is a JSON string; a JSON column is a JSON
//! *string* holding the JSON text; bytes are a hex string; infinities are `9e999`.

use std::ops::Range;

use super::cell::Cell;
use super::json::push_string;
use super::run::{ChangeKind, Rendered, Run};
use crate::encode::plan::Plan;

/// The rows and keys of a run as text, one JSON array for each change that has cells.
#[derive(Debug, Clone, Copy)]
pub struct JsonRows<'a>(&'a Rendered);

impl<'a> JsonRows<'a> {
    /// The row of each upsert, update and move, and the key of each delete: rendered when the first sink asks, shared by
    /// all that follow.
    pub fn of(run: &'a Run, plan: &Plan) -> Self {
        JsonRows(run.rendered.get_or_init(|| render(run, plan)))
    }

    /// The text of the run's `index`-th change; empty for a truncate or a rejection.
    pub fn get(self, index: usize) -> &'a str {
        &self.0.text[self.start(index)..self.0.ends[index]]
    }

    /// How many bytes the texts of these changes of the run have together.
    pub fn bytes(self, changes: Range<usize>) -> usize {
        self.start(changes.end) - self.start(changes.start)
    }

    fn start(self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.0.ends[before])
    }
}

fn render(run: &Run, plan: &Plan) -> Rendered {
    let (mut text, mut ends) = (Vec::new(), Vec::with_capacity(run.all_changes().len()));
    for &change in run.all_changes() {
        match change.kind {
            ChangeKind::Upsert | ChangeKind::Update | ChangeKind::Move => {
                array(run.row(change, plan).iter().copied(), run.arena(), &mut text);
            }
            ChangeKind::Delete => array(run.key(change, plan).iter().copied(), run.arena(), &mut text),
            ChangeKind::Truncate | ChangeKind::Reject => {}
        }
        ends.push(text.len());
    }
    Rendered { text: String::from_utf8(text).expect("rendered JSON is UTF-8"), ends }
}

/// Appends `cells` as a JSON array. Absent cells become `null`: the column mask says that they are not written.
pub fn array(cells: impl IntoIterator<Item = Cell>, arena: &[u8], text: &mut Vec<u8>) {
    text.push(b'[');
    for (index, cell) in cells.into_iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        value(cell, arena, text);
    }
    text.push(b']');
}

/// Appends one cell as a JSON value.
pub fn value(cell: Cell, arena: &[u8], text: &mut Vec<u8>) {
    match cell {
        Cell::Absent | Cell::Null => text.extend_from_slice(b"null"),
        Cell::Integer(integer) => {
            text.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
        }
        Cell::Real(real) if real == f64::INFINITY => text.extend_from_slice(b"9e999"),
        Cell::Real(real) if real == f64::NEG_INFINITY => text.extend_from_slice(b"-9e999"),
        // Writing to a Vec cannot fail; serde_json gives the shortest text that reads back equal.
        Cell::Real(real) => serde_json::to_writer(text, &real).expect("a float has JSON text"),
        Cell::Text(slice) => push_string(slice.of(arena), text),
        Cell::Blob(slice) => {
            let bytes = slice.of(arena);
            text.push(b'"');
            let start = text.len();
            text.resize(start + bytes.len() * 2, 0);
            hex::encode_to_slice(bytes, &mut text[start..]).expect("there is room for two digits a byte");
            text.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::cell::push;

    #[test]
    fn every_kind_of_cell_has_its_json_form() {
        let mut arena = Vec::new();
        let quoted = push(&mut arena, "a\"b\\\u{1}ü".as_bytes());
        let bytes = push(&mut arena, &[0, 255]);
        let cells = [
            Cell::Integer(i64::MIN),
            Cell::Integer(9_007_199_254_740_993),
            Cell::Real(0.1),
            Cell::Real(1.0),
            Cell::Real(f64::INFINITY),
            Cell::Real(f64::NEG_INFINITY),
            Cell::Null,
            Cell::Absent,
            Cell::Text(quoted),
            Cell::Blob(bytes),
        ];
        let mut text = Vec::new();
        array(cells, &arena, &mut text);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"[-9223372036854775808,9007199254740993,0.1,1.0,9e999,-9e999,null,null,"a\"b\\\u0001ü","00ff"]"#
        );
    }
}
