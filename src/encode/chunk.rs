//! The rows of a chunk → a run of upserts, and the rows that were asked for and are gone → removals. Pure.
//!
//! A chunk brings the same text that the stream brings, so each value goes through the same conversion
//! (`row_writer`), and a row without a valid form becomes a [`ChangeKind::Reject`] with its reason.
//! The run has no spans, because nothing in it is a transaction's: it belongs between transactions, once
//! [`touched`](super::touched) has held it against what was delivered.

use std::collections::HashSet;

use super::cell::Cell;
use super::json_rows;
use super::plan::Plan;
use super::row_writer::{Rejected, RowWriter};
use super::run::{Change, ChangeKind, Run};
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

/// Appends the removal of every one of these rows that is not in the run: they were asked for by their keys, which are as
/// the source writes them and in the plan's key order, and are not there. A key without a valid form is in no replica.
pub fn push_gone<'k>(run: &mut Run, keys: impl Iterator<Item = &'k [String]>, table: usize, plan: &Plan) {
    let planned = &plan.tables[table];
    // What is rejected is there. Where its key cannot be told, any could be it.
    let rejected: Option<HashSet<Vec<String>>> = run.source_keys.iter().map(|(_, key)| key.clone()).collect();
    let Some(rejected) = rejected else { return };
    let upserts = run.changes.iter().filter(|change| change.kind == ChangeKind::Upsert);
    let found: HashSet<Vec<u8>> = upserts
        .map(|&change| {
            let row = run.row(change, plan);
            text(planned.key.iter().map(|&index| row[index]), &run.arena)
        })
        .collect();
    for key in keys.filter(|key| !rejected.contains(*key)) {
        let values = planned.key_columns().zip(key);
        let cells = values.map(|(column, value)| column.conversion.text(value.as_bytes(), &mut run.arena));
        let Ok(cells) = cells.collect::<Result<Vec<Cell>, _>>() else { continue };
        if !found.contains(&text(cells.iter().copied(), &run.arena)) {
            let first_cell = run.cells.len() as u32;
            run.cells.extend(cells);
            run.changes.push(Change { kind: ChangeKind::Delete, table: table as u32, first_cell });
        }
    }
}

fn text(key: impl Iterator<Item = Cell>, arena: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    json_rows::array(key, arena, &mut text);
    text
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
