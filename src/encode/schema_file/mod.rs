//! `schema.json`: which tables and columns are kept at the sinks, under which names, types and indexes. A text
//! enters; a checked [`SchemaFile`] or every mistake in it leaves, each with line, column and path. Nothing here
//! knows the source's catalog: that the tables exist and that their types fit is the plan's business.

mod check;
pub mod generate;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_with::DeserializeFromStr;

use crate::capture::table::TableName;
use crate::document::Document;
use crate::document::problems::{Problems, Step};
use crate::encode::column_type::ColumnType;
use crate::error::{Error, Result};

/// The whole of `schema.json`: tables by their source name, in the order of the file.
///
/// Every other key at the top is a source table, `table` or `schema.table`; without a schema, `public` is meant. A
/// part that contains a dot is put in double quotes.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema)]
#[schemars(title = "walcast schema.json")]
pub struct SchemaFile {
    /// The JSON Schema of this file, for editors. walcast does not read it.
    #[schemars(rename = "$schema")]
    pub editor_schema: Option<String>,
    /// The name at the sinks of every table that has no `target` of its own: `{table}` and `{schema}` stand for the
    /// source table's parts, as in `tmp_{schema}_{table}`. `{table}` where nothing else is said.
    #[schemars(rename = "targetTemplate")]
    pub target_template: Option<String>,
    /// The tables.
    #[schemars(flatten, with = "IndexMap<String, TableEntry>")]
    pub tables: IndexMap<TableName, TableEntry>,
}

/// One table that is kept at the sinks.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableEntry {
    /// The column, or the columns in order, that identify a row at the sinks.
    pub primary_key: OneOrMore,
    /// Source columns and their types at the sinks. Columns that are not named here are ignored.
    pub columns: IndexMap<String, ColumnType>,
    /// Further indexes at the sinks, by source columns: one column, or several for a composite index. The primary key
    /// always has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<OneOrMore>,
    /// The table's name at the sinks, in place of the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Source columns that have another name at the sinks.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub rename: IndexMap<String, String>,
    /// The name of an extra TEXT column at the sinks. A deleted row stays and gets the time of its deletion there
    /// (RFC 3339), instead of being removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_delete: Option<String>,
}

/// A column, or several in order. One is written as a string, more as an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(from = "Columns", into = "Columns")]
#[schemars(with = "Columns")]
pub struct OneOrMore(pub Vec<String>);

#[derive(Clone, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a column's name or an array of them")]
#[schemars(inline)]
enum Columns {
    /// One column.
    One(String),
    /// Several columns, in order.
    More(#[schemars(length(min = 1))] Vec<String>),
}

impl From<Columns> for OneOrMore {
    fn from(columns: Columns) -> Self {
        match columns {
            Columns::One(name) => OneOrMore(vec![name]),
            Columns::More(names) => OneOrMore(names),
        }
    }
}

impl From<OneOrMore> for Columns {
    fn from(OneOrMore(mut names): OneOrMore) -> Self {
        match names.len() {
            1 => Columns::One(names.remove(0)),
            _ => Columns::More(names),
        }
    }
}

impl SchemaFile {
    /// Parses and checks a text. `name` is what errors call the file.
    ///
    /// # Errors
    ///
    /// [`Kind::Config`](crate::error::Kind::Config), with every mistake on its own line: `schema.json:12:9: stripe_info.columns.trial_at: …`.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut problems = Problems::default();
        if let Some(mut document) = Document::json(name, text, &mut problems) {
            let keys = table_keys(&mut document, &mut problems);
            let file = document.read::<SchemaFile>(&mut problems).unwrap_or_default();
            if !file.tables.is_empty() || problems.is_empty() {
                file.check(&document, &keys, &mut problems);
            }
            problems.finish()?;
            return Ok(file);
        }
        problems.finish().and(Err(Error::bug("a schema.json that cannot be parsed has no problems")))
    }

    /// The canonical text, which [`SchemaFile::parse`] reads back to the same value. Ends with a line feed.
    pub fn to_json_pretty(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("strings and maps with string keys serialise");
        text.push('\n');
        text
    }

    /// The JSON Schema of `schema.json`, for editors. Ends with a line feed.
    pub fn json_schema() -> String {
        let schema = schemars::schema_for!(SchemaFile);
        let mut text = serde_json::to_string_pretty(&schema).expect("a JSON value serialises");
        text.push('\n');
        text
    }

    /// The table's name at the sinks: its own `target`, else the file's template, else its source name.
    pub fn target_name(&self, source: &TableName, entry: &TableEntry) -> String {
        match (&entry.target, &self.target_template) {
            (Some(target), _) => target.clone(),
            (None, Some(template)) => fill(template, source),
            (None, None) => source.name.clone(),
        }
    }
}

impl TableEntry {
    /// The name at the sinks of a source column.
    pub fn target_column<'a>(&'a self, source: &'a str) -> &'a str {
        self.rename.get(source).map_or(source, String::as_str)
    }

    /// Source name, target name and type of every column, in the order of the file, without the soft-delete column.
    pub fn target_columns(&self) -> impl Iterator<Item = (&str, &str, ColumnType)> {
        self.columns.iter().map(|(source, kind)| (source.as_str(), self.target_column(source), *kind))
    }
}

/// Fills a template in one pass, so that a table whose own name contains `{schema}` does no harm.
fn fill(template: &str, source: &TableName) -> String {
    let parts: Vec<String> =
        template.split("{table}").map(|part| part.replace("{schema}", &source.schema)).collect();
    parts.join(&source.name)
}

/// A key at the top of the file.
#[derive(DeserializeFromStr)]
enum TopKey {
    EditorSchema,
    TargetTemplate,
    Table(TableName),
}

impl FromStr for TopKey {
    type Err = String;

    fn from_str(key: &str) -> Result<Self, String> {
        match key {
            "$schema" => Ok(TopKey::EditorSchema),
            "targetTemplate" => Ok(TopKey::TargetTemplate),
            _ => Ok(TopKey::Table(table_name(key)?)),
        }
    }
}

/// Reads `table`, `schema.table` or either part between double quotes, in which a double quote is written twice.
///
/// # Errors
///
/// What is expected instead.
pub fn table_name(key: &str) -> Result<TableName, String> {
    let mistake = || "expected `table` or `schema.table`; put a part with a dot in double quotes".to_owned();
    let mut parts = Vec::new();
    let mut rest = key;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_part(quoted).ok_or_else(mistake)?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if part.is_empty() || part.contains('\0') {
            return Err(mistake());
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => break,
            None => return Err(mistake()),
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, name]) => Ok(TableName { schema, name }),
        Err(mut parts) if parts.len() == 1 => {
            Ok(TableName { schema: "public".to_owned(), name: parts.remove(0) })
        }
        Err(_) => Err(mistake()),
    }
}

/// Splits a quoted part, whose opening quote is gone, from what follows its closing quote.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                part.push('"');
                rest = next;
            }
            None => return Some((part, after)),
        }
    }
}

/// The shortest key that [`table_name`] reads as this table.
pub fn table_key(table: &TableName) -> String {
    let quote = |part: &str| match part.contains(['.', '"']) {
        true => format!("\"{}\"", part.replace('"', "\"\"")),
        false => part.to_owned(),
    };
    let is_reserved = matches!(table.name.as_str(), "$schema" | "targetTemplate");
    match table.schema == "public" && !is_reserved {
        true => quote(&table.name),
        false => format!("{}.{}", quote(&table.schema), quote(&table.name)),
    }
}

/// The key in the text of every table, so that problems are told at the place where they were written. Keys that name
/// no table, or one that is already there, are noted and taken out.
fn table_keys(document: &mut Document, problems: &mut Problems) -> HashMap<TableName, String> {
    let mut keys: HashMap<TableName, String> = HashMap::new();
    let written: Vec<String> = document.keys().map(str::to_owned).collect();
    for key in written {
        let path = [Step::from(key.as_str())];
        let message = match key.parse() {
            Ok(TopKey::EditorSchema | TopKey::TargetTemplate) => continue,
            Ok(TopKey::Table(table)) => match keys.get(&table) {
                Some(first) => format!("this is the same source table as \"{first}\""),
                None => {
                    keys.insert(table, key);
                    continue;
                }
            },
            Err(message) => message,
        };
        problems.add_key(document, &path, message);
        document.remove(&path);
    }
    keys
}

impl<'de> Deserialize<'de> for SchemaFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = SchemaFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SchemaFile, A::Error> {
        let mut file = SchemaFile::default();
        while let Some(key) = map.next_key()? {
            match key {
                TopKey::EditorSchema => file.editor_schema = map.next_value()?,
                TopKey::TargetTemplate => file.target_template = map.next_value()?,
                TopKey::Table(table) => {
                    file.tables.insert(table, map.next_value()?);
                }
            }
        }
        Ok(file)
    }
}

impl Serialize for SchemaFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(editor_schema) = &self.editor_schema {
            map.serialize_entry("$schema", editor_schema)?;
        }
        if let Some(template) = &self.target_template {
            map.serialize_entry("targetTemplate", template)?;
        }
        for (table, entry) in &self.tables {
            map.serialize_entry(&table_key(table), entry)?;
        }
        map.end()
    }
}
