//! A table as it can be read in chunks: by which index, in which order, with which statement.

use tokio_postgres::Client;

use super::key::{Key, Selection, literals};
use crate::capture::copy_text::CopyRow;
use crate::capture::query::{field, fill, rows};
use crate::capture::table::{Oid, TableName};
use crate::error::{Error, Result};
use crate::postgres::{quote_identifier, quote_literal};

/// What is to be read of which table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSource {
    /// The table's OID: another table under its name is refused.
    pub oid: Oid,
    /// Schema and name.
    pub name: TableName,
    /// It is a partition root; then its partitions are read, and else nothing that inherits from it.
    pub is_partitioned: bool,
    /// The columns to read, in the order in which every row has them.
    pub columns: Vec<String>,
    /// Indexes into `columns`: the key.
    pub key: Vec<usize>,
    /// A further condition on the rows, in SQL, from the operator; `None` for all rows.
    pub filter: Option<String>,
}

/// A table with the index that it is read by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable {
    pub(super) source: ChunkSource,
    /// In the order of the index.
    pub(super) key: Vec<KeyPart>,
    /// Pages of the table when it was looked at.
    pub(super) pages: u64,
    /// `SET LOCAL search_path …`, where the key's operators would not be found without it; else nothing.
    search_path: String,
    /// Which rows the publication publishes, in SQL; `None` for all.
    published: Option<String>,
}

/// One column of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPart {
    pub(super) name: String,
    /// Its type below all domains, quoted and with its schema.
    pub(super) type_name: String,
    /// Its place in every row.
    column: usize,
    /// Its place in [`ChunkSource::key`].
    place: usize,
}

impl ChunkTable {
    /// Looks up the index by which the table can be read.
    ///
    /// # Errors
    ///
    /// A configuration error with the statement that helps, where there is none: each chunk would then sort the whole
    /// table, and one long read would hold a snapshot open for hours. Transient when the connection fails.
    pub async fn inspect(client: &Client, source: ChunkSource) -> Result<ChunkTable> {
        let names: Vec<&str> = source.key.iter().map(|&column| source.columns[column].as_str()).collect();
        let doing = format!("looking up the key's index of table {}", source.name);
        let found =
            rows(client, include_str!("../../../sql/chunk_key.sql"), &[&source.oid.0, &names], &doing)
                .await?;
        let Some(first) = found.first() else {
            let columns = names.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ");
            return Err(Error::config(format!(
                "table {} cannot be filled in chunks: it has no unique index on ({columns}) over all rows, with its \
                 columns NOT NULL and in the usual order",
                source.name
            ))
            .hint(format!("CREATE UNIQUE INDEX CONCURRENTLY ON {} ({columns}); then start again", source.name)));
        };
        let pages: Option<i64> = field(first, "pages")?;
        let (mut key, mut schemas) = (Vec::with_capacity(found.len()), Vec::new());
        for row in &found {
            let name: String = field(row, "name")?;
            let place = names
                .iter()
                .position(|known| *known == name)
                .ok_or_else(|| Error::bug("sql/chunk_key.sql returned another column"))?;
            schemas.extend(field::<Option<String>>(row, "operator_schema")?);
            key.push(KeyPart { name, type_name: field(row, "type")?, column: source.key[place], place });
        }
        schemas.dedup();
        let search_path = match schemas.is_empty() {
            true => String::new(),
            // Behind what is on it, so that the text of no value changes.
            false => {
                let schemas =
                    schemas.iter().map(|schema| quote_identifier(schema)).collect::<Vec<_>>().join(", ");
                format!(
                    "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), {}), \
                     true);",
                    quote_literal(&schemas)
                )
            }
        };
        let pages = pages.unwrap_or_default().max(0).cast_unsigned();
        Ok(ChunkTable { source, key, pages, search_path, published: None })
    }

    /// The same, of which only rows that meet this condition are read: those that the publication publishes.
    #[must_use]
    pub fn published_by(self, row_filter: Option<String>) -> Self {
        ChunkTable { published: row_filter, ..self }
    }

    /// What is read of which table.
    pub fn source(&self) -> &ChunkSource {
        &self.source
    }

    /// The key's columns in the order of the index, which is the order of every [`Key`]. A key that was kept under
    /// another order means nothing.
    pub fn key_columns(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|part| part.name.as_str())
    }

    /// The key of a row whose key values, as text, are given in the order of [`ChunkSource::key`].
    pub fn key_from(&self, values: &[String]) -> Key {
        Key(self.key.iter().map(|part| values[part.place].clone()).collect())
    }

    /// The key of a row that was read.
    ///
    /// # Errors
    ///
    /// Halts where a value is not UTF-8 (a database with encoding SQL_ASCII): such a bound cannot be sent back.
    pub(super) fn key_of(&self, row: CopyRow<'_>) -> Result<Key> {
        let mut scratch = Vec::new();
        let mut values = Vec::with_capacity(self.key.len());
        for part in &self.key {
            let value = row.fields().nth(part.column).and_then(|field| {
                let text = field.text(&mut scratch)?;
                Some(String::from_utf8(text.to_vec()))
            });
            match value {
                Some(Ok(value)) => values.push(value),
                Some(Err(_)) => {
                    return Err(Error::halt(format!(
                        "key column {} holds a value that is not UTF-8",
                        part.name
                    )));
                }
                None => {
                    return Err(Error::bug(format!("key column {} is not in the row, or NULL", part.name)));
                }
            }
        }
        Ok(Key(values))
    }

    /// The table as FROM and LOCK TABLE name it.
    pub(super) fn relation(&self) -> String {
        let only = if self.source.is_partitioned { "" } else { "ONLY " };
        format!("{only}{}", self.source.name)
    }

    pub(super) fn search_path(&self) -> &str {
        &self.search_path
    }

    /// The statement that reads the first `rows_max` rows of a range, or all rows of a list of keys.
    pub fn copy(&self, selection: &Selection, rows_max: usize) -> String {
        let columns: Vec<String> = self.source.columns.iter().map(|name| quote_identifier(name)).collect();
        let mut condition = selection.condition(self);
        if let Some(filter) = &self.source.filter {
            // On a line of its own, so that a comment at its end ends there.
            condition = format!("{condition} AND (\n{filter}\n)");
        }
        let published = self.published.as_ref().map_or("true".to_owned(), |filter| format!("({filter})"));
        if self.published.is_some() {
            condition = format!("{condition} AND {published}");
        }
        // Whoever asks for a row by its key wants to know whether it is there.
        if let Selection::Rows(keys) = selection {
            let row = |key: &Key| format!("({})", literals(self, key).collect::<Vec<_>>().join(", "));
            return fill(
                include_str!("../../../sql/chunk_keys.sql"),
                &[
                    ("columns", &columns.join(", ")),
                    ("table", &self.relation()),
                    ("keys", &keys.iter().map(row).collect::<Vec<_>>().join(", ")),
                    ("key", &self.order().collect::<Vec<_>>().join(", ")),
                    ("where", &published),
                ],
            );
        }
        fill(
            include_str!("../../../sql/chunk_rows.sql"),
            &[
                ("columns", &columns.join(", ")),
                ("table", &self.relation()),
                ("where", &condition),
                ("order", &self.order().collect::<Vec<_>>().join(", ")),
                ("rows", &rows_max.to_string()),
            ],
        )
    }
}
