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
        match Marked::between(&Shape::of(table), there) {
            Marked::Stay(_) if source != table.source.plain() => {
                Marked::Go(format!("they were rows of {source}"))
            }
            marked => marked,
        }
    }

    fn between(planned: &Shape, there: &Shape) -> Self {
        let Some(before) = there.soft_delete() else { return Marked::None };
        let Some(now) = planned.soft_delete() else {
            return Marked::Go("the new table has no soft-delete column".to_owned());
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[(&str, &str)], key: &[&str]) -> Shape {
        let column = |&(name, type_name): &(&str, &str)| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            is_soft_delete: matches!(name, "deleted_at" | "gone"),
        };
        let key = key.iter().map(|&name| name.to_owned()).collect();
        Shape { columns: columns.iter().map(column).collect(), key, indexes: Vec::new() }
    }

    #[test]
    fn marked_rows_keep_what_has_the_same_form_and_need_a_key_and_a_column_for_the_mark() {
        let there = shape(&[("ID", "integer"), ("v", "TEXT"), ("n", "INTEGER"), ("gone", "TEXT")], &["ID"]);
        let stay = |columns: &[(&str, &str)]| {
            let owned = columns.iter().map(|&(new, old)| (new.to_owned(), old.to_owned()));
            Marked::Stay(owned.collect())
        };
        let of = |columns: &[(&str, &str)], key: &[&str]| Marked::between(&shape(columns, key), &there);
        let (id, deleted_at) = (("id", "INTEGER"), ("deleted_at", "TEXT"));
        let kept = [("id", "id"), ("v", "v"), ("deleted_at", "gone")];
        assert_eq!(of(&[id, ("v", "TEXT"), ("n", "TEXT"), deleted_at], &["id"]), stay(&kept));
        assert_eq!(of(&[id, ("v", "TEXT"), deleted_at], &["v", "id"]), stay(&kept), "they have both");
        let goes = |marked: Marked, why: &str| assert_eq!(marked, Marked::Go(why.to_owned()));
        goes(
            of(&[id, ("n", "TEXT"), deleted_at], &["id", "n"]),
            "they have no value for n, which is in the key",
        );
        goes(of(&[id], &["id"]), "the new table has no soft-delete column");
        assert_eq!(Marked::between(&there, &shape(&[id], &["id"])), Marked::None);
    }
}
