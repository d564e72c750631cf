//! The SQL that writes the rows of a table of the plan. Text only: values are bound to it by whoever runs it.

use crate::encode::cell::Cell;
use crate::encode::plan::{Plan, PlannedTable};
use crate::postgres::quote_identifier as quote;

/// The statements of each table that do not depend on which columns are present.
pub(in crate::sink::sqlite) struct TableSql(pub(super) Vec<Statements>);

pub(super) struct Statements {
    pub(super) upsert: String,
    pub(super) delete: String,
    pub(super) truncate: String,
}

impl TableSql {
    pub(in crate::sink::sqlite) fn new(plan: &Plan) -> Self {
        TableSql(plan.tables.iter().map(Statements::new).collect())
    }
}

impl Statements {
    fn new(table: &PlannedTable) -> Self {
        let target = quote(&table.target);
        let names: Vec<String> = table.columns.iter().map(|column| quote(&column.target)).collect();
        let parameters: Vec<String> = (1..=names.len()).map(|index| format!("?{index}")).collect();
        let key: Vec<String> = table.key_columns().map(|column| quote(&column.target)).collect();
        let mut assignments: Vec<String> = (0..names.len())
            .filter(|index| !table.key.contains(index))
            .map(|index| format!("{0} = excluded.{0}", names[index]))
            .collect();
        let key_matches: Vec<String> =
            key.iter().enumerate().map(|(index, name)| format!("{name} = ?{}", index + 1)).collect();
        let key_matches = key_matches.join(" AND ");
        let (delete, truncate) = match table.soft_delete.as_deref().map(quote) {
            Some(column) => {
                // A row that comes again is not deleted any more.
                assignments.push(format!("{column} = NULL"));
                (
                    format!(
                        "UPDATE {target} SET {column} = ?{} WHERE {key_matches} AND {column} IS NULL",
                        key.len() + 1
                    ),
                    format!("UPDATE {target} SET {column} = ?1 WHERE {column} IS NULL"),
                )
            }
            None => (format!("DELETE FROM {target} WHERE {key_matches}"), format!("DELETE FROM {target}")),
        };
        let resolution = if assignments.is_empty() {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", assignments.join(", "))
        };
        Statements {
            upsert: format!(
                "INSERT INTO {target} ({}) VALUES ({}) ON CONFLICT ({}) DO {resolution}",
                names.join(", "),
                parameters.join(", "),
                key.join(", ")
            ),
            delete,
            truncate,
        }
    }
}

/// `UPDATE` of the columns that are present in `row`, found by `key_column = parameter` behind them.
pub(super) fn update_sql(table: &PlannedTable, row: &[Cell], includes_key: bool) -> String {
    let mut assignments = Vec::new();
    let mut parameter = 0;
    for (index, cell) in row.iter().enumerate() {
        if *cell != Cell::Absent && (includes_key || !table.key.contains(&index)) {
            parameter += 1;
            assignments.push(format!("{} = ?{parameter}", quote(&table.columns[index].target)));
        }
    }
    if let Some(column) = &table.soft_delete {
        assignments.push(format!("{} = NULL", quote(column)));
    }
    let first_key = table.key.first().map(|&index| quote(&table.columns[index].target));
    if assignments.is_empty() {
        // Nothing but the key was sent: still tells whether the row is there.
        assignments.extend(first_key.map(|name| format!("{name} = {name}")));
    }
    let matches: Vec<String> = table
        .key_columns()
        .map(|column| {
            parameter += 1;
            format!("{} = ?{parameter}", quote(&column.target))
        })
        .collect();
    format!("UPDATE {} SET {} WHERE {}", quote(&table.target), assignments.join(", "), matches.join(" AND "))
}

/// The condition that finds a row by the values of its key, bound in key order.
pub(super) fn key_matches(table: &PlannedTable) -> String {
    let matches: Vec<String> =
        table.key_columns().map(|column| format!("{} = ?", quote(&column.target))).collect();
    matches.join(" AND ")
}
