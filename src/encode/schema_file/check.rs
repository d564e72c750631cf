//! What `schema.json` must satisfy beyond its shape. Every broken rule is noted where it was written, none stops the
//! check.

use std::collections::{HashMap, HashSet};

use crate::capture::table::TableName;
use crate::document::Document;
use crate::document::problems::{Path, Problems, steps};
use crate::encode::column_type::ColumnType;

use super::{SchemaFile, TableEntry, fill};

/// D1's limit of columns in a table.
pub(super) const COLUMNS_MAX: usize = 100;

/// Beginnings of table names that walcast, SQLite and D1 keep for themselves.
pub(super) const RESERVED_PREFIXES: [&str; 3] = ["_walcast_", "sqlite_", "_cf_"];

impl SchemaFile {
    /// Notes every broken rule. `keys` says how the text writes each table's name.
    pub(super) fn check(
        &self,
        document: &Document,
        keys: &HashMap<TableName, String>,
        problems: &mut Problems,
    ) {
        let mut checker = Checker { document, problems };
        if self.tables.is_empty() {
            checker.note(steps![], "there is no table in it");
        }
        if let Some(template) = &self.target_template {
            checker.template(template);
        }
        let mut targets: HashMap<String, &str> = HashMap::new();
        for (table, entry) in &self.tables {
            let Some(key) = keys.get(table) else { continue };
            let target = self.target_name(table, entry);
            let at =
                if entry.target.is_some() { steps![key.as_str(), "target"] } else { steps![key.as_str()] };
            checker.target(at.clone(), &target);
            if let Some(first) = targets.insert(fold(&target), key) {
                let message = format!("the target table {target:?} is already that of \"{first}\"");
                checker.note(at, message);
            }
            checker.table(key, entry);
        }
    }
}

/// Names as SQLite compares them: only ASCII letters fold.
pub(super) fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

struct Checker<'a> {
    document: &'a Document,
    problems: &'a mut Problems,
}

impl Checker<'_> {
    fn note(&mut self, path: Path, message: impl std::fmt::Display) {
        self.problems.add(self.document, &path, message);
    }

    fn template(&mut self, template: &str) {
        let bare = TableName { schema: String::new(), name: String::new() };
        if fill(template, &bare).contains(['{', '}']) {
            self.note(steps!["targetTemplate"], "only {table} and {schema} may stand between braces");
        } else if !template.contains("{table}") {
            self.note(
                steps!["targetTemplate"],
                "it must contain {table}, or all tables would share one name",
            );
        }
    }

    fn identifier(&mut self, at: Path, name: &str) {
        if name.is_empty() {
            self.note(at, "a name must not be empty");
        } else if name.contains('\0') {
            self.note(at, "a name must not contain a NUL character");
        }
    }

    fn target(&mut self, at: Path, target: &str) {
        self.identifier(at.clone(), target);
        let folded = fold(target);
        if let Some(prefix) = RESERVED_PREFIXES.iter().find(|prefix| folded.starts_with(**prefix)) {
            self.note(at, format!("the target table {target:?} begins with \"{prefix}\", which is reserved"));
        }
    }

    fn table(&mut self, key: &str, entry: &TableEntry) {
        self.columns(key, entry);
        self.primary_key(key, entry);
        self.indexes(key, entry);
        self.target_columns(key, entry);
    }

    fn columns(&mut self, key: &str, entry: &TableEntry) {
        if entry.columns.is_empty() {
            self.note(steps![key, "columns"], "there is no column in it");
        }
        let count = entry.columns.len() + usize::from(entry.soft_delete.is_some());
        if count > COLUMNS_MAX {
            let message = format!("{count} columns, but D1 takes at most {COLUMNS_MAX} in a table");
            self.note(steps![key, "columns"], message);
        }
        for name in entry.columns.keys() {
            self.identifier(steps![key, "columns", name.as_str()], name);
        }
    }

    fn primary_key(&mut self, key: &str, entry: &TableEntry) {
        let at = steps![key, "primaryKey"];
        self.column_list(at.clone(), entry, &entry.primary_key.0);
        for name in &entry.primary_key.0 {
            if entry.columns.get(name) == Some(&ColumnType::Real) {
                let message = format!("the column {name:?} is REAL, which cannot identify a row");
                self.note(at.clone(), message);
            }
        }
    }

    fn indexes(&mut self, key: &str, entry: &TableEntry) {
        let mut seen = HashSet::new();
        for (number, index) in entry.indexes.iter().enumerate() {
            let at = steps![key, "indexes", number];
            self.column_list(at.clone(), entry, &index.0);
            if !seen.insert(&index.0) {
                self.note(at, "this index is here twice");
            }
        }
    }

    /// A primary key's or an index's columns: some, each once, all of them replicated.
    fn column_list(&mut self, at: Path, entry: &TableEntry, names: &[String]) {
        if names.is_empty() {
            self.note(at.clone(), "there is no column in it");
        }
        let mut seen = HashSet::new();
        for name in names {
            if !seen.insert(name) {
                self.note(at.clone(), format!("the column {name:?} is here twice"));
            }
            self.known_column(at.clone(), entry, name);
        }
    }

    fn known_column(&mut self, at: Path, entry: &TableEntry, name: &str) {
        // An entry whose columns are wrong has that problem already.
        let mut columns = at[..1].to_vec();
        columns.push("columns".into());
        if !entry.columns.contains_key(name) && !self.problems.has_removed(&columns) {
            self.note(at, format!("the column {name:?} is not among the table's columns"));
        }
    }

    fn target_columns(&mut self, key: &str, entry: &TableEntry) {
        for (source, target) in &entry.rename {
            let at = steps![key, "rename", source.as_str()];
            self.known_column(at.clone(), entry, source);
            self.identifier(at, target);
        }
        let mut targets: HashMap<String, &str> = HashMap::new();
        for (source, target, _) in entry.target_columns() {
            if let Some(first) = targets.insert(fold(target), source) {
                let place = if entry.rename.contains_key(source) { "rename" } else { "columns" };
                let message =
                    format!("the target column {target:?} is already that of {first:?}; SQLite ignores case");
                self.note(steps![key, place, source], message);
            }
        }
        if let Some(name) = &entry.soft_delete {
            let at = steps![key, "softDelete"];
            self.identifier(at.clone(), name);
            if let Some(source) = targets.get(&fold(name)) {
                self.note(at, format!("the target column {name:?} is already that of {source:?}"));
            }
        }
    }
}
