//! Finds the row that a database refuses. The answer names a reason, never a row, so beginnings of the request are tried
//! until the first change is known with which it fails. Every trial ends in a statement that always fails, so that none
//! has any effect and readers never see a part of a transaction.

use super::request::{Request, compose_some};
use super::send::Session;
use super::state::is_aborted;
use super::tables::is_without_row;
use super::transport::{Failure, Transport};
use super::verdict::Verdict;
use crate::Lsn;
use crate::encode::fold::ChangeRef;
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::sink::replica::NOT_IN_REPLICA;

/// What stands in the way of a request.
pub(super) enum Found {
    /// This row, by its transaction's commit LSN and its number there.
    Row {
        name: (Lsn, u64),
        /// What the database says.
        reason: String,
    },
    /// No row: all of it together is too large.
    Size,
}

/// Finds out what the database has against a request, of which `failure` is all it said.
///
/// # Errors
/// What a trial fails with for another reason; and halts where the request fails whatever rows it has.
pub(super) fn isolate(
    session: &mut Session,
    transport: &mut dyn Transport,
    plan: &Plan,
    request: &Request<'_>,
    failure: &Failure,
) -> Result<Found> {
    let changes: Vec<ChangeRef<'_>> = request.changes().collect();
    let Some(mut reason) = attempt(session, transport, plan, &changes)? else {
        return Err(Error::halt(format!("D1 does not take walcast's own statements: {}", failure.message))
            .hint("were its _walcast tables changed by hand?"));
    };
    let (mut passes, mut fails) = (0, changes.len());
    while fails - passes > 1 {
        let middle = passes + (fails - passes) / 2;
        match attempt(session, transport, plan, &changes[..middle])? {
            None => passes = middle,
            Some(failure) => (fails, reason) = (middle, failure),
        }
    }
    let Some(&found) = changes.get(passes) else {
        return Err(Error::halt(format!("D1 refuses a request without rows: {}", reason.message)));
    };
    if reason.verdict == Verdict::TooLarge && attempt(session, transport, plan, &[found])?.is_none() {
        return Ok(Found::Size);
    }
    let reason = match is_without_row(&reason.message) {
        true => NOT_IN_REPLICA.to_owned(),
        false => reason.message,
    };
    Ok(Found::Row { name: (found.span.commit_lsn, found.number()), reason })
}

/// Tries changes without effect; why they fail, if they do.
fn attempt(
    session: &mut Session,
    transport: &mut dyn Transport,
    plan: &Plan,
    changes: &[ChangeRef<'_>],
) -> Result<Option<Failure>> {
    let mut statements = compose_some(changes, &mut session.composer(plan))?.statements;
    statements.push(session.state_sql.abort());
    match transport.execute(&statements) {
        Ok(_) => Err(Error::bug("a statement that always fails succeeded")),
        Err(failure) if is_aborted(&failure.message) => Ok(None),
        Err(failure) => match failure.verdict {
            Verdict::Rejected | Verdict::TooLarge => Ok(Some(failure)),
            _ => Err(session.failed(&failure)),
        },
    }
}
