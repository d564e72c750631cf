//! The catalog, the publication, the slot and `walcast check` against a real server.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use walcast::Lsn;
use walcast::app::check::{self, Finding, MappedTable, Request, Severity};
use walcast::app::demo::cluster::Cluster;
use walcast::capture::catalog::{ServerVersion, all_tables, read_server, read_tables};
use walcast::capture::publication::{self, PublicationChange, PublishedTable, ensure};
use walcast::capture::slot;
use walcast::capture::table::{ReplicaIdentity, Table, TableName};
use walcast::error::Kind;
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;
use walcast::postgres::wire::ReplicationSession;

const TEXT: u32 = 25;
const INT4: u32 = 23;
const INT4_ARRAY: u32 = 1007;
const NUMERIC: u32 = 1700;

struct Source {
    cluster: Cluster,
    info: ConnectionInfo,
    client: Client,
}

impl Source {
    async fn start(sql: &str) -> Source {
        Source::start_with(&[("max_prepared_transactions", "2")], sql).await
    }

    async fn start_with(settings: &[(&str, &str)], sql: &str) -> Source {
        let builder = Cluster::builder();
        let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(*name, *value));
        let cluster = builder.start().unwrap();
        let info = ConnectionInfo::resolve(&cluster.url()).unwrap();
        let client = session::connect(&info, "walcast test").await.unwrap();
        client.batch_execute(sql).await.unwrap();
        Source { cluster, info, client }
    }

    async fn client(&self) -> Client {
        session::connect(&self.info, "somebody else").await.unwrap()
    }

    async fn version(&self) -> ServerVersion {
        read_server(&self.client).await.unwrap().version
    }

    async fn table(&self, name: &str) -> Table {
        let (schema, name) = name.split_once('.').unwrap_or(("public", name));
        read_tables(&self.client, &[named(schema, name)]).await.unwrap().remove(0)
    }

    /// What must be published of the named tables when all their columns are mapped.
    async fn published(&self, tables: &[(&str, &[&str])]) -> Vec<PublishedTable> {
        let version = self.version().await;
        let mut published = Vec::new();
        for (name, mapped) in tables {
            published.push(PublishedTable::new(&self.table(name).await, &strings(mapped), version));
        }
        published
    }
}

fn named(schema: &str, name: &str) -> TableName {
    TableName { schema: schema.into(), name: name.into() }
}

/// What is said of a publication of just the mapped tables.
fn accepted(version: ServerVersion) -> PublicationChange {
    let notes = match version.has_column_lists() {
        true => vec![],
        false => vec![format!("Postgres {version} has no column lists: unmapped columns are sent too")],
    };
    PublicationChange::Accepted { notes }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

#[tokio::test]
async fn tables_of_every_kind_are_read_as_they_are() {
    let source = Source::start(
        r#"
        CREATE DOMAIN email AS text;
        CREATE DOMAIN work_email AS email NOT NULL;
        CREATE DOMAIN scores AS int[];
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        CREATE TABLE types (
            id int, gone int, mail work_email, mails email[], points scores, mood mood, moods mood[],
            amount numeric(10,2), v int2vector, p point, plain text,
            twice int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id)
        );
        ALTER TABLE types DROP COLUMN gone;
        ALTER TABLE types ALTER COLUMN plain SET STORAGE PLAIN;

        CREATE TABLE two_keys (a int, b text, c int, PRIMARY KEY (c, a) INCLUDE (b));
        CREATE TABLE no_key (a int);
        CREATE TABLE put_off (a int PRIMARY KEY DEFERRABLE);
        CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE everything (a int PRIMARY KEY, b text, g int GENERATED ALWAYS AS (a) STORED);
        ALTER TABLE everything REPLICA IDENTITY FULL;
        CREATE TABLE by_index (a int PRIMARY KEY, b int NOT NULL, c int NOT NULL);
        CREATE UNIQUE INDEX other_key ON by_index (c, b);
        ALTER TABLE by_index REPLICA IDENTITY USING INDEX other_key;
        CREATE TABLE index_gone (a int PRIMARY KEY, b int NOT NULL UNIQUE);
        ALTER TABLE index_gone REPLICA IDENTITY USING INDEX index_gone_b_key;
        ALTER TABLE index_gone DROP CONSTRAINT index_gone_b_key;

        CREATE TABLE root (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE leaf_1 PARTITION OF root FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE leaf_2 PARTITION OF root FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        INSERT INTO root SELECT n, '2024-06-01'::date + n, 'x' FROM generate_series(1, 300) n;
        ANALYZE leaf_1; ANALYZE leaf_2;
        CREATE TABLE secured (id int PRIMARY KEY); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
        CREATE SCHEMA "we""ird.schéma";
        CREATE TABLE "we""ird.schéma"."ta""ble.Ünï" ("co""l.umn" int PRIMARY KEY, "SELECT" text);
        CREATE VIEW a_view AS SELECT 1; CREATE UNLOGGED TABLE unlogged (a int); CREATE TEMP TABLE temporary (a int);
        "#,
    )
    .await;

    let types = source.table("types").await;
    let of = |name: &str| {
        let column = types.column(name).unwrap();
        (column.base_type_oid.0, column.element_type_oid.map(|oid| oid.0))
    };
    assert_eq!(types.columns.len(), 11, "a dropped column is not there");
    assert_eq!(of("mail"), (TEXT, None));
    assert_eq!(of("mails").1, Some(TEXT));
    assert_ne!(of("mails").0, TEXT);
    assert_eq!(of("points"), (INT4_ARRAY, Some(INT4)));
    assert_eq!(of("amount"), (NUMERIC, None));
    assert_eq!(of("moods").1, Some(of("mood").0));
    assert_eq!(of("v").1, None, "int2vector is no array");
    assert_eq!(of("p").1, None, "a point is no array");
    assert_eq!(types.column("amount").unwrap().type_name, "numeric(10,2)");
    assert_eq!(types.column("mail").unwrap().type_name, "work_email");
    assert!(types.column("plain").unwrap().is_toastable, "it may hold values from before SET STORAGE PLAIN");
    assert!(types.column("amount").unwrap().is_toastable && types.column("points").unwrap().is_toastable);
    assert!(!types.column("id").unwrap().is_toastable && !types.column("mood").unwrap().is_toastable);
    assert!(types.column("twice").unwrap().is_generated && !types.column("id").unwrap().is_generated);
    assert!(types.column("id").unwrap().is_not_null && !types.column("amount").unwrap().is_not_null);
    assert_eq!(types.estimated_rows, -1);

    // A stored generated column is published from 18 on.
    let everything = if source.version().await.major() >= 18 { vec!["a", "b", "g"] } else { vec!["a", "b"] };
    for (name, key, identity, columns) in [
        ("two_keys", vec!["c", "a"], ReplicaIdentity::Default, vec!["a", "c"]),
        ("no_key", vec![], ReplicaIdentity::Default, vec![]),
        ("put_off", vec!["a"], ReplicaIdentity::Default, vec![]),
        ("nothing", vec!["a"], ReplicaIdentity::Nothing, vec![]),
        ("everything", vec!["a"], ReplicaIdentity::Full, everything),
        ("by_index", vec!["a"], ReplicaIdentity::Index, vec!["b", "c"]),
        ("index_gone", vec!["a"], ReplicaIdentity::Index, vec![]),
        ("root", vec!["id", "day"], ReplicaIdentity::Default, vec!["id", "day"]),
    ] {
        let table = source.table(name).await;
        assert_eq!(table.primary_key, key, "{name}");
        assert_eq!(table.replica_identity, identity, "{name}");
        assert_eq!(table.identity_columns, columns, "{name}");
    }
    assert!(
        source.table("put_off").await.is_key_deferrable && !source.table("two_keys").await.is_key_deferrable
    );
    let root = source.table("root").await;
    assert!(root.is_partitioned && root.estimated_rows == 300, "{root:?}");
    assert!(source.table("secured").await.has_row_security);
    let odd = named("we\"ird.schéma", "ta\"ble.Ünï");
    let table = read_tables(&source.client, std::slice::from_ref(&odd)).await.unwrap().remove(0);
    assert_eq!((table.name, table.primary_key), (odd.clone(), strings(&["co\"l.umn"])));

    for (name, message) in [
        ("missing", "does not exist"),
        ("a_view", "is a view"),
        ("leaf_1", "is a partition: its changes arrive under public.root"),
        ("unlogged", "is unlogged"),
    ] {
        let error = read_tables(&source.client, &[named("public", name)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains(message), "{error}");
    }

    let all: Vec<TableName> =
        all_tables(&source.client, &[]).await.unwrap().into_iter().map(|table| table.name).collect();
    assert_eq!(all.len(), 11, "{all:?}");
    assert!(all.contains(&odd) && all.contains(&named("public", "root")));
    let only = all_tables(&source.client, std::slice::from_ref(&odd.schema)).await.unwrap();
    assert_eq!(only.len(), 1);
    let both = read_tables(&source.client, &[named("public", "types"), odd.clone()]).await.unwrap();
    assert_eq!((both[0].name.name.as_str(), &both[1].name), ("types", &odd), "in the order asked for");
}

#[tokio::test]
async fn a_publication_is_created_widened_and_then_accepted() {
    let source = Source::start(
        r#"
        CREATE TABLE orders (id int PRIMARY KEY, total int, secret text);
        CREATE TABLE full_rows (id int PRIMARY KEY, a int, b int); ALTER TABLE full_rows REPLICA IDENTITY FULL;
        CREATE TABLE "od""d-t" (id int PRIMARY KEY, "c""d" text);
        CREATE TABLE root (id int PRIMARY KEY, note text) PARTITION BY HASH (id);
        CREATE TABLE leaf PARTITION OF root FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        CREATE TABLE generated (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a) STORED);
        INSERT INTO full_rows VALUES (1, 1, 1);
        "#,
    )
    .await;
    let (client, version) = (&source.client, source.version().await);
    let name = "wal\"cast";

    assert_eq!(publication::describe(client, name).await.unwrap(), None);
    let first = source
        .published(&[
            ("orders", &["total"]),
            ("full_rows", &["a"]),
            ("root", &["note"]),
            ("generated", &["g"]),
        ])
        .await;
    assert_eq!(ensure(client, name, &first, version).await.unwrap(), PublicationChange::Created);
    let made = publication::describe(client, name).await.unwrap().unwrap();
    assert!(made.is_owned && made.via_root && !made.all_tables && made.tables.len() == 4);
    let list = |table: &str| made.member(&named("public", table)).unwrap().column_list.clone();
    let has_lists = version.has_column_lists();
    let listed = |columns: &[&str]| has_lists.then(|| strings(columns));
    assert_eq!(list("orders"), listed(&["id", "total"]));
    assert_eq!(list("full_rows"), None);
    let published: &[&str] = if version.major() >= 18 { &["id", "g"] } else { &["id"] };
    assert_eq!(list("generated"), listed(published));
    client.batch_execute("UPDATE full_rows SET a = 2").await.unwrap();
    assert_eq!(ensure(client, name, &first, version).await.unwrap(), accepted(version));

    let second = source.published(&[("orders", &["secret"]), ("od\"d-t", &["c\"d"])]).await;
    let change = ensure(client, name, &second, version).await.unwrap();
    // Without column lists, a table is published with all its columns.
    let lacking = if has_lists { 2 } else { 1 };
    assert!(
        matches!(&change, PublicationChange::Altered { reasons } if reasons.len() == lacking),
        "{change:?}"
    );
    let widened = publication::describe(client, name).await.unwrap().unwrap();
    assert_eq!(widened.tables.len(), 5);
    let orders = widened.member(&named("public", "orders")).unwrap();
    assert_eq!(orders.column_list, listed(&["id", "total", "secret"]));
    let PublicationChange::Accepted { notes } = ensure(client, name, &second, version).await.unwrap() else {
        panic!("it covers them now");
    };
    assert!(notes[0].contains("also publishes"), "{notes:?}");

    // What a column list on a table with FULL identity does, and that it is taken away.
    if has_lists {
        client.batch_execute("CREATE PUBLICATION bad FOR TABLE full_rows (id, a, b)").await.unwrap();
        let refused = client.batch_execute("UPDATE full_rows SET a = 3").await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("cannot update table"), "{refused:?}");
        let full = source.published(&[("full_rows", &["a"])]).await;
        ensure(client, "bad", &full, version).await.unwrap();
        client.batch_execute("UPDATE full_rows SET a = 3").await.unwrap();
    }

    // Column lists, row filters and publications of schemas came with the same version.
    let wide: &[&str] =
        if has_lists { &["FOR ALL TABLES", "FOR TABLES IN SCHEMA public"] } else { &["FOR ALL TABLES"] };
    for sql in wide {
        client.batch_execute(&format!("CREATE PUBLICATION wide {sql}")).await.unwrap();
        let flat = source.published(&[("orders", &["total"]), ("full_rows", &["a"])]).await;
        let change = ensure(client, "wide", &flat, version).await.unwrap();
        assert!(matches!(change, PublicationChange::Accepted { .. }), "{change:?}");
        // A partition root is only announced by its own name with the option.
        let error = ensure(client, "wide", &first[2..3], version).await.unwrap_err();
        let sql = error.hint_text().unwrap().split_once("run: ").unwrap().1;
        client.batch_execute(sql).await.unwrap();
        let change = ensure(client, "wide", &first[2..3], version).await.unwrap();
        assert!(matches!(change, PublicationChange::Accepted { .. }), "{change:?}");
        publication::drop(client, "wide").await.unwrap();
    }
    publication::drop(client, name).await.unwrap();
    publication::drop(client, name).await.unwrap();
    assert_eq!(publication::describe(client, name).await.unwrap(), None);
}

#[tokio::test]
async fn a_table_that_others_inherit_from_is_published_without_them() {
    let source = Source::start(
        "CREATE TABLE parent (id int PRIMARY KEY, v text);
         CREATE TABLE keyless (extra int) INHERITS (parent);
         CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent);
         CREATE TABLE later (id int PRIMARY KEY);",
    )
    .await;
    let (client, version) = (&source.client, source.version().await);
    let both = source.published(&[("parent", &["v"]), ("child", &["v", "extra"])]).await;
    ensure(client, "w", &both, version).await.unwrap();
    let more = source.published(&[("parent", &["v"]), ("later", &["id"])]).await;
    ensure(client, "w", &more, version).await.unwrap();
    let made = publication::describe(client, "w").await.unwrap().unwrap();
    let names: Vec<String> = made.tables.iter().map(|member| member.name.plain()).collect();
    assert_eq!(names, ["child", "later", "parent"]);
    // Published, it could not be written any more: it has no key.
    client.batch_execute("INSERT INTO keyless VALUES (1); UPDATE keyless SET v = 'x'").await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_publish_is_told_the_sql_that_its_dba_runs() {
    let source = Source::start(
        "CREATE ROLE dba LOGIN; CREATE ROLE walcast LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO walcast;
         CREATE TABLE orders (id int PRIMARY KEY, total int); CREATE TABLE lines (id int PRIMARY KEY);
         GRANT SELECT ON orders, lines TO walcast;",
    )
    .await;
    let version = source.version().await;
    source.client.batch_execute("SET ROLE walcast").await.unwrap();
    let orders = source.published(&[("orders", &["total"])]).await;
    let both = source.published(&[("orders", &["total"]), ("lines", &["id"])]).await;
    for wanted in [&orders, &both] {
        let error = ensure(&source.client, "w", wanted, version).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Halt, "{error:?}");
        let sql = error.hint_text().unwrap().split_once("run: ").unwrap().1.to_owned();
        source.client.batch_execute("RESET ROLE").await.unwrap();
        source.client.batch_execute(&sql).await.unwrap();
        source.client.batch_execute("SET ROLE walcast").await.unwrap();
        let change = ensure(&source.client, "w", wanted, version).await.unwrap();
        assert_eq!(change, accepted(version));
    }
    let error = publication::drop(&source.client, "w").await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("DROP PUBLICATION IF EXISTS \"w\""), "{error:?}");
}

#[tokio::test]
async fn a_slot_that_waits_for_a_transaction_gives_up_names_it_and_leaves_nothing() {
    let source = Source::start("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION w FOR TABLE t").await;
    let (client, version) = (&source.client, source.version().await);
    let blocker = source.client().await;
    blocker.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);

    let mut session = ReplicationSession::connect(&source.info, "walcast").await.unwrap();
    let started = Instant::now();
    let limit = Duration::from_millis(2_500);
    let error = slot::create(&mut session, client, "w", true, version, limit).await.unwrap_err();
    assert!(started.elapsed() >= limit && started.elapsed() < limit * 3, "{:?}", started.elapsed());
    assert_eq!(error.kind(), Kind::Transient);
    assert!(
        error.to_string().contains(&format!("pid {pid} (user postgres, application somebody else")),
        "{error}"
    );
    assert!(error.to_string().contains("idle in transaction, open for"), "{error}");
    assert!(error.hint_text().unwrap().contains(&format!("pg_terminate_backend({pid})")));
    assert_eq!(slot::read(client, "w").await.unwrap(), None, "no orphan");

    // A prepared transaction blocks as well, and has no pid.
    blocker.batch_execute("PREPARE TRANSACTION 'held'").await.unwrap();
    let mut session = ReplicationSession::connect(&source.info, "walcast").await.unwrap();
    let limit = Duration::from_millis(500);
    let error = slot::create(&mut session, client, "w", false, version, limit).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("ROLLBACK PREPARED 'held'"), "{error:?}");
    assert_eq!(slot::read(client, "w").await.unwrap(), None, "no orphan");

    // While it waits, the slot is seen as not ready; once the transaction ends, it is made.
    let mut session = ReplicationSession::connect(&source.info, "walcast").await.unwrap();
    let limit = Duration::from_secs(20);
    let creation = slot::create(&mut session, client, "w", false, version, limit);
    let ending = async {
        while slot::read(&blocker, "w").await.unwrap().is_none_or(|slot| slot.active_pid.is_none()) {
            tokio::task::yield_now().await;
        }
        let waiting = slot::read(&blocker, "w").await.unwrap().unwrap();
        assert_eq!(waiting.confirmed_flush_lsn, None);
        blocker.batch_execute("ROLLBACK PREPARED 'held'").await.unwrap();
    };
    let (created, ()) = tokio::join!(creation, ending);
    let created = created.unwrap();

    let state = slot::read(client, "w").await.unwrap().unwrap();
    assert_eq!(state.confirmed_flush_lsn, Some(created.consistent_point));
    assert_eq!((state.plugin.as_deref(), state.database.as_deref()), (Some("pgoutput"), Some("postgres")));
    assert_eq!(state.wal_status.as_deref(), Some("reserved"));
    assert!(state.restart_lsn.unwrap() <= created.consistent_point);
    assert!(state.retained_bytes.unwrap() >= 0 && state.current_wal_lsn >= created.consistent_point);
    assert!(!state.two_phase && !state.failover && !state.is_temporary && state.invalidation().is_none());

    let server = read_server(client).await.unwrap();
    let source_identity = slot::SourceIdentity::new(&server, "w");
    let judgement = slot::judge(
        &source_identity,
        state.current_wal_lsn,
        &slot::TimelineHistory::default(),
        Some(&state),
        &[],
    );
    assert_eq!(judgement.slot, slot::SlotVerdict::Resume);
    let identified = session.simple_query("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(identified[0][0], Some(server.system_identifier.to_string()));
    assert_eq!(identified[0][1], Some(server.timeline.to_string()));

    // In use it is not dropped; afterwards it is, once and again.
    let streaming = ReplicationSession::connect(&source.info, "walcast").await.unwrap();
    let command = "START_REPLICATION SLOT w LOGICAL 0/0 (proto_version '1', publication_names 'w')";
    let streaming = streaming.start_copy_both(command).await.unwrap();
    let error = slot::drop(client, "w").await.unwrap_err();
    assert!(error.to_string().contains("in use by backend"), "{error}");
    drop(streaming);
    let deadline = Instant::now() + Duration::from_secs(10);
    while slot::read(client, "w").await.unwrap().unwrap().active_pid.is_some() {
        assert!(Instant::now() < deadline, "the server did not notice that the stream ended");
        tokio::task::yield_now().await;
    }
    slot::drop(client, "w").await.unwrap();
    slot::drop(client, "w").await.unwrap();
    assert_eq!(slot::read(client, "w").await.unwrap(), None);
}

#[tokio::test]
async fn a_slot_that_the_server_gave_up_stops_with_the_next_command() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let source = Source::start_with(&settings, "CREATE TABLE t (id int)").await;
    let client = &source.client;
    client.batch_execute("SELECT pg_create_logical_replication_slot('w', 'pgoutput')").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let lost = loop {
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        client.batch_execute("CHECKPOINT").await.unwrap();
        let slot = slot::read(client, "w").await.unwrap().unwrap();
        if slot.invalidation().is_some() {
            break slot;
        }
        assert!(Instant::now() < deadline, "{slot:?}");
    };
    let server = read_server(client).await.unwrap();
    assert_eq!(server.max_slot_wal_keep_bytes, Some(1024 * 1024));
    let identity = slot::SourceIdentity::new(&server, "w");
    let judgement =
        slot::judge(&identity, lost.current_wal_lsn, &slot::TimelineHistory::default(), Some(&lost), &[]);
    let error = judgement.slot.error(&identity).unwrap();
    assert_eq!(error.kind(), Kind::NeedsBackfill);
    assert!(error.hint_text().unwrap().contains("walcast nuke --all"), "{error:?}");
    slot::drop(client, "w").await.unwrap();
}

#[tokio::test]
async fn after_a_promotion_only_positions_before_the_switch_are_resumed() {
    let settings = [("restore_command", "false")];
    let mut source = Source::start_with(&settings, "CREATE TABLE t (id int)").await;
    source.client.batch_execute("SELECT pg_create_logical_replication_slot('w', 'pgoutput')").await.unwrap();
    let before = read_server(&source.client).await.unwrap();
    assert_eq!(before.timeline, 1);

    // A recovery that finds nothing to restore ends at once, on a new timeline, as a promotion does.
    source.cluster.stop().unwrap();
    let data = source.cluster.directory().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    let signal = data.join("recovery.signal");
    std::fs::write(&signal, "").unwrap();
    std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
    source.cluster.start().unwrap();
    source.client = source.client().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let server = read_server(&source.client).await.unwrap();
        if !server.is_in_recovery {
            break server;
        }
        assert!(Instant::now() < deadline, "it stays in recovery");
    };
    assert_eq!((after.timeline, after.system_identifier), (2, before.system_identifier));

    let mut session = ReplicationSession::connect(&source.info, "walcast").await.unwrap();
    let history = slot::read_history(&mut session, after.timeline).await.unwrap();
    let switch = history.switch_after(1).expect("timeline 1 is the ancestor");
    assert!(before.current_wal_lsn <= switch && switch <= after.current_wal_lsn);
    let at = |lsn: Lsn| slot::SinkCheckpoint {
        copy: None,
        sink: "eu".into(),
        lsn: Some(lsn),
        system_identifier: before.system_identifier,
        timeline: before.timeline,
        slot: "w".into(),
    };
    let state = slot::read(&source.client, "w").await.unwrap().unwrap();
    let identity = slot::SourceIdentity::new(&after, "w");
    let verdict = |lsn| {
        slot::judge(&identity, after.current_wal_lsn, &history, Some(&state), &[at(lsn)]).sinks.remove(0).1
    };
    assert_eq!(verdict(switch), slot::SinkVerdict::Resume);
    let lost = Lsn(switch.0 + 8);
    assert_eq!(verdict(lost), slot::SinkVerdict::AfterSwitch { checkpoint: lost, switch });
}

fn mapped(name: &str, key: &[&str], columns: &[&str]) -> MappedTable {
    MappedTable {
        name: named("public", name),
        primary_key: strings(key),
        columns: strings(columns),
        notes: vec![],
    }
}

/// The findings that are not ok, as lines.
fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().filter(|finding| finding.severity != Severity::Ok).map(Finding::to_string).collect()
}

#[tokio::test]
async fn a_check_finds_what_would_go_wrong_and_its_remedies_put_it_right() {
    let source = Source::start(
        "CREATE TABLE good (id int PRIMARY KEY, a int);
         CREATE TABLE no_key (id int, a int);
         CREATE TABLE secured (id int PRIMARY KEY, a int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
         CREATE TABLE hidden (id int PRIMARY KEY, a int);
         CREATE TABLE generated (id int PRIMARY KEY);
         CREATE TABLE by_index (id int PRIMARY KEY, b int NOT NULL UNIQUE);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_b_key;
         CREATE TABLE root (id int PRIMARY KEY) PARTITION BY HASH (id);
         CREATE TABLE leaf PARTITION OF root FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         ALTER TABLE leaf REPLICA IDENTITY NOTHING;
         CREATE ROLE walcast LOGIN;
         GRANT SELECT ON good, no_key, secured, generated, by_index, root TO walcast;
         GRANT SELECT (id) ON hidden TO walcast;",
    )
    .await;
    let (kind, what) =
        if source.version().await.major() >= 18 { ("VIRTUAL", "virtual") } else { ("STORED", "generated") };
    let generated = format!("ALTER TABLE generated ADD g int GENERATED ALWAYS AS (id) {kind}");
    source.client.batch_execute(&generated).await.unwrap();
    let request = Request {
        sinks: 2,
        host: "localhost".into(),
        port: 5432,
        publication: "w".into(),
        slot: "w".into(),
        tables: vec![
            mapped("good", &["id"], &["id", "a"]),
            mapped("no_key", &["id"], &["id", "a"]),
            mapped("secured", &["id"], &["id", "a"]),
            mapped("hidden", &["id"], &["id", "a"]),
            mapped("generated", &["id"], &["id", "g"]),
            mapped("by_index", &["id"], &["id", "b"]),
            mapped("root", &["id"], &["id"]),
            mapped("missing", &["id"], &["id"]),
            mapped("good", &["id"], &["id", "nope"]),
        ],
        columns_max: Some(1),
    };

    let walcast = source.client().await;
    walcast.batch_execute("SET ROLE walcast").await.unwrap();
    let facts = check::gather(&walcast, &request).await.unwrap();
    let findings = check::evaluate(&request, &facts);
    let found = lines(&findings);
    for expected in [
        "problem role walcast: it lacks REPLICATION",
        "problem table no_key: it has no primary key: once it is published, the server rejects",
        "problem table secured: row security hides rows",
        "problem table hidden: role \"walcast\" may not read a",
        &format!("problem table generated: column g is {what}"),
        "problem table by_index: primaryKey in schema.json has id, which its replica identity INDEX does not carry",
        "problem table root: its replica identity is DEFAULT, but public.leaf has another",
        "problem table missing: table \"public\".\"missing\" does not exist",
        "problem table good: column nope does not exist",
        "problem table good: 2 columns are mapped, and a sink takes 1",
        "problem publication w: it does not exist; and this role may not change that; remedy: CREATE PUBLICATION",
    ] {
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected}\n{found:#?}");
    }
    assert!(found.iter().all(|line| !line.contains('\n')));

    // Everything that is SQL is run as it stands; what is left is schema.json's.
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Problem) {
        let Some(remedy) = &finding.remedy else { continue };
        let sql = remedy.split("; or").next().unwrap().split(" (Amazon").next().unwrap();
        let sql = sql.split("; and so").next().unwrap().split("schema.json, or ").last().unwrap();
        let is_sql = ["ALTER", "GRANT", "CREATE"].iter().any(|verb| sql.starts_with(verb));
        if is_sql && !finding.subject.contains("by_index") {
            source.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
    source.client.batch_execute("ALTER TABLE by_index REPLICA IDENTITY DEFAULT").await.unwrap();
    let mut request = request;
    request.columns_max = Some(100);
    request.tables.truncate(7);
    request.tables[4].columns.pop();
    let facts = check::gather(&walcast, &request).await.unwrap();
    let findings = check::evaluate(&request, &facts);
    assert!(check::worst(&findings) < Severity::Problem, "{:#?}", lines(&findings));
    let subjects = findings.iter().filter(|finding| finding.subject.starts_with("table ")).count();
    assert_eq!(subjects, 7, "one line for each table");
}
