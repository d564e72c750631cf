//! Where is my row: one row at the source and in every region, compared by value.
//!
//! A region's row is compared with what the source's row has to become there. Where they differ, the positions decide
//! what that means: a region that has not reached the position at which the source was read may still get it; one that
//! has, does not. So that a change in between is not taken for a difference, the source is read again behind the regions,
//! and everything once more if the row has changed.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio_postgres::{Client, SimpleQueryMessage};
use utoipa::ToSchema;

use super::d1::Transports;
use super::{letters, replicas};
use crate::Lsn;
use crate::capture::publication;
use crate::config::{self, Config, SinkTarget};
use crate::encode::cell::{Cell, push};
use crate::encode::json_rows;
use crate::encode::plan::{Plan, PlannedTable};
use crate::error::{Error, Result};
use crate::fanout::fill::TableState;
use crate::postgres::session::from_sql;
use crate::postgres::{quote_identifier as quote, quote_literal};
use crate::sink::reading::{self, DeadLetter, FoundRow, Letters};
use crate::sink::{d1, sqlite};

/// How often a row that changes meanwhile is read again.
const ROUNDS_MAX: usize = 3;
/// Dead letters that are shown of a region.
const LETTERS_MAX: usize = 20;
/// A longer value is shown by its beginning.
const SHOWN_CHARS_MAX: usize = 4_096;

/// Where a row is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Trace {
    /// The table at the source.
    pub table: String,
    /// The row's key as the source spells it, in key order.
    pub key: Vec<String>,
    /// Whether every region that can be read has the row as it should be.
    pub is_equal: bool,
    /// The row at the source.
    pub source: SourceRow,
    /// The row in every region, in the configuration's order.
    pub regions: Vec<RegionRow>,
}

/// The row at the source.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SourceRow {
    /// The server's position right after the row was read.
    pub lsn: String,
    /// What it has to become in the regions, by their column names; null where there is no such row.
    pub row: Option<Map<String, Value>>,
    /// Columns whose value has no form in the regions, each with the reason: such a row becomes a dead letter.
    pub rejected: Vec<String>,
}

/// The row in a region.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RegionRow {
    /// The sink.
    pub sink: String,
    /// How it compares.
    pub verdict: Verdict,
    /// How far the table is in the region, where it is not live: `waiting`, `filling`, `catching-up`, `rebuilding`,
    /// `incomplete`. One that is rebuilt is not read, because readers see it in the form of an older `schema.json`.
    pub table_state: Option<&'static str>,
    /// The region's position when it was read.
    pub checkpoint_lsn: Option<String>,
    /// The row; null where there is none.
    pub row: Option<Map<String, Value>>,
    /// Columns whose values differ.
    pub differing: Vec<String>,
    /// What the region did not take of this row, the oldest first.
    pub dead_letters: Vec<DeadLetter>,
    /// Why the region cannot be read.
    pub problem: Option<String>,
}

/// How a region's row compares with the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is as it should be, also where it should not be there.
    Equal,
    /// It differs, and the region has not reached the source's position yet.
    OnItsWay,
    /// It differs, the region has passed the source's position, and it has a dead letter for the row.
    DeadLetter,
    /// It differs, or cannot be compared, because the table is not live in the region: see `table_state`.
    NotLive,
    /// It differs although the region has passed the source's position.
    Differs,
    /// The row changes all the time: ask again.
    Changing,
    /// The region cannot be read, or keeps nothing.
    Unknown,
}

impl Verdict {
    /// The verdict as JSON spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::OnItsWay => "on-its-way",
            Verdict::DeadLetter => "dead-letter",
            Verdict::NotLive => "not-live",
            Verdict::Differs => "differs",
            Verdict::Changing => "changing",
            Verdict::Unknown => "unknown",
        }
    }
}

/// What the source says of a key.
#[derive(PartialEq)]
struct AtSource {
    key: Vec<String>,
    /// The mapped columns' texts.
    texts: Option<Vec<Option<String>>>,
}

/// The source's row in the regions' form.
struct Expected {
    values: Option<Vec<Value>>,
    rejected: Vec<String>,
}

/// Looks for the row.
///
/// # Errors
/// There is no such table, the key has another form, or the source cannot be read. A region that cannot be read is part
/// of the answer.
pub async fn trace(
    config: &Arc<Config>,
    plan: &Arc<Plan>,
    client: &Client,
    table: &str,
    key: &[String],
) -> Result<Trace> {
    let index = plan.named(table);
    let index = index.ok_or_else(|| Error::config(format!("schema.json has no table {table:?}")))?;
    let planned = &plan.tables[index];
    if key.len() != planned.key.len() {
        let names: Vec<&str> = planned.key_columns().map(|column| &*column.source).collect();
        let names = names.join(", ");
        return Err(Error::config(format!("the key of table {table} is ({names}): {} given", key.len())));
    }
    let row_filter = publication::row_filter(client, &config.source.publication, &planned.source).await?;
    let row_filter = row_filter.as_deref().unwrap_or("true");
    let (mut at_source, mut lsn) = read_source(client, planned, key, row_filter).await?;
    let mut rounds = 1;
    loop {
        let expected = expected(planned, at_source.texts.as_deref());
        let (config, plan, spelt) = (config.clone(), plan.clone(), at_source.key.clone());
        let found = tokio::task::spawn_blocking(move || {
            let look = |sink: &config::Sink, transports: &Transports| {
                look(sink, transports, &plan.tables[index], &spelt)
            };
            replicas::ask_all(&config, look).into_iter().collect::<Result<Vec<Seen>>>()
        });
        let found = found.await.map_err(|error| Error::bug("looking at the sinks").because(error))??;
        let mut regions: Vec<RegionRow> =
            found.into_iter().map(|found| judge(planned, &expected, lsn, found)).collect();
        let differs = |region: &RegionRow| matches!(region.verdict, Verdict::Differs | Verdict::DeadLetter);
        if regions.iter().any(differs) {
            let (again, lsn_again) = read_source(client, planned, key, row_filter).await?;
            if again != at_source {
                (at_source, lsn) = (again, lsn_again);
                rounds += 1;
                if rounds <= ROUNDS_MAX {
                    continue;
                }
                for region in regions.iter_mut().filter(|region| differs(region)) {
                    region.verdict = Verdict::Changing;
                }
            }
        }
        return Ok(Trace {
            table: table.to_owned(),
            key: at_source.key,
            is_equal: regions
                .iter()
                .all(|region| matches!(region.verdict, Verdict::Equal | Verdict::Unknown)),
            source: SourceRow {
                lsn: lsn.to_string(),
                row: expected.values.map(|values| named(planned, values)),
                rejected: expected.rejected,
            },
            regions,
        });
    }
}

/// Reads the row's texts, the key as the source spells it, and the position behind which nothing of that is. A row that
/// the publication's filter leaves out is not there for the regions.
async fn read_source(
    client: &Client,
    table: &PlannedTable,
    key: &[String],
    row_filter: &str,
) -> Result<(AtSource, Lsn)> {
    let key_columns: Vec<(String, String)> = table
        .key_columns()
        .map(|column| quote(&column.source))
        .zip(key.iter().map(|part| quote_literal(part)))
        .collect();
    let relation = table.relation();
    // An untyped literal takes the column's type, so the server spells the key as the stream does.
    let spelt: Vec<String> = key_columns
        .iter()
        .map(|(column, literal)| format!("coalesce((SELECT {column} FROM {relation} LIMIT 0), {literal})"))
        .collect();
    let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.source)).collect();
    let matches: Vec<String> =
        key_columns.iter().map(|(column, literal)| format!("{column} = {literal}")).collect();
    // Three statements, so three snapshots: the position is read after the row.
    let sql = format!(
        "SELECT {}; SELECT {} FROM {relation} WHERE {} AND ({row_filter}) LIMIT 1;
         SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END",
        spelt.join(", "),
        columns.join(", "),
        matches.join(" AND ")
    );
    let doing = format!("reading a row of table {}", table.source.plain());
    let messages = client.simple_query(&sql).await.map_err(|error| {
        let is_bad_key = error.as_db_error().is_some_and(|error| error.code().code().starts_with("22"));
        match is_bad_key {
            true => Error::config(format!(
                "the key does not have the form of table {}'s key",
                table.source.plain()
            )),
            false => from_sql(error, &doing),
        }
    })?;
    let mut results: Vec<Option<Vec<Option<String>>>> = Vec::new();
    let mut row = None;
    for message in messages {
        match message {
            SimpleQueryMessage::Row(found) => {
                row = Some((0..found.len()).map(|index| found.get(index).map(str::to_owned)).collect());
            }
            SimpleQueryMessage::CommandComplete(_) => results.push(row.take()),
            _ => {}
        }
    }
    let mut results = results.into_iter();
    let (Some(Some(spelt)), Some(texts), Some(Some(position))) =
        (results.next(), results.next(), results.next())
    else {
        return Err(Error::bug(format!("{doing}: an unexpected answer")));
    };
    let position = position.into_iter().flatten().next().and_then(|lsn| lsn.parse().ok());
    let lsn = position.ok_or_else(|| Error::bug(format!("{doing}: no position")))?;
    // Equal keys may be spelt differently (1.0 and 1.00): the regions have the row's own.
    let key = match &texts {
        Some(texts) => table.key.iter().map(|&index| texts[index].clone().unwrap_or_default()).collect(),
        None => spelt.into_iter().map(Option::unwrap_or_default).collect(),
    };
    Ok((AtSource { key, texts }, lsn))
}

/// What the source's row has to become.
fn expected(table: &PlannedTable, texts: Option<&[Option<String>]>) -> Expected {
    let mut expected = Expected { values: None, rejected: Vec::new() };
    let Some(texts) = texts else { return expected };
    let mut arena = Vec::new();
    let mut values = Vec::with_capacity(texts.len() + 1);
    for (column, text) in table.columns.iter().zip(texts) {
        let cell = match text {
            None => Cell::Null,
            Some(text) => column.conversion.text(text.as_bytes(), &mut arena).unwrap_or_else(|rejection| {
                expected.rejected.push(format!("{}: {rejection}", column.target));
                Cell::Null
            }),
        };
        values.push(json(cell, &arena));
    }
    // A row that is there is not deleted.
    values.extend(table.soft_delete.iter().map(|_| Value::Null));
    expected.values = Some(values);
    expected
}

fn json(cell: Cell, arena: &[u8]) -> Value {
    match cell {
        Cell::Absent | Cell::Null => Value::Null,
        Cell::Integer(integer) => Value::from(integer),
        Cell::Real(real) => reading::real(real),
        Cell::Text(slice) => Value::String(String::from_utf8_lossy(slice.of(arena)).into_owned()),
        Cell::Blob(slice) => reading::bytes(slice.of(arena)),
    }
}

/// What a region showed.
struct Seen {
    sink: String,
    found: Result<Option<FoundRow>>,
    letters: Vec<DeadLetter>,
}

fn look(sink: &config::Sink, transports: &Transports, table: &PlannedTable, key: &[String]) -> Seen {
    let mut arena = Vec::new();
    let spelt: Vec<Cell> = key.iter().map(|text| Cell::Text(push(&mut arena, text.as_bytes()))).collect();
    let cells = table.key_cells(key, &mut arena);
    let found = match &sink.target {
        SinkTarget::Sqlite { path } => sqlite::row(path, table, &cells, &arena).map(Some),
        SinkTarget::D1(..) | SinkTarget::D1Worker(..) => replicas::connect(&sink.target, transports)
            .and_then(|(mut transport, place)| d1::row(&mut *transport, &place, table, &cells, &arena))
            .map(Some),
        SinkTarget::Null => Ok(None),
    };
    // A row that was rejected before it came to the sink has its key as the source spells it.
    let keys = [&cells, &spelt].map(|cells| {
        let mut text = Vec::new();
        json_rows::array(cells.iter().copied(), &arena, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let which = Letters { target: Some(table.target.clone()), keys: keys.into(), ..Letters::default() };
    let (found, letters) = match (found, letters::of_sink(sink, transports, &which, LETTERS_MAX)) {
        (Ok(found), Ok(letters)) => (Ok(found), letters),
        (Err(error), _) | (Ok(_), Err(error)) => (Err(error), Vec::new()),
    };
    Seen { sink: sink.name.to_string(), found, letters }
}

fn judge(table: &PlannedTable, expected: &Expected, lsn: Lsn, seen: Seen) -> RegionRow {
    let Seen { sink, found, letters } = seen;
    let mut region = RegionRow {
        sink,
        verdict: Verdict::Unknown,
        table_state: None,
        checkpoint_lsn: None,
        row: None,
        differing: Vec::new(),
        dead_letters: letters,
        problem: None,
    };
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => return region,
        Err(error) => {
            region.problem = Some(error.chain());
            return region;
        }
    };
    let is_deleted =
        |values: &Vec<Value>| table.soft_delete.is_some() && !values[table.columns.len()].is_null();
    let is_equal = match (&expected.values, &found.values) {
        (None, None) => true,
        (None, Some(actual)) => is_deleted(actual),
        (Some(_), None) => false,
        (Some(wanted), Some(actual)) => {
            let names = table.columns.iter().map(|column| &column.target).chain(&table.soft_delete);
            let differing =
                names.zip(wanted.iter().zip(actual)).filter(|(_, (wanted, actual))| wanted != actual);
            region.differing = differing.map(|(name, _)| name.clone()).collect();
            region.differing.is_empty() && expected.rejected.is_empty()
        }
    };
    let position = found.checkpoint.as_ref().map_or(Lsn::ZERO, |checkpoint| checkpoint.lsn);
    let unfinished = found.fill.as_ref().filter(|fill| fill.state(position) != TableState::Live);
    region.table_state = unfinished.map(|fill| fill.shown(position));
    let is_beside = unfinished.is_some_and(|fill| fill.is_beside);
    let has_passed = found.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.lsn >= lsn);
    region.verdict = match (is_equal, has_passed) {
        _ if is_beside => Verdict::NotLive,
        (true, _) => Verdict::Equal,
        (false, true) if !region.dead_letters.is_empty() => Verdict::DeadLetter,
        (false, _) if unfinished.is_some() => Verdict::NotLive,
        (false, false) => Verdict::OnItsWay,
        (false, true) => Verdict::Differs,
    };
    region.checkpoint_lsn = found.checkpoint.map(|checkpoint| checkpoint.lsn.to_string());
    region.row = found.values.map(|values| named(table, values));
    region
}

/// The values by the regions' column names; long ones cut.
fn named(table: &PlannedTable, values: Vec<Value>) -> Map<String, Value> {
    let names = table.columns.iter().map(|column| &column.target).chain(&table.soft_delete);
    names.cloned().zip(values.into_iter().map(shown)).collect()
}

fn shown(value: Value) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => Value::String(format!("{}… ({} bytes)", &text[..end], text.len())),
            None => Value::String(text),
        },
        value => value,
    }
}
