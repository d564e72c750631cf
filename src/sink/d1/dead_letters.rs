//! Rows that the replica does not take, on their way to its `_walcast_dead_letters`.

use std::sync::Arc;

use super::compose::Rows;
use super::limits::RequestLimits;
use crate::Lsn;
use crate::encode::run::{RejectedRow, Span};

const INSERT: &str = "INSERT INTO _walcast_dead_letters (target, operation, key, reason, commit_lsn, xid) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?1)";

/// A key longer than this is cut in the letter: it must fit where the row did not.
const KEY_BYTES_MAX: usize = 10_000;

/// The letters of one request.
#[derive(Debug)]
pub(super) struct Letters {
    sql: Arc<str>,
    letters: Vec<Letter>,
}

#[derive(Debug)]
struct Letter {
    target: String,
    row: RejectedRow,
    commit_lsn: Lsn,
    xid: u32,
}

impl Letters {
    pub(super) fn new(sql: &Arc<str>) -> Self {
        Letters { sql: sql.clone(), letters: Vec::new() }
    }

    /// The statement's text, to be shared by all requests.
    pub(super) fn text() -> Arc<str> {
        INSERT.into()
    }

    pub(super) fn push(&mut self, target: &str, mut row: RejectedRow, span: &Span) {
        if let Some(cut) = row.key.char_indices().map(|(at, _)| at).find(|&at| at > KEY_BYTES_MAX) {
            row.key.truncate(cut);
            row.key.push('…');
        }
        let target = target.to_owned();
        self.letters.push(Letter { target, row, commit_lsn: span.commit_lsn, xid: span.xid });
    }

    /// Says in the log what has been set aside.
    pub(super) fn log(&self) {
        for letter in &self.letters {
            tracing::warn!(
                table = letter.target,
                operation = letter.row.operation,
                lsn = %letter.commit_lsn,
                "dead letter: {}",
                letter.row.reason
            );
        }
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn sql(&self) -> &Arc<str> {
        &self.sql
    }

    /// The letters as parameters of the statement.
    pub(super) fn params(&self, limits: RequestLimits) -> Vec<String> {
        let mut rows = Rows::new(limits);
        for Letter { target, row, commit_lsn, xid } in &self.letters {
            let letter =
                serde_json::json!([target, row.operation, row.key, row.reason, commit_lsn.to_string(), xid]);
            rows.push(|text| text.push_str(&letter.to_string()));
        }
        rows.finish_params()
    }
}
