//! Folded changes → statements: one for each table, kind of write and set of columns, or a few where the rows are many.

use std::sync::Arc;

use super::bound::Bound;
use super::dead_letters::Letters;
use super::limits::{Pace, ROW_TEXT_BYTES_MAX, RequestLimits};
use super::tables::{TableSql, Texts};
use super::transport::Statement;
use crate::Lsn;
use crate::encode::fold::{Entry, Fold, Mask, Move, Net, Row, Stage};
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::run::Span;
use crate::encode::time::push_rfc3339_micros;
use crate::fanout::sink::Batch;

/// Bytes that one byte of a text may take in JSON: `\\u0001`.
const ESCAPE_BYTES_MAX: usize = 6;

/// What a statement is for, so that its answer can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Writes rows of this table of the plan.
    Table(usize),
    /// Writes dead letters for updates of this table of the plan that found no row.
    SetAside(usize),
    /// Writes dead letters.
    Letters,
}

/// By table of the plan: what its being filled allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lax(Vec<LaxTable>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LaxTable {
    /// An update may find no row.
    may_lack: bool,
    /// A row may be newer than the stream, and in the way of one that moves.
    may_be_newer: bool,
    /// Changes of transactions that were committed before are left out.
    from: Lsn,
}

impl Lax {
    pub(super) fn of(batch: &Batch<'_>, plan: &Plan) -> Self {
        let table = |table| LaxTable {
            may_lack: batch.may_lack(table),
            may_be_newer: batch.may_be_newer(table),
            from: batch.from(table),
        };
        Lax((0..plan.tables.len()).map(table).collect())
    }

    /// Whether a change of the table by this transaction is not written.
    pub(super) fn leaves_out(&self, table: usize, span: &Span) -> bool {
        span.commit_lsn < self.get(table).from
    }

    fn get(&self, table: usize) -> LaxTable {
        self.0.get(table).copied().unwrap_or_default()
    }
}

/// Statements, each with its purpose.
#[derive(Debug, Default)]
pub(super) struct Composed {
    pub(super) statements: Vec<Statement>,
    pub(super) purposes: Vec<Purpose>,
}

impl Composed {
    fn push(&mut self, sql: &Arc<str>, params: Vec<String>, purpose: Purpose) {
        self.statements.push(Statement { sql: sql.clone(), params });
        self.purposes.push(purpose);
    }
}

/// Composes everything that was folded, and the dead letters.
pub(super) fn compose(
    fold: &Fold<'_>,
    letters: &Letters,
    plan: &Plan,
    sql: &mut TableSql,
    pace: &Pace,
    lax: &Lax,
) -> Composed {
    let mut composed = Composed::default();
    for (table, folded) in fold.tables() {
        let purpose = Purpose::Table(table);
        if folded.is_truncated {
            for text in &sql.of(table).truncate {
                composed.push(text, Vec::new(), purpose);
            }
        }
        for stage in &folded.stages {
            let (planned, lax) = (&plan.tables[table], lax.get(table));
            let writer = StageWriter { fold, plan, planned, table, param: pace.param, lax };
            writer.write(stage, sql, &mut composed);
        }
    }
    for param in letters.params(pace.param) {
        composed.push(letters.sql(), vec![param], Purpose::Letters);
    }
    composed
}

/// Writes one stage of one table.
struct StageWriter<'a> {
    fold: &'a Fold<'a>,
    plan: &'a Plan,
    planned: &'a PlannedTable,
    table: usize,
    param: RequestLimits,
    lax: LaxTable,
}

impl StageWriter<'_> {
    fn write(&self, stage: &Stage<'_>, sql: &mut TableSql, composed: &mut Composed) {
        let texts = sql.of(self.table);
        let purpose = Purpose::Table(self.table);
        if let (Some(span), Some(text)) = (stage.soft_truncated, &texts.soft_truncate) {
            composed.push(text, vec![time(span)], purpose);
        }
        let (mut deletes, mut upserts, mut marks) = (self.rows(), self.rows(), self.rows());
        let mut updates: Vec<(Mask, Rows)> = Vec::new();
        let (mut found, mut long) = (self.rows(), Vec::new());
        for entry in &stage.entries {
            match &entry.net {
                Net::Keep => {}
                Net::Delete => deletes.push(|text| text.push_str(self.fold.key(entry))),
                Net::Upsert(row) if self.is_long(row) => long.push(&entry.net),
                Net::Upsert(row) => upserts.push(|text| row.push_text(self.plan, text)),
                Net::Update(row) => {
                    found.push(|text| origin(text, self.fold.key(entry), entry.span));
                    match self.is_long(row) {
                        true => long.push(&entry.net),
                        false => {
                            let rows = self.of_mask(&mut updates, row.mask(self.plan));
                            rows.push(|text| row.push_text(self.plan, text));
                        }
                    }
                }
            }
            if let Some(span) = entry.soft_deleted {
                marks.push(|text| self.mark(text, entry, span));
            }
        }
        deletes.finish(&texts.delete, purpose, composed);
        upserts.finish(&texts.upsert, purpose, composed);
        if !self.lax.may_lack {
            found.finish(&texts.set_aside, Purpose::SetAside(self.table), composed);
        }
        for (mask, rows) in updates {
            if let Some(text) = sql.update(self.table, mask) {
                rows.finish(&text, purpose, composed);
            }
        }
        long.iter().for_each(|net| self.long(net, sql, composed));
        if !stage.moves.is_empty() {
            self.moves(&stage.moves, sql, composed);
        }
        if let Texts { soft_delete: Some(text), .. } = sql.of(self.table) {
            marks.finish(text, purpose, composed);
        }
    }

    /// Whether a row is too long for a parameter.
    fn is_long(&self, row: &Row<'_>) -> bool {
        let bytes = row.text_bytes(self.plan);
        bytes > ROW_TEXT_BYTES_MAX
            || matches!(row, Row::Merged(_)) && bytes * ESCAPE_BYTES_MAX > ROW_TEXT_BYTES_MAX && {
                let mut text = String::new();
                row.push_text(self.plan, &mut text);
                text.len() > ROW_TEXT_BYTES_MAX
            }
    }

    /// One row that is too long for a parameter.
    fn long(&self, net: &Net<'_>, sql: &TableSql, composed: &mut Composed) {
        let (text, bound) = match net {
            Net::Keep | Net::Delete => return,
            Net::Upsert(row) => {
                let bound = Bound::new(&row.values(self.plan));
                (Some(sql.upsert_one(self.table, |index| bound.expression(index))), bound)
            }
            Net::Update(row) => {
                let bound = Bound::new(&row.values(self.plan));
                let mask = row.mask(self.plan);
                (sql.update_one(self.table, mask, |index| bound.expression(index)), bound)
            }
        };
        if let Some(text) = text {
            composed.push(&text.into(), bound.params, Purpose::Table(self.table));
        }
    }

    fn moves(&self, moves: &[Move<'_>], sql: &mut TableSql, composed: &mut Composed) {
        let purpose = Purpose::Table(self.table);
        let (mut found, mut all) = (self.rows(), self.rows());
        let mut moved: Vec<(Mask, Rows)> = Vec::new();
        for one in moves {
            let (old_key, _) = self.fold.move_keys(one);
            found.push(|text| origin(text, old_key, one.span));
            let push = |text: &mut String| {
                text.push('[');
                text.push_str(old_key);
                text.push(',');
                one.row.push_text(self.plan, text);
                text.push(']');
            };
            self.of_mask(&mut moved, one.row.mask(self.plan)).push(push);
            if self.planned.soft_delete.is_some() {
                all.push(push);
            }
        }
        if !self.lax.may_lack {
            found.finish(&sql.of(self.table).set_aside, Purpose::SetAside(self.table), composed);
        }
        if let Some(bury) = &sql.of(self.table).bury {
            all.finish(bury, purpose, composed);
        }
        for (mask, rows) in moved {
            let mut text = sql.rename(self.table, mask);
            if self.lax.may_be_newer {
                text = text.replacen("UPDATE ", "UPDATE OR REPLACE ", 1).into();
            }
            rows.finish(&text, purpose, composed);
        }
    }

    fn rows(&self) -> Rows {
        Rows { limits: self.param, ..Rows::default() }
    }

    fn of_mask<'r>(&self, masks: &'r mut Vec<(Mask, Rows)>, mask: Mask) -> &'r mut Rows {
        let index = masks.iter().position(|(known, _)| *known == mask).unwrap_or_else(|| {
            masks.push((mask, self.rows()));
            masks.len() - 1
        });
        &mut masks[index].1
    }

    /// The key's parts, and the time of the deletion behind them.
    fn mark(&self, text: &mut String, entry: &Entry<'_>, span: &Span) {
        let key = self.fold.key(entry);
        text.push_str(key.strip_suffix(']').unwrap_or(key));
        text.push_str(",\"");
        text.push_str(&time(span));
        text.push_str("\"]");
    }
}

/// `[key, commit LSN, xid]`.
fn origin(text: &mut String, key: &str, span: &Span) {
    text.push('[');
    text.push_str(key);
    text.push_str(&format!(",\"{}\",{}]", span.commit_lsn, span.xid));
}

/// When the transaction was committed, as RFC 3339.
fn time(span: &Span) -> String {
    let mut text = Vec::new();
    push_rfc3339_micros(&mut text, span.commit_time_micros);
    String::from_utf8(text).expect("a time is ASCII")
}

/// Rows as JSON arrays of rows, each small enough for one parameter.
#[derive(Debug, Default)]
pub(super) struct Rows {
    limits: RequestLimits,
    full: Vec<String>,
    text: String,
    rows: usize,
}

impl Rows {
    pub(super) fn new(limits: RequestLimits) -> Self {
        Rows { limits, ..Rows::default() }
    }

    /// Adds the row that `push` appends.
    pub(super) fn push(&mut self, push: impl FnOnce(&mut String)) {
        let start = self.text.len();
        self.text.push(if self.rows == 0 { '[' } else { ',' });
        push(&mut self.text);
        self.rows += 1;
        if self.rows > 1 && self.text.len() + 1 > self.limits.bytes_max {
            // The row begins the next parameter.
            let mut next = String::with_capacity(self.limits.bytes_max.min(self.text.capacity()));
            next.push('[');
            next.push_str(&self.text[start + 1..]);
            self.text.truncate(start);
            self.close(next, 1);
        }
        if self.rows == self.limits.rows_max {
            self.close(String::new(), 0);
        }
    }

    fn close(&mut self, next: String, rows: usize) {
        self.text.push(']');
        self.full.push(std::mem::replace(&mut self.text, next));
        self.rows = rows;
    }

    /// The parameters.
    pub(super) fn finish_params(mut self) -> Vec<String> {
        if self.rows > 0 {
            self.close(String::new(), 0);
        }
        self.full
    }

    fn finish(self, sql: &Arc<str>, purpose: Purpose, composed: &mut Composed) {
        for param in self.finish_params() {
            composed.push(sql, vec![param], purpose);
        }
    }
}
