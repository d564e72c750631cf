//! Drops what walcast has made in a database and `schema.json` does not name any more. Never anything else: each request
//! fails unless the database says then that what it drops was left.

use super::contents::Contents;
use super::failures::error_of;
use super::limits::{self, STATEMENTS_MAX};
use super::transport::{Statement, Transport};
use super::verdict::Verdict;
use crate::error::{Error, Result};
use crate::sink::alter::{self, Prune};

/// Drops it, while no engine writes the database, which errors call `place`. What does not go into one request is dropped
/// in several.
///
/// # Errors
/// The database is not ours or cannot be written, or does not say that this was left.
pub fn prune(transport: &mut dyn Transport, place: &str, prunes: &[Prune]) -> Result<()> {
    let contents = Contents::read(transport)?;
    contents.check_ours(place)?;
    let mut request: Vec<Statement> = Vec::new();
    for statements in alter::prune(&contents.kept, prunes, place)? {
        if request.len() + statements.len() > STATEMENTS_MAX {
            send(transport, place, &std::mem::take(&mut request))?;
        }
        request.extend(statements);
    }
    send(transport, place, &request)
}

fn send(transport: &mut dyn Transport, place: &str, request: &[Statement]) -> Result<()> {
    if request.is_empty() {
        return Ok(());
    }
    limits::check(request)?;
    transport.execute(request).map(drop).map_err(|failure| match failure.verdict {
        Verdict::Fenced | Verdict::Rejected | Verdict::SchemaMissing => Error::halt(format!(
            "pruning {place}: {}",
            failure.message
        ))
        .hint(
            "see `walcast schema plan`; is there an index, view or trigger on it that walcast did not make?",
        ),
        _ => error_of(&failure, 1),
    })
}
