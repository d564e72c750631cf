//! The replicated tables in SQLite's dialect, which is also D1's: the DDL that makes them, and the names in it.

use crate::encode::column_type::ColumnType;
use crate::encode::plan::PlannedTable;
use crate::postgres::quote_identifier as quote;

/// What stands in front of the name of a table that is built beside another one, to take its place.
pub const BESIDE: &str = "_walcast_new_";

/// The DDL of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `CREATE TABLE`, without a semicolon.
    pub table: String,
    /// `CREATE INDEX` for each further index, without a semicolon.
    pub indexes: Vec<String>,
}

impl Definition {
    /// The DDL of a planned table: `STRICT`, and `WITHOUT ROWID` where that saves a write. Never with a foreign key,
    /// since a replica may lack what it refers to.
    pub fn of(table: &PlannedTable) -> Self {
        let mut lines: Vec<String> = table
            .columns
            .iter()
            .map(|column| format!("  {} {}", quote(&column.target), column.column_type.sqlite()))
            .collect();
        if let Some(column) = &table.soft_delete {
            // The default changes nothing; it is what tells the column from others when the table is read back.
            lines.push(format!("  {} TEXT DEFAULT NULL", quote(column)));
        }
        let key: Vec<String> = table.key_columns().map(|column| quote(&column.target)).collect();
        lines.push(format!("  PRIMARY KEY ({})", key.join(", ")));

        // One integer key is the rowid itself; any other key would be stored twice in a rowid table.
        let has_rowid = match &table.key[..] {
            [only] => table.columns[*only].column_type == ColumnType::Integer,
            _ => false,
        };
        let options = if has_rowid { "STRICT" } else { "STRICT, WITHOUT ROWID" };
        let indexes = table.indexes.iter().map(|index| {
            let columns: Vec<String> =
                index.iter().map(|&column| quote(&table.columns[column].target)).collect();
            let name = index_name(table, index);
            format!("CREATE INDEX {} ON {} ({})", quote(&name), quote(&table.target), columns.join(", "))
        });
        Definition {
            table: format!("CREATE TABLE {} (\n{}\n) {options}", quote(&table.target), lines.join(",\n")),
            indexes: indexes.collect(),
        }
    }

    /// All statements.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.table).chain(&self.indexes).map(String::as_str)
    }

    /// The whole DDL as one text, as `_walcast_tables` keeps it and a later start compares it.
    pub fn text(&self) -> String {
        let statements: Vec<String> = self.statements().map(|statement| format!("{statement};")).collect();
        statements.join("\n")
    }
}

/// The name of a further index, by the columns that it has.
pub fn index_name(table: &PlannedTable, index: &[usize]) -> String {
    let names: Vec<&str> = index.iter().map(|&column| table.columns[column].target.as_str()).collect();
    format!("idx_{}_{}", table.target, names.join("_"))
}

/// The table that is built beside this one. Its indexes are made when it takes the place.
pub fn beside(table: &PlannedTable) -> PlannedTable {
    PlannedTable { target: format!("{BESIDE}{}", table.target), indexes: Vec::new(), ..table.clone() }
}
