//! Why a table's changes are not applied any more: what the source has of it does not fit the plan. The others go on. A
//! stopped table never goes on with a gap: it is filled anew, from rows that are read after everything that was left out.
//!
//! A sink keeps that a table is stopped before it goes past the change that made it so. When the table goes on, the sink
//! keeps from where: changes of transactions that were committed before are left out, because the rows that are read
//! have them. Both are steps of a [fill](super::fill); here is only what is kept and said of it.

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};

use crate::Lsn;
use crate::encode::run::Misfit;

/// Why a table is stopped, as a sink keeps it.
#[serde_as]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// What is wrong, in one sentence.
    pub reason: String,
    /// What makes it go on: a command, or SQL.
    pub hint: String,
    /// Changes of transactions that were committed here or behind are missing.
    #[serde_as(as = "DisplayFromStr")]
    pub since: Lsn,
    /// It goes on by itself once a table of its name fits the plan: it was dropped, renamed or is not published.
    pub returns: bool,
}

impl Stopped {
    /// Says that a table of a sink is stopped.
    pub fn log(&self, sink: &str, table: &str) {
        let Stopped { reason, hint, since, .. } = self;
        tracing::error!(sink, table, lsn = %since, hint, "the table is stopped, the others go on: {reason}");
    }
}

impl From<&Misfit> for Stopped {
    fn from(misfit: &Misfit) -> Self {
        let Misfit { reason, hint, commit_lsn: since, returns, .. } = misfit.clone();
        Stopped { reason, hint, since, returns }
    }
}
