//! The plan: `schema.json` after checking against the source. Everything behind it works with a plan, so no stage has
//! to ask again whether a table has a key or a column has a type that fits.

use crate::capture::table::{Oid, ReplicaIdentity, Table, TableName};
use crate::encode::cell::Cell;
use crate::encode::column_type::ColumnType;
use crate::encode::schema_file::{SchemaFile, TableEntry, table_name};
use crate::encode::value::{Conversion, Fidelity};
use crate::error::{Error, Result};

/// All replicated tables, in the order of `schema.json`.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The tables; a change names its table by index.
    pub tables: Vec<PlannedTable>,
}

/// One table, from its source to its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTable {
    /// Schema and name at the source.
    pub source: TableName,
    /// The relation's OID when the plan was made.
    pub oid: Oid,
    /// It is a partition root.
    pub is_partitioned: bool,
    /// The table's name at every sink.
    pub target: String,
    /// The mapped columns in the order of `schema.json`.
    pub columns: Vec<PlannedColumn>,
    /// Indexes into `columns`: the primary key, in key order.
    pub key: Vec<usize>,
    /// Indexes into `columns`, one list for each further index.
    pub indexes: Vec<Vec<usize>>,
    /// An extra TEXT column at the sink that receives the deletion time instead of the row's removal.
    pub soft_delete: Option<String>,
    /// The planner's estimate of the rows at the source; -1 when unknown.
    pub estimated_rows: i64,
    /// Why no row of it can be mapped. It has no `oid` then, and its columns' types at the source mean nothing.
    pub problem: Option<String>,
}

/// One column, from its source to its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedColumn {
    /// Its name at the source.
    pub source: String,
    /// Its name at every sink.
    pub target: String,
    /// Its type in `schema.json`.
    pub column_type: ColumnType,
    /// Its declared type at the source when the plan was made.
    pub type_oid: Oid,
    /// The type below all domains.
    pub base_type_oid: Oid,
    /// How its values are converted.
    pub conversion: Conversion,
}

/// Something that `schema.json` and the source do not agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The table as `schema.json` names it.
    pub table: String,
    /// The column, where it is about one.
    pub column: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it: SQL or a command.
    pub remedy: Option<String>,
    /// No plan can be made with it; otherwise it is worth knowing (a lossy conversion).
    pub is_fatal: bool,
}

impl Plan {
    /// Makes the plan.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::error::Kind::Config) with every fatal [`Problem`] at once.
    pub fn new(schema: &SchemaFile, source: &[Table]) -> Result<Plan> {
        let (plan, problems) = Plan::draw(schema, source);
        let fatal: Vec<String> =
            problems.iter().filter(|problem| problem.is_fatal).map(Problem::to_string).collect();
        if fatal.is_empty() {
            return Ok(plan);
        }
        Err(Error::config(format!("schema.json does not fit the source:\n  {}", fatal.join("\n  ")))
            .hint("walcast check lists each with its remedy"))
    }

    /// Makes as much of the plan as can be made, and says everything that is wrong or worth knowing.
    pub fn draw(schema: &SchemaFile, source: &[Table]) -> (Plan, Vec<Problem>) {
        let (mut plan, mut problems) = (Plan::default(), Vec::new());
        for (name, entry) in &schema.tables {
            match source.iter().find(|table| table.name == *name) {
                Some(table) => plan.tables.extend(draw_table(schema, entry, table, &mut problems)),
                None => problems.push(Problem {
                    table: name.plain(),
                    column: None,
                    message: format!("table {name} does not exist at the source, or is not visible"),
                    remedy: Some("correct schema.json, or compare with: walcast schema diff".to_owned()),
                    is_fatal: true,
                }),
            }
        }
        (plan, problems)
    }

    /// Makes as much of the plan as can be made, in which every table keeps its place: one that does not fit the source has
    /// its [problem](PlannedTable::problem), and is what the sinks have of it.
    pub fn draw_all(schema: &SchemaFile, source: &[Table]) -> Plan {
        let planned = |(name, entry): (&TableName, &TableEntry)| {
            let mut problems = Vec::new();
            let table = source.iter().find(|table| table.name == *name);
            let drawn = table.and_then(|table| draw_table(schema, entry, table, &mut problems));
            let fatal: Vec<String> = problems
                .iter()
                .filter(|problem| problem.is_fatal)
                .map(|problem| match &problem.column {
                    Some(column) => format!("{column}: {}", problem.message),
                    None => problem.message.clone(),
                })
                .collect();
            drawn.unwrap_or_else(|| {
                let is_there = table.is_some();
                let why =
                    if is_there { fatal.join("; ") } else { "it does not exist at the source".to_owned() };
                PlannedTable::without_source(schema, name, entry, why)
            })
        };
        Plan { tables: schema.tables.iter().map(planned).collect() }
    }

    /// Whether both replicate the same rows in the same way; estimates aside.
    pub fn is_same(&self, other: &Plan) -> bool {
        let of = |table: &PlannedTable| PlannedTable { estimated_rows: 0, ..table.clone() };
        self.tables.iter().map(of).eq(other.tables.iter().map(of))
    }

    /// The index of the table that is replicated from `source`.
    pub fn find(&self, source: &TableName) -> Option<usize> {
        self.tables.iter().position(|table| table.source == *source)
    }

    /// The index of the table that people mean by this name: as messages show it, or as `schema.json` spells it.
    pub fn named(&self, name: &str) -> Option<usize> {
        let shown = self.tables.iter().position(|table| table.source.plain() == name);
        shown.or_else(|| self.find(&table_name(name).ok()?))
    }
}

impl PlannedTable {
    /// The table as the sinks have it, of which no row can be mapped.
    fn without_source(schema: &SchemaFile, name: &TableName, entry: &TableEntry, why: String) -> Self {
        let columns = entry.columns.iter().map(|(column, &column_type)| PlannedColumn {
            source: column.clone(),
            target: entry.target_column(column).to_owned(),
            column_type,
            type_oid: Oid(0),
            base_type_oid: Oid(0),
            conversion: Conversion::Verbatim,
        });
        let columns: Vec<PlannedColumn> = columns.collect();
        let position = |name: &String| columns.iter().position(|column| column.source == *name);
        PlannedTable {
            source: name.clone(),
            oid: Oid(0),
            is_partitioned: false,
            target: schema.target_name(name, entry),
            key: entry.primary_key.0.iter().filter_map(position).collect(),
            indexes: entry
                .indexes
                .iter()
                .map(|index| index.0.iter().filter_map(position).collect())
                .collect(),
            columns,
            soft_delete: entry.soft_delete.clone(),
            estimated_rows: -1,
            problem: Some(why),
        }
    }

    /// The table as FROM names it: without what inherits from it, but with its partitions.
    pub fn relation(&self) -> String {
        let only = if self.is_partitioned { "" } else { "ONLY " };
        format!("{only}{}", self.source)
    }

    /// The key's columns in key order.
    pub fn key_columns(&self) -> impl Iterator<Item = &PlannedColumn> {
        self.key.iter().map(|&index| &self.columns[index])
    }

    /// The key's cells, in key order, of one that is given as the source spells it. What has no form in the regions is
    /// NULL, which no row's key is.
    pub fn key_cells(&self, spelt: &[String], arena: &mut Vec<u8>) -> Vec<Cell> {
        let convert = |(column, text): (&PlannedColumn, &String)| {
            column.conversion.text(text.as_bytes(), arena).unwrap_or(Cell::Null)
        };
        self.key_columns().zip(spelt).map(convert).collect()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.column {
            Some(column) => write!(f, "{}.{column}: {}", self.table, self.message),
            None => write!(f, "{}: {}", self.table, self.message),
        }
    }
}

fn draw_table(
    schema: &SchemaFile,
    entry: &TableEntry,
    table: &Table,
    problems: &mut Vec<Problem>,
) -> Option<PlannedTable> {
    let found_before = problems.iter().filter(|problem| problem.is_fatal).count();
    let mut report = |column: Option<&str>, message: String, remedy: Option<String>, is_fatal| {
        let column = column.map(str::to_owned);
        problems.push(Problem { table: table.name.plain(), column, message, remedy, is_fatal });
    };

    let mut columns = Vec::with_capacity(entry.columns.len());
    for (name, &column_type) in &entry.columns {
        let Some(column) = table.column(name) else {
            report(Some(name), "no such column at the source".to_owned(), None, true);
            continue;
        };
        if !column.is_publishable {
            let message = "it is generated, and Postgres publishes such a column from 18 on, if it is STORED"
                .to_owned();
            let remedy =
                "take it out of schema.json, or make it a plain column that a trigger fills".to_owned();
            report(Some(name), message, Some(remedy), true);
            continue;
        }
        let conversion = match Conversion::choose(column.base_type_oid, column.element_type_oid, column_type)
        {
            Ok((conversion, Fidelity::Exact)) => conversion,
            Ok((conversion, Fidelity::Lossy(why))) => {
                let message = format!("{} as {}: {why}", column.type_name, column_type.as_str());
                report(Some(name), message, None, false);
                conversion
            }
            Err(unsupported) => {
                let message = format!("{} as {}: {unsupported}", column.type_name, column_type.as_str());
                report(Some(name), message, None, true);
                continue;
            }
        };
        if conversion.makes_alike() && entry.primary_key.0.contains(name) {
            let message = format!(
                "{} as {} in the primaryKey: rows with different keys could become one row",
                column.type_name,
                column_type.as_str()
            );
            report(Some(name), message, Some("give it the type TEXT in schema.json".to_owned()), true);
            continue;
        }
        columns.push(PlannedColumn {
            source: name.clone(),
            target: entry.target_column(name).to_owned(),
            column_type,
            type_oid: column.type_oid,
            base_type_oid: column.base_type_oid,
            conversion,
        });
    }

    // Updates and deletes must carry the key.
    let alter = |identity: &str| Some(format!("ALTER TABLE {} REPLICA IDENTITY {identity};", table.name));
    if table.replica_identity == ReplicaIdentity::Nothing || table.identity_columns.is_empty() {
        let message =
            "has no usable replica identity: once it is published, the application's own updates and \
                       deletes fail"
                .to_owned();
        let remedy = match (table.primary_key.is_empty(), table.replica_identity) {
            (false, _) => alter("DEFAULT"),
            (true, ReplicaIdentity::Full) => {
                let key = entry.primary_key.0.join(", ");
                Some(format!("ALTER TABLE {} ADD PRIMARY KEY ({key}), REPLICA IDENTITY DEFAULT;", table.name))
            }
            (true, _) => alter("FULL"),
        };
        report(None, message, remedy, true);
    } else if let Some(missing) =
        entry.primary_key.0.iter().find(|name| !table.identity_columns.contains(*name))
    {
        let message = format!(
            "primaryKey column {missing} is not in the replica identity ({}), so updates and deletes would not say \
             which row they mean",
            table.identity_columns.join(", "),
        );
        report(Some(missing), message, alter("FULL"), true);
    }
    if table.is_key_deferrable {
        let message =
            "has a deferrable primary key: rows that trade keys within a transaction would overwrite each \
                       other in a replica"
                .to_owned();
        let key = table.primary_key.join(", ");
        let remedy = format!("drop the constraint and ALTER TABLE {} ADD PRIMARY KEY ({key});", table.name);
        report(None, message, Some(remedy), true);
    }

    let position = |name: &String| columns.iter().position(|column| column.source == *name);
    let all_positions = |names: &[String]| names.iter().map(position).collect::<Option<Vec<_>>>();
    let planned_key = all_positions(&entry.primary_key.0);
    let indexes: Option<Vec<_>> = entry.indexes.iter().map(|columns| all_positions(&columns.0)).collect();
    if problems.iter().filter(|problem| problem.is_fatal).count() > found_before {
        return None;
    }
    Some(PlannedTable {
        source: table.name.clone(),
        oid: table.oid,
        is_partitioned: table.is_partitioned,
        target: schema.target_name(&table.name, entry),
        key: planned_key?,
        indexes: indexes?,
        columns,
        soft_delete: entry.soft_delete.clone(),
        estimated_rows: table.estimated_rows,
        problem: None,
    })
}

#[cfg(test)]
mod tests {
    use tokio_postgres::types::Type;

    use super::*;
    use crate::capture::table::Column;

    #[test]
    fn a_key_that_would_make_one_row_of_two_is_refused() {
        let planned = |source: &Type, target: &str| {
            let column = Column {
                name: "id".to_owned(),
                type_oid: Oid(source.oid()),
                base_type_oid: Oid(source.oid()),
                element_type_oid: None,
                type_name: source.name().to_owned(),
                is_not_null: true,
                is_generated: false,
                is_toastable: false,
            };
            let table = Table {
                oid: Oid(7),
                name: TableName { schema: "public".to_owned(), name: "t".to_owned() },
                columns: vec![column],
                primary_key: vec!["id".to_owned()],
                is_key_deferrable: false,
                replica_identity: ReplicaIdentity::Default,
                identity_columns: vec!["id".to_owned()],
                is_partitioned: false,
                has_row_security: false,
                estimated_rows: 0,
            };
            let schema = format!(r#"{{"t": {{"primaryKey": "id", "columns": {{"id": "{target}"}}}}}}"#);
            Plan::new(&SchemaFile::parse("schema.json", &schema).unwrap(), &[table])
        };
        for (source, target) in
            [(Type::TIMESTAMPTZ, "INTEGER"), (Type::TEXT, "INTEGER"), (Type::INT4, "BOOLEAN")]
        {
            let error = planned(&source, target).expect_err(target).to_string();
            assert!(error.contains("rows with different keys could become one row"), "{error}");
        }
        for (source, target) in [(Type::DATE, "INTEGER"), (Type::NUMERIC, "INTEGER"), (Type::UUID, "BLOB")] {
            planned(&source, target).unwrap();
        }
    }
}
