//! `walcast check`: everything about the source that would stop walcast, or hurt the application, told before it does.
//!
//! Two halves that do not know each other: [`gather`] asks the source and changes nothing, [`evaluate`] is pure. What
//! the sinks and `schema.json` have to say comes in as findings and notes made elsewhere.

mod facts;
mod replication;
mod server;
mod tables;

use std::fmt;

use serde::Serialize;

pub use facts::{Access, ColumnNote, Facts, MappedTable, Request, Role, gather};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// walcast works, with something the operator should know.
    Warning,
    /// walcast does not start, loses something, or makes the application's own statements fail.
    Problem,
}

impl Severity {
    /// The severity as one word, for the table and `--json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }
}

/// One result of a check. `Display` is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `server`, `role`, `slot walcast`, `table orders`, `sink eu`.
    pub subject: String,
    /// What was found, in one sentence without a full stop.
    pub message: String,
    /// What would put it right: SQL or a command.
    pub remedy: Option<String>,
}

impl Finding {
    /// Something that is as it should be.
    pub fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, subject, message)
    }

    /// Something the operator should know.
    pub fn warning(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, subject, message)
    }

    /// Something that must be put right.
    pub fn problem(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Problem, subject, message)
    }

    /// Adds what would put it right.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn new(severity: Severity, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { severity, subject: subject.into(), message: message.into(), remedy: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {}: {}", self.severity.as_str(), self.subject, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; remedy: {}", remedy.replace('\n', " ")),
            None => Ok(()),
        }
    }
}

/// What the facts mean, in the order in which an operator would put things right: the server, the role, each table, the
/// publication, the slot.
pub fn evaluate(request: &Request, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    server::evaluate(request, facts, &mut findings);
    tables::evaluate(request, facts, &mut findings);
    replication::evaluate(request, facts, &mut findings);
    findings
}

/// The worst severity among the findings; `Ok` for none. It decides the exit code.
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}
