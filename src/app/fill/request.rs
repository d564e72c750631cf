//! What an operator asks for, by names: tables to be filled once more, or emptied.

use std::sync::Arc;

use tokio_postgres::Client;

use crate::encode::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::fanout::fill::{Fills, OwedKey, TableState};
use crate::fanout::progress::SinkProgress;
use crate::postgres::session::from_sql;

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
            tables.push(plan.named(name).ok_or_else(|| {
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
    /// Refuses a condition that the source does not understand: a table that is filled by it would stay unfinished.
    ///
    /// # Errors
    /// A configuration error with the server's own; transient when the connection fails.
    pub async fn check_condition(&self, client: &Client, plan: &Plan) -> Result<()> {
        let Some(condition) = &self.filter else { return Ok(()) };
        for table in self.tables.iter().map(|&table| &plan.tables[table]) {
            let name = table.source.plain();
            // Only prepared: nothing is read, and one statement is all that it can be.
            let sql = format!("SELECT FROM {} WHERE (\n{condition}\n)", table.relation());
            let prepared = client.prepare(&sql).await.map_err(|error| from_sql(error, "preparing it"));
            let has_parameters = match prepared {
                Ok(statement) => !statement.params().is_empty(),
                Err(error) if error.kind() == Kind::Transient => return Err(error),
                Err(error) => {
                    return Err(Error::config(format!("the condition does not fit table {name}"))
                        .hint("it is what could stand behind WHERE at the source, such as: id > 7")
                        .because(error));
                }
            };
            if has_parameters {
                return Err(Error::config("a condition has no parameters: write the values into it"));
            }
        }
        Ok(())
    }

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
