//! The source as its catalog states it: the server ([`read_server`]) and its tables ([`read_tables`],
//! [`all_tables`]). Names go in, the plain types of [`table`](super::table) come out. Nothing here changes anything
//! at the source, and nothing judges what it reads: `walcast check` and the plan do.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwire_replication::Lsn;
use serde::Deserialize;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use super::query::{field, rows};
use super::table::{Column, Index, Oid, ReplicaIdentity, Table, TableName};
use crate::error::{Error, Kind, Result};

/// The oldest server walcast works with: logical messages in pgoutput exist from 14.
pub const OLDEST_VERSION: ServerVersion = ServerVersion(140_000);

/// A server's version as `server_version_num` states it: 150018 is 15.18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The major version: 15 for 15.18.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// Publications may name columns and filter rows (15).
    pub fn has_column_lists(self) -> bool {
        self.major() >= 15
    }

    /// Generated columns may be virtual, and those that are stored may be published (18).
    pub fn has_virtual_columns(self) -> bool {
        self.major() >= 18
    }

    /// Slots may be synchronised to standbys (17).
    pub fn has_failover_slots(self) -> bool {
        self.major() >= 17
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

/// The source server: identity, position, and the settings that logical replication lives by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The version.
    pub version: ServerVersion,
    /// The cluster's identifier, the same on a primary and its standbys and on nothing else.
    pub system_identifier: u64,
    /// The timeline; every promotion begins a new one.
    pub timeline: u32,
    /// The database this session is in.
    pub database: String,
    /// Whether it is a standby.
    pub is_in_recovery: bool,
    /// The WAL's write position; on a standby, what it has replayed.
    pub current_wal_lsn: Lsn,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub slots_max: u32,
    /// Slots that exist.
    pub slots_used: u32,
    /// `max_wal_senders`.
    pub senders_max: u32,
    /// WAL senders that run.
    pub senders_used: u32,
    /// `max_slot_wal_keep_size`; `None` for no limit.
    pub max_slot_wal_keep_bytes: Option<u64>,
    /// `wal_keep_size`.
    pub wal_keep_bytes: u64,
    /// `wal_sender_timeout`; `None` where it is off.
    pub wal_sender_timeout: Option<Duration>,
    /// `idle_replication_slot_timeout` (18); `None` where it is off or does not exist.
    pub idle_replication_slot_timeout: Option<Duration>,
    /// `server_encoding`.
    pub server_encoding: String,
    /// How far the server's clock is ahead of ours, in microseconds, counted at the middle of the round trip.
    pub clock_ahead_us: i64,
}

/// The server this session talks to.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read_server(client: &Client) -> Result<Server> {
    let asked = unix_us();
    let rows =
        rows(client, include_str!("../../sql/server.sql"), &[], "reading the server's settings").await?;
    let middle = asked + (unix_us() - asked) / 2;
    let row = rows.first().ok_or_else(|| Error::bug("sql/server.sql returned no row"))?;
    Ok(Server {
        version: ServerVersion(field::<i32>(row, "version_num")?.unsigned_abs()),
        // Unsigned at the server, which shows it as a bigint here.
        system_identifier: field::<i64>(row, "system_identifier")?.cast_unsigned(),
        timeline: field::<i32>(row, "timeline")?.cast_unsigned(),
        database: field(row, "database")?,
        is_in_recovery: field(row, "is_in_recovery")?,
        current_wal_lsn: lsn(row, "current_wal_lsn")?.unwrap_or(Lsn::ZERO),
        wal_level: field(row, "wal_level")?,
        slots_max: count(row, "slots_max")?,
        slots_used: count(row, "slots_used")?,
        senders_max: count(row, "senders_max")?,
        senders_used: count(row, "senders_used")?,
        max_slot_wal_keep_bytes: size(row, "max_slot_wal_keep_bytes")?,
        wal_keep_bytes: size(row, "wal_keep_bytes")?.unwrap_or(0),
        wal_sender_timeout: size(row, "wal_sender_timeout_ms")?.map(Duration::from_millis),
        idle_replication_slot_timeout: size(row, "idle_replication_slot_timeout_s")?.map(Duration::from_secs),
        server_encoding: field(row, "server_encoding")?,
        clock_ahead_us: field::<i64>(row, "now_us")? - middle,
    })
}

/// The given tables, in the order of `names`.
///
/// # Errors
///
/// A configuration error that names the first table that does not exist or cannot be replicated, and says what to
/// name instead.
pub async fn read_tables(client: &Client, names: &[TableName]) -> Result<Vec<Table>> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let sql = include_str!("../../sql/relations.sql");
    let found = rows(client, sql, &[&schemas, &tables], "looking the mapped tables up").await?;
    let mut oids = Vec::with_capacity(names.len());
    for (name, row) in names.iter().zip(&found) {
        oids.push(Oid(replicable(name, row)?));
    }
    read_by_oid(client, &oids).await
}

/// Those of the given tables that exist and can be replicated, and what [`read_tables`] says of the others.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read_tables_there(client: &Client, names: &[TableName]) -> Result<(Vec<Table>, Vec<Error>)> {
    match read_tables(client, names).await {
        Ok(tables) => return Ok((tables, Vec::new())),
        Err(error) if error.kind() != Kind::Config => return Err(error),
        Err(_) => {}
    }
    let (mut tables, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match read_tables(client, std::slice::from_ref(name)).await {
            Ok(found) => tables.extend(found),
            Err(error) if error.kind() == Kind::Config => errors.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((tables, errors))
}

/// All tables that can be replicated in the given schemas, or in all of the user's for an empty list: without
/// partitions (their root stands for them), temporary and unlogged tables, and tables that belong to an extension.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn all_tables(client: &Client, schemas: &[String]) -> Result<Vec<Table>> {
    let sql = include_str!("../../sql/relations_in_schemas.sql");
    let found = rows(client, sql, &[&schemas], "listing the source's tables").await?;
    let oids = found.iter().map(|row| Ok(Oid(field(row, "oid")?))).collect::<Result<Vec<Oid>>>()?;
    read_by_oid(client, &oids).await
}

/// The plain btree indexes of these tables without their primary keys, in the order of `tables`, then by name.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read_indexes(client: &Client, tables: &[Table]) -> Result<Vec<Index>> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid.0).collect();
    let sql = include_str!("../../sql/indexes.sql");
    let rows = rows(client, sql, &[&oids], "reading the tables' indexes").await?;
    rows.iter()
        .map(|row| Ok(Index { table: Oid(field(row, "table_oid")?), columns: field(row, "columns")? }))
        .collect()
}

/// The tables of these OIDs that exist.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn read_by_oid(client: &Client, oids: &[Oid]) -> Result<Vec<Table>> {
    let oids: Vec<u32> = oids.iter().map(|oid| oid.0).collect();
    let rows = rows(client, include_str!("../../sql/tables.sql"), &[&oids], "reading the catalog").await?;
    rows.iter().map(table).collect()
}

/// The OID behind a row of `sql/relations.sql`, if what it states can be replicated.
fn replicable(name: &TableName, row: &Row) -> Result<u32> {
    let Some(oid) = field::<Option<u32>>(row, "oid")? else {
        return Err(Error::config(format!("table {name} does not exist at the source")).hint(
            "names in schema.json are spelt as in the catalog, with the same case: \\d in psql shows them",
        ));
    };
    let kind: String = field(row, "kind")?;
    let refused = match kind.as_str() {
        "r" | "p" => None,
        "v" => Some("a view"),
        "m" => Some("a materialized view"),
        "f" => Some("a foreign table"),
        _ => Some("no table"),
    };
    if let Some(what) = refused {
        return Err(Error::config(format!("{name} is {what}: its rows are not in the WAL"))
            .hint("map the tables it is made from"));
    }
    if field::<Option<bool>>(row, "is_partition")? == Some(true) {
        let root: String = field::<Option<String>>(row, "partition_root")?.unwrap_or_default();
        return Err(Error::config(format!("{name} is a partition: its changes arrive under {root}"))
            .hint(format!("map {root} instead")));
    }
    match field::<String>(row, "persistence")?.as_str() {
        "p" => Ok(oid),
        "u" => Err(Error::config(format!("table {name} is unlogged: its rows are not in the WAL"))
            .hint(format!("ALTER TABLE {name} SET LOGGED"))),
        _ => Err(Error::config(format!("table {name} is temporary: its rows are not in the WAL"))),
    }
}

/// One element of `columns` in `sql/tables.sql`.
#[derive(Deserialize)]
struct CatalogColumn {
    name: String,
    type_oid: u32,
    base_type_oid: u32,
    element_type_oid: Option<u32>,
    type_name: String,
    is_not_null: bool,
    is_generated: bool,
    is_publishable: bool,
    is_toastable: bool,
}

impl From<CatalogColumn> for Column {
    fn from(column: CatalogColumn) -> Self {
        Column {
            name: column.name,
            type_oid: Oid(column.type_oid),
            base_type_oid: Oid(column.base_type_oid),
            element_type_oid: column.element_type_oid.map(Oid),
            type_name: column.type_name,
            is_not_null: column.is_not_null,
            is_generated: column.is_generated,
            is_publishable: column.is_publishable,
            is_toastable: column.is_toastable,
        }
    }
}

fn table(row: &Row) -> Result<Table> {
    let columns: Vec<CatalogColumn> = serde_json::from_str(field(row, "columns")?)
        .map_err(|error| Error::bug("reading the columns of sql/tables.sql").because(error))?;
    Ok(Table {
        oid: Oid(field(row, "oid")?),
        name: TableName { schema: field(row, "schema")?, name: field(row, "name")? },
        columns: columns.into_iter().map(Column::from).collect(),
        primary_key: field(row, "primary_key")?,
        is_key_deferrable: field(row, "is_key_deferrable")?,
        replica_identity: replica_identity(field(row, "replica_identity")?)?,
        identity_columns: field(row, "identity_columns")?,
        is_partitioned: field(row, "is_partitioned")?,
        has_row_security: field(row, "has_row_security")?,
        estimated_rows: field(row, "estimated_rows")?,
    })
}

/// The replica identity that `pg_class.relreplident` states.
pub(crate) fn replica_identity(letter: &str) -> Result<ReplicaIdentity> {
    match letter {
        "d" => Ok(ReplicaIdentity::Default),
        "n" => Ok(ReplicaIdentity::Nothing),
        "f" => Ok(ReplicaIdentity::Full),
        "i" => Ok(ReplicaIdentity::Index),
        other => Err(Error::bug(format!("pg_class.relreplident is {other:?}"))),
    }
}

/// A `pg_lsn` column as walcast's own type.
pub(crate) fn lsn(row: &Row, name: &str) -> Result<Option<Lsn>> {
    Ok(field::<Option<PgLsn>>(row, name)?.map(|lsn| Lsn(u64::from(lsn))))
}

fn count(row: &Row, name: &str) -> Result<u32> {
    Ok(field::<i32>(row, name)?.unsigned_abs())
}

fn size(row: &Row, name: &str) -> Result<Option<u64>> {
    Ok(field::<Option<i64>>(row, name)?.map(i64::unsigned_abs))
}

fn unix_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
