//! What has to be done to a table of a replica so that it is the plan's. Pure: what is planned, what the table was made
//! for and what is there go in, the change comes out.
//!
//! Columns and tables that are not planned any more are never removed here, because somebody may read them.

use std::collections::BTreeMap;

use crate::encode::plan::PlannedTable;
use crate::error::Result;
use crate::fanout::fill::TableFill;
use crate::sink::definition::{BESIDE, Definition, beside, index_name};
use crate::sink::replica::StoredTable;

/// A table by its columns, key and indexes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// Its columns.
    pub columns: Vec<Column>,
    /// The names of the key's columns, in key order.
    pub key: Vec<String>,
    /// The names of its further indexes.
    pub indexes: Vec<String>,
}

/// A column of a replicated table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as in the DDL.
    pub type_name: String,
    /// It receives the time of a deletion.
    pub is_soft_delete: bool,
}

/// What a replica holds and keeps of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// The source table that feeds it, as [`TableName::plain`](crate::capture::table::TableName::plain) writes it.
    pub source: String,
    /// The DDL that it was made, or last altered, for; empty for one that readers have not seen yet.
    pub definition: String,
    /// The same as a shape.
    pub made_for: Shape,
    /// The table as it is; `None` where it is gone.
    pub there: Option<Shape>,
    /// What is being built beside it.
    pub beside: Option<Half>,
    /// How far it is filled.
    pub fill: Option<TableFill>,
    /// Columns that were fed once.
    pub left: Vec<String>,
}

/// A table that is being built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    /// The source table that feeds it.
    pub source: String,
    /// The DDL that it was made for.
    pub definition: String,
}

/// What a replica keeps in `_walcast_tables` → what it keeps of every table, by the name that readers know. `there` and
/// `made_for` give the shape of a table, by its name, and of what a definition makes.
///
/// # Errors
/// A definition is none.
pub fn assemble(
    stored: Vec<StoredTable>,
    mut left: BTreeMap<String, Vec<String>>,
    mut there: impl FnMut(&str) -> Result<Option<Shape>>,
    made_for: impl Fn(&str) -> Result<Shape>,
) -> Result<BTreeMap<String, Kept>> {
    let (halves, whole): (Vec<_>, Vec<_>) =
        stored.into_iter().partition(|stored| stored.target.starts_with(BESIDE));
    let mut halves: BTreeMap<String, Half> = halves
        .into_iter()
        .map(|StoredTable { target, source, definition, .. }| (target, Half { source, definition }))
        .collect();
    let mut kept = BTreeMap::new();
    for StoredTable { target, source, definition, fill } in whole {
        let there = there(&target)?;
        let is_there = |column: &String| there.as_ref().is_some_and(|shape| shape.column(column).is_some());
        let mut left = left.remove(&target).unwrap_or_default();
        left.retain(is_there);
        let made_for = if definition.is_empty() { Shape::default() } else { made_for(&definition)? };
        let beside = halves.remove(&format!("{BESIDE}{target}"));
        kept.insert(target, Kept { source, definition, made_for, there, beside, fill, left });
    }
    Ok(kept)
}

/// What has to be done to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has to be made.
    New,
    /// What is being built beside it is filled on.
    GoesOn,
    /// Nothing.
    Same,
    /// Every planned column is there and fed. What differs beyond that is easily done.
    Fits(Rest),
    /// Columns have to be fed that were not: whole rows are written again.
    Add(Vec<Added>, Rest),
    /// Another table has to be built; for this reason.
    Rebuild(String),
}

/// A column that has not been fed so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// It is in the table from an earlier time.
    pub is_there: bool,
}

/// What differs beside the planned columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rest {
    /// Columns that were fed and are not planned any more.
    pub left: Vec<String>,
    /// Indexes that are planned and not there.
    pub missing_indexes: Vec<String>,
    /// Indexes that are there, were planned, and are not any more.
    pub old_indexes: Vec<String>,
}

impl Change {
    /// What a start has to do to the table, in a replica that keeps this of its tables, by name.
    pub fn of(table: &PlannedTable, all: &BTreeMap<String, Kept>) -> Self {
        let source = table.source.plain();
        let Some(kept) = all.get(&table.target) else {
            // Its readers are used to a full table.
            let is_from_there = |kept: &Kept| kept.source == source && kept.there.is_some();
            let before = all.iter().find(|(_, kept)| is_from_there(kept));
            return before.map_or(Change::New, |(before, _)| {
                Change::Rebuild(format!("table {before} had its rows before"))
            });
        };
        let (is_beside, is_left) =
            kept.fill.as_ref().map_or((false, false), |fill| (fill.is_beside, fill.is_left));
        if is_beside {
            let wanted = Definition::of(&beside(table)).text();
            return match &kept.beside {
                Some(half) if half.definition == wanted && half.source == source => Change::GoesOn,
                // What readers see has not been fed since.
                _ => Change::Rebuild("it has changed again while it was being built".to_owned()),
            };
        }
        if is_left {
            return Change::Rebuild("schema.json did not name it for a time".to_owned());
        }
        let Some(there) = &kept.there else { return Change::Rebuild("it is gone".to_owned()) };
        if kept.source != source {
            return Change::Rebuild(format!("its rows were those of {}, not of {source}", kept.source));
        }
        if kept.definition == Definition::of(table).text() {
            return Change::Same;
        }
        Shape::of(table).change_from(&kept.made_for, there)
    }
}

impl Shape {
    /// The shape that is planned.
    pub fn of(table: &PlannedTable) -> Self {
        let fed = table.columns.iter().map(|column| Column {
            name: column.target.clone(),
            type_name: column.column_type.sqlite().to_owned(),
            is_soft_delete: false,
        });
        let soft_delete = table.soft_delete.iter().map(|name| Column {
            name: name.clone(),
            type_name: "TEXT".to_owned(),
            is_soft_delete: true,
        });
        Shape {
            columns: fed.chain(soft_delete).collect(),
            key: table.key_columns().map(|column| column.target.clone()).collect(),
            indexes: table.indexes.iter().map(|index| index_name(table, index)).collect(),
        }
    }

    /// The column of this name; SQL does not tell cases apart.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    fn has_index(&self, name: &str) -> bool {
        self.indexes.iter().any(|index| index.eq_ignore_ascii_case(name))
    }

    /// The column that receives the time of a deletion.
    pub fn soft_delete(&self) -> Option<&str> {
        let column = self.columns.iter().find(|column| column.is_soft_delete)?;
        Some(&column.name)
    }

    /// What has to be done to a table that was made, or last altered, for `made_for`, and that `is_there` like this, so
    /// that it becomes this one.
    pub fn change_from(&self, made_for: &Shape, is_there: &Shape) -> Change {
        let has_key = self.key.len() == is_there.key.len()
            && self.key.iter().zip(&is_there.key).all(|(one, other)| one.eq_ignore_ascii_case(other));
        if !has_key {
            let keys = (is_there.key.join(", "), self.key.join(", "));
            return Change::Rebuild(format!("its key is ({}), not ({})", keys.0, keys.1));
        }
        if self.soft_delete() != made_for.soft_delete() {
            let name = |shape: &Shape| shape.soft_delete().unwrap_or("none").to_owned();
            let (before, now) = (name(made_for), name(self));
            return Change::Rebuild(format!("its soft-delete column is {before}, not {now}"));
        }
        let mut added = Vec::new();
        for column in &self.columns {
            let there = is_there.column(&column.name);
            if let Some(there) = there.filter(|there| !there.is_like(column)) {
                let (name, before, now) = (&column.name, &there.type_name, &column.type_name);
                return Change::Rebuild(format!("its column {name} is {before}, not {now}"));
            }
            if there.is_none() || made_for.column(&column.name).is_none() {
                added.push(Added { name: column.name.clone(), is_there: there.is_some() });
            }
        }
        let is_left =
            |column: &&Column| self.column(&column.name).is_none() && is_there.column(&column.name).is_some();
        let left = made_for.columns.iter().filter(is_left).map(|column| column.name.clone());
        let missing = self.indexes.iter().filter(|index| !is_there.has_index(index));
        let old = made_for.indexes.iter().filter(|index| is_there.has_index(index) && !self.has_index(index));
        let rest = Rest {
            left: left.collect(),
            missing_indexes: missing.cloned().collect(),
            old_indexes: old.cloned().collect(),
        };
        match (added.is_empty(), rest == Rest::default()) {
            (true, true) => Change::Same,
            (true, false) => Change::Fits(rest),
            (false, _) => Change::Add(added, rest),
        }
    }
}

impl Rest {
    /// What is changed, in words; nothing where columns are only left as they are.
    pub fn summary(&self) -> Option<String> {
        let parts = [("new indexes", &self.missing_indexes), ("indexes that go", &self.old_indexes)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let texts: Vec<String> =
            parts.map(|(what, names)| format!("{what} ({})", names.join(", "))).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

impl Column {
    /// Whether it holds the same values in the same way.
    pub fn is_like(&self, other: &Column) -> bool {
        self.type_name.eq_ignore_ascii_case(&other.type_name) && self.is_soft_delete == other.is_soft_delete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[(&str, &str)], key: &[&str], indexes: &[&str]) -> Shape {
        let column = |&(name, type_name): &(&str, &str)| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            is_soft_delete: name == "deleted_at",
        };
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Shape { columns: columns.iter().map(column).collect(), key: owned(key), indexes: owned(indexes) }
    }

    const ID: (&str, &str) = ("id", "INTEGER");
    const V: (&str, &str) = ("v", "TEXT");
    const DELETED: (&str, &str) = ("deleted_at", "TEXT");

    fn added(name: &str, is_there: bool) -> Vec<Added> {
        vec![Added { name: name.to_owned(), is_there }]
    }

    #[test]
    fn what_is_planned_and_there_is_the_same_in_any_order_and_case() {
        let planned = shape(&[ID, V], &["id"], &["idx_v"]);
        assert_eq!(planned.change_from(&planned, &planned), Change::Same);
        let there = shape(&[("V", "text"), ("ID", "integer")], &["Id"], &["IDX_V", "idx_of_somebody"]);
        assert_eq!(planned.change_from(&planned, &there), Change::Same);
        let there = shape(&[ID, V, ("extra", "ANY")], &["id"], &["idx_v"]);
        assert_eq!(planned.change_from(&planned, &there), Change::Same, "somebody else's column");
    }

    #[test]
    fn columns_that_are_not_planned_any_more_are_left_and_indexes_follow() {
        let before = shape(&[ID, V], &["id"], &["idx_v"]);
        let planned = shape(&[ID], &["id"], &["idx_id"]);
        let rest = Rest {
            left: vec!["v".to_owned()],
            missing_indexes: vec!["idx_id".to_owned()],
            old_indexes: vec!["idx_v".to_owned()],
        };
        assert_eq!(planned.change_from(&before, &before), Change::Fits(rest));
    }

    #[test]
    fn columns_that_were_not_fed_are_added_also_those_that_come_back() {
        let (before, planned) = (shape(&[ID], &["id"], &[]), shape(&[ID, V], &["id"], &[]));
        assert_eq!(planned.change_from(&before, &before), Change::Add(added("v", false), Rest::default()));
        assert_eq!(planned.change_from(&before, &planned), Change::Add(added("v", true), Rest::default()));
        // Somebody has dropped it.
        assert_eq!(planned.change_from(&planned, &before), Change::Add(added("v", false), Rest::default()));
    }

    #[test]
    fn another_type_key_or_soft_delete_column_needs_another_table() {
        let before = shape(&[ID, V], &["id"], &[]);
        for (planned, why) in [
            (shape(&[ID, ("v", "INTEGER")], &["id"], &[]), "its column v is TEXT, not INTEGER"),
            (shape(&[ID, V], &["id", "v"], &[]), "its key is (id), not (id, v)"),
            (shape(&[ID, V, DELETED], &["id"], &[]), "its soft-delete column is none, not deleted_at"),
        ] {
            assert_eq!(planned.change_from(&before, &before), Change::Rebuild(why.to_owned()));
        }
        let soft = shape(&[ID, V, DELETED], &["id"], &[]);
        let why = "its soft-delete column is deleted_at, not none".to_owned();
        assert_eq!(before.change_from(&soft, &soft), Change::Rebuild(why), "its deleted rows would be back");
        // A column that was left from an earlier time.
        let there = shape(&[ID, ("v", "BLOB")], &["id"], &[]);
        let why = "its column v is BLOB, not TEXT".to_owned();
        assert_eq!(before.change_from(&shape(&[ID], &["id"], &[]), &there), Change::Rebuild(why));
    }
}
