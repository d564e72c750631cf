//! The publication that the slot decodes: reading it ([`describe`]), making it cover the mapped tables ([`ensure`]) and
//! dropping it. What would have to change is decided by the pure [`difference`], whose statements `walcast check`
//! prints for whoever is allowed to run them.
//!
//! It must exist before the slot does: pgoutput looks it up in the catalog as of the WAL it decodes. And it must never
//! get a column list for a table with REPLICA IDENTITY FULL, because the server then rejects the application's own
//! UPDATE and DELETE.

mod difference;

use tokio_postgres::{Client, Row};

pub use difference::{Difference, PublishedTable, difference};

use super::catalog::{ServerVersion, replica_identity};
use super::query::{change, field, fill, rows};
use super::table::{Oid, ReplicaIdentity, TableName};
use crate::error::{Error, Kind, Result};
use crate::postgres::quote_identifier;

/// A publication as the catalog states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// The role that owns it.
    pub owner: String,
    /// Whether walcast's role has the owner's rights, and so may alter it.
    pub is_owned: bool,
    /// `FOR ALL TABLES`.
    pub all_tables: bool,
    /// The schemas of `FOR TABLES IN SCHEMA`.
    pub schemas: Vec<String>,
    /// Whether it publishes inserts.
    pub publishes_insert: bool,
    /// Whether it publishes updates.
    pub publishes_update: bool,
    /// Whether it publishes deletes.
    pub publishes_delete: bool,
    /// Whether it publishes truncates.
    pub publishes_truncate: bool,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// The tables it publishes, however they came to be members.
    pub tables: Vec<Member>,
}

impl Publication {
    /// The member of that name.
    pub fn member(&self, name: &TableName) -> Option<&Member> {
        self.tables.iter().find(|member| &member.name == name)
    }
}

/// One table of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The table's OID.
    pub oid: Oid,
    /// Schema and name.
    pub name: TableName,
    /// Whether it is a member by its own name, not through `FOR ALL TABLES` or a schema.
    pub is_named: bool,
    /// The columns that the publication names; `None` where it names none and so publishes all.
    pub column_list: Option<Vec<String>>,
    /// The `WHERE` expression.
    pub row_filter: Option<String>,
    /// The columns that are sent.
    pub published_columns: Vec<String>,
    /// The table's replica identity.
    pub replica_identity: ReplicaIdentity,
    /// Whether that identity is usable. Without one the server rejects UPDATE and DELETE of this table.
    pub has_identity: bool,
}

/// What [`ensure`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicationChange {
    /// There was none; now there is one of exactly these tables.
    Created,
    /// It did not cover the tables and now does.
    Altered {
        /// What it lacked, one sentence each.
        reasons: Vec<String>,
    },
    /// It covers the tables and was left as it is.
    Accepted {
        /// What it publishes beyond them or filters out, one sentence each.
        notes: Vec<String>,
    },
}

/// The publication of that name, or `None`.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn describe(client: &Client, name: &str) -> Result<Option<Publication>> {
    let doing = format!("reading publication {name}");
    let found = rows(client, include_str!("../../sql/publication.sql"), &[&name], &doing).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let members = rows(client, include_str!("../../sql/publication_tables.sql"), &[&name], &doing).await?;
    Ok(Some(Publication {
        name: name.to_owned(),
        owner: field(row, "owner")?,
        is_owned: field(row, "is_owned")?,
        all_tables: field(row, "all_tables")?,
        schemas: field(row, "schemas")?,
        publishes_insert: field(row, "publishes_insert")?,
        publishes_update: field(row, "publishes_update")?,
        publishes_delete: field(row, "publishes_delete")?,
        publishes_truncate: field(row, "publishes_truncate")?,
        via_root: field(row, "via_root")?,
        tables: members.iter().map(member).collect::<Result<_>>()?,
    }))
}

/// Which rows of a table the publication publishes, as a condition in SQL; `None` for all. Whoever reads the table beside
/// the stream has to read by it too: the others' changes never come.
///
/// # Errors
///
/// Transient when the connection fails.
pub async fn row_filter(client: &Client, name: &str, table: &TableName) -> Result<Option<String>> {
    let doing = format!("reading the row filter of table {}", table.plain());
    let sql = include_str!("../../sql/publication_row_filter.sql");
    let found = rows(client, sql, &[&name, &table.schema, &table.name], &doing).await?;
    found.first().map_or(Ok(None), |row| field(row, "row_filter"))
}

/// Makes the publication cover `tables`: creates it when it is missing, widens it when walcast owns it, accepts it when
/// it covers them already, whatever else it holds. Never narrows one, and never alters one with row filters, schemas
/// or all tables: somebody made that by hand. Idempotent.
///
/// # Errors
///
/// Halts when the publication must change and walcast may not change it; the hint is the SQL for a DBA.
pub async fn ensure(
    client: &Client,
    name: &str,
    tables: &[PublishedTable],
    version: ServerVersion,
) -> Result<PublicationChange> {
    let existing = describe(client, name).await?;
    let difference = difference(name, existing.as_ref(), tables, version);
    if difference.reasons.is_empty() {
        return Ok(PublicationChange::Accepted { notes: difference.notes });
    }
    let reasons = difference.reasons.join("; ");
    let sql = difference.statements.join("\n");
    if !difference.is_ours {
        return Err(Error::halt(format!("publication {name} does not cover schema.json: {reasons}"))
            .hint(format!("as its owner, run: {sql}")));
    }
    change(client, &sql, &format!("making publication {name} cover schema.json ({reasons})")).await.map_err(
        |error| match error.kind() {
            Kind::Transient | Kind::Throttled { .. } => error,
            Kind::Rejected
            | Kind::Replay
            | Kind::NeedsBackfill
            | Kind::Replaced
            | Kind::Halt
            | Kind::Config
            | Kind::Bug => error.hint(format!("as the owner of the tables, run: {sql}")),
        },
    )?;
    Ok(match existing {
        None => PublicationChange::Created,
        Some(_) => PublicationChange::Altered { reasons: difference.reasons },
    })
}

/// Drops the publication if there is one. Drop the slot first.
///
/// # Errors
///
/// Halts when walcast's role does not own it; the hint is the SQL for a DBA.
pub async fn drop(client: &Client, name: &str) -> Result<()> {
    let publication = quote_identifier(name);
    let sql = fill(include_str!("../../sql/publication_drop.sql"), &[("publication", &publication)]);
    change(client, &sql, &format!("dropping publication {name}"))
        .await
        .map_err(|error| error.hint(format!("as its owner, run: {}", sql.trim())))
}

fn member(row: &Row) -> Result<Member> {
    Ok(Member {
        oid: Oid(field(row, "oid")?),
        name: TableName { schema: field(row, "schema")?, name: field(row, "name")? },
        is_named: field(row, "is_named")?,
        column_list: field(row, "column_list")?,
        row_filter: field(row, "row_filter")?,
        published_columns: field(row, "published_columns")?,
        replica_identity: replica_identity(field(row, "replica_identity")?)?,
        has_identity: field(row, "has_identity")?,
    })
}
