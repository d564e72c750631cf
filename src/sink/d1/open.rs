//! Prepares a database: makes sure that it is ours, takes it over, and makes its tables the plan's. Every step may be
//! repeated, because the answer to any of them may be lost; and one that arrives late, behind a later engine's or a later
//! attempt's, has no effect, because the fence stands in front of it.

use std::sync::Arc;

use ring::rand::SecureRandom;

use super::Options;
use super::contents::{Contents, tables};
use super::failures::error_of;
use super::limits::{self, COLUMNS_MAX, STATEMENTS_MAX};
use super::request::End;
use super::send::Session;
use super::state::{self, State, StateSql};
use super::transport::{Answer, Failure, Statement, Transport};
use super::verdict::Verdict;
use crate::capture::slot::SourceIdentity;
use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::sink::alter::{Alteration, alterations};
use crate::sink::replica::{awaits_operator, check_source, taken_over};

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
    contents.check_open(plan, place)?;
    let alterations = alterations(plan, &contents.kept, contents.tables(), place)?;
    if options.awaits_operator && contents.state.is_some() {
        let changes = alterations.iter().flat_map(|alteration| alteration.changes.clone());
        let changes: Vec<String> = changes.collect();
        if !changes.is_empty() {
            return Err(awaits_operator(&place, &changes));
        }
    }
    if !contents.has_all_of_ours() {
        let create = state::CREATE.iter().map(|&sql| Statement::plain(sql));
        ask(transport, &create.collect::<Vec<_>>())?;
    }
    let writer = new_writer()?;
    let mut state = match &contents.state {
        Some(state) => Some(take_over(transport, state, &writer)?),
        None => None,
    };
    alter(transport, &alterations, source, &mut state)?;
    if contents.state.is_some() {
        for change in alterations.iter().flat_map(|alteration| &alteration.changes) {
            tracing::info!(database = place, "{change}");
        }
    }
    for left in alterations.iter().flat_map(|alteration| &alteration.left) {
        tracing::info!(
            database = place,
            "{left}: schema.json does not name it any more: it stays as it is (walcast schema apply --prune drops it)"
        );
    }
    let mut session = Session::new(plan, source, writer, state, options);
    // Which tables rows are written to.
    session.fills(transport)?;
    Ok(session)
}

/// Sends the alterations, as many in a request as go into it, each behind the fence if there is a checkpoint already.
fn alter(
    transport: &mut dyn Transport,
    alterations: &[Alteration],
    source: &SourceIdentity,
    state: &mut Option<State>,
) -> Result<()> {
    let mut rest = alterations;
    while !rest.is_empty() {
        let mut request: Vec<Statement> = Vec::new();
        if let Some(state) = state {
            let end = End { open: state.checkpoint.open, ..End::default() };
            request.push(StateSql::new().advance(state, source, &end, &state.usage));
        }
        let fence = request.len();
        while let [next, others @ ..] = rest
            && (request.len() == fence || request.len() + next.statements.len() <= STATEMENTS_MAX)
        {
            request.extend(next.statements.iter().cloned());
            rest = others;
        }
        limits::check(&request)?;
        if state.is_none() {
            // Without a fence it may have been done already.
            request.iter_mut().for_each(|statement| statement.sql = tolerant(&statement.sql).into());
        }
        let answers = transport.execute(&request).map_err(|failure| match failure.verdict {
            Verdict::SchemaMissing | Verdict::Fenced => Error::transient(failure.message),
            _ => error_of(&failure, 1),
        })?;
        if let Some(state) = state {
            state.sequence += 1;
            state.usage.rows_written += answers.iter().map(|answer| answer.rows_written).sum::<u64>();
        }
    }
    Ok(())
}

/// The same for what may be there already.
fn tolerant(sql: &str) -> String {
    sql.replacen("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1).replacen(
        "CREATE INDEX ",
        "CREATE INDEX IF NOT EXISTS ",
        1,
    )
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

/// Why a statement did not find its table or column; `written` names the tables that rows are written to.
///
/// # Errors
/// The database cannot be asked.
pub(super) fn what_is_missing(
    transport: &mut dyn Transport,
    written: &Plan,
    failure: &Failure,
) -> Result<Error> {
    let tables = tables(transport).map_err(|failure| error_of(&failure, 1))?;
    let written = written.tables.iter().map(|table| table.target.as_str());
    let missing = ["_walcast_checkpoint"].into_iter().chain(written).find(|name| !tables.contains(*name));
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
