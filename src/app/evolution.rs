//! What a start would do to the tables of every sink, because `schema.json` is not what they were made for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::replicas::{self, Replica, Unreadable};
use crate::config::{self, Config, SchemaChanges, SinkTarget};
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::Result;
use crate::sink::d1::cost::DOLLARS_PER_MILLION_ROWS;
use crate::sink::marked::Marked;
use crate::sink::shape::{Change, Kept};

/// What a start would do to one sink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SinkChanges {
    /// The sink's name.
    pub sink: String,
    /// Why it cannot be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What to do about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The tables that change, in the order of `schema.json`.
    pub steps: Vec<Step>,
    /// What walcast made and `schema.json` does not name any more. It stays until it is pruned.
    pub left: Vec<Left>,
}

/// What a start would do to one table of one sink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The table's name at the sink.
    pub table: String,
    /// What is done.
    pub action: Action,
    /// The same in words.
    pub message: String,
    /// About how many rows are written.
    pub rows: u64,
    /// What they cost, with their index entries; only for a D1 database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
    /// The sink does not start before that is resolved.
    pub stops: bool,
    /// What to do then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What is done to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is made and filled.
    Create,
    /// Its indexes change.
    Alter,
    /// It gets columns, and its rows are written again.
    AddColumns,
    /// Another one is built beside it, filled, and put in its place.
    Rebuild,
}

/// Something that stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The table's name at the sink.
    pub table: String,
    /// The column; the whole table without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

/// Looks at every sink, in the configuration's order.
pub fn changes(config: &Config, plan: &Plan) -> Vec<SinkChanges> {
    let replicas = replicas::read_all(config).into_iter();
    config.sinks.iter().zip(replicas).map(|(sink, replica)| changes_of(config, sink, replica, plan)).collect()
}

/// What a start would do to one sink, whose replica was read.
pub fn changes_of(
    config: &Config,
    sink: &config::Sink,
    replica: Result<Replica, Unreadable>,
    plan: &Plan,
) -> SinkChanges {
    let none = SinkChanges {
        sink: sink.name.to_string(),
        problem: None,
        hint: None,
        steps: Vec::new(),
        left: Vec::new(),
    };
    let kept = replica.map_err(|unreadable| unreadable.error).and_then(|replica| {
        let is_fed = replica.checkpoint.is_some();
        Ok((is_fed, replicas::kept(sink, &replica)?))
    });
    match kept {
        Err(error) => {
            SinkChanges { problem: Some(error.chain()), hint: error.hint_text().map(str::to_owned), ..none }
        }
        Ok(_) if sink.target == SinkTarget::Null => none,
        Ok((is_fed, kept)) => SinkChanges {
            steps: plan.tables.iter().filter_map(|table| step(config, sink, table, &kept, is_fed)).collect(),
            left: left(plan, &kept),
            ..none
        },
    }
}

fn step(
    config: &Config,
    sink: &config::Sink,
    table: &PlannedTable,
    kept: &BTreeMap<String, Kept>,
    is_fed: bool,
) -> Option<Step> {
    let estimated = table.estimated_rows.max(0).unsigned_abs();
    let change = Change::of(table, kept);
    let is_begun = change == Change::GoesOn;
    let (action, message, rows) = match change {
        Change::Same => return None,
        Change::New => {
            let is_filled = config.backfill.is_wanted([&table.source.plain(), &table.source.to_string()]);
            let message = if is_filled { "is made and filled" } else { "is made, and begins without rows" };
            (Action::Create, message.to_owned(), if is_filled { estimated } else { 0 })
        }
        Change::Fits(rest) => (Action::Alter, rest.summary()?, 0),
        Change::Add(added, rest) => {
            let names: Vec<&str> = added.iter().map(|added| added.name.as_str()).collect();
            let mut message = format!("gets columns ({}), and its rows are written again", names.join(", "));
            rest.summary().iter().for_each(|summary| message.push_str(&format!("; {summary}")));
            (Action::AddColumns, message, estimated)
        }
        Change::GoesOn => (Action::Rebuild, "is being built anew".to_owned(), estimated),
        Change::Rebuild(why) => {
            let mut message = format!("is built anew beside the old one and takes its place, because {why}");
            let lost = kept.get(&table.target).and_then(|kept| Marked::of_kept(table, kept).lost());
            lost.iter().for_each(|lost| message.push_str(&format!("; {lost}")));
            (Action::Rebuild, message, estimated)
        }
    };
    let is_d1 = matches!(sink.target, SinkTarget::D1(..) | SinkTarget::D1Worker(..));
    let entries = match action {
        Action::AddColumns => 1,
        Action::Create | Action::Alter | Action::Rebuild => 1 + table.indexes.len() as u64,
    };
    let dollars = is_d1.then(|| (rows * entries) as f64 / 1e6 * DOLLARS_PER_MILLION_ROWS);
    let waits = config.schema_changes == SchemaChanges::Manual && is_fed && !is_begun;
    let remedy = waits.then_some("walcast schema apply");
    Some(Step {
        table: table.target.clone(),
        action,
        message,
        rows,
        dollars,
        stops: remedy.is_some(),
        remedy: remedy.map(str::to_owned),
    })
}

fn left(plan: &Plan, kept: &BTreeMap<String, Kept>) -> Vec<Left> {
    let (all, mut left) = (kept, Vec::new());
    for (target, kept) in all.iter().filter(|(_, kept)| kept.there.is_some()) {
        let Some(table) = plan.tables.iter().find(|table| table.target == *target) else {
            left.push(Left { table: target.clone(), column: None });
            continue;
        };
        // Those that were left before, and those that a start would leave.
        let mut columns = kept.left.clone();
        if let Change::Fits(rest) | Change::Add(_, rest) = Change::of(table, all) {
            columns.extend(rest.left);
        }
        left.extend(columns.into_iter().map(|name| Left { table: target.clone(), column: Some(name) }));
    }
    left
}
