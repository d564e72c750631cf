//! Where a read starts and ends: keys, ranges of keys, and the conditions that select them. Keys are text that only the
//! server compares. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ChunkTable;
use crate::postgres::{quote_identifier, quote_literal};

/// A row's key: the text of each key column's value, in the order of the index. It is kept as JSON in the sinks, so
/// that a fill goes on where it was. `Debug` does not show it, because it is a row's values.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Vec<String>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key of {} values", self.0.len())
    }
}

/// Keys behind one key, up to and with another; without them from the first one, to the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// Not part of the range.
    pub after: Option<Key>,
    /// Part of the range.
    pub up_to: Option<Key>,
}

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The rows of a range, in order.
    Range(KeyRange),
    /// The rows that have these keys, as far as they are there; at least one key.
    Rows(Vec<Key>),
}

impl KeyRange {
    /// The ranges between these keys, which must be in order: one more than there are keys.
    pub fn between(keys: Vec<Key>) -> Vec<KeyRange> {
        let bounds: Vec<Option<Key>> = keys.into_iter().map(Some).collect();
        let after = std::iter::once(None).chain(bounds.iter().cloned());
        let up_to = bounds.iter().cloned().chain(std::iter::once(None));
        after.zip(up_to).map(|(after, up_to)| KeyRange { after, up_to }).collect()
    }
}

impl Selection {
    /// The condition in SQL beside the keys that it names; true for everything.
    pub(super) fn condition(&self, table: &ChunkTable) -> String {
        match self {
            Selection::Range(KeyRange { after, up_to }) => {
                let bound = |operator, key: &Option<Key>| {
                    key.as_ref()
                        .map(|key| format!("{} {operator} {}", row(table.order()), row(literals(table, key))))
                };
                let bounds: Vec<String> =
                    [bound(">", after), bound("<=", up_to)].into_iter().flatten().collect();
                if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") }
            }
            Selection::Rows(_) => "true".to_owned(),
        }
    }
}

/// The values as literals of the columns' types.
pub(super) fn literals(table: &ChunkTable, key: &Key) -> impl Iterator<Item = String> {
    table.key.iter().zip(&key.0).map(|(part, text)| format!("{}::{}", quote_literal(text), part.type_name))
}

/// A row constructor. One value stays a value: comparing rows of one column would be the same, but not as plain.
fn row(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.collect();
    if values.len() == 1 { values.concat() } else { format!("({})", values.join(", ")) }
}

impl ChunkTable {
    /// The key's columns, quoted, in the order of the index.
    pub(super) fn order(&self) -> impl Iterator<Item = String> {
        self.key.iter().map(|part| quote_identifier(&part.name))
    }
}
