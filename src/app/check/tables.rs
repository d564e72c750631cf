//! Findings about each mapped table: its keys, its columns, and what the role may read of it.

use super::{Access, Facts, Finding, MappedTable, Request};
use crate::capture::catalog::ServerVersion;
use crate::capture::table::{ReplicaIdentity, Table};
use crate::postgres::quote_identifier;

pub(super) fn evaluate(request: &Request, facts: &Facts, findings: &mut Vec<Finding>) {
    for (mapped, found) in request.tables.iter().zip(&facts.tables) {
        let subject = format!("table {}", mapped.name.plain());
        let (table, access) = match found {
            Ok(found) => found,
            Err(error) => {
                let finding = Finding::problem(subject, error.to_string());
                findings.push(match error.hint_text() {
                    Some(hint) => finding.remedy(hint),
                    None => finding,
                });
                continue;
            }
        };
        let before = findings.len();
        match table.is_key_deferrable {
            true => findings.push(deferrable_key(&subject, table)),
            false => findings.extend(
                [identity(&subject, mapped, table), key(&subject, mapped, table)].into_iter().flatten(),
            ),
        }
        findings.extend(partitions(&subject, table, access));
        columns(&subject, mapped, table, facts.server.version, findings);
        findings.extend(width(&subject, mapped, request.columns_max));
        privileges(&subject, mapped, table, access, &facts.role.name, findings);
        if findings.len() == before {
            let identity = identity_name(table.replica_identity);
            let columns = mapped.columns.len();
            findings
                .push(Finding::ok(subject, format!("{columns} columns mapped, replica identity {identity}")));
        }
    }
}

/// Whether UPDATE and DELETE work at all, and carry the key that `schema.json` asks for.
fn identity(subject: &str, mapped: &MappedTable, table: &Table) -> Option<Finding> {
    if table.identity_columns.is_empty() {
        let why = match table.replica_identity {
            ReplicaIdentity::Default if table.primary_key.is_empty() => "it has no primary key",
            ReplicaIdentity::Default => "its primary key is no replica identity",
            ReplicaIdentity::Nothing => "its replica identity is NOTHING",
            ReplicaIdentity::Full => "its replica identity is FULL, and a virtual column is no part of one",
            ReplicaIdentity::Index => "the index of its replica identity is gone",
        };
        let remedy = if table.primary_key.is_empty() && table.replica_identity == ReplicaIdentity::Full {
            let key = list(&mapped.primary_key);
            format!("ALTER TABLE {} ADD PRIMARY KEY ({key}), REPLICA IDENTITY DEFAULT;", table.name)
        } else if table.primary_key.is_empty() {
            let key = list(&mapped.primary_key);
            format!(
                "ALTER TABLE {0} ADD PRIMARY KEY ({key}); or ALTER TABLE {0} REPLICA IDENTITY FULL;",
                table.name
            )
        } else {
            format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", table.name)
        };
        let message =
            format!("{why}: once it is published, the server rejects the application's UPDATE and DELETE");
        return Some(Finding::problem(subject, message).remedy(remedy));
    }
    let uncarried: Vec<String> =
        mapped.primary_key.iter().filter(|name| !table.identity_columns.contains(name)).cloned().collect();
    if uncarried.is_empty() {
        return None;
    }
    let message = format!(
        "primaryKey in schema.json has {}, which its replica identity {} does not carry: \
         deletes and key changes cannot be applied",
        uncarried.join(", "),
        identity_name(table.replica_identity)
    );
    let remedy = if mapped.primary_key.iter().all(|name| table.primary_key.contains(name)) {
        format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", table.name)
    } else {
        format!(
            "set primaryKey to [{}] in schema.json, or ALTER TABLE {} REPLICA IDENTITY FULL;",
            table.identity_columns.join(", "),
            table.name
        )
    };
    Some(Finding::problem(subject, message).remedy(remedy))
}

fn deferrable_key(subject: &str, table: &Table) -> Finding {
    let message = "its primary key is deferrable: it is no replica identity, and rows that trade keys within a \
                   transaction would overwrite each other in a replica";
    let key = list(&table.primary_key);
    let remedy = format!("drop the constraint and ALTER TABLE {} ADD PRIMARY KEY ({key});", table.name);
    Finding::problem(subject, message).remedy(remedy)
}

/// Whether the key that `schema.json` asks for is known to be unique at the source.
fn key(subject: &str, mapped: &MappedTable, table: &Table) -> Option<Finding> {
    let holds = |key: &[String]| !key.is_empty() && key.iter().all(|name| mapped.primary_key.contains(name));
    let is_unique = holds(&table.primary_key)
        || table.replica_identity == ReplicaIdentity::Index && holds(&table.identity_columns);
    if is_unique {
        return None;
    }
    let key = mapped.primary_key.join(", ");
    if table.primary_key.is_empty() {
        let message =
            format!("it has no primary key, and rows that share primaryKey ({key}) overwrite each other");
        return Some(Finding::warning(subject, message).remedy(format!(
            "ALTER TABLE {} ADD PRIMARY KEY ({});",
            table.name,
            list(&mapped.primary_key)
        )));
    }
    let own = table.primary_key.join(", ");
    let message = format!(
        "primaryKey in schema.json is ({key}), the table's own is ({own}): rows that share it overwrite each other"
    );
    Some(Finding::warning(subject, message).remedy(format!("set primaryKey to [{own}] in schema.json")))
}

/// The server writes old values as the partition's setting says, and announces them as the root's says.
fn partitions(subject: &str, table: &Table, access: &Access) -> Option<Finding> {
    let first = access.odd_partitions.first()?;
    let identity = match table.replica_identity {
        ReplicaIdentity::Index => "USING INDEX …",
        other => identity_name(other),
    };
    let message = format!(
        "its replica identity is {}, but {} has another, so old rows are announced as what they are not",
        identity_name(table.replica_identity),
        access.odd_partitions.join(", ")
    );
    let remedy = format!("ALTER TABLE {first} REPLICA IDENTITY {identity}; and so for each");
    Some(Finding::problem(subject, message).remedy(remedy))
}

fn columns(
    subject: &str,
    mapped: &MappedTable,
    table: &Table,
    version: ServerVersion,
    findings: &mut Vec<Finding>,
) {
    for name in &mapped.columns {
        match table.column(name) {
            None => findings.push(
                Finding::problem(subject, format!("column {name} does not exist at the source"))
                    .remedy("take it out of schema.json, or rename it there"),
            ),
            Some(column) if !column.is_publishable => {
                let (what, way) = match version.has_virtual_columns() {
                    true => ("virtual", "make it STORED"),
                    false => ("generated", "upgrade to Postgres 18, which publishes those that are STORED"),
                };
                findings.push(
                    Finding::problem(
                        subject,
                        format!("column {name} is {what}, which Postgres {version} does not publish"),
                    )
                    .remedy(format!("take it out of schema.json, or {way}")),
                )
            }
            Some(_) => {}
        }
    }
    let note = |note: &super::ColumnNote| {
        Finding::warning(subject, format!("column {}: {}", note.column, note.note))
    };
    findings.extend(mapped.notes.iter().map(note));
}

fn width(subject: &str, mapped: &MappedTable, columns_max: Option<usize>) -> Option<Finding> {
    let max = columns_max.filter(|max| mapped.columns.len() > *max)?;
    let message = format!("{} columns are mapped, and a sink takes {max} per table", mapped.columns.len());
    Some(Finding::problem(subject, message).remedy(format!("map at most {max} columns in schema.json")))
}

fn privileges(
    subject: &str,
    mapped: &MappedTable,
    table: &Table,
    access: &Access,
    role: &str,
    findings: &mut Vec<Finding>,
) {
    let role = quote_identifier(role);
    if !access.can_use_schema {
        let schema = quote_identifier(&table.name.schema);
        findings.push(
            Finding::problem(subject, format!("role {role} may not use schema {schema}"))
                .remedy(format!("GRANT USAGE ON SCHEMA {schema} TO {role};")),
        );
    }
    let unreadable: Vec<&str> = mapped
        .columns
        .iter()
        .filter(|name| access.unreadable_columns.contains(name))
        .map(String::as_str)
        .collect();
    if !unreadable.is_empty() {
        let message = format!("role {role} may not read {}: no backfill", unreadable.join(", "));
        findings.push(
            Finding::problem(subject, message).remedy(format!("GRANT SELECT ON {} TO {role};", table.name)),
        );
    }
    if access.is_row_security_active {
        let message =
            format!("row security hides rows from role {role}: a backfill would silently miss them");
        findings.push(Finding::problem(subject, message).remedy(format!("ALTER ROLE {role} BYPASSRLS;")));
    }
}

fn identity_name(identity: ReplicaIdentity) -> &'static str {
    match identity {
        ReplicaIdentity::Default => "DEFAULT",
        ReplicaIdentity::Nothing => "NOTHING",
        ReplicaIdentity::Full => "FULL",
        ReplicaIdentity::Index => "INDEX",
    }
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
}
