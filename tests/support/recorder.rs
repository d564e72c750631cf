//! Records what a real server streams while a scenario's SQL runs.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use pgwire_replication::protocol::encode_standby_status_update;
use pgwire_replication::protocol::framing::write_copy_data;
use tokio::io::AsyncReadExt;
use tokio_postgres::Client;
use walcast::Lsn;
use walcast::app::demo::Cluster;
use walcast::app::source::start_replication;
use walcast::capture::catalog;
use walcast::capture::frame::complete_prefix;
use walcast::capture::table::{Table, TableName};
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;
use walcast::postgres::socket::Socket;
use walcast::postgres::wire::ReplicationSession;

/// How often the server is asked whether that was all.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// Runs the scenario on a cluster of its own. Returns the stream's bytes and the catalog as it was before the stream.
///
/// A paragraph of `sql` is sent as one query. Those before the paragraph `-- stream` are the setup. A first line
/// `-- b:` says in which session a paragraph runs, `-- fails: text` that it must fail, and with what.
pub fn record(sql: &str, options: &str, tables: &[TableName]) -> (Vec<u8>, Vec<Table>) {
    let cluster = Cluster::builder().start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let info = ConnectionInfo::resolve(&cluster.url()).unwrap();
        let mut sessions = HashMap::new();
        let (setup, stream) = sql.split_once("-- stream\n").expect("a scenario has a paragraph `-- stream`");
        run(setup, &info, &mut sessions).await;
        let admin = session::connect(&info, "golden").await.unwrap();
        admin
            .batch_execute(
                "CREATE PUBLICATION golden FOR ALL TABLES WITH (publish_via_partition_root = true)",
            )
            .await
            .unwrap();
        admin.query("SELECT pg_create_logical_replication_slot('golden', 'pgoutput')", &[]).await.unwrap();
        let catalog = catalog::read_tables(&admin, tables).await.unwrap();
        run(stream, &info, &mut sessions).await;
        let end = catalog::read_server(&admin).await.unwrap().current_wal_lsn;

        let mut start = start_replication("golden", "golden", false);
        if !options.is_empty() {
            start = format!("{}, {options})", start.strip_suffix(')').unwrap());
        }
        let replication = ReplicationSession::connect(&info, "golden").await.unwrap();
        let (socket, buffer) = replication.start_copy_both(&start).await.unwrap();
        (read_to(end, socket, buffer).await, catalog)
    })
}

async fn run(sql: &str, info: &ConnectionInfo, sessions: &mut HashMap<String, Client>) {
    for paragraph in sql.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let marker = paragraph.lines().next().and_then(|line| line.strip_prefix("-- ")).unwrap_or_default();
        let name = marker.strip_suffix(':').unwrap_or("a");
        if !sessions.contains_key(name) {
            sessions.insert(name.to_owned(), session::connect(info, name).await.unwrap());
        }
        let outcome = sessions[name].batch_execute(paragraph).await;
        match marker.strip_prefix("fails: ") {
            None => outcome.unwrap_or_else(|error| panic!("{error:?}: {paragraph}")),
            Some(expected) => {
                let error = outcome.expect_err(paragraph);
                let message = error.as_db_error().unwrap().message();
                assert!(message.contains(expected), "{message}");
            }
        }
    }
}

/// Everything up to the keepalive that says that the server has sent all WAL up to `end`.
async fn read_to(end: Lsn, mut socket: Socket, mut buffer: BytesMut) -> Vec<u8> {
    loop {
        let prefix = complete_prefix(&buffer);
        if prefix.wal_end >= Some(end) {
            assert_eq!(prefix.complete, buffer.len(), "nothing is sent behind the last keepalive");
            return buffer.to_vec();
        }
        let status = encode_standby_status_update(Lsn::ZERO, 0, true);
        write_copy_data(&mut socket, &status).await.unwrap();
        // Cancel-safe: what was read is in the buffer.
        if let Ok(read) = tokio::time::timeout(ASK_INTERVAL, socket.read_buf(&mut buffer)).await {
            assert!(read.unwrap() > 0, "the server ended the stream");
        }
    }
}
