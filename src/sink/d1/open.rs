//! Prepares a database: makes sure that it is ours, takes it over, and creates what the plan needs. Every step may be
//! repeated, because the answer to any of them may be lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use ring::rand::SecureRandom;

use super::Options;
use super::alter::{Alterations, alterations};
use super::failures::error_of;
use super::fills;
use super::limits::{COLUMNS_MAX, STATEMENTS_MAX};
use super::send::Session;
use super::state::{self, Row, State};
use super::transport::{Answer, Failure, Statement, Transport};
use super::verdict::Verdict;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::TableFill;
use crate::sink::definition::Definition;
use crate::sink::replica::{StoredTable, awaits_operator, check_source, taken_over};

/// Opens the database.
///
/// # Errors
/// Halts when it holds something that walcast did not make, or another pipeline's rows.
pub(super) fn open(
    transport: &mut dyn Transport,
    plan: &Arc<Plan>,
    source: &SourceIdentity,
    place: &str,
    options: Options,
) -> Result<Session> {
    for table in &plan.tables {
        let columns = table.columns.len() + usize::from(table.soft_delete.is_some());
        if columns > COLUMNS_MAX {
            return Err(Error::config(format!(
                "table {} has {columns} columns, and D1 takes {COLUMNS_MAX}",
                table.target
            ))
            .hint("take some out of schema.json"));
        }
    }
    let contents = Contents::read(transport)?;
    contents.check_ours(place)?;
    if let Some(state) = &contents.state {
        check_source(&state.checkpoint, source, &place)?;
    }
    let missing = contents.missing(plan, place)?;
    if !contents.is_prepared() || !contents.has_fills() {
        let create = state::CREATE.iter().map(|&sql| statement(sql, Vec::new()));
        ask(transport, &create.collect::<Vec<_>>())?;
    }
    let Alterations { requests, changes } = alterations(transport, &contents, plan, place)?;
    if options.awaits_operator && contents.state.is_some() {
        let new = missing.iter().map(|table| format!("table {} is new", table.target));
        let changes: Vec<String> = changes.iter().cloned().chain(new).collect();
        if !changes.is_empty() {
            return Err(awaits_operator(&place, &changes));
        }
    }
    let writer = new_writer()?;
    let state = match &contents.state {
        Some(state) => Some(take_over(transport, state, &writer)?),
        None => None,
    };
    for request in &requests {
        ask(transport, request)?;
    }
    for change in changes {
        tracing::info!(database = place, "{change}");
    }
    create(transport, &missing)?;
    Ok(Session::new(plan, source, writer, state, options))
}

/// What a database holds.
pub(super) struct Contents {
    /// The tables in it, but for D1's own.
    tables: BTreeSet<String>,
    /// The checkpoint's row.
    pub(super) state: Option<State>,
    /// The replicated tables, by name.
    pub(super) stored: Vec<StoredTable>,
}

impl Contents {
    /// Reads it.
    pub(super) fn read(transport: &mut dyn Transport) -> Result<Self> {
        let tables = tables(transport).map_err(|failure| error_of(&failure, 1))?;
        let mut contents = Contents { tables, state: None, stored: Vec::new() };
        if contents.is_prepared() {
            let sql = "SELECT target, source, definition FROM _walcast_tables ORDER BY target";
            let mut statements = vec![state::read(), statement(sql, Vec::new())];
            if contents.has_fills() {
                statements.push(fills::read());
            }
            let answers = ask(transport, &statements)?;
            let [state, stored, fills @ ..] = &answers[..] else {
                return Err(Error::transient("D1 answered fewer statements than it was sent"));
            };
            contents.state = state::parse(state)?;
            contents.stored = stored.rows.iter().map(stored_table).collect::<Result<_>>()?;
            for (target, fill) in fills.first().map(fills::parse).transpose()?.unwrap_or_default() {
                if let Some(stored) = contents.stored.iter_mut().find(|stored| stored.target == target) {
                    stored.fill = Some(fill);
                }
            }
        }
        Ok(contents)
    }

    /// Makes sure that walcast made what is in it.
    ///
    /// # Errors
    /// Halts where somebody else did.
    pub(super) fn check_ours(&self, place: &str) -> Result<()> {
        if self.is_prepared() || self.tables.is_empty() {
            return Ok(());
        }
        Err(Error::halt(format!("{place} holds tables that walcast did not create; it will not be touched"))
            .hint("give the sink a database of its own in walcast.toml"))
    }

    /// Whether there is a table of this name.
    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.contains(name)
    }

    /// A database that an older walcast made has none.
    fn has_fills(&self) -> bool {
        self.tables.contains("_walcast_fills")
    }

    /// Whether walcast's own tables are there; they are made together.
    pub(super) fn is_prepared(&self) -> bool {
        self.tables.contains("_walcast_checkpoint")
    }

    /// The plan's tables that are still to be created.
    fn missing<'p>(&self, plan: &'p Plan, place: &str) -> Result<Vec<&'p PlannedTable>> {
        let mut missing = Vec::new();
        for table in &plan.tables {
            match self.stored.iter().find(|stored| stored.target == table.target) {
                // Somebody took it away, with its rows: it is made anew, and filled.
                Some(_) if !self.tables.contains(&table.target) => missing.push(table),
                Some(_) => {}
                None if self.tables.contains(&table.target) => {
                    return Err(Error::halt(format!(
                        "{place} has a table {} that walcast did not create",
                        table.target
                    ))
                    .hint(
                        "give the table another target in schema.json, or remove the one in the database",
                    ));
                }
                None => missing.push(table),
            }
        }
        self.check_open(plan, place)?;
        Ok(missing)
    }

    /// The changes of a transaction that is half there are counted by the tables they were counted with.
    fn check_open(&self, plan: &Plan, place: &str) -> Result<()> {
        let open = self.state.as_ref().and_then(|state| state.checkpoint.open);
        let Some(open) = open else { return Ok(()) };
        let planned: BTreeSet<(String, &str)> =
            plan.tables.iter().map(|table| (table.source.plain(), table.target.as_str())).collect();
        let stored: BTreeSet<(String, &str)> =
            self.stored.iter().map(|stored| (stored.source.clone(), stored.target.as_str())).collect();
        if planned == stored {
            return Ok(());
        }
        Err(Error::halt(format!(
            "schema.json has other tables than when {place} received the first part of the transaction at {}",
            open.commit_lsn
        ))
        .hint("start walcast with the tables as they were, wait until this sink is past it, and change them then"))
    }
}

fn stored_table(row: &serde_json::Map<String, serde_json::Value>) -> Result<StoredTable> {
    let row = Row(row);
    Ok(StoredTable {
        fill: None,
        target: row.required("target")?,
        source: row.required("source")?,
        definition: row.required("definition")?,
    })
}

/// The tables of a database, without those that are D1's or SQLite's own.
fn tables(transport: &mut dyn Transport) -> Result<BTreeSet<String>, Failure> {
    let answers =
        transport.execute(&[statement("SELECT name FROM sqlite_schema WHERE type = 'table'", vec![])])?;
    let rows = answers.first().map_or(&[][..], |answer| &answer.rows);
    let names = rows.iter().filter_map(|row| Some(row.get("name")?.as_str()?.to_owned()));
    Ok(names.filter(|name| !name.starts_with("_cf_") && !name.starts_with("sqlite_")).collect())
}

/// Whether walcast has prepared the database, which errors call `place`.
///
/// # Errors
/// Halts where somebody else made what is in it.
pub(super) fn is_prepared(transport: &mut dyn Transport, place: &str) -> Result<bool> {
    let tables = tables(transport).map_err(|failure| error_of(&failure, 1))?;
    let contents = Contents { tables, state: None, stored: Vec::new() };
    contents.check_ours(place)?;
    Ok(contents.is_prepared())
}

/// Takes the database over from whoever wrote it last.
fn take_over(transport: &mut dyn Transport, state: &State, writer: &str) -> Result<State> {
    let answers = ask(transport, &[state::take_over(state, writer), state::read()])?;
    let found = answers.get(1).map(state::parse).transpose()?.flatten();
    match found {
        Some(found) if found.writer == writer => Ok(found),
        // It was written between our reading and our taking: by another engine.
        Some(_) => Err(taken_over()),
        None => Err(Error::new(Kind::NeedsBackfill, "the checkpoint is gone")
            .hint("walcast status shows slot and checkpoints")),
    }
}

/// Creates tables, each with its indexes and the note of its definition in one request.
fn create(transport: &mut dyn Transport, missing: &[&PlannedTable]) -> Result<()> {
    let mut request: Vec<Statement> = Vec::new();
    for table in missing {
        let definition = Definition::of(table);
        let mut statements: Vec<Statement> = definition
            .statements()
            .map(|sql| {
                let sql = sql.replacen("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1).replacen(
                    "CREATE INDEX ",
                    "CREATE INDEX IF NOT EXISTS ",
                    1,
                );
                statement(&sql, Vec::new())
            })
            .collect();
        statements.push(statement(
            "INSERT INTO _walcast_tables (target, source, definition) VALUES (?1, ?2, ?3)
             ON CONFLICT (target) DO UPDATE SET source = excluded.source, definition = excluded.definition",
            vec![table.target.clone(), table.source.plain(), definition.text()],
        ));
        statements.push(fills::put(&table.target, &TableFill::of(table))?);
        if request.len() + statements.len() > STATEMENTS_MAX && !request.is_empty() {
            ask(transport, &std::mem::take(&mut request))?;
        }
        request.extend(statements);
    }
    if !request.is_empty() {
        ask(transport, &request)?;
    }
    Ok(())
}

/// Why a statement did not find its table or column.
///
/// # Errors
/// The database cannot be asked.
pub(super) fn what_is_missing(
    transport: &mut dyn Transport,
    plan: &Plan,
    failure: &Failure,
) -> Result<Error> {
    let tables = tables(transport).map_err(|failure| error_of(&failure, 1))?;
    let planned = plan.tables.iter().map(|table| table.target.as_str());
    let missing = ["_walcast_checkpoint"].into_iter().chain(planned).find(|name| !tables.contains(*name));
    Ok(match missing {
        Some(name) => gone(name),
        None => Error::halt(format!("the database is not as walcast made it: {}", failure.message))
            .hint("undo what was changed in it by hand, then start walcast again"),
    })
}

/// A table was taken away, and its rows with it; to create it anew would be to lose them in silence.
fn gone(target: &str) -> Error {
    Error::new(Kind::NeedsBackfill, format!("table {target} is gone from the database, with its rows"))
        .hint("walcast status shows slot and checkpoints; the replica has to be filled anew")
}

/// A token that no other engine has.
fn new_writer() -> Result<String> {
    let mut token = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut token)
        .map_err(|_| Error::halt("the operating system gives no random numbers"))?;
    Ok(hex::encode(token))
}

pub(super) fn statement(sql: &str, params: Vec<String>) -> Statement {
    Statement { sql: sql.into(), params }
}

/// One call, whose failure is an error at once.
pub(super) fn ask(transport: &mut dyn Transport, statements: &[Statement]) -> Result<Vec<Answer>> {
    transport.execute(statements).map_err(|failure| match failure.verdict {
        // Between two calls: somebody else creates or removes tables.
        Verdict::SchemaMissing => Error::transient(failure.message),
        _ => error_of(&failure, 1),
    })
}
