//! Looks into a database beside the engine: one row, its dead letters. Every look is one call, and so one transaction.

use serde_json::Value;

use super::contents::prepared;
use super::fills;
use super::open::ask;
use super::state::{self, Row};
use super::tables::cell;
use super::transport::{Answer, Statement, Transport};
use crate::encode::cell::Cell;
use crate::encode::json_rows;
use crate::encode::plan::PlannedTable;
use crate::error::{Error, Result};
use crate::postgres::quote_identifier as quote;
use crate::sink::reading::{self, DeadLetter, FoundRow, Letters};

/// Dead letters in one answer: their keys and reasons may be long.
const LETTERS_PER_CALL: usize = 100;

/// The row that has this key, whose cells lie in `arena`, and the checkpoint that it belongs to. Errors call the database
/// `place`.
///
/// # Errors
/// The database is not ours, or cannot be reached.
pub fn row(
    transport: &mut dyn Transport,
    place: &str,
    table: &PlannedTable,
    key: &[Cell],
    arena: &[u8],
) -> Result<FoundRow> {
    let Some(tables) = prepared(transport, place)? else {
        return Ok(FoundRow { checkpoint: None, values: None, fill: None });
    };
    let mut statements = vec![state::read()];
    // A database that an older walcast made has none.
    statements.extend(tables.contains("_walcast_fills").then(fills::read));
    // By itself and first: a table of an older form may not have the columns that are asked for below.
    let answers = ask(transport, &statements)?;
    let [state, fills @ ..] = &answers[..] else { return Err(too_few()) };
    let fills = fills.first().map(fills::parse).transpose()?.unwrap_or_default();
    let fill = fills.into_iter().find(|(target, _)| *target == table.target).map(|(_, fill)| fill);
    if fill.as_ref().is_some_and(|fill| fill.is_beside) {
        let checkpoint = state::parse(state)?.map(|state| state.checkpoint);
        return Ok(FoundRow { checkpoint, values: None, fill });
    }
    let names = table.columns.iter().map(|column| &column.target).chain(&table.soft_delete);
    let columns: Vec<String> =
        names.enumerate().map(|(index, name)| format!("{} AS c{index}", shown(&quote(name)))).collect();
    let matches: Vec<String> = table
        .key_columns()
        .enumerate()
        .map(|(part, column)| {
            format!("{} = {}", quote(&column.target), cell("?1", &part.to_string(), column))
        })
        .collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        columns.join(", "),
        quote(&table.target),
        matches.join(" AND ")
    );
    let mut text = Vec::new();
    json_rows::array(key.iter().copied(), arena, &mut text);
    let params = vec![String::from_utf8_lossy(&text).into_owned()];
    let answers = ask(transport, &[state::read(), Statement { sql: sql.into(), params }])?;
    let [state, found] = &answers[..] else { return Err(too_few()) };
    let values = found.rows.first().map(|row| {
        (0..columns.len()).map(|index| json(row.get(&format!("c{index}")), &table.target)).collect()
    });
    Ok(FoundRow {
        checkpoint: state::parse(state)?.map(|state| state.checkpoint),
        values: values.transpose()?,
        fill,
    })
}

/// SQL for a value in a form that JSON carries whole: its type as a letter, then its text. A finite float is a number.
fn shown(name: &str) -> String {
    format!(
        "CASE typeof({name}) WHEN 'null' THEN NULL WHEN 'integer' THEN 'i' || {name} WHEN 'blob' THEN 'b' || hex({name}) \
         WHEN 'real' THEN CASE {name} WHEN 9e999 THEN 'rInfinity' WHEN -9e999 THEN 'r-Infinity' ELSE {name} END \
         ELSE 't' || {name} END"
    )
}

/// A value that came in the form of [`shown`].
fn json(value: Option<&Value>, target: &str) -> Result<Value> {
    let unexpected = || Error::halt(format!("D1 answered with a value of table {target} in another form"));
    match value {
        Some(Value::Null) => Ok(Value::Null),
        Some(Value::Number(number)) => number.as_f64().map(reading::real).ok_or_else(unexpected),
        Some(Value::String(text)) => {
            let (kind, rest) = text.split_at_checked(1).ok_or_else(unexpected)?;
            match kind {
                "i" => rest.parse::<i64>().map(Value::from).map_err(|_| unexpected()),
                "b" => hex::decode(rest).map(|bytes| reading::bytes(&bytes)).map_err(|_| unexpected()),
                "r" | "t" => Ok(Value::String(rest.to_owned())),
                _ => Err(unexpected()),
            }
        }
        _ => Err(unexpected()),
    }
}

/// Up to `limit` dead letters in the order in which they were kept. Errors call the database `place`.
///
/// # Errors
/// The database is not ours, or cannot be reached.
pub fn dead_letters(
    transport: &mut dyn Transport,
    place: &str,
    which: &Letters,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if prepared(transport, place)?.is_none() {
        return Ok(Vec::new());
    }
    let (condition, params) = condition(which);
    let mut letters: Vec<DeadLetter> = Vec::new();
    while letters.len() < limit {
        let count = LETTERS_PER_CALL.min(limit - letters.len());
        let sql = format!(
            "SELECT CAST(id AS TEXT) AS id, recorded, target, operation, key, reason, commit_lsn, \
             CAST(xid AS TEXT) AS xid FROM _walcast_dead_letters AS letters WHERE {condition} ORDER BY letters.id LIMIT {count}"
        );
        let mut params = params.clone();
        if let Some(last) = letters.last() {
            params[0] = last.id.to_string();
        }
        let answers = ask(transport, &[Statement { sql: sql.into(), params }])?;
        let found = answers.first().ok_or_else(too_few)?;
        let found: Vec<DeadLetter> = found.rows.iter().map(|row| letter(&Row(row))).collect::<Result<_>>()?;
        let is_last = found.len() < count;
        letters.extend(found);
        if is_last {
            break;
        }
    }
    Ok(letters)
}

fn letter(row: &Row<'_>) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.required("id")?,
        recorded: row.required("recorded")?,
        target: row.required("target")?,
        operation: row.required("operation")?,
        key: row.required("key")?,
        reason: row.required("reason")?,
        commit_lsn: row.required("commit_lsn")?,
        xid: row.required("xid")?,
    })
}

/// Forgets dead letters, and returns how many. The engine may write the database meanwhile. Errors call the database
/// `place`.
///
/// # Errors
/// The database is not ours, or cannot be reached.
pub fn drop_dead_letters(transport: &mut dyn Transport, place: &str, which: &Letters) -> Result<usize> {
    if prepared(transport, place)?.is_none() {
        return Ok(0);
    }
    let (condition, params) = condition(which);
    let of = |sql: &str| Statement {
        sql: format!("{sql} FROM _walcast_dead_letters WHERE {condition}").into(),
        params: params.clone(),
    };
    let answers: Vec<Answer> =
        ask(transport, &[of("SELECT CAST(count(*) AS TEXT) AS letters"), of("DELETE")])?;
    let counted = answers.first().and_then(|answer| answer.rows.first()).ok_or_else(too_few)?;
    Row(counted).required("letters")
}

/// The condition on `_walcast_dead_letters`, and its parameters: first the id behind which they are, then lists in JSON.
fn condition(which: &Letters) -> (String, Vec<String>) {
    let mut conditions = vec!["id > CAST(?1 AS INTEGER)".to_owned()];
    let mut params = vec![which.after.to_string()];
    let mut one_of = |column: &str, list: Value| {
        params.push(list.to_string());
        conditions.push(format!("{column} IN (SELECT value FROM json_each(?{}))", params.len()));
    };
    if let Some(target) = &which.target {
        one_of("target", Value::from(vec![target.clone()]));
    }
    if !which.keys.is_empty() {
        one_of("key", Value::from(which.keys.clone()));
    }
    if !which.ids.is_empty() {
        one_of("id", Value::from(which.ids.clone()));
    }
    (conditions.join(" AND "), params)
}

fn too_few() -> Error {
    Error::transient("D1 answered fewer statements than it was sent")
}
