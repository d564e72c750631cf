//! A `schema.json` from the catalog: every table that can be kept at a sink, with the types that keep most. What cannot
//! be kept is left out and said. The result parses, and fits the source it was made from.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::check::{COLUMNS_MAX, RESERVED_PREFIXES, fold};
use super::{OneOrMore, SchemaFile, TableEntry};
use crate::capture::table::{Column, Index, ReplicaIdentity, Table};
use crate::encode::column_type::ColumnType;
use crate::encode::value::natural_type;

/// A new `schema.json`, and what is not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generated {
    /// The file; it may have no table.
    pub file: SchemaFile,
    /// What was left out or named differently, one sentence each.
    pub notes: Vec<String>,
}

/// Maps the tables with everything that a sink can hold of them. `indexes` are theirs, without the primary keys.
pub fn generate(tables: &[Table], indexes: &[Index]) -> Generated {
    let mut generator = Generator::default();
    // A name that two schemas share stays with public's table.
    let (public, others): (Vec<&Table>, Vec<&Table>) =
        tables.iter().partition(|table| table.name.schema == "public");
    for table in public.into_iter().chain(others) {
        generator.table(table, indexes);
    }
    generator.generated
}

#[derive(Default)]
struct Generator {
    generated: Generated,
    /// The tables and indexes at the sinks, which share one name space there.
    taken: HashSet<String>,
}

impl Generator {
    fn note(&mut self, table: &Table, note: impl std::fmt::Display) {
        self.generated.notes.push(format!("{}: {note}", table.name.plain()));
    }

    fn table(&mut self, table: &Table, indexes: &[Index]) {
        let primary_key = match usable_key(table) {
            Ok(key) => key.to_vec(),
            Err(why) => return self.note(table, format!("left out, because {why}")),
        };
        let columns = self.columns(table, &primary_key);
        let mut entry = TableEntry { primary_key: OneOrMore(primary_key), ..TableEntry::default() };
        self.rename(table, &columns, &mut entry);
        entry.columns = columns;
        let target = self.target(table);
        entry.indexes = self.indexes(table, &target, &entry, indexes);
        entry.target = (target != table.name.name).then_some(target);
        self.generated.file.tables.insert(table.name.clone(), entry);
    }

    /// The columns that can be kept, the key's in any case.
    fn columns(&mut self, table: &Table, key: &[String]) -> IndexMap<String, ColumnType> {
        let mut columns = IndexMap::new();
        let mut room = COLUMNS_MAX - key.len();
        let mut beyond = Vec::new();
        for column in table.columns.iter().filter(|column| column.is_publishable) {
            let is_key = key.contains(&column.name);
            if !is_key && room == 0 {
                beyond.push(column.name.as_str());
                continue;
            }
            room -= usize::from(!is_key);
            columns.insert(column.name.clone(), column_type(column, is_key));
        }
        if !beyond.is_empty() {
            let left_out = beyond.join(", ");
            self.note(table, format!("a table has at most {COLUMNS_MAX} columns, left out are {left_out}"));
        }
        let generated: Vec<&str> = table
            .columns
            .iter()
            .filter(|column| !column.is_publishable)
            .map(|column| column.name.as_str())
            .collect();
        if !generated.is_empty() {
            self.note(
                table,
                format!("columns left out, because they are generated: {}", generated.join(", ")),
            );
        }
        columns
    }

    /// Columns that only case tells apart get names of their own: SQLite ignores case.
    fn rename(&mut self, table: &Table, columns: &IndexMap<String, ColumnType>, entry: &mut TableEntry) {
        let every_name: HashSet<String> = columns.keys().map(|name| fold(name)).collect();
        let mut seen = HashSet::new();
        for name in columns.keys().filter(|name| !seen.insert(fold(name))) {
            let target = free_name(name, |candidate| {
                every_name.contains(candidate) || entry.rename.values().any(|other| fold(other) == candidate)
            });
            self.note(table, format!("column {name} is called {target}, because SQLite ignores case"));
            entry.rename.insert(name.clone(), target);
        }
    }

    /// The table's name at the sinks: its own, unless that is taken or reserved there.
    fn target(&mut self, table: &Table) -> String {
        let own = &table.name.name;
        let is_reserved = |name: &str| RESERVED_PREFIXES.iter().any(|prefix| fold(name).starts_with(prefix));
        let target = if is_reserved(own) || self.taken.contains(&fold(own)) {
            let mut with_schema = format!("{}_{own}", table.name.schema);
            if is_reserved(&with_schema) {
                with_schema.insert_str(0, "source_");
            }
            let target = match self.taken.contains(&fold(&with_schema)) {
                true => free_name(&with_schema, |candidate| self.taken.contains(candidate)),
                false => with_schema,
            };
            self.note(table, format!("called {target} at the sinks, because {own} is taken there"));
            target
        } else {
            own.clone()
        };
        self.taken.insert(fold(&target));
        target
    }

    /// The source's indexes that the mapped columns allow. Each index gets its name from its columns, so one whose name
    /// another has already is left out.
    fn indexes(
        &mut self,
        table: &Table,
        target: &str,
        entry: &TableEntry,
        indexes: &[Index],
    ) -> Vec<OneOrMore> {
        let mut kept = Vec::new();
        for index in indexes.iter().filter(|index| index.table == table.oid) {
            let distinct: HashSet<&String> = index.columns.iter().collect();
            let is_possible = index.columns != entry.primary_key.0
                && !index.columns.is_empty()
                && distinct.len() == index.columns.len()
                && index.columns.iter().all(|name| entry.columns.contains_key(name));
            let columns: Vec<&str> = index.columns.iter().map(|name| entry.target_column(name)).collect();
            if is_possible && self.taken.insert(fold(&format!("idx_{target}_{}", columns.join("_")))) {
                kept.push(OneOrMore(index.columns.clone()));
            }
        }
        kept
    }
}

/// The columns that identify a row and that every update and delete carries.
fn usable_key(table: &Table) -> Result<&[String], String> {
    let is_carried = |key: &[String]| key.iter().all(|name| table.identity_columns.contains(name));
    let key = if !table.primary_key.is_empty() && is_carried(&table.primary_key) {
        &table.primary_key
    } else if table.replica_identity == ReplicaIdentity::Index && !table.identity_columns.is_empty() {
        &table.identity_columns
    } else if table.primary_key.is_empty() {
        return Err("it has no primary key; ALTER TABLE … ADD PRIMARY KEY (…);".to_owned());
    } else {
        let name = &table.name;
        return Err(format!(
            "its replica identity does not carry its primary key; ALTER TABLE {name} REPLICA IDENTITY DEFAULT;"
        ));
    };
    match key.iter().find(|name| table.column(name).is_none_or(|column| !column.is_publishable)) {
        Some(generated) => Err(format!("the column {generated} of its key is generated")),
        None if key.len() > COLUMNS_MAX => Err("its key has too many columns".to_owned()),
        None => Ok(key),
    }
}

/// A float is no key at a sink; its text has the same digits.
fn column_type(column: &Column, is_key: bool) -> ColumnType {
    match natural_type(column.base_type_oid, column.element_type_oid) {
        ColumnType::Real if is_key => ColumnType::Text,
        natural => natural,
    }
}

/// The name with the first number behind it that is free.
fn free_name(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    (2..)
        .map(|number| format!("{name}_{number}"))
        .find(|candidate| !is_taken(&fold(candidate)))
        .expect("there are more numbers than names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::table::{Oid, TableName};
    use crate::encode::plan::Plan;

    fn column(name: &str, oid: u32) -> Column {
        Column {
            name: name.into(),
            type_oid: Oid(oid),
            base_type_oid: Oid(oid),
            element_type_oid: None,
            type_name: String::new(),
            is_not_null: false,
            is_generated: false,
            is_publishable: true,
            is_toastable: false,
        }
    }

    fn table(schema: &str, name: &str, oid: u32, columns: Vec<Column>, key: &[&str]) -> Table {
        let key: Vec<String> = key.iter().map(|&name| name.to_owned()).collect();
        Table {
            oid: Oid(oid),
            name: TableName { schema: schema.into(), name: name.into() },
            columns,
            primary_key: key.clone(),
            is_key_deferrable: false,
            replica_identity: ReplicaIdentity::Default,
            identity_columns: key,
            is_partitioned: false,
            has_row_security: false,
            estimated_rows: -1,
        }
    }

    /// The file as it is read back, which it must be, and must fit.
    fn round_trip(tables: &[Table], indexes: &[Index]) -> Generated {
        let generated = generate(tables, indexes);
        let read = SchemaFile::parse("schema.json", &generated.file.to_json_pretty()).unwrap();
        assert_eq!(read, generated.file);
        Plan::new(&read, tables).unwrap();
        generated
    }

    #[test]
    fn every_type_gets_the_target_that_keeps_most() {
        use ColumnType::*;
        let types = [
            (21, Integer),
            (23, Integer),
            (20, Integer),
            (26, Integer),
            (16, Boolean),
            (700, Real),
            (701, Real),
            (1700, Text),
            (114, Json),
            (3802, Json),
            (1009, Json),
            (17, Blob),
            (1184, Text),
            (1082, Text),
            (2950, Text),
            (25, Text),
            (600, Text),
            (90_000, Text),
        ];
        let columns = types.iter().map(|(oid, _)| column(&format!("c{oid}"), *oid)).collect();
        let generated = round_trip(&[table("public", "t", 1, columns, &["c23", "c701"])], &[]);
        for (oid, expected) in types {
            let expected = if oid == 701 { Text } else { expected };
            assert_eq!(generated.file.tables[0].columns[&format!("c{oid}")], expected, "{oid}");
        }
        assert!(generated.notes.is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_left_out_and_said() {
        let id = || column("id", 23);
        let keyless = table("public", "keyless", 1, vec![id()], &[]);
        let mut nothing = table("public", "nothing", 2, vec![id()], &["id"]);
        nothing.replica_identity = ReplicaIdentity::Nothing;
        nothing.identity_columns.clear();
        let mut by_index = table("public", "by_index", 3, vec![id(), column("code", 25)], &[]);
        by_index.replica_identity = ReplicaIdentity::Index;
        by_index.identity_columns = vec!["code".into()];
        let mut generated = table("public", "generated", 4, vec![id(), column("total", 23)], &["id"]);
        (generated.columns[1].is_generated, generated.columns[1].is_publishable) = (true, false);
        let wide = std::iter::once(id()).chain((0..150).map(|number| column(&format!("c{number}"), 23)));
        let mut wide: Vec<Column> = wide.collect();
        wide.rotate_left(1);
        let wide = table("public", "wide", 5, wide, &["id"]);

        let made = round_trip(&[keyless, nothing, by_index, generated, wide], &[]);
        let names: Vec<&str> = made.file.tables.keys().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["by_index", "generated", "wide"]);
        assert_eq!(made.file.tables[0].primary_key.0, ["code"]);
        assert_eq!(made.file.tables[1].columns.len(), 1);
        assert_eq!(made.file.tables[2].columns.len(), 100);
        for (note, expected) in made.notes.iter().zip([
            "keyless: left out, because it has no primary key",
            "nothing: left out, because its replica identity does not carry",
            "generated: columns left out, because they are generated: total",
            "wide: a table has at most 100 columns, left out are c99, c100",
        ]) {
            assert!(note.starts_with(expected), "{note}");
        }
        assert_eq!(made.notes.len(), 4);
    }

    #[test]
    fn names_that_collide_at_the_sinks_are_told_apart() {
        let columns = || vec![column("id", 23), column("Id", 23), column("id_2", 23)];
        let tables = [
            table("audit", "users", 1, columns(), &["id"]),
            table("public", "users", 2, columns(), &["id"]),
            table("public", "sqlite_stats", 3, columns(), &["id"]),
        ];
        let index = |table, columns: &[&str]| Index {
            table: Oid(table),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
        };
        let indexes = [index(2, &["Id"]), index(2, &["Id"]), index(2, &["id"]), index(2, &["Id", "gone"])];
        let made = round_trip(&tables, &indexes);
        let entry = |number: usize| &made.file.tables[number];
        assert_eq!(entry(0).target, None);
        assert_eq!(entry(1).target.as_deref(), Some("public_sqlite_stats"));
        assert_eq!(entry(2).target.as_deref(), Some("audit_users"));
        assert_eq!(entry(0).rename["Id"], "Id_3");
        assert_eq!(entry(0).indexes, [OneOrMore(vec!["Id".into()])]);
    }
}
