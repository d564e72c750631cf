//! Plain descriptions of source tables, as the catalog states them. No behaviour beyond look-ups: `decode` and
//! `encode` share these types, so nothing here may touch a socket.

use std::collections::HashMap;
use std::fmt;

/// An object identifier of the source server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(pub u32);

/// A map by OID, for the look-ups that every change needs: the default hasher costs more than the look-up.
pub type OidMap<V> = HashMap<Oid, V, foldhash::fast::RandomState>;

/// A table's schema and name at the source. `Display` quotes both parts as SQL identifiers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema (namespace).
    pub schema: String,
    /// The table's own name.
    pub name: String,
}

impl TableName {
    /// The name as people write it: without quotes, and without the schema where that is `public`.
    pub fn plain(&self) -> String {
        if self.schema == "public" { self.name.clone() } else { format!("{}.{}", self.schema, self.name) }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
        write!(f, "{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// Which old values an UPDATE or DELETE carries (`pg_class.relreplident`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing; updates and deletes of a published table fail at the source.
    Nothing,
    /// `f`: the whole old row.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// One column as `pg_attribute` states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The declared type.
    pub type_oid: Oid,
    /// The type below all domains; equal to `type_oid` for a type that is no domain.
    pub base_type_oid: Oid,
    /// The element type below all domains where the base type is an array.
    pub element_type_oid: Option<Oid>,
    /// `format_type(…)`, for messages.
    pub type_name: String,
    /// `NOT NULL`, also through a primary key.
    pub is_not_null: bool,
    /// `GENERATED ALWAYS AS (…)`.
    pub is_generated: bool,
    /// Whether the stream can carry it: not if it is generated, unless it is `STORED` and the server's version is 18 or
    /// newer.
    pub is_publishable: bool,
    /// Values may be stored out of line, so that updates may carry them as "unchanged".
    pub is_toastable: bool,
}

/// An index at the source that a replica may want too: btree, on plain columns, without a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The table it is on.
    pub table: Oid,
    /// Its columns in order.
    pub columns: Vec<String>,
}

/// One table (or partition root) as the catalog states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The relation's OID, which the stream's Relation message repeats.
    pub oid: Oid,
    /// Schema and name.
    pub name: TableName,
    /// Live columns in `attnum` order.
    pub columns: Vec<Column>,
    /// The primary key's columns in key order; empty without one.
    pub primary_key: Vec<String>,
    /// The primary key is `DEFERRABLE`: two rows may share it until the transaction's end.
    pub is_key_deferrable: bool,
    /// The replica identity in force.
    pub replica_identity: ReplicaIdentity,
    /// The columns that the replica identity carries, in table order; empty for `Nothing`, and for every other one with
    /// which the server rejects UPDATE and DELETE once the table is published.
    pub identity_columns: Vec<String>,
    /// Whether it is a partition root (`relkind = 'p'`).
    pub is_partitioned: bool,
    /// Row security is enabled on it.
    pub has_row_security: bool,
    /// The planner's estimate of its rows; -1 when it was never analysed.
    pub estimated_rows: i64,
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}
