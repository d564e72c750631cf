//! What is said to a replica so that its tables are the plan's, alike in a SQLite file and in a D1 database. Pure: the plan
//! and what the replica keeps go in, statements come out; each [`Alteration`] is done whole or not at all.
//!
//! What others may read is never taken away: columns and tables that are not planned any more stay, and a table that has
//! to be another one is built beside it. One that is the same under another name, or comes from another table, is built
//! beside too, so that its readers meet it full. Only [`prune`] drops, and only what the replica itself says was left.

use std::collections::BTreeMap;

use crate::Lsn;
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::{Error, Result};
use crate::fanout::fill::{Fills, TableFill};
use crate::postgres::quote_identifier as quote;
use crate::sink::definition::{BESIDE, Definition, beside};
use crate::sink::marked::Marked;
use crate::sink::shape::{Added, Change, Column, Kept, Rest, Shape};
use crate::sink::statement::Statement;

/// Keeps how far a table is filled. `?1`: the table, `?2`: the fill.
pub const PUT_FILL: &str = "INSERT INTO _walcast_fills (target, fill) VALUES (?1, ?2) \
    ON CONFLICT (target) DO UPDATE SET fill = excluded.fill";
const NOTE: &str = "INSERT INTO _walcast_tables (target, source, definition) VALUES (?1, ?2, ?3) \
    ON CONFLICT (target) DO UPDATE SET source = excluded.source, definition = excluded.definition";
const NOTE_NEW: &str = "INSERT INTO _walcast_tables (target, source, definition) VALUES (?1, ?2, '') \
    ON CONFLICT (target) DO NOTHING";
const FORGET: &str = "DELETE FROM _walcast_tables WHERE target = ?1";
const FORGET_FILL: &str = "DELETE FROM _walcast_fills WHERE target = ?1";
const FORGET_LEFT: &str = "DELETE FROM _walcast_left WHERE target = ?1";
/// Forgets the dead letters of a table. `?1`: the table.
pub const FORGET_LETTERS: &str = "DELETE FROM _walcast_dead_letters WHERE target = ?1";

/// What is done for one table, all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alteration {
    /// In this order.
    pub statements: Vec<Statement>,
    /// What is changed, in sentences.
    pub changes: Vec<String>,
    /// What stays where it is and is not fed from now on, in words.
    pub left: Vec<String>,
}

/// What makes the tables the plan's, as far as that can be done at once. `tables` are the names of all tables there.
///
/// # Errors
/// Halts at a table that walcast did not make; `place` is what the error calls the replica.
pub fn alterations<'a>(
    plan: &Plan,
    kept: &BTreeMap<String, Kept>,
    tables: impl Iterator<Item = &'a str> + Clone,
    place: &str,
) -> Result<Vec<Alteration>> {
    let mut alterations = Vec::new();
    for table in &plan.tables {
        let target = &table.target;
        let is_known = kept.get(target).is_some_and(|kept| kept.there.is_some());
        if !is_known && tables.clone().any(|name| name.eq_ignore_ascii_case(target)) {
            return Err(Error::halt(format!("{place} has a table {target} that walcast did not create"))
                .hint("give the table another target in schema.json, or remove the one in the database"));
        }
        let changing = Changing { table, kept: kept.get(target) };
        alterations.extend(changing.alteration(Change::of(table, kept))?);
    }
    let is_planned = |target: &String| plan.tables.iter().any(|table| table.target == *target);
    for (target, kept) in kept.iter().filter(|(target, _)| !is_planned(target)) {
        alterations.extend(leave(target, kept)?);
    }
    Ok(alterations)
}

/// The plan with the names of the tables that rows are written to.
pub fn written(plan: &Plan, fills: &Fills) -> Plan {
    let written = |(index, table): (usize, &PlannedTable)| match fills.get(index) {
        Some(fill) if fill.is_beside => beside(table),
        _ => table.clone(),
    };
    Plan { tables: plan.tables.iter().enumerate().map(written).collect() }
}

/// Keeps how far a table is filled.
///
/// # Errors
/// A bug.
pub fn put_fill(target: &str, fill: &TableFill) -> Result<Statement> {
    Ok(Statement::new(PUT_FILL, &[target, &fill_text(fill)?]))
}

/// The form in which a replica keeps a fill.
///
/// # Errors
/// A bug.
pub fn fill_text(fill: &TableFill) -> Result<String> {
    serde_json::to_string(fill).map_err(|error| Error::bug("writing a fill").because(error))
}

/// Makes an empty table beside the one that readers see. All its rows are read again, and those that have no valid form
/// noted again.
pub fn build_beside(table: &PlannedTable) -> Vec<Statement> {
    let beside = beside(table);
    let mut statements = drop_table(&beside.target).to_vec();
    statements.extend(create(&beside));
    statements.push(Statement::new(NOTE_NEW, &[&table.target, &table.source.plain()]));
    statements.push(Statement::new(FORGET_LETTERS, &[&table.target]));
    statements
}

/// Something that others have made in the replica and would lose with a table: an index, a trigger or a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// `index`, `trigger` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What makes it.
    pub sql: String,
}

/// Puts the table that was built beside the one that readers see in its place. What others have made on it is not
/// restored.
pub fn swap(table: &PlannedTable) -> Vec<Statement> {
    let (target, new, definition) = (&table.target, beside(table).target, Definition::of(table));
    let mut statements = vec![
        Statement::plain(format!("DROP TABLE IF EXISTS {}", quote(target))),
        Statement::plain(format!("ALTER TABLE {} RENAME TO {}", quote(&new), quote(target))),
    ];
    statements.extend(definition.indexes.iter().map(|sql| Statement::plain(&**sql)));
    statements.push(Statement::new(FORGET, &[&new]));
    statements.push(note(table));
    statements.push(Statement::new(FORGET_LEFT, &[target]));
    statements
}

/// Something to be dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// The table.
    pub table: String,
    /// The column; the whole table without one.
    pub column: Option<String>,
}

/// Drops what walcast has made and `schema.json` does not name any more: for each a group of statements of which the first
/// fails unless the replica says then that it was left.
///
/// # Errors
/// Halts unless the replica, which errors call `place`, said so when `kept` was read.
pub fn prune(kept: &BTreeMap<String, Kept>, prunes: &[Prune], place: &str) -> Result<Vec<Vec<Statement>>> {
    let one = |Prune { table, column }: &Prune| {
        let kept = kept.get(table);
        let is_left = match column {
            Some(column) => kept.is_some_and(|kept| kept.left.contains(column)),
            None => kept.is_some_and(|kept| kept.fill.as_ref().is_some_and(|fill| fill.is_left)),
        };
        if !is_left {
            let of = column.as_ref().map(|column| format!("column {column} of ")).unwrap_or_default();
            return Err(Error::halt(format!(
                "{place} does not say that {of}table {table} was left; nothing was dropped"
            ))
            .hint("see `walcast schema plan`"));
        }
        // The checkpoint's slot is never NULL.
        let unless = |left: &str| {
            format!("UPDATE _walcast_checkpoint SET slot = NULL WHERE NOT EXISTS (SELECT 1 FROM {left})")
        };
        Ok(match column {
            Some(column) => vec![
                Statement::new(&unless("_walcast_left WHERE target = ?1 AND column = ?2"), &[table, column]),
                Statement::plain(format!("ALTER TABLE {} DROP COLUMN {}", quote(table), quote(column))),
                Statement::new(
                    "DELETE FROM _walcast_left WHERE target = ?1 AND column = ?2",
                    &[table, column],
                ),
            ],
            None => {
                let is_left = "_walcast_fills WHERE target = ?1 AND json_extract(fill, '$.is_left')";
                let mut statements = vec![Statement::new(&unless(is_left), &[table])];
                statements.push(Statement::plain(format!("DROP TABLE IF EXISTS {}", quote(table))));
                statements.extend(forget(table));
                statements
            }
        })
    };
    prunes.iter().map(one).collect()
}

fn note(table: &PlannedTable) -> Statement {
    Statement::new(NOTE, &[&table.target, &table.source.plain(), &Definition::of(table).text()])
}

fn create(table: &PlannedTable) -> impl Iterator<Item = Statement> {
    let statements: Vec<Statement> = Definition::of(table).statements().map(Statement::plain).collect();
    statements.into_iter().chain([note(table)])
}

fn drop_table(target: &str) -> [Statement; 2] {
    [Statement::plain(format!("DROP TABLE IF EXISTS {}", quote(target))), Statement::new(FORGET, &[target])]
}

/// Forgets everything that the replica keeps of a table.
fn forget(target: &str) -> impl Iterator<Item = Statement> {
    [FORGET, FORGET_FILL, FORGET_LEFT, FORGET_LETTERS].into_iter().map(|sql| Statement::new(sql, &[target]))
}

/// Marks a table that is not planned any more, once; forgets it where it is not there.
fn leave(target: &str, kept: &Kept) -> Result<Option<Alteration>> {
    if kept.there.is_some() && kept.fill.as_ref().is_some_and(|fill| fill.is_left) {
        return Ok(None);
    }
    let mut statements = drop_table(&format!("{BESIDE}{target}")).to_vec();
    let mut left = Vec::new();
    if kept.there.is_some() {
        statements.push(put_fill(target, &TableFill { is_left: true, ..TableFill::waiting(0) })?);
        left.push(format!("table {target}"));
    } else {
        statements.extend(forget(target));
    }
    Ok(Some(Alteration { statements, left, changes: Vec::new() }))
}

/// One table of the plan, while it is made to be what it is there.
struct Changing<'a> {
    table: &'a PlannedTable,
    kept: Option<&'a Kept>,
}

impl Changing<'_> {
    fn alteration(&self, change: Change) -> Result<Option<Alteration>> {
        let (table, target) = (self.table, &self.table.target);
        let mut done = Alteration::default();
        match change {
            Change::GoesOn => return Ok(None),
            Change::Same => {
                let is_noted = self.kept.is_some_and(|kept| kept.definition == Definition::of(table).text());
                done.statements.extend((!is_noted).then(|| note(table)));
            }
            Change::New => {
                done.statements.extend(create(table));
                done.statements.push(put_fill(target, &TableFill::of(table))?);
                done.changes.push(format!("table {target} is new"));
            }
            Change::Fits(rest) => {
                self.settle(&rest, &mut done);
                done.statements.push(note(table));
            }
            Change::Add(added, rest) => {
                self.add(&added, &mut done);
                let names: Vec<&str> = added.iter().map(|added| added.name.as_str()).collect();
                let names = names.join(", ");
                done.changes
                    .push(format!("table {target}: new columns ({names}), and its rows are written again"));
                self.settle(&rest, &mut done);
                done.statements.push(note(table));
                // Whole rows are written again, over those that are there; those of a stopped table once it goes on.
                if !self.fill().is_some_and(|fill| fill.is_left_empty || fill.stopped.is_some()) {
                    let clears = self.fill().is_some_and(|fill| fill.clears);
                    let (from, relation) =
                        self.fill().map_or((Lsn::ZERO, None), |fill| (fill.from, fill.relation));
                    let fill = TableFill { clears, from, relation, ..TableFill::of(table) };
                    done.statements.push(put_fill(target, &fill)?);
                }
            }
            Change::Rebuild(why) => {
                self.create_beside(&mut done)?;
                let lost = self.kept.and_then(|kept| Marked::of_kept(table, kept).lost());
                let lost = lost.map(|lost| format!("; {lost}")).unwrap_or_default();
                done.changes.push(format!(
                    "table {target} is built anew, because {why}; until it is full, its readers see it as it was{lost}"
                ));
            }
        }
        Ok(Some(done).filter(|done| !done.statements.is_empty()))
    }

    fn fill(&self) -> Option<&TableFill> {
        self.kept.and_then(|kept| kept.fill.as_ref())
    }

    fn create_beside(&self, done: &mut Alteration) -> Result<()> {
        done.statements.extend(build_beside(self.table));
        let is_left_empty = self.fill().is_some_and(|fill| fill.is_left_empty);
        let stopped = self.fill().and_then(|fill| fill.stopped.clone());
        let fill = TableFill { is_beside: true, is_left_empty, stopped, ..TableFill::of(self.table) };
        done.statements.push(put_fill(&self.table.target, &fill)?);
        Ok(())
    }

    fn add(&self, added: &[Added], done: &mut Alteration) {
        let target = &self.table.target;
        for Column { name, type_name, .. } in Shape::of(self.table).columns {
            let Some(added) = added.iter().find(|added| added.name == name) else { continue };
            if !added.is_there {
                let (table, column) = (quote(target), quote(&name));
                done.statements
                    .push(Statement::plain(format!("ALTER TABLE {table} ADD COLUMN {column} {type_name}")));
            }
            let sql = "DELETE FROM _walcast_left WHERE target = ?1 AND column = ?2 COLLATE NOCASE";
            done.statements.push(Statement::new(sql, &[target, &name]));
        }
    }

    fn settle(&self, rest: &Rest, done: &mut Alteration) {
        let target = &self.table.target;
        for name in &rest.old_indexes {
            done.statements.push(Statement::plain(format!("DROP INDEX IF EXISTS {}", quote(name))));
        }
        let names = Shape::of(self.table).indexes;
        for (name, sql) in names.iter().zip(&Definition::of(self.table).indexes) {
            if rest.missing_indexes.contains(name) {
                done.statements.push(Statement::plain(&**sql));
            }
        }
        for column in &rest.left {
            let sql = "INSERT OR IGNORE INTO _walcast_left (target, column) VALUES (?1, ?2)";
            done.statements.push(Statement::new(sql, &[target, column]));
            done.left.push(format!("column {target}.{column}"));
        }
        done.changes.extend(rest.summary().map(|summary| format!("table {target}: {summary}")));
    }
}
