//! How statements reach a D1 database: what the sink asks of a transport, and what comes back.
//!
//! A call is one transaction at the database: all of its statements take effect, or none. One call is in flight at a
//! time; it may block, for at most the transport's timeout.

use super::body::Bulk;
use super::verdict::Verdict;
pub use crate::sink::statement::Statement;

/// What one statement answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The rows by column name. An integer above 2^53 is only exact where the statement casts it to TEXT.
    pub rows: Vec<serde_json::Map<String, serde_json::Value>>,
    /// What the call is billed for: rows written, index entries included.
    pub rows_written: u64,
    /// The database's size in bytes after the call.
    pub size_after: Option<u64>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What to do about it.
    pub verdict: Verdict,
    /// What the other side said, without secrets or row values.
    pub message: String,
}

/// A moment of a database that Time Travel can bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// What wrangler calls the database.
    pub database: String,
    /// The moment.
    pub bookmark: String,
}

/// A way to one database.
pub trait Transport: Send {
    /// Executes the statements as one transaction and returns one answer for each: `first`, then what is written
    /// already.
    ///
    /// # Errors
    /// A [`Failure`]; its verdict says whether something may have been applied.
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure>;

    /// Whether what is written already is to be compressed.
    fn is_compressed(&self) -> bool {
        false
    }

    /// The database's present moment; `None` where Time Travel cannot be asked for it this way.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    fn bookmark(&mut self) -> Result<Option<Bookmark>, Failure> {
        Ok(None)
    }

    /// Executes these statements alone.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    fn execute(&mut self, statements: &[Statement]) -> Result<Vec<Answer>, Failure> {
        self.call(statements, &Bulk::default())
    }
}
