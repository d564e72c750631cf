//! What `walcast check` asks the source, and the answers. Reads only.

use tokio_postgres::{Client, Row};

use crate::capture::catalog::{Server, read_server, read_tables};
use crate::capture::publication::{self, Publication};
use crate::capture::query::{field, rows};
use crate::capture::slot::{self, Slot};
use crate::capture::table::{Oid, Table, TableName};
use crate::error::{Error, Kind, Result};

/// What the configuration and `schema.json` want of the source.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The host that the replication connection goes to.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The publication's name.
    pub publication: String,
    /// The slot's name.
    pub slot: String,
    /// How many sinks there are.
    pub sinks: usize,
    /// The mapped tables.
    pub tables: Vec<MappedTable>,
    /// The fewest columns per table that any sink takes (100 for D1); `None` without such a limit.
    pub columns_max: Option<usize>,
}

/// One table of `schema.json`.
#[derive(Debug, Clone)]
pub struct MappedTable {
    /// Its name at the source.
    pub name: TableName,
    /// The source columns of `primaryKey`.
    pub primary_key: Vec<String>,
    /// The source columns that are mapped, the key's among them.
    pub columns: Vec<String>,
    /// What the plan has to say about single columns, such as a conversion that loses digits.
    pub notes: Vec<ColumnNote>,
}

/// Something about one mapped column, found elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnNote {
    /// The column at the source.
    pub column: String,
    /// What there is to know, in one sentence without a full stop.
    pub note: String,
}

/// What the source answered.
#[derive(Debug)]
pub struct Facts {
    /// The server.
    pub server: Server,
    /// The role of this session.
    pub role: Role,
    /// Per mapped table, in the request's order: what the catalog and the privileges say, or why it cannot be mapped.
    pub tables: Vec<Result<(Table, Access)>>,
    /// The publication, if there is one.
    pub publication: Option<Publication>,
    /// The slot, if there is one.
    pub slot: Option<Slot>,
    /// How many copies of the slot sinks have of their own.
    pub copies: usize,
}

/// What the role that walcast connects as may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// `SUPERUSER`.
    pub is_superuser: bool,
    /// `REPLICATION`.
    pub has_replication: bool,
    /// `BYPASSRLS`.
    pub has_bypassrls: bool,
    /// A provider's role that stands for `REPLICATION`.
    pub has_provider_replication: bool,
    /// `CREATE` on the database, which `CREATE PUBLICATION` needs.
    pub can_create_publication: bool,
}

/// What the role may do with one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `USAGE` on the schema.
    pub can_use_schema: bool,
    /// Columns that it may not `SELECT`.
    pub unreadable_columns: Vec<String>,
    /// Whether it has the owner's rights, which adding the table to a publication needs.
    pub is_owned: bool,
    /// Whether row security hides rows from it.
    pub is_row_security_active: bool,
    /// Partitions whose replica identity differs from the root's.
    pub odd_partitions: Vec<String>,
}

/// Asks the source for everything that [`evaluate`](super::evaluate) needs. Changes nothing.
///
/// # Errors
///
/// Where the source does not answer. A table that cannot be mapped is no error here but a fact.
pub async fn gather(client: &Client, request: &Request) -> Result<Facts> {
    let server = read_server(client).await?;
    Ok(Facts {
        copies: slot::read_copies(client, &request.slot, &server.database).await?.len(),
        server,
        role: read_role(client).await?,
        tables: gather_tables(client, &request.tables).await?,
        publication: publication::describe(client, &request.publication).await?,
        slot: slot::read(client, &request.slot).await?,
    })
}

async fn read_role(client: &Client) -> Result<Role> {
    let found =
        rows(client, include_str!("../../../sql/role.sql"), &[], "reading the role's attributes").await?;
    let row = found.first().ok_or_else(|| Error::bug("sql/role.sql returned no row"))?;
    Ok(Role {
        name: field(row, "name")?,
        is_superuser: field(row, "is_superuser")?,
        has_replication: field(row, "has_replication")?,
        has_bypassrls: field(row, "has_bypassrls")?,
        has_provider_replication: field(row, "has_provider_replication")?,
        can_create_publication: field(row, "can_create_publication")?,
    })
}

async fn gather_tables(client: &Client, mapped: &[MappedTable]) -> Result<Vec<Result<(Table, Access)>>> {
    // One by one, so that every table that cannot be mapped is named, not only the first.
    let mut tables = Vec::with_capacity(mapped.len());
    for table in mapped {
        let read = match read_tables(client, std::slice::from_ref(&table.name)).await {
            Ok(read) => Ok(read.into_iter().next().ok_or_else(|| gone(&table.name))),
            Err(error) if error.kind() == Kind::Config => Ok(Err(error)),
            Err(error) => Err(error),
        };
        tables.push(match read? {
            Ok(table) => match read_access(client, table.oid).await? {
                Some(access) => Ok((table, access)),
                None => Err(gone(&table.name)),
            },
            Err(error) => Err(error),
        });
    }
    Ok(tables)
}

async fn read_access(client: &Client, oid: Oid) -> Result<Option<Access>> {
    let sql = include_str!("../../../sql/table_access.sql");
    let found = rows(client, sql, &[&vec![oid.0]], "reading the role's privileges").await?;
    found.first().map(access).transpose()
}

fn access(row: &Row) -> Result<Access> {
    Ok(Access {
        can_use_schema: field(row, "can_use_schema")?,
        unreadable_columns: field(row, "unreadable_columns")?,
        is_owned: field(row, "is_owned")?,
        is_row_security_active: field(row, "is_row_security_active")?,
        odd_partitions: field(row, "odd_partitions")?,
    })
}

fn gone(name: &TableName) -> Error {
    Error::config(format!("table {name} was dropped while it was being checked"))
}
