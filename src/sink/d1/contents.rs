//! What a database holds: whose it is, how far it is, and which tables it was made for. Read in two calls, and never
//! changed here.

use std::collections::{BTreeMap, BTreeSet};

use super::failures::error_of;
use super::fills;
use super::open::ask;
use super::state::{self, Row, State};
use super::transport::{Answer, Failure, Statement, Transport};
use crate::encode::plan::Plan;
use crate::error::{Error, Result};
use crate::sink::definition::BESIDE;
use crate::sink::replica::StoredTable;
use crate::sink::shape::{Column, Kept, Shape, assemble};
use crate::sink::sqlite::of_definition;

const STORED: &str = "SELECT target, source, definition FROM _walcast_tables ORDER BY target";
const COLUMNS: &str = "SELECT t.target, c.name, c.type, CAST(c.pk AS TEXT) AS pk, c.dflt_value \
    FROM _walcast_tables AS t, pragma_table_info(t.target) AS c ORDER BY t.target, c.cid";
const INDEXES: &str = "SELECT t.target, i.name \
    FROM _walcast_tables AS t, pragma_index_list(t.target) AS i WHERE i.origin = 'c'";
const LEFT: &str = "SELECT target, column FROM _walcast_left ORDER BY target, column";

/// What a database holds.
pub(super) struct Contents {
    /// The tables in it, but for D1's own.
    tables: BTreeSet<String>,
    /// The checkpoint's row.
    pub(super) state: Option<State>,
    /// What is kept of the replicated tables, by name.
    pub(super) kept: BTreeMap<String, Kept>,
}

impl Contents {
    /// Reads it.
    pub(super) fn read(transport: &mut dyn Transport) -> Result<Self> {
        let tables = tables(transport).map_err(|failure| error_of(&failure, 1))?;
        let mut contents = Contents { tables, state: None, kept: BTreeMap::new() };
        if !contents.is_prepared() {
            return Ok(contents);
        }
        let statements =
            [state::read(), Statement::plain(STORED), Statement::plain(COLUMNS), Statement::plain(INDEXES)];
        // A database that an older walcast made has neither of them.
        let more = [("_walcast_fills", fills::read()), ("_walcast_left", Statement::plain(LEFT))];
        let (names, more): (Vec<&str>, Vec<Statement>) =
            more.into_iter().filter(|(name, _)| contents.tables.contains(*name)).unzip();
        let answers = ask(transport, &[&statements[..], &more].concat())?;
        let [state, stored, columns, indexes, rest @ ..] = &answers[..] else {
            return Err(Error::transient("D1 answered fewer statements than it was sent"));
        };
        let answer_of = |table: &str| rest.get(names.iter().position(|name| *name == table)?);
        contents.state = state::parse(state)?;
        let fills = answer_of("_walcast_fills").map(fills::parse).transpose()?.unwrap_or_default();
        let mut stored: Vec<StoredTable> = stored.rows.iter().map(stored_table).collect::<Result<_>>()?;
        for (target, fill) in fills {
            if let Some(stored) = stored.iter_mut().find(|stored| stored.target == target) {
                stored.fill = Some(fill);
            }
        }
        let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in answer_of("_walcast_left").map_or(&[][..], |answer| &answer.rows) {
            left.entry(Row(row).required("target")?).or_default().push(Row(row).required("column")?);
        }
        let mut shapes = shapes(columns, indexes)?;
        contents.kept = assemble(stored, left, |table| Ok(shapes.remove(table)), of_definition)?;
        Ok(contents)
    }

    /// Makes sure that walcast made what is in it.
    ///
    /// # Errors
    /// Halts where somebody else did.
    pub(super) fn check_ours(&self, place: &str) -> Result<()> {
        if self.is_prepared() || self.tables.is_empty() {
            return Ok(());
        }
        Err(Error::halt(format!("{place} holds tables that walcast did not create; it will not be touched"))
            .hint("give the sink a database of its own in walcast.toml"))
    }

    /// The names of its tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &str> + Clone {
        self.tables.iter().map(String::as_str)
    }

    /// Whether walcast's own tables are all there. A database that an older walcast made lacks some.
    pub(super) fn has_all_of_ours(&self) -> bool {
        ["_walcast_checkpoint", "_walcast_fills", "_walcast_left"]
            .iter()
            .all(|name| self.tables.contains(*name))
    }

    /// Whether walcast has prepared it.
    pub(super) fn is_prepared(&self) -> bool {
        self.tables.contains("_walcast_checkpoint")
    }

    /// The changes of a transaction that is half there are counted by the tables they were counted with.
    ///
    /// # Errors
    /// Halts where these are others.
    pub(super) fn check_open(&self, plan: &Plan, place: &str) -> Result<()> {
        let open = self.state.as_ref().and_then(|state| state.checkpoint.open);
        let Some(open) = open else { return Ok(()) };
        let planned: BTreeSet<(String, &str)> =
            plan.tables.iter().map(|table| (table.source.plain(), table.target.as_str())).collect();
        let is_fed = |kept: &Kept| !kept.fill.as_ref().is_some_and(|fill| fill.is_left);
        let source = |kept: &Kept| match &kept.beside {
            Some(half) => half.source.clone(),
            None => kept.source.clone(),
        };
        let fed = self.kept.iter().filter(|(_, kept)| is_fed(kept));
        let fed: BTreeSet<(String, &str)> =
            fed.map(|(target, kept)| (source(kept), target.as_str())).collect();
        if planned == fed {
            return Ok(());
        }
        Err(Error::halt(format!(
            "schema.json has other tables than when {place} received the first part of the transaction at {}",
            open.commit_lsn
        ))
        .hint("start walcast with the tables as they were, wait until this sink is past it, and change them then"))
    }
}

fn stored_table(row: &serde_json::Map<String, serde_json::Value>) -> Result<StoredTable> {
    let row = Row(row);
    Ok(StoredTable {
        fill: None,
        target: row.required("target")?,
        source: row.required("source")?,
        definition: row.required("definition")?,
    })
}

/// What asks where the rows of a replicated table are from, and for its columns.
pub(super) fn ask_for(target: &str) -> [Statement; 2] {
    let source = format!("SELECT source FROM ({STORED}) WHERE target = ?1");
    let columns = format!("SELECT * FROM ({COLUMNS}) WHERE target = ?1");
    [Statement::new(&source, &[target]), Statement::new(&columns, &[target])]
}

/// The answers to [`ask_for`]: the source, and the shape without its indexes; `None` where there is no such table.
pub(super) fn found(source: &Answer, columns: &Answer) -> Result<Option<(String, Shape)>> {
    let shape = shapes(columns, &Answer::default())?.into_values().next();
    let source = source.rows.first().map(|row| Row(row).required("source")).transpose()?;
    Ok(source.zip(shape))
}

/// The shapes of tables, by name.
fn shapes(columns: &Answer, indexes: &Answer) -> Result<BTreeMap<String, Shape>> {
    let mut shapes: BTreeMap<String, (Shape, Vec<(u32, String)>)> = BTreeMap::new();
    for row in &columns.rows {
        let row = Row(row);
        let (shape, key) = shapes.entry(row.required("target")?).or_default();
        let (name, part): (String, u32) = (row.required("name")?, row.required("pk")?);
        if part > 0 {
            key.push((part, name.clone()));
        }
        let default: Option<String> = row.optional("dflt_value")?;
        shape.columns.push(Column {
            name,
            type_name: row.required("type")?,
            // No other column of ours has a default.
            is_soft_delete: default.as_deref() == Some("NULL"),
        });
    }
    for row in &indexes.rows {
        let row = Row(row);
        if let Some((shape, _)) = shapes.get_mut(&row.required::<String>("target")?) {
            shape.indexes.push(row.required("name")?);
        }
    }
    let keyed = shapes.into_iter().map(|(table, (mut shape, mut key))| {
        key.sort();
        shape.key = key.into_iter().map(|(_, name)| name).collect();
        (table, shape)
    });
    Ok(keyed.collect())
}

/// The tables of a database, without those that are D1's or SQLite's own.
pub(super) fn tables(transport: &mut dyn Transport) -> Result<BTreeSet<String>, Failure> {
    let answers =
        transport.execute(&[Statement::plain("SELECT name FROM sqlite_schema WHERE type = 'table'")])?;
    let rows = answers.first().map_or(&[][..], |answer| &answer.rows);
    let names = rows.iter().filter_map(|row| Some(row.get("name")?.as_str()?.to_owned()));
    Ok(names.filter(|name| !name.starts_with("_cf_") && !name.starts_with("sqlite_")).collect())
}

/// The tables of a database that walcast has prepared, and that errors call `place`; `None` where it has not.
///
/// # Errors
/// Halts where somebody else made what is in it.
pub(super) fn prepared(transport: &mut dyn Transport, place: &str) -> Result<Option<BTreeSet<String>>> {
    let tables = tables(transport).map_err(|failure| error_of(&failure, 1))?;
    let contents = Contents { tables, state: None, kept: BTreeMap::new() };
    contents.check_ours(place)?;
    Ok(contents.is_prepared().then_some(contents.tables))
}

/// The replicated tables that readers know, without what is being built beside them.
pub(super) fn stored(kept: &BTreeMap<String, Kept>) -> Vec<StoredTable> {
    let stored = kept.iter().filter(|(target, _)| !target.starts_with(BESIDE));
    stored
        .map(|(target, kept)| StoredTable {
            target: target.clone(),
            source: kept.source.clone(),
            definition: kept.definition.clone(),
            fill: kept.fill.clone(),
        })
        .collect()
}
