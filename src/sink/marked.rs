//! What becomes of rows that are marked as deleted when another table takes their table's place. They are gone at the
//! source, so nothing that is read there brings them: they are taken over from the table that goes, as it is then. Pure:
//! the table that is planned and the shape of the one that goes enter, a decision and a statement leave.

use super::definition::beside;
use super::shape::{Column, Kept, Shape};
use super::statement::Statement;
use crate::encode::plan::PlannedTable;
use crate::postgres::quote_identifier as quote;

/// What becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// There are none: the table that goes has no soft-delete column.
    None,
    /// They stay, with their values in these columns and NULL in the others. Each by its name in the new table, then in
    /// the one that goes; the last is the soft-delete column.
    Stay(Vec<(String, String)>),
    /// They go with the table, for this reason.
    Go(String),
}

impl Marked {
    /// What becomes of them when the planned table takes the place of one that was fed by `source`.
    pub fn of(table: &PlannedTable, source: &str, there: &Shape) -> Self {
        let planned = Shape::of(table);
        let Some(before) = there.soft_delete() else { return Marked::None };
        let Some(now) = planned.soft_delete() else {
            return Marked::Go("the new table has no soft-delete column".to_owned());
        };
        if source != table.source.plain() {
            return Marked::Go(format!("they were rows of {source}"));
        }
        let same = |column: &&Column| there.column(&column.name).is_some_and(|there| there.is_like(column));
        if let Some(name) = planned.key.iter().find(|name| !planned.column(name).is_some_and(|it| same(&it)))
        {
            return Marked::Go(format!("they have no value for {name}, which is in the key"));
        }
        let kept = planned.columns.iter().filter(|column| !column.is_soft_delete).filter(same);
        let kept = kept.map(|column| (column.name.clone(), column.name.clone()));
        Marked::Stay(kept.chain([(now.to_owned(), before.to_owned())]).collect())
    }

    /// The same of a table as the replica keeps it.
    pub fn of_kept(table: &PlannedTable, kept: &Kept) -> Self {
        kept.there.as_ref().map_or(Marked::None, |there| Marked::of(table, &kept.source, there))
    }

    /// What operators read of a table that is built anew; nothing where nothing is lost.
    pub fn lost(&self) -> Option<String> {
        match self {
            Marked::None | Marked::Stay(_) => None,
            Marked::Go(why) => Some(format!("its rows that are marked as deleted go, because {why}")),
        }
    }

    /// What takes them over from the table that readers see into the one beside it, but for those whose key is in use
    /// again. Before the one takes the other's place.
    pub fn take_over(&self, table: &PlannedTable) -> Option<Statement> {
        let Marked::Stay(columns) = self else { return None };
        let (new, old): (Vec<String>, Vec<String>) =
            columns.iter().map(|(new, old)| (quote(new), quote(old))).unzip();
        let (target, marked) = (quote(&table.target), old.last()?);
        Some(Statement::plain(format!(
            "INSERT OR IGNORE INTO {} ({}) SELECT {} FROM {target} WHERE {marked} IS NOT NULL",
            quote(&beside(table).target),
            new.join(", "),
            old.join(", ")
        )))
    }
}
