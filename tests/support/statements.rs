//! The statements of a body, for stand-ins of a database: read back from what would be sent.

use serde::Deserialize;
use walcast::sink::d1::body::{Body, Bulk};
use walcast::sink::d1::transport::Statement;

#[derive(Deserialize)]
struct Sent {
    batch: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    sql: String,
    params: Vec<String>,
}

/// What the request says, `first` and what was written ahead.
pub fn statements(first: &[Statement], bulk: &Bulk) -> Vec<Statement> {
    let body = Body::new(first, bulk);
    assert!(!body.is_gzip, "a stand-in reads what is not compressed");
    let sent: Sent = serde_json::from_slice(&body.pieces().concat()).expect("a body is JSON");
    assert_eq!(sent.batch.len(), first.len() + bulk.statements());
    sent.batch.into_iter().map(|Entry { sql, params }| Statement { sql: sql.into(), params }).collect()
}
