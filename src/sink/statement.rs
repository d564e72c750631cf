//! One SQL statement on its way to a replica.

use std::sync::Arc;

/// One SQL statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text, one statement without a semicolon.
    pub sql: Arc<str>,
    /// Its parameters, `?1` first. Strings only: D1 turns every bound JSON number into a REAL.
    pub params: Vec<String>,
}

impl Statement {
    /// A statement without parameters.
    pub fn plain(sql: impl Into<Arc<str>>) -> Self {
        Statement { sql: sql.into(), params: Vec::new() }
    }

    /// A statement with these parameters.
    pub fn new(sql: &str, params: &[&str]) -> Self {
        Statement { sql: sql.into(), params: params.iter().map(|&param| param.to_owned()).collect() }
    }
}
