//! Hand-written pgoutput messages, framed as a walsender frames them, and the catalog that goes with them.

use walcast::Lsn;
use walcast::capture::table::{Column, Oid, ReplicaIdentity, Table, TableName};

/// One value of a tuple.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Unchanged,
    Text(String),
}

pub fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

/// Appends `body` as XLogData inside CopyData.
pub fn xlog(out: &mut Vec<u8>, lsn: Lsn, body: &[u8]) {
    let mut payload = vec![b'w'];
    payload.extend(lsn.0.to_be_bytes());
    payload.extend(lsn.0.to_be_bytes());
    payload.extend(0u64.to_be_bytes());
    payload.extend(body);
    message(out, b'd', &payload);
}

pub fn keepalive(out: &mut Vec<u8>, wal_end: Lsn) {
    let mut payload = vec![b'k'];
    payload.extend(wal_end.0.to_be_bytes());
    payload.extend(0u64.to_be_bytes());
    payload.push(0);
    message(out, b'd', &payload);
}

fn message(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
}

pub fn begin(commit_lsn: Lsn, commit_time_micros: i64, xid: u32) -> Vec<u8> {
    let postgres_epoch = 946_684_800_000_000;
    [
        b"B".to_vec(),
        commit_lsn.0.to_be_bytes().to_vec(),
        (commit_time_micros - postgres_epoch).to_be_bytes().to_vec(),
        xid.to_be_bytes().to_vec(),
    ]
    .concat()
}

pub fn commit(commit_lsn: Lsn, end_lsn: Lsn) -> Vec<u8> {
    [
        b"C\0".to_vec(),
        commit_lsn.0.to_be_bytes().to_vec(),
        end_lsn.0.to_be_bytes().to_vec(),
        0u64.to_be_bytes().to_vec(),
    ]
    .concat()
}

/// Columns are (name, type OID, is part of the key).
pub fn relation(oid: u32, name: &str, identity: u8, columns: &[(&str, u32, bool)]) -> Vec<u8> {
    let mut body = b"R".to_vec();
    body.extend(oid.to_be_bytes());
    body.extend(b"public\0");
    body.extend(name.as_bytes());
    body.push(0);
    body.push(identity);
    body.extend((columns.len() as u16).to_be_bytes());
    for (name, type_oid, is_key) in columns {
        body.push(u8::from(*is_key));
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(type_oid.to_be_bytes());
        body.extend((-1i32).to_be_bytes());
    }
    body
}

fn tuple(out: &mut Vec<u8>, kind: u8, values: &[Value]) {
    out.push(kind);
    out.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            Value::Null => out.push(b'n'),
            Value::Unchanged => out.push(b'u'),
            Value::Text(text) => {
                out.push(b't');
                out.extend((text.len() as u32).to_be_bytes());
                out.extend(text.as_bytes());
            }
        }
    }
}

pub fn insert(oid: u32, new: &[Value]) -> Vec<u8> {
    let mut body = b"I".to_vec();
    body.extend(oid.to_be_bytes());
    tuple(&mut body, b'N', new);
    body
}

/// `old` is `(b'K' or b'O', values)`.
pub fn update(oid: u32, old: Option<(u8, &[Value])>, new: &[Value]) -> Vec<u8> {
    let mut body = b"U".to_vec();
    body.extend(oid.to_be_bytes());
    if let Some((kind, values)) = old {
        tuple(&mut body, kind, values);
    }
    tuple(&mut body, b'N', new);
    body
}

pub fn delete(oid: u32, kind: u8, old: &[Value]) -> Vec<u8> {
    let mut body = b"D".to_vec();
    body.extend(oid.to_be_bytes());
    tuple(&mut body, kind, old);
    body
}

pub fn truncate(oids: &[u32]) -> Vec<u8> {
    let mut body = b"T".to_vec();
    body.extend((oids.len() as u32).to_be_bytes());
    body.push(0);
    oids.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    body
}

/// The catalog's description of a table whose columns are (name, type OID).
pub fn table(
    oid: u32,
    name: &str,
    columns: &[(&str, u32)],
    key: &[&str],
    identity: ReplicaIdentity,
) -> Table {
    let names = |columns: &[&str]| columns.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let all: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    Table {
        oid: Oid(oid),
        name: TableName { schema: "public".into(), name: name.into() },
        columns: columns
            .iter()
            .map(|&(name, type_oid)| Column {
                name: name.into(),
                type_oid: Oid(type_oid),
                base_type_oid: Oid(type_oid),
                element_type_oid: None,
                type_name: "text".into(),
                is_not_null: true,
                is_generated: false,
                is_publishable: true,
                is_toastable: true,
            })
            .collect(),
        primary_key: names(key),
        is_key_deferrable: false,
        replica_identity: identity,
        identity_columns: if identity == ReplicaIdentity::Full { names(&all) } else { names(key) },
        is_partitioned: false,
        has_row_security: false,
        estimated_rows: -1,
    }
}
