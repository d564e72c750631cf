//! What an operator asks for, by names: tables to be filled once more, or emptied.

use std::sync::Arc;

use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::fanout::fill::{Fills, OwedKey, TableState};
use crate::fanout::progress::SinkProgress;

/// Tables to be filled once more, or emptied, by their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refill {
    /// The sinks; none for all.
    pub sinks: Vec<String>,
    /// The tables as `schema.json` names them; none for all.
    pub tables: Vec<String>,
    /// What is in the tables goes first: they are dropped and made anew.
    pub clears: bool,
    /// The tables stay empty, but for what the stream brings.
    pub is_left_empty: bool,
    /// Only rows that meet this condition, in the source's SQL.
    pub filter: Option<String>,
}

/// The same by what an engine knows them by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FillRequest {
    /// The sinks' names.
    pub sinks: Vec<String>,
    /// Indexes of the tables in the plan.
    pub tables: Vec<usize>,
    /// As in [`Refill`].
    pub clears: bool,
    /// As in [`Refill`].
    pub is_left_empty: bool,
    /// As in [`Refill`].
    pub filter: Option<String>,
}

/// Rows of one table to be read by themselves, for sinks that lack them or hold them wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRequest {
    /// The sinks' names.
    pub sinks: Vec<String>,
    /// Index of the table in the plan.
    pub table: usize,
    /// The rows, each with the change that a read must see.
    pub rows: Vec<OwedKey>,
}

impl Refill {
    /// Looks the names up; `sinks` are those that there are.
    ///
    /// # Errors
    /// A configuration error that says what there is.
    pub fn resolve<'a>(&self, plan: &Plan, sinks: impl Iterator<Item = &'a str>) -> Result<FillRequest> {
        let known: Vec<&str> = sinks.collect();
        if let Some(unknown) = self.sinks.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(Error::config(format!("there is no sink {unknown}"))
                .hint(format!("there are {}", known.join(", "))));
        }
        let names: Vec<String> = plan.tables.iter().map(|table| table.source.plain()).collect();
        let mut tables = Vec::new();
        for name in &self.tables {
            let quoted = |index: &usize| plan.tables[*index].source.to_string() == *name;
            let found = (0..names.len()).find(|index| names[*index] == *name || quoted(index));
            tables.push(found.ok_or_else(|| {
                Error::config(format!("there is no table {name} in schema.json"))
                    .hint(format!("there are {}", names.join(", ")))
            })?);
        }
        let all = |is_all: bool, given: Vec<String>| {
            if is_all { known.iter().map(|&name| name.to_owned()).collect() } else { given }
        };
        Ok(FillRequest {
            sinks: all(self.sinks.is_empty(), self.sinks.clone()),
            tables: if tables.is_empty() { (0..names.len()).collect() } else { tables },
            clears: self.clears,
            is_left_empty: self.is_left_empty,
            filter: self.filter.clone(),
        })
    }
}

impl FillRequest {
    /// Refuses a condition while a table is being filled anywhere: one read serves all sinks, so others would go without
    /// the rows that do not meet it.
    ///
    /// # Errors
    /// Halts, naming the sink.
    pub fn check<'a>(&self, mut sinks: impl Iterator<Item = &'a Arc<SinkProgress>>) -> Result<()> {
        let is_live = |sink: &&Arc<SinkProgress>| {
            let position = sink.durable_lsn();
            let is_live = |fills: &Fills, table| fills.state(table, position) == TableState::Live;
            sink.look_at_fills(|fills| self.tables.iter().all(|&table| is_live(fills, table)))
        };
        match sinks.find(|sink| !is_live(sink)).filter(|_| self.filter.is_some()) {
            None => Ok(()),
            Some(sink) => Err(Error::halt(format!("the table is not live in sink {}", sink.name))
                .hint("ask again without a condition, or once walcast status says that it is")),
        }
    }
}
