//! The rows of a chunk → a run of upserts. Pure.
//!
//! A chunk brings the same text that the stream brings, so each value goes through the same conversion
//! (`row_writer`), and a row without a valid form becomes a [`ChangeKind::Reject`] with its reason.
//! The run has no spans, because nothing in it is a transaction's: it belongs between transactions, once
//! [`touched`](super::touched) has held it against what was delivered.

use super::plan::Plan;
use super::row_writer::{Rejected, RowWriter};
use super::run::{ChangeKind, Run};
use crate::capture::copy_text::{CopyRow, CopyRows};
use crate::decode::message::Value;
use crate::error::{Error, Result};

/// What a rejected row of a chunk was meant to do.
const OPERATION: &str = "backfill";

/// Maps rows that have the columns of the plan's table, in the plan's order.
///
/// # Errors
///
/// A bug where a row has another number of columns.
pub fn encode(rows: &CopyRows, table: usize, plan: &Plan) -> Result<Run> {
    let planned = &plan.tables[table];
    let mut run = Run {
        arena: Vec::with_capacity(rows.bytes()),
        cells: Vec::with_capacity(rows.len() * planned.columns.len()),
        changes: Vec::with_capacity(rows.len()),
        ..Run::default()
    };
    let mut writer = RowWriter { table: planned, index: table as u32, run: &mut run };
    let mut scratch = Vec::new();
    for row in rows.iter() {
        if !push_row(&mut writer, row, &mut scratch) {
            return Err(Error::bug(format!(
                "a row of a chunk of table {} has not the {} columns that were asked for",
                planned.source,
                planned.columns.len()
            )));
        }
    }
    Ok(run)
}

/// Appends one row or its rejection; false where it has too few columns or too many.
#[inline]
fn push_row(writer: &mut RowWriter<'_>, row: CopyRow<'_>, scratch: &mut Vec<u8>) -> bool {
    let width = writer.table.columns.len();
    let mark = writer.mark();
    let first_cell = writer.begin_row();
    let mut found = 0;
    for field in row.fields() {
        if found == width {
            return false;
        }
        let value = field.text(scratch).map_or(Value::Null, Value::Text);
        if let Err(rejected) = writer.set(first_cell, found, value) {
            writer.undo(mark);
            reject(writer, row, rejected);
            return row.fields().count() == width;
        }
        found += 1;
    }
    if found < width {
        return false;
    }
    match writer.check_key(first_cell) {
        Ok(()) => writer.push(ChangeKind::Upsert, first_cell),
        Err(rejected) => {
            writer.undo(mark);
            reject(writer, row, rejected);
        }
    }
    true
}

#[cold]
fn reject(writer: &mut RowWriter<'_>, row: CopyRow<'_>, rejected: Rejected) {
    let mut scratch = Vec::new();
    let text = |&planned: &usize| row.fields().nth(planned)?.text(&mut scratch).map(<[u8]>::to_vec);
    let key: Vec<Option<Vec<u8>>> = writer.table.key.iter().map(text).collect();
    let values = key.iter().map(|text| text.as_deref().map_or(Value::Null, Value::Text));
    let change = writer.run.changes.len();
    writer.reject(OPERATION, values, rejected);
    // Should the stream have changed the row meanwhile, it may have a form now.
    let key = key.into_iter().map(|text| String::from_utf8(text?).ok()).collect();
    writer.run.source_keys.push((change, key));
}
