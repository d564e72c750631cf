//! Whether a relation, as the stream describes it, is what the plan was made for; and if not, why, in words. What only the
//! catalog says of a table is worded here too. Nothing is stopped here.

use super::column_type::ColumnType;
use super::plan::{PlannedColumn, PlannedTable};
use super::value::Conversion;
use crate::capture::table::{Oid, ReplicaIdentity, TableName};
use crate::decode::message::Relation;

/// Why a relation does not fit, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// What is wrong, in one sentence.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
    /// Another relation of the table's name may fit.
    pub returns: bool,
}

impl Why {
    /// The columns are others: somebody has to say what is right.
    fn altered(table: &PlannedTable, reason: String, undo: &str) -> Self {
        let plain = table.source.plain();
        let hint = format!(
            "{undo} and run `walcast backfill --table {plain}`, or correct schema.json (see `walcast schema diff`) and \
             start walcast again"
        );
        Why { reason, hint, returns: false }
    }

    /// The source has not what the plan needs, for the reason that its [problem](PlannedTable::problem) gives.
    pub fn misplanned(table: &PlannedTable, problem: &str) -> Self {
        let reason = format!("table {} does not fit schema.json any more: {problem}", table.source);
        Why::altered(table, reason, "undo what was changed")
    }

    /// A mapped column is not there.
    pub(super) fn no_column(table: &PlannedTable, column: &PlannedColumn) -> Self {
        let reason = format!(
            "column {} of table {} is mapped in schema.json but no longer in the stream: it was dropped or renamed, or is \
             not in the publication",
            column.source, table.source
        );
        Why::altered(table, reason, "put the column back")
    }

    /// The table is called `now`.
    pub fn renamed(table: &PlannedTable, now: &TableName) -> Self {
        Why {
            reason: format!("table {} was renamed to {now} at the source", table.source),
            hint: "give it its new name in schema.json (keep the old one as `target`) and start walcast again; another \
                   table of the old name is filled by itself"
                .to_owned(),
            returns: true,
        }
    }

    /// The table is not there.
    pub fn dropped(table: &PlannedTable) -> Self {
        let (reason, plain) =
            (format!("table {} was dropped at the source", table.source), table.source.plain());
        let hint = format!("create it again, and it is filled by itself; or take {plain} out of schema.json");
        Why { reason, hint, returns: true }
    }

    /// The table is not in the publication.
    pub fn unpublished(table: &PlannedTable, publication: &str) -> Self {
        let reason = format!("table {} is no longer in publication {publication}", table.source);
        let hint = format!(
            "it is published again and filled by itself, where walcast may: walcast check; or take {} out of schema.json",
            table.source.plain()
        );
        Why { reason, hint, returns: true }
    }

    /// Another table has the table's name.
    pub fn another(table: &PlannedTable) -> Self {
        Why {
            reason: format!("table {} was dropped and created anew at the source", table.source),
            hint:
                "it is filled anew by itself once it fits schema.json; `walcast check` says whether it does"
                    .to_owned(),
            returns: true,
        }
    }
}

/// Whether it is the relation that the plan was made for.
pub(super) fn check_relation(table: &PlannedTable, relation: &Relation) -> Result<(), Why> {
    match &table.problem {
        Some(problem) => Err(Why::misplanned(table, problem)),
        None if relation.oid != table.oid => Err(Why::another(table)),
        None => Ok(()),
    }
}

/// Where a planned column stands in the relation's tuples.
pub(super) fn position(
    table: &PlannedTable,
    planned: &PlannedColumn,
    relation: &Relation,
) -> Result<Option<usize>, Why> {
    let Some(position) = relation.columns.iter().position(|column| column.name == planned.source) else {
        return Ok(None);
    };
    let now = relation.columns[position].type_oid;
    if now == planned.type_oid || keeps_conversion(planned.conversion, now, planned.column_type) {
        return Ok(Some(position));
    }
    let reason = format!(
        "column {} of table {} changed its type at the source, and {} no longer means the same",
        planned.source,
        table.source,
        planned.column_type.as_str()
    );
    Err(Why::altered(table, reason, "give the column its old type"))
}

/// Whether updates and deletes say which row they mean: the relation's own key has to hold the plan's, which stands at
/// these positions. Without any, there are no updates and deletes.
pub(super) fn check_identity(table: &PlannedTable, relation: &Relation, key: &[usize]) -> Result<(), Why> {
    let has_key = relation.columns.iter().any(|column| column.is_key);
    let is_full = relation.replica_identity == ReplicaIdentity::Full;
    let Some(&missing) = key.iter().find(|&&position| !relation.columns[position].is_key) else {
        return Ok(());
    };
    if is_full || !has_key {
        return Ok(());
    }
    let reason = format!(
        "column {} of table {} is in the primaryKey of schema.json, but no longer in the table's replica identity",
        relation.columns[missing].name, table.source
    );
    Err(Why::altered(table, reason, "give the table its old replica identity"))
}

/// Whether a column's new declared type converts exactly as its old one did.
fn keeps_conversion(conversion: Conversion, type_oid: Oid, target: ColumnType) -> bool {
    use tokio_postgres::types::{Kind, Type};
    let element = match Type::from_oid(type_oid.0).as_ref().map(Type::kind) {
        Some(Kind::Array(element)) => Some(Oid(element.oid())),
        Some(_) => None,
        None => return false,
    };
    Conversion::choose(type_oid, element, target).is_ok_and(|(now, _)| now == conversion)
}
