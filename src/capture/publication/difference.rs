//! What a publication lacks for a set of mapped tables, and the SQL that would give it. Pure: an optional publication
//! and the wanted tables go in, sentences and statements come out. Only ever widens.

use super::{Member, Publication};
use crate::capture::catalog::ServerVersion;
use crate::capture::query::fill;
use crate::capture::table::{ReplicaIdentity, Table, TableName};
use crate::postgres::quote_identifier;

/// One table as walcast needs it published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTable {
    /// Schema and name.
    pub name: TableName,
    /// The columns that must be sent, in table order: the mapped ones, the primary key, the replica identity.
    pub columns: Vec<String>,
    /// Whether the publication may name just these columns. Not with REPLICA IDENTITY FULL, and not before 15.
    pub may_have_column_list: bool,
    /// Whether it is a partition root, so that `publish_via_partition_root` is needed.
    pub is_partitioned: bool,
    /// Whether a generated column is among `columns` (from 18), which without a column list is an option's matter.
    pub has_generated: bool,
}

impl PublishedTable {
    /// What must be published of `table` when `mapped` are its mapped columns. Those that nothing can publish are left
    /// out, and so are names that the table does not have: both are the plan's matter.
    pub fn new(table: &Table, mapped: &[String], version: ServerVersion) -> Self {
        let needed = |name: &String| {
            mapped.contains(name) || table.primary_key.contains(name) || table.identity_columns.contains(name)
        };
        let sent: Vec<_> =
            table.columns.iter().filter(|column| needed(&column.name) && column.is_publishable).collect();
        PublishedTable {
            name: table.name.clone(),
            columns: sent.iter().map(|column| column.name.clone()).collect(),
            may_have_column_list: version.has_column_lists()
                && table.replica_identity != ReplicaIdentity::Full,
            is_partitioned: table.is_partitioned,
            has_generated: sent.iter().any(|column| column.is_generated),
        }
    }

    fn column_list(&self) -> Option<&[String]> {
        self.may_have_column_list.then_some(&self.columns)
    }

    /// Whether the publication's option decides about generated columns, not a column list. `existing` is the publication
    /// that is to be widened.
    fn needs_generated_option(&self, existing: Option<&Publication>) -> bool {
        let is_listed = self.may_have_column_list
            && existing.is_none_or(|publication| match publication.member(&self.name) {
                Some(member) => member.column_list.is_some(),
                None => !publication.all_tables && publication.schemas.is_empty(),
            });
        self.has_generated && !is_listed
    }
}

/// What a publication lacks, and how it would get it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What it lacks, one sentence each; empty when it covers everything.
    pub reasons: Vec<String>,
    /// The statements that give it that, in order. They narrow nothing.
    pub statements: Vec<String>,
    /// What it publishes beyond the mapped tables, or holds back. No reason to stop.
    pub notes: Vec<String>,
    /// Whether walcast may try the statements itself: the publication is missing, or is owned and plain.
    pub is_ours: bool,
}

/// What `existing` lacks to publish all of `wanted`.
pub fn difference(
    name: &str,
    existing: Option<&Publication>,
    wanted: &[PublishedTable],
    version: ServerVersion,
) -> Difference {
    let wanted = &once_each(wanted);
    match existing {
        None => creation(name, wanted),
        Some(publication) => widening(publication, wanted, version),
    }
}

/// Each table once, with all the columns that are wanted of it: `schema.json` may map one table twice, but a publication
/// names it once.
fn once_each(wanted: &[PublishedTable]) -> Vec<PublishedTable> {
    let mut tables: Vec<PublishedTable> = Vec::with_capacity(wanted.len());
    for table in wanted {
        match tables.iter_mut().find(|known| known.name == table.name) {
            Some(known) => {
                let more = table.columns.iter().filter(|column| !known.columns.contains(column));
                known.columns.extend(more.cloned().collect::<Vec<_>>());
                known.has_generated |= table.has_generated;
            }
            None => tables.push(table.clone()),
        }
    }
    tables
}

fn creation(name: &str, wanted: &[PublishedTable]) -> Difference {
    let tables: Vec<String> =
        wanted.iter().map(|table| clause(&table.name, table.column_list(), None)).collect();
    let mut options = vec!["publish_via_partition_root = true"];
    if wanted.iter().any(|table| table.needs_generated_option(None)) {
        options.push("publish_generated_columns = stored");
    }
    let statement = fill(
        include_str!("../../../sql/publication_create.sql"),
        &[
            ("publication", &quote_identifier(name)),
            ("tables", &format!("TABLE {}", tables.join(", "))),
            ("options", &options.join(", ")),
        ],
    );
    Difference {
        reasons: vec!["it does not exist".to_owned()],
        statements: vec![statement],
        notes: Vec::new(),
        is_ours: true,
    }
}

fn widening(publication: &Publication, wanted: &[PublishedTable], version: ServerVersion) -> Difference {
    let mut reasons = Vec::new();
    let mut options = Vec::new();
    let (mut members_change, mut lacks_generated) = (false, false);
    for table in wanted {
        let Some(reason) = lack(publication, table) else { continue };
        reasons.push(reason);
        // Of a member without a column list only generated columns can be missing.
        members_change |= publication.member(&table.name).is_none_or(|member| member.column_list.is_some());
        lacks_generated |= table.needs_generated_option(Some(publication));
    }
    if !publication.via_root && wanted.iter().any(|table| table.is_partitioned) {
        reasons.push("it publishes partitions under their own names, not under their root's".to_owned());
        options.push("publish_via_partition_root = true");
    }
    if !(publication.publishes_insert && publication.publishes_update && publication.publishes_delete) {
        reasons.push("it does not publish inserts, updates and deletes alike".to_owned());
        options.push("publish = 'insert, update, delete, truncate'");
    }
    if lacks_generated {
        options.push("publish_generated_columns = stored");
    }

    let mut statements = Vec::new();
    let name = quote_identifier(&publication.name);
    if !options.is_empty() {
        let template = include_str!("../../../sql/publication_options.sql");
        statements.push(fill(template, &[("publication", &name), ("options", &options.join(", "))]));
    }
    if members_change && !publication.all_tables {
        statements.push(set_tables(publication, wanted));
    }
    Difference {
        is_ours: publication.is_owned
            && !publication.all_tables
            && publication.schemas.is_empty()
            && publication.tables.iter().all(|member| member.row_filter.is_none()),
        notes: notes(publication, wanted, version),
        reasons,
        statements,
    }
}

/// Why the publication does not publish all that is needed of one table.
fn lack(publication: &Publication, table: &PublishedTable) -> Option<String> {
    let plain = table.name.plain();
    let Some(member) = publication.member(&table.name) else {
        // Without publish_via_partition_root the partitions stand in the root's place; the option alone cures that.
        let is_whole = publication.all_tables || publication.schemas.contains(&table.name.schema);
        let through_leaves = table.is_partitioned && !publication.via_root && is_whole;
        return (!through_leaves).then(|| format!("it does not publish table {plain}"));
    };
    if member.column_list.is_some() && member.replica_identity == ReplicaIdentity::Full {
        return Some(format!(
            "it names columns of table {plain}, whose replica identity is FULL: the server rejects UPDATE and DELETE"
        ));
    }
    let missing = missing_columns(member, table);
    (!missing.is_empty()).then(|| format!("it does not publish {} of table {plain}", missing.join(", ")))
}

fn missing_columns<'a>(member: &Member, table: &'a PublishedTable) -> Vec<&'a str> {
    let is_sent = |column: &String| member.published_columns.contains(column);
    table.columns.iter().filter(|column| !is_sent(column)).map(String::as_str).collect()
}

/// The statement that gives the publication its present members, widened, and the missing ones.
fn set_tables(publication: &Publication, wanted: &[PublishedTable]) -> String {
    let named: Vec<&Member> = publication.tables.iter().filter(|member| member.is_named).collect();
    let mut clauses = Vec::new();
    for member in &named {
        let table = wanted.iter().find(|table| table.name == member.name);
        let columns = match (&member.column_list, table) {
            (Some(_), Some(table)) if !table.may_have_column_list => None,
            (Some(list), Some(table)) => {
                let more = table.columns.iter().filter(|column| !list.contains(column));
                Some(list.iter().chain(more).cloned().collect())
            }
            (list, _) => list.clone(),
        };
        clauses.push(clause(&member.name, columns.as_deref(), member.row_filter.as_deref()));
    }
    for table in wanted.iter().filter(|table| publication.member(&table.name).is_none()) {
        // The server takes no column list beside a whole schema.
        let columns = if publication.schemas.is_empty() { table.column_list() } else { None };
        clauses.push(clause(&table.name, columns, None));
    }
    // One TABLE before all of them, as the grammar before 15 has it.
    let mut members = vec![format!("TABLE {}", clauses.join(", "))];
    members.extend(
        publication.schemas.iter().map(|schema| format!("TABLES IN SCHEMA {}", quote_identifier(schema))),
    );
    let publication = quote_identifier(&publication.name);
    let template = include_str!("../../../sql/publication_set.sql");
    fill(template, &[("publication", &publication), ("tables", &members.join(", "))])
}

/// `ONLY "schema"."name" ("column", …) WHERE (…)`. Without ONLY the server would also publish every table that inherits
/// from it: twice with other columns, which it refuses, or one without a key, whose own UPDATE and DELETE it then
/// rejects. Partitions are not meant by it.
fn clause(name: &TableName, columns: Option<&[String]>, row_filter: Option<&str>) -> String {
    let mut text = format!("ONLY {name}");
    if let Some(columns) = columns {
        let quoted: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
        text.push_str(&format!(" ({})", quoted.join(", ")));
    }
    if let Some(filter) = row_filter {
        text.push_str(&format!(" WHERE ({filter})"));
    }
    text
}

fn notes(publication: &Publication, wanted: &[PublishedTable], version: ServerVersion) -> Vec<String> {
    let mut notes = Vec::new();
    let is_wanted = |name: &TableName| wanted.iter().any(|table| &table.name == name);
    if publication.all_tables {
        notes.push("it publishes all tables, and walcast skips those that are not mapped".to_owned());
    } else {
        let beyond: Vec<String> = publication
            .tables
            .iter()
            .filter(|member| !is_wanted(&member.name))
            .map(|member| member.name.plain())
            .collect();
        if !beyond.is_empty() {
            notes.push(format!("it also publishes {}, which walcast skips", some_of(&beyond)));
        }
    }
    for member in publication.tables.iter().filter(|member| is_wanted(&member.name)) {
        if let Some(filter) = &member.row_filter {
            let table = member.name.plain();
            notes.push(format!("it filters table {table} by {filter}: replicas get only those rows"));
        }
    }
    if !publication.publishes_truncate {
        notes.push("it does not publish TRUNCATE: a truncated table keeps its rows at the sinks".to_owned());
    }
    if !version.has_column_lists() {
        notes.push(format!("Postgres {version} has no column lists: unmapped columns are sent too"));
    }
    notes
}

/// The first few names, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests;
