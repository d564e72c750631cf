//! The SQL of the replicated tables: every text is built once and shared by all statements that say it.
//!
//! A statement takes all of its rows as one string, an array of rows in JSON: one parameter of the hundred that D1
//! allows, exact to 64 bits, because SQLite reads the numbers from the text, and several times faster than a statement
//! for each row. `value ->> 0` is a row's first cell.
//!
//! `_walcast` is the rows' name in the statements: no replicated table begins with it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Options;
use crate::encode::column_type::ColumnType;
use crate::encode::fold::Mask;
use crate::encode::plan::{Plan, PlannedColumn, PlannedTable};
use crate::postgres::quote_identifier as quote;
use crate::sink::definition::Definition;
use crate::sink::replica::{NOT_IN_REPLICA, OnRejected};

/// The texts of all tables.
#[derive(Debug)]
pub(super) struct TableSql {
    /// The plan with the names of the tables that rows are written to.
    written: Plan,
    tables: Vec<Texts>,
    options: Options,
}

/// The texts of one table.
#[derive(Debug)]
pub(super) struct Texts {
    /// Writes whole rows. `?1`: rows.
    pub(super) upsert: Arc<str>,
    /// Removes rows. `?1`: keys.
    pub(super) delete: Arc<str>,
    /// Marks rows as deleted. `?1`: keys, each with the time behind its last part. Only where deletion is soft.
    pub(super) soft_delete: Option<Arc<str>>,
    /// Marks all rows as deleted. `?1`: the time. Only where deletion is soft.
    pub(super) soft_truncate: Option<Arc<str>>,
    /// Removes soft-deleted rows from keys that are in use again. `?1`: rows of a move.
    pub(super) bury: Option<Arc<str>>,
    /// Removes all rows: the table and its indexes, away and made again. `DELETE` would write each row.
    pub(super) truncate: Vec<Arc<str>>,
    /// Sets the updates aside that find no row, or fails at them if the sink is to halt. `?1`: `[key, commit LSN, xid]`.
    pub(super) set_aside: Arc<str>,
    updates: HashMap<Mask, Option<Arc<str>>>,
    moves: HashMap<Mask, Arc<str>>,
}

impl TableSql {
    /// The texts of the plan's tables, for a sink that writes like this. `written` is the plan with the names of the
    /// tables that rows are written to.
    pub(super) fn new(plan: &Plan, written: Plan, options: Options) -> Self {
        let tables = written.tables.iter().zip(&plan.tables);
        let tables = tables.map(|(table, known)| Texts::new(table, &known.target, options)).collect();
        TableSql { written, tables, options }
    }

    /// The plan with the names of the tables that rows are written to.
    pub(super) fn written(&self) -> &Plan {
        &self.written
    }

    /// The texts of a table, by its index in the plan.
    pub(super) fn of(&self, table: usize) -> &Texts {
        &self.tables[table]
    }

    /// Writes the columns of the mask into rows that are there. `?1`: rows. `None` where the mask has none but the key's,
    /// and nothing is to be written.
    pub(super) fn update(&mut self, table: usize, mask: Mask) -> Option<Arc<str>> {
        let (skip_unchanged, planned) = (self.options.skip_unchanged, &self.written.tables[table]);
        let text = self.tables[table].updates.entry(mask);
        text.or_insert_with(|| update(planned, mask, skip_unchanged).map(Arc::from)).clone()
    }

    /// Writes one whole row, for whose columns `value` gives SQL.
    pub(super) fn upsert_one(&self, table: usize, value: impl Fn(usize) -> String) -> String {
        let planned = &self.written.tables[table];
        let values: Vec<String> = (0..planned.columns.len()).map(value).collect();
        upsert_from(planned, &format!("VALUES ({})", values.join(", ")), self.options.skip_unchanged)
    }

    /// Writes the columns of the mask into one row if it is there; `value` gives SQL for the row's columns. `None` as for
    /// [`update`](Self::update).
    pub(super) fn update_one(
        &self,
        table: usize,
        mask: Mask,
        value: impl Fn(usize) -> String,
    ) -> Option<String> {
        update_from(&self.written.tables[table], mask, "", value, self.options.skip_unchanged)
    }

    /// Gives rows another key and writes the columns of the mask. `?1`: `[old key, row]`.
    pub(super) fn rename(&mut self, table: usize, mask: Mask) -> Arc<str> {
        let planned = &self.written.tables[table];
        self.tables[table].moves.entry(mask).or_insert_with(|| rename(planned, mask).into()).clone()
    }
}

/// SQL for the cell at `path`, a position or a path in quotes, of the row `value`.
pub(super) fn cell(value: &str, path: &str, column: &PlannedColumn) -> String {
    match column.column_type {
        ColumnType::Blob => format!("unhex({value} ->> {path})"),
        ColumnType::Integer
        | ColumnType::Real
        | ColumnType::Text
        | ColumnType::Boolean
        | ColumnType::Json => format!("{value} ->> {path}"),
    }
}

/// The condition that finds the row of a key, whose parts lie at the paths that `path` gives for their numbers.
fn key_matches(table: &PlannedTable, path: impl Fn(usize) -> String) -> String {
    key_is(table, |part, column| cell("_walcast.value", &path(part), column))
}

/// The condition that finds the row of a key, for whose parts `value` gives SQL.
fn key_is(table: &PlannedTable, value: impl Fn(usize, &PlannedColumn) -> String) -> String {
    let target = quote(&table.target);
    let parts = table
        .key_columns()
        .enumerate()
        .map(|(part, column)| format!("{target}.{} = {}", quote(&column.target), value(part, column)));
    parts.collect::<Vec<_>>().join(" AND ")
}

impl Texts {
    /// `known_as` is the name by which readers, and dead letters, know the table.
    fn new(table: &PlannedTable, known_as: &str, options: Options) -> Self {
        let target = quote(&table.target);
        let definition = Definition::of(table);
        let drop = format!("DROP TABLE {target}");
        let truncate = std::iter::once(drop.as_str()).chain(definition.statements()).map(Arc::from);
        let marked = table.soft_delete.as_deref().map(quote);
        let keys: Vec<String> = table.key_columns().map(|column| quote(&column.target)).collect();
        let key_cells: Vec<String> = table
            .key_columns()
            .enumerate()
            .map(|(part, column)| cell("value", &part.to_string(), column))
            .collect();
        let is_one_of = |names: &[String], select: &str| match names {
            [name] => format!("{name} IN ({select})"),
            names => format!("({}) IN ({select})", names.join(", ")),
        };
        let delete = is_one_of(&keys, &format!("SELECT {} FROM json_each(?1)", key_cells.join(", ")));
        Texts {
            upsert: upsert(table, options.skip_unchanged).into(),
            delete: format!("DELETE FROM {target} WHERE {delete}").into(),
            soft_delete: marked.as_ref().map(|column| {
                let matches = key_matches(table, |part| part.to_string());
                let time = table.key.len();
                format!(
                    "UPDATE {target} SET {column} = _walcast.value ->> {time} FROM json_each(?1) AS _walcast WHERE {matches} AND {target}.{column} IS NULL"
                )
                .into()
            }),
            soft_truncate: marked
                .as_ref()
                .map(|column| format!("UPDATE {target} SET {column} = ?1 WHERE {column} IS NULL").into()),
            bury: marked.as_ref().map(|column| {
                let cells = table.key.iter().map(|&index| {
                    cell("value", &format!("'$[1][{index}]'"), &table.columns[index])
                });
                let select = format!("SELECT {} FROM json_each(?1)", cells.collect::<Vec<_>>().join(", "));
                let is_in_use = is_one_of(&keys, &select);
                format!("DELETE FROM {target} WHERE {column} IS NOT NULL AND {is_in_use}").into()
            }),
            truncate: truncate.collect(),
            set_aside: format!(
                "INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) \
                 SELECT {}, 'update', _walcast.value -> 0, {}, _walcast.value ->> 1, _walcast.value ->> 2 FROM json_each(?1) AS _walcast \
                 WHERE NOT EXISTS (SELECT 1 FROM {target} WHERE {}) RETURNING key",
                literal(known_as),
                match options.on_rejected {
                    OnRejected::DeadLetter => literal(NOT_IN_REPLICA),
                    // A letter without a reason is not taken.
                    OnRejected::Halt => "NULL".to_owned(),
                },
                key_matches(table, |part| format!("'$[0][{part}]'"))
            )
            .into(),
            updates: HashMap::new(),
            moves: HashMap::new(),
        }
    }
}

fn upsert(table: &PlannedTable, skip_unchanged: bool) -> String {
    let cells =
        table.columns.iter().enumerate().map(|(index, column)| cell("value", &index.to_string(), column));
    let cells: Vec<String> = cells.collect();
    // Without WHERE, SQLite takes ON for the condition of a join.
    upsert_from(table, &format!("SELECT {} FROM json_each(?1) WHERE true", cells.join(", ")), skip_unchanged)
}

/// Writes the rows of `source`.
fn upsert_from(table: &PlannedTable, source: &str, skip_unchanged: bool) -> String {
    let target = quote(&table.target);
    let names: Vec<String> = table.columns.iter().map(|column| quote(&column.target)).collect();
    let keys: Vec<&str> = table.key.iter().map(|&index| names[index].as_str()).collect();
    let others = || (0..names.len()).filter(|index| !table.key.contains(index)).map(|index| &names[index]);
    let mut assignments: Vec<String> = others().map(|name| format!("{name} = excluded.{name}")).collect();
    let mut differences: Vec<String> =
        others().map(|name| format!("{target}.{name} IS NOT excluded.{name}")).collect();
    if let Some(column) = table.soft_delete.as_deref().map(quote) {
        // A row that comes again is not deleted any more.
        assignments.push(format!("{column} = NULL"));
        differences.push(format!("{target}.{column} IS NOT NULL"));
    }
    let resolution = match &assignments[..] {
        [] => "NOTHING".to_owned(),
        all if skip_unchanged => {
            format!("UPDATE SET {} WHERE {}", all.join(", "), differences.join(" OR "))
        }
        all => format!("UPDATE SET {}", all.join(", ")),
    };
    format!(
        "INSERT INTO {target} ({}) {source} ON CONFLICT ({}) DO {resolution}",
        names.join(", "),
        keys.join(", ")
    )
}

fn is_in(mask: Mask, index: usize) -> bool {
    mask.checked_shr(index as u32).is_some_and(|rest| rest & 1 == 1)
}

fn update(table: &PlannedTable, mask: Mask, skip_unchanged: bool) -> Option<String> {
    let value = |index: usize| cell("_walcast.value", &index.to_string(), &table.columns[index]);
    update_from(table, mask, " FROM json_each(?1) AS _walcast", value, skip_unchanged)
}

/// Writes the columns of the mask into the rows that `from` brings, for whose columns `value` gives SQL.
fn update_from(
    table: &PlannedTable,
    mask: Mask,
    from: &str,
    value: impl Fn(usize) -> String,
    skip_unchanged: bool,
) -> Option<String> {
    let target = quote(&table.target);
    let (mut assignments, mut differences) = (Vec::new(), Vec::new());
    for (index, column) in table.columns.iter().enumerate() {
        if is_in(mask, index) && !table.key.contains(&index) {
            let (name, value) = (quote(&column.target), value(index));
            assignments.push(format!("{name} = {value}"));
            differences.push(format!("{target}.{name} IS NOT {value}"));
        }
    }
    if let Some(column) = table.soft_delete.as_deref().map(quote) {
        assignments.push(format!("{column} = NULL"));
        differences.push(format!("{target}.{column} IS NOT NULL"));
    }
    let mut condition = key_is(table, |part, _| value(table.key[part]));
    if skip_unchanged && !differences.is_empty() {
        condition = format!("{condition} AND ({})", differences.join(" OR "));
    }
    let assignments = (!assignments.is_empty()).then(|| assignments.join(", "))?;
    Some(format!("UPDATE {target} SET {assignments}{from} WHERE {condition}"))
}

fn rename(table: &PlannedTable, mask: Mask) -> String {
    let columns = table.columns.iter().enumerate().filter(|(index, _)| is_in(mask, *index));
    let mut assignments: Vec<String> = columns
        .map(|(index, column)| {
            format!(
                "{} = {}",
                quote(&column.target),
                cell("_walcast.value", &format!("'$[1][{index}]'"), column)
            )
        })
        .collect();
    if let Some(column) = &table.soft_delete {
        assignments.push(format!("{} = NULL", quote(column)));
    }
    format!(
        "UPDATE {} SET {} FROM json_each(?1) AS _walcast WHERE {}",
        quote(&table.target),
        assignments.join(", "),
        key_matches(table, |part| format!("'$[0][{part}]'"))
    )
}

/// Whether a request failed at an update that finds no row.
pub(super) fn is_without_row(message: &str) -> bool {
    message.contains("_walcast_dead_letters.reason")
}

/// A text as a SQL literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
