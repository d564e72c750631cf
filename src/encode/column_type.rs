//! The column types that `schema.json` knows, and how SQLite declares them.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;
use serde_with::DeserializeFromStr;

/// A target column's type in `schema.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, DeserializeFromStr, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ColumnType {
    /// A 64-bit integer, exact. Timestamps and dates become unix seconds (floor).
    Integer,
    /// A 64-bit float.
    Real,
    /// Text. Timestamps become RFC 3339, in UTC for timestamptz; numeric keeps all its digits.
    Text,
    /// 0 or 1.
    Boolean,
    /// JSON text.
    Json,
    /// Bytes.
    Blob,
}

impl ColumnType {
    /// Every type.
    pub const ALL: [ColumnType; 6] = [
        ColumnType::Integer,
        ColumnType::Real,
        ColumnType::Text,
        ColumnType::Boolean,
        ColumnType::Json,
        ColumnType::Blob,
    ];

    /// The storage type of a `STRICT` SQLite table.
    pub fn sqlite(self) -> &'static str {
        match self {
            ColumnType::Integer | ColumnType::Boolean => "INTEGER",
            ColumnType::Real => "REAL",
            ColumnType::Text | ColumnType::Json => "TEXT",
            ColumnType::Blob => "BLOB",
        }
    }

    /// The name as `schema.json` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            ColumnType::Integer => "INTEGER",
            ColumnType::Real => "REAL",
            ColumnType::Text => "TEXT",
            ColumnType::Boolean => "BOOLEAN",
            ColumnType::Json => "JSON",
            ColumnType::Blob => "BLOB",
        }
    }
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ColumnType::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| {
            let known = ColumnType::ALL.map(ColumnType::as_str).join(", ");
            format!("unknown type {text:?}, expected one of {known}")
        })
    }
}
