//! Changes the tables of a database with the plan, as far as that can be done at once: columns are added, indexes follow,
//! and a table that comes back after it was left is made anew. Each table in one request, which D1 does whole or not at
//! all; a request whose answer was lost is seen to have been done at the next open.

use super::fills;
use super::open::{Contents, ask, statement};
use super::state::Row;
use super::transport::{Statement, Transport};
use crate::Lsn;
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::Result;
use crate::fanout::fill::TableFill;
use crate::postgres::quote_identifier as quote;
use crate::sink::definition::Definition;
use crate::sink::replica::{StoredTable, other_definition};
use crate::sink::shape::{Added, Change, Column, Kept, Rest, Shape};
use crate::sink::sqlite::of_definition;

const COLUMNS: &str =
    "SELECT name, type, CAST(pk AS TEXT) AS pk, dflt_value FROM pragma_table_info(?1) ORDER BY cid";
const INDEXES: &str = "SELECT name FROM pragma_index_list(?1) WHERE origin = 'c'";
const NOTE: &str = "UPDATE _walcast_tables SET source = ?2, definition = ?3 WHERE target = ?1";

/// What is to be sent, and what that changes.
#[derive(Default)]
pub(super) struct Alterations {
    /// A request for each table.
    pub(super) requests: Vec<Vec<Statement>>,
    /// A sentence for each table that readers see changed.
    pub(super) changes: Vec<String>,
}

/// Compares every table that is there with the plan.
///
/// # Errors
/// Needs another database where a table has to be another one.
pub(super) fn alterations(
    transport: &mut dyn Transport,
    contents: &Contents,
    plan: &Plan,
    place: &str,
) -> Result<Alterations> {
    let mut done = Alterations::default();
    for stored in contents.stored.iter().filter(|stored| contents.has_table(&stored.target)) {
        let Some(table) = plan.tables.iter().find(|table| table.target == stored.target) else {
            if !stored.fill.as_ref().is_some_and(|fill| fill.is_left) {
                tracing::info!(
                    table = stored.target,
                    database = place,
                    "schema.json does not name it any more: it stays as it is"
                );
                let fill = TableFill { is_left: true, ..TableFill::waiting(0) };
                done.requests.push(vec![fills::put(&stored.target, &fill)?]);
            }
            continue;
        };
        let target = &table.target;
        if stored.fill.as_ref().is_some_and(|fill| fill.is_left) {
            done.changes.push(format!("table {target} is back, and made anew"));
            done.requests.push(made_anew(table)?);
            continue;
        }
        if stored.definition == Definition::of(table).text() {
            continue;
        }
        match Change::of(table, Some(&kept(transport, stored)?)) {
            Change::New | Change::GoesOn | Change::Rebuild(_) => {
                return Err(other_definition(target, &place));
            }
            Change::Same => done.requests.push(vec![note(table)]),
            Change::Fits(rest) => {
                done.changes.extend(rest.summary().map(|summary| format!("table {target}: {summary}")));
                done.requests.push(settle(table, &rest).chain([note(table)]).collect());
            }
            Change::Add(added, rest) => {
                let names: Vec<&str> = added.iter().map(|added| added.name.as_str()).collect();
                let names = names.join(", ");
                done.changes
                    .push(format!("table {target}: new columns ({names}), and its rows are written again"));
                done.changes.extend(rest.summary().map(|summary| format!("table {target}: {summary}")));
                let mut request: Vec<Statement> = add(table, &added).chain(settle(table, &rest)).collect();
                request.push(note(table));
                request.extend(fill_again(table, stored.fill.as_ref())?);
                done.requests.push(request);
            }
        }
    }
    Ok(done)
}

fn kept(transport: &mut dyn Transport, stored: &StoredTable) -> Result<Kept> {
    let about = |sql: &str| statement(sql, vec![stored.target.clone()]);
    let answers = ask(transport, &[about(COLUMNS), about(INDEXES)])?;
    let (mut there, mut key) = (Shape::default(), Vec::new());
    for row in answers.first().map_or(&[][..], |answer| &answer.rows) {
        let row = Row(row);
        let (name, part): (String, u32) = (row.required("name")?, row.required("pk")?);
        if part > 0 {
            key.push((part, name.clone()));
        }
        let default: Option<String> = row.optional("dflt_value")?;
        there.columns.push(Column {
            name,
            type_name: row.required("type")?,
            is_soft_delete: default.as_deref() == Some("NULL"),
        });
    }
    key.sort();
    there.key = key.into_iter().map(|(_, name)| name).collect();
    for row in answers.get(1).map_or(&[][..], |answer| &answer.rows) {
        there.indexes.push(Row(row).required("name")?);
    }
    Ok(Kept {
        definition: stored.definition.clone(),
        made_for: of_definition(&stored.definition)?,
        there: Some(there),
        fill: stored.fill.clone(),
        ..Kept::default()
    })
}

fn made_anew(table: &PlannedTable) -> Result<Vec<Statement>> {
    let mut request = vec![statement(&format!("DROP TABLE IF EXISTS {}", quote(&table.target)), Vec::new())];
    request.extend(Definition::of(table).statements().map(|sql| statement(sql, Vec::new())));
    request.push(note(table));
    request.push(fills::put(&table.target, &TableFill::of(table))?);
    Ok(request)
}

fn add<'a>(table: &'a PlannedTable, added: &'a [Added]) -> impl Iterator<Item = Statement> {
    let is_missing = |column: &Column| added.iter().any(|added| added.name == column.name && !added.is_there);
    Shape::of(table).columns.into_iter().filter(is_missing).map(|Column { name, type_name, .. }| {
        let sql = format!("ALTER TABLE {} ADD COLUMN {} {type_name}", quote(&table.target), quote(&name));
        statement(&sql, Vec::new())
    })
}

fn settle(table: &PlannedTable, rest: &Rest) -> impl Iterator<Item = Statement> {
    let dropped = rest.old_indexes.iter().map(|name| format!("DROP INDEX IF EXISTS {}", quote(name)));
    let made = Shape::of(table).indexes.into_iter().zip(Definition::of(table).indexes);
    let made = made.filter(|(name, _)| rest.missing_indexes.contains(name)).map(|(_, sql)| sql);
    dropped.chain(made).map(|sql| statement(&sql, Vec::new()))
}

fn note(table: &PlannedTable) -> Statement {
    statement(NOTE, vec![table.target.clone(), table.source.plain(), Definition::of(table).text()])
}

/// Whole rows are written again, over those that are there.
fn fill_again(table: &PlannedTable, fill: Option<&TableFill>) -> Result<Option<Statement>> {
    // A table that is stopped is filled anew as a whole when it goes on.
    if fill.is_some_and(|fill| fill.is_left_empty || fill.stopped.is_some()) {
        return Ok(None);
    }
    let clears = fill.is_some_and(|fill| fill.clears);
    let (from, relation) = fill.map_or((Lsn::ZERO, None), |fill| (fill.from, fill.relation));
    let fill = TableFill { clears, from, relation, ..TableFill::of(table) };
    fills::put(&table.target, &fill).map(Some)
}
