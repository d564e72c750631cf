//! What a snapshot says about the xids of the stream, against a real server, a real slot and a real standby.

#[path = "support/standby.rs"]
mod standby;

use std::time::{Duration, Instant};

use standby::Standby;
use tokio_postgres::Client;
use walcast::app::demo::cluster::Cluster;
use walcast::capture::chunk::{
    ChunkLimits, ChunkReader, ChunkSource, ChunkTable, InDoubt, KeyRange, Selection,
};
use walcast::capture::snapshot::{CommitId, ReadPoint, Snapshot};
use walcast::capture::table::{Oid, TableName};
use walcast::decode::message::{self, Message};
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;

const LIMIT: Duration = Duration::from_secs(60);
const LIMITS: ChunkLimits = ChunkLimits {
    rows_max: 1000,
    bytes_max: 1 << 20,
    row_bytes_max: 1 << 20,
    time_max: Duration::from_secs(30),
};

struct Source {
    cluster: Cluster,
    info: ConnectionInfo,
    client: Client,
}

impl Source {
    async fn start(settings: &[(&str, &str)], sql: &str) -> Source {
        let builder =
            settings.iter().fold(Cluster::builder(), |builder, (name, value)| builder.setting(*name, *value));
        let cluster = builder.start().unwrap();
        let info = ConnectionInfo::resolve(&cluster.url()).unwrap();
        let client = session::connect(&info, "walcast test").await.unwrap();
        client.batch_execute(sql).await.unwrap();
        // A slot is not made in a transaction that writes.
        client.batch_execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await.unwrap();
        Source { cluster, info, client }
    }

    async fn client(&self) -> Client {
        session::connect(&self.info, "somebody else").await.unwrap()
    }

    async fn reader(&self, info: &ConnectionInfo, table: &str) -> ChunkReader {
        let oid: u32 = ask(&self.client, &format!("SELECT '{table}'::regclass::oid")).await;
        let name = TableName { schema: "public".into(), name: table.into() };
        let columns = vec!["id".into(), "v".into()];
        let source =
            ChunkSource { oid: Oid(oid), name, is_partitioned: false, columns, key: vec![0], filter: None };
        ChunkReader::new(info.clone(), ChunkTable::inspect(&self.client, source).await.unwrap())
    }
}

async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

async fn eventually(client: &Client, sql: &str) {
    let deadline = Instant::now() + LIMIT;
    while !ask::<bool>(client, sql).await {
        assert!(Instant::now() < deadline, "waited too long for {sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn everything() -> Selection {
    Selection::Range(KeyRange::default())
}

#[tokio::test]
async fn a_snapshot_sees_the_xids_that_the_server_says_it_sees() {
    let source =
        Source::start(&[("max_prepared_transactions", "5")], "CREATE TABLE t (id int PRIMARY KEY, v int)")
            .await;
    // Transactions of every kind, some open: with and without subtransactions, rolled back, prepared.
    let mut sessions = Vec::new();
    for n in 0..40i32 {
        let client = source.client().await;
        let insert = |m: i32| format!("INSERT INTO t VALUES ({}, 0)", n * 100 + m);
        let mut sql = format!("BEGIN; {};", insert(0));
        for m in 1..n % 4 {
            sql += &format!("SAVEPOINT s{m}; {};", insert(m));
        }
        if n % 7 == 0 {
            sql += "ROLLBACK TO SAVEPOINT s1;";
        }
        let sql = if n % 4 < 2 { sql.replace("ROLLBACK TO SAVEPOINT s1;", "") } else { sql };
        client.batch_execute(&sql).await.unwrap();
        match n % 5 {
            0 => client.batch_execute("COMMIT").await.unwrap(),
            1 => client.batch_execute("ROLLBACK").await.unwrap(),
            2 if n < 20 => client.batch_execute(&format!("PREPARE TRANSACTION 'p{n}'")).await.unwrap(),
            _ => {}
        }
        sessions.push(client);
    }
    source.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let text: String = ask(&source.client, "SELECT pg_current_snapshot()::text").await;
    let snapshot: Snapshot = text.parse().unwrap();
    let newest: i64 =
        ask(&source.client, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").await;
    let mut seen = 0;
    for xid in (newest - 200).max(3)..newest + 50 {
        let sql = format!("SELECT pg_visible_in_snapshot('{xid}'::xid8, pg_current_snapshot())");
        let expected: bool = ask(&source.client, &sql).await;
        assert_eq!(snapshot.is_visible(xid as u32), expected, "{xid} in {text}");
        seen += i32::from(expected);
    }
    assert!(seen > 100, "{text}");
    assert!(text.matches(',').count() > 10, "many ran at once: {text}");
}

/// The xids and commit positions that a slot delivers from now on, without confirming them.
async fn delivered(client: &Client) -> Vec<CommitId> {
    let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL, 'proto_version', '1',
               'publication_names', 'p')";
    let mut commits = Vec::new();
    for row in client.query(sql, &[]).await.unwrap() {
        if let Message::Begin(begin) = message::parse(row.get(0)).unwrap() {
            commits.push(CommitId { xid: begin.xid, commit_lsn: begin.commit_lsn });
        }
    }
    commits
}

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 1);
     CREATE PUBLICATION p FOR TABLE t";

#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_delivered_and_not_seen() {
    let source = Source::start(&[], TABLE).await;
    let standby = Standby::start(&source.cluster, "s1").await;
    let on_standby = standby.client().await;
    for (name, value) in [("synchronous_standby_names", "s1"), ("synchronous_commit", "remote_apply")] {
        source.client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    }
    source.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually(&source.client, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
        .await;
    let mut reader = source.reader(&source.info, "t").await;
    let before = reader.read(&everything(), &LIMITS).await.unwrap();

    // The standby stands still, so a commit waits after its record is written, before it is visible.
    on_standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    eventually(&on_standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'").await;
    let writer = source.client().await;
    let committed = tokio::spawn(async move {
        writer
            .batch_execute(
                "BEGIN; UPDATE t SET v = 2 WHERE id = 1; SAVEPOINT a; DELETE FROM t WHERE id = 2; COMMIT",
            )
            .await
    });
    eventually(&source.client, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')")
        .await;

    let commits = delivered(&source.client).await;
    assert_eq!(commits.len(), 1, "the slot delivers it");
    let during = reader.read(&everything(), &LIMITS).await.unwrap();
    assert_eq!(during.rows, before.rows, "a read that is made later does not see it");
    assert!(during.wal_lsn.unwrap() > commits[0].commit_lsn, "although its LSN is behind the commit");
    assert!(!during.read_point.sees(commits[0]), "and its snapshot says so");
    let in_doubt = InDoubt::read(&source.client).await.unwrap();
    assert_eq!(in_doubt.xids().first(), Some(&commits[0].xid));
    assert!(!in_doubt.is_settled(&during.read_point), "a fill does not begin meanwhile");

    on_standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    committed.await.unwrap().unwrap();
    let after = reader.read(&everything(), &LIMITS).await.unwrap();
    assert_eq!(after.rows.len(), 1);
    assert!(after.read_point.sees(commits[0]));
    assert!(in_doubt.is_settled(&after.read_point));
    assert!(after.read_point.sees_all_of(&during.read_point));
    assert!(!during.read_point.sees_all_of(&after.read_point));
}

#[tokio::test]
async fn only_what_may_be_delivered_already_is_in_doubt() {
    let source = Source::start(&[("max_prepared_transactions", "1")], TABLE).await;
    let (idle, busy, prepared) = (source.client().await, source.client().await, source.client().await);
    idle.batch_execute("BEGIN; UPDATE t SET v = 2 WHERE id = 1").await.unwrap();
    prepared.batch_execute("BEGIN; INSERT INTO t VALUES (7, 7); PREPARE TRANSACTION 'p'").await.unwrap();
    busy.batch_execute("BEGIN; UPDATE t SET v = 2 WHERE id = 2").await.unwrap();
    let xids: String =
        ask(&busy, "SELECT concat_ws(',', transaction::text, pg_current_xact_id_if_assigned()::text) FROM pg_prepared_xacts")
            .await;
    // The busy one waits for the idle one's row: it runs, and from outside it could as well be committing.
    let waiting = tokio::spawn(async move {
        busy.batch_execute("UPDATE t SET v = 3 WHERE id = 1; COMMIT").await.unwrap();
    });
    eventually(&source.client, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").await;
    let in_doubt = InDoubt::read(&source.client).await.unwrap();
    let mut found = in_doubt.xids().to_vec();
    found.sort_unstable();
    assert_eq!(found.iter().map(u32::to_string).collect::<Vec<_>>().join(","), xids);

    let mut reader = source.reader(&source.info, "t").await;
    assert!(!in_doubt.is_settled(&reader.read(&everything(), &LIMITS).await.unwrap().read_point));
    idle.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap();
    source.client.batch_execute("ROLLBACK PREPARED 'p'").await.unwrap();
    assert!(in_doubt.is_settled(&reader.read(&everything(), &LIMITS).await.unwrap().read_point));
}

#[tokio::test]
async fn a_read_of_a_standby_sees_what_it_has_replayed_whatever_its_snapshot_lists() {
    let source = Source::start(&[], TABLE).await;
    let standby = Standby::start(&source.cluster, "s1").await;
    let on_standby = standby.client().await;
    // One transaction stays open all the time, another one is committed after it began.
    let open = source.client().await;
    open.batch_execute("BEGIN; UPDATE t SET v = 5 WHERE id = 1").await.unwrap();
    let open_xid: i64 = ask(&open, "SELECT pg_current_xact_id()::text::bigint").await;
    source.client.batch_execute("UPDATE t SET v = 6 WHERE id = 2").await.unwrap();
    let in_doubt = InDoubt::read(&source.client).await.unwrap();
    let lsn: String = ask(&source.client, "SELECT pg_current_wal_lsn()::text").await;
    eventually(&on_standby, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")).await;

    // What a snapshot says there is no use: the open transaction would pass for visible.
    let text: String = ask(&on_standby, "SELECT pg_current_snapshot()::text").await;
    assert!(text.ends_with(':'), "a standby lists nothing that runs: {text}");
    assert!(text.parse::<Snapshot>().unwrap().is_visible(open_xid as u32), "{text}");

    let commits = delivered(&source.client).await;
    let mut reader = source.reader(&standby.info, "t").await;
    let chunk = reader.read(&everything(), &LIMITS).await.unwrap();
    assert!(matches!(chunk.read_point, ReadPoint::Standby { .. }));
    assert_eq!(chunk.wal_lsn, None);
    assert_eq!(chunk.rows.len(), 2);
    assert!(chunk.read_point.sees(commits[0]), "also while an older transaction runs");
    assert!(in_doubt.is_settled(&chunk.read_point));

    // What the standby has not replayed, its reads do not see.
    on_standby.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    eventually(&on_standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'").await;
    open.batch_execute("COMMIT").await.unwrap();
    let commits = delivered(&source.client).await;
    assert_eq!(commits.len(), 2);
    let stale = reader.read(&everything(), &LIMITS).await.unwrap();
    assert_eq!(stale.rows, chunk.rows);
    assert!(!stale.read_point.sees(commits[1]));
    assert!(!InDoubt::read(&source.client).await.unwrap().is_settled(&stale.read_point));
    on_standby.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() > '{}'", commits[1].commit_lsn);
    eventually(&on_standby, &replayed).await;
    let fresh = reader.read(&everything(), &LIMITS).await.unwrap();
    assert!(fresh.read_point.sees(commits[1]));
    assert_ne!(fresh.rows, chunk.rows);
}
