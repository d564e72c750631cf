//! Reading tables in chunks from a real server: every key type, every kind of table, and what must be refused.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};
use walcast::app::demo::cluster::Cluster;
use walcast::capture::catalog::read_tables;
use walcast::capture::chunk::{
    Chunk, ChunkLimits, ChunkReader, ChunkSource, ChunkTable, Key, KeyRange, Selection,
};
use walcast::capture::snapshot::ReadPoint;
use walcast::capture::table::TableName;
use walcast::error::{Kind, Result};
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;

const LIMIT: Duration = Duration::from_secs(60);
const LIMITS: ChunkLimits =
    ChunkLimits { rows_max: 7, bytes_max: 1 << 20, row_bytes_max: 1 << 24, time_max: LIMIT };

struct Source {
    _cluster: Cluster,
    info: ConnectionInfo,
    client: Client,
}

impl Source {
    async fn start(sql: &str) -> Source {
        let cluster = Cluster::builder().start().unwrap();
        let info = ConnectionInfo::resolve(&cluster.url()).unwrap();
        let client = session::connect(&info, "walcast test").await.unwrap();
        client.batch_execute(sql).await.unwrap();
        Source { _cluster: cluster, info, client }
    }

    async fn exec(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The table with all its columns, by the given key or else its primary key.
    async fn source(&self, table: &str, key: &[&str]) -> ChunkSource {
        let name = TableName { schema: "public".into(), name: table.into() };
        let table = read_tables(&self.client, std::slice::from_ref(&name)).await.unwrap().remove(0);
        let columns: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        let names: Vec<String> = match key {
            [] => table.primary_key.clone(),
            key => key.iter().map(|&name| name.to_owned()).collect(),
        };
        let key =
            names.iter().map(|name| columns.iter().position(|column| column == name).unwrap()).collect();
        ChunkSource { oid: table.oid, name, is_partitioned: table.is_partitioned, columns, key, filter: None }
    }

    async fn table(&self, table: &str, key: &[&str]) -> Result<ChunkTable> {
        ChunkTable::inspect(&self.client, self.source(table, key).await).await
    }

    async fn reader(&self, table: &str) -> ChunkReader {
        ChunkReader::new(self.info.clone(), self.table(table, &[]).await.unwrap())
    }

    /// A query's rows as text, fields joined by `|`.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let messages = self.client.simple_query(sql).await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let fields = (0..row.len()).map(|index| row.get(index).unwrap_or("NULL"));
                Some(fields.collect::<Vec<_>>().join("|"))
            }
            _ => None,
        });
        rows.collect()
    }
}

/// A chunk's rows as text, fields joined by `|`.
fn lines(chunk: &Chunk) -> Vec<String> {
    let mut scratch = Vec::new();
    let rows = chunk.rows.iter().map(|row| {
        let fields = row.fields().map(|field| match field.text(&mut scratch) {
            Some(text) => String::from_utf8(text.to_vec()).unwrap(),
            None => "NULL".to_owned(),
        });
        fields.collect::<Vec<_>>().join("|")
    });
    rows.collect()
}

/// Reads a range to its end, chunk by chunk, going on from a key that went through its stored form.
async fn read_all(reader: &mut ChunkReader, range: KeyRange, limits: &ChunkLimits) -> Vec<String> {
    let mut range = range;
    let mut read = Vec::new();
    for _ in 0..100_000 {
        let chunk = reader.read(&Selection::Range(range.clone()), limits).await.unwrap();
        assert!(
            chunk.rows.len() <= limits.rows_max
                && chunk.rows.bytes() <= limits.bytes_max.max(chunk.rows.bytes() / chunk.rows.len().max(1))
        );
        assert_eq!(chunk.last_key.is_none(), chunk.rows.is_empty());
        read.extend(lines(&chunk));
        if chunk.is_last {
            return read;
        }
        let stored = serde_json::to_string(&chunk.last_key.unwrap()).unwrap();
        range.after = Some(serde_json::from_str(&stored).unwrap());
    }
    panic!("a read without an end");
}

#[tokio::test]
async fn keys_of_every_type_lead_through_the_whole_table() {
    let source = Source::start(
        "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;
         CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE COLLATION german (provider = icu, locale = 'de-DE');
         CREATE TYPE mood AS ENUM ('sad', 'o''k', 'b\\c', 'happy');
         CREATE DOMAIN code AS text COLLATE german CHECK (VALUE <> '!');
         CREATE DOMAIN codes AS code;
         CREATE TYPE pair AS (a int, b text)",
    )
    .await;
    let words = "SELECT DISTINCT w || x FROM unnest('{a,B,Ä,ä,z,ß,ss,\"a b\",_,\"\",''quoted'',\"back\\\\slash\",Z,é,e}'::text[]) w, \
                 unnest('{\"\",1,É,-}'::text[]) x";
    let table = [
        ("int4", "SELECT n FROM generate_series(-20, 20) n"),
        (
            "int8",
            "SELECT n * 922337203685477580 FROM generate_series(-10, 10) n UNION ALL SELECT -9223372036854775808",
        ),
        ("text", words),
        ("text COLLATE \"C\"", words),
        ("text COLLATE german", words),
        (
            "text COLLATE loose",
            "SELECT DISTINCT lower(w) FROM (SELECT unnest('{a,b,ä,z,ß,\"a b\",_,c,d,e,f,g}'::text[])) AS t (w)",
        ),
        ("varchar(20)", words),
        (
            "char(3)",
            "SELECT DISTINCT left(w, 3)::char(3) FROM (SELECT md5(n::text) FROM generate_series(1, 40) n) AS t (w) UNION SELECT 'a'",
        ),
        ("code", words),
        ("codes", words),
        ("name", words),
        (
            "extensions.citext",
            "SELECT DISTINCT ON (upper(w)) w FROM (SELECT w || x FROM unnest('{a,B,c,D,e}'::text[]) w, unnest('{1,2,y,Z}'::text[]) x) AS t (w)",
        ),
        (
            "numeric",
            "SELECT n / 7.0 FROM generate_series(-15, 15) n UNION ALL SELECT unnest('{NaN,Infinity,-Infinity,1e300,1e-300}'::numeric[])",
        ),
        (
            "float8",
            "SELECT n / 7.0::float8 FROM generate_series(-15, 15) n UNION ALL SELECT unnest('{NaN,Infinity,-Infinity,1e300,5e-324}'::float8[])",
        ),
        ("float4", "SELECT (n / 7.0)::float4 FROM generate_series(-15, 15) n UNION ALL SELECT 'NaN'"),
        ("uuid", "SELECT md5(n::text)::uuid FROM generate_series(1, 40) n"),
        (
            "timestamptz",
            "SELECT '2024-03-31 00:30:00.123456+01'::timestamptz + n * interval '17 minutes' FROM generate_series(1, 30) n UNION ALL SELECT unnest('{infinity,-infinity,4714-11-24 00:00:00+00 BC,294276-12-31 23:59:59.999999+00}'::timestamptz[])",
        ),
        (
            "timestamp",
            "SELECT '2024-03-31 00:30:00.1'::timestamp + n * interval '17 minutes' FROM generate_series(1, 30) n UNION ALL SELECT '-infinity'",
        ),
        (
            "date",
            "SELECT '2024-02-20'::date + n FROM generate_series(1, 20) n UNION ALL SELECT unnest('{infinity,-infinity,4713-01-01 BC,5874897-12-31}'::date[])",
        ),
        (
            "interval",
            "SELECT n * interval '-1 year 2 months 3 days 4.5 seconds' FROM generate_series(-10, 10) n",
        ),
        (
            "bytea",
            "SELECT decode(md5(n::text), 'hex') FROM generate_series(1, 20) n UNION ALL SELECT unnest(ARRAY['', '\\x00', '\\x005c', '\\x27'::bytea])",
        ),
        ("bool", "SELECT unnest('{t,f}'::bool[])"),
        ("mood", "SELECT unnest(enum_range(NULL::mood))"),
        ("inet", "SELECT '10.0.0.0'::inet + n * 7 FROM generate_series(1, 20) n UNION ALL SELECT '::1/64'"),
        ("int4[]", "SELECT ARRAY[n % 5, n] FROM generate_series(1, 20) n UNION ALL SELECT '{}'"),
        ("pair", "SELECT ROW(n % 5, repeat(',', n))::pair FROM generate_series(1, 20) n"),
        ("int4range", "SELECT int4range(n, n * 2) FROM generate_series(1, 20) n"),
        ("\"char\"", "SELECT chr(n)::\"char\" FROM generate_series(40, 80) n"),
        ("bit(3)", "SELECT n::bit(3) FROM generate_series(0, 7) n"),
        ("money", "SELECT (n * 1234.56)::numeric::money FROM generate_series(-9, 9) n"),
    ];
    for (key_type, values) in table {
        source
            .exec(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (v text, k {key_type} PRIMARY KEY)"))
            .await;
        source
            .exec(&format!(
                "INSERT INTO t (k, v) SELECT k, E'tab\\t' || row_number() OVER () FROM ({values}) AS t (k)"
            ))
            .await;
        let expected = source.rows("SELECT * FROM t ORDER BY k").await;
        assert!(expected.len() > 1, "{key_type}");
        let mut reader = source.reader("t").await;
        let read = read_all(&mut reader, KeyRange::default(), &LIMITS).await;
        assert_eq!(read, expected, "{key_type}");
        // Also row by row, by each row's own key.
        let chunk = reader.read(&Selection::Range(KeyRange::default()), &LIMITS).await.unwrap();
        let one = reader.read(&Selection::Rows(vec![chunk.last_key.unwrap()]), &LIMITS).await.unwrap();
        assert_eq!(
            (lines(&one).as_slice(), one.is_last),
            (&read[chunk.rows.len() - 1..chunk.rows.len()], true),
            "{key_type}"
        );
    }
}

#[tokio::test]
async fn composite_keys_are_read_by_their_index_whatever_their_order() {
    let source = Source::start(
        "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;
         CREATE TABLE t (a int, b text COLLATE \"C\", c uuid, v text, PRIMARY KEY (c, a, b));
         INSERT INTO t SELECT n % 3, 'b' || n % 5, md5((n % 4)::text)::uuid, n FROM generate_series(1, 60) n;
         CREATE UNIQUE INDEX other ON t (a, b, v) INCLUDE (c);
         ALTER TABLE t ALTER v SET NOT NULL;
         CREATE TABLE mixed (tenant int, mail extensions.citext, PRIMARY KEY (tenant, mail));
         INSERT INTO mixed SELECT n % 3, chr(65 + n) || n FROM generate_series(0, 50) n
             UNION ALL SELECT n % 3, chr(97 + n) || n || 'x' FROM generate_series(0, 50) n",
    )
    .await;
    // The key as schema.json may name it, in another order than the index.
    let table = source.table("t", &["a", "b", "c"]).await.unwrap();
    assert_eq!(table.key_columns().collect::<Vec<_>>(), ["c", "a", "b"]);
    let text = |text: &str| text.to_owned();
    assert_eq!(
        table.key_from(&[text("1"), text("x"), text("u")]),
        Key(vec![text("u"), text("1"), text("x")])
    );
    let read =
        read_all(&mut ChunkReader::new(source.info.clone(), table), KeyRange::default(), &LIMITS).await;
    let expected = source.rows("SELECT a, b, c, v FROM t ORDER BY c, a, b").await;
    assert_eq!(read, expected);

    let by_other = source.table("t", &["v", "a", "b"]).await.unwrap();
    assert_eq!(by_other.key_columns().collect::<Vec<_>>(), ["a", "b", "v"]);
    assert_eq!(
        read_all(&mut ChunkReader::new(source.info.clone(), by_other), KeyRange::default(), &LIMITS)
            .await
            .len(),
        60
    );

    // One part's operators are in a schema that is not on the search_path.
    let read = read_all(&mut source.reader("mixed").await, KeyRange::default(), &LIMITS).await;
    let expected = source.rows("SELECT * FROM mixed ORDER BY tenant, mail").await;
    assert_eq!(read, expected);
}

/// The plan of a chunk's statement, under the settings of its transaction.
async fn plan(source: &Source, table: &ChunkTable, selection: &Selection) -> String {
    let begin = include_str!("../sql/chunk_begin.sql");
    let settings: Vec<&str> =
        begin.lines().filter(|line| line.starts_with("SET LOCAL") && !line.contains('{')).collect();
    assert!(settings.len() >= 5);
    let copy = table.copy(selection, 5000);
    let select = copy.trim().strip_prefix("COPY (").unwrap().strip_suffix(") TO STDOUT;").unwrap();
    source.exec(&format!("BEGIN; {}", settings.join("\n"))).await;
    let rows = source.client.query(&format!("EXPLAIN (COSTS OFF) {select}"), &[]).await.unwrap();
    source.exec("ROLLBACK").await;
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_big_table_is_neither_sorted_nor_scanned_for_a_chunk() {
    let source = Source::start(
        "CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions;
         CREATE TABLE single (id uuid PRIMARY KEY, v text);
         INSERT INTO single SELECT md5(n::text)::uuid, n FROM generate_series(1, 100000) n;
         CREATE TABLE composite (a int, b text COLLATE \"C\", v text, PRIMARY KEY (a, b));
         INSERT INTO composite SELECT n % 10, 'b' || n, n FROM generate_series(1, 100000) n;
         CREATE TABLE mixed (tenant int, mail extensions.citext, PRIMARY KEY (tenant, mail));
         INSERT INTO mixed SELECT n % 3, md5(n::text) FROM generate_series(0, 50000) n;
         CREATE TABLE root (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE leaf_1 PARTITION OF root FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE leaf_2 PARTITION OF root FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         INSERT INTO root SELECT n, '2024-06-01'::date + n % 500, 'x' FROM generate_series(1, 50000) n",
    )
    .await;
    for table in ["single", "composite", "mixed", "root"] {
        // Also before the first ANALYZE.
        for analyze in ["SELECT 1", "ANALYZE"] {
            source.exec(analyze).await;
            let table = source.table(table, &[]).await.unwrap();
            let mut reader = ChunkReader::new(source.info.clone(), table.clone());
            let limits = ChunkLimits { rows_max: 100, ..LIMITS };
            let chunk = reader.read(&Selection::Range(KeyRange::default()), &limits).await.unwrap();
            let key = chunk.last_key.unwrap();
            let range = KeyRange { after: Some(key.clone()), up_to: Some(key.clone()) };
            let up_to = KeyRange { after: None, up_to: Some(key.clone()) };
            let first = Selection::Range(KeyRange::default());
            // What stands behind an extension's operators is only found with them on the search_path.
            source.exec("SET search_path = public, extensions").await;
            for selection in
                [first, Selection::Range(range), Selection::Range(up_to), Selection::Rows(vec![key])]
            {
                let plan = plan(&source, &table, &selection).await;
                assert!(plan.contains("Index Scan") || plan.contains("Index Only Scan"), "{plan}");
                assert!(
                    !plan.contains("Sort\n") && !plan.contains("Seq Scan") && !plan.contains("Filter:"),
                    "{plan}"
                );
                assert!(
                    matches!(selection, Selection::Range(KeyRange { after: None, up_to: None }))
                        || plan.contains("Index Cond: "),
                    "{plan}"
                );
            }
            source.exec("RESET search_path").await;
        }
    }
}

#[tokio::test]
async fn partition_roots_are_read_with_their_partitions_and_parents_without_their_children() {
    let source = Source::start(
        "CREATE TABLE root (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE leaf_1 PARTITION OF root FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE leaf_2 (v text, day date NOT NULL, id int NOT NULL);
         ALTER TABLE root ATTACH PARTITION leaf_2 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         INSERT INTO root SELECT n, '2024-06-01'::date + n * 10, 'x' FROM generate_series(1, 50) n;
         CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child () INHERITS (parent);
         INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 20) n; INSERT INTO child VALUES (5, 'c'), (100, 'c')",
    )
    .await;
    let read = read_all(&mut source.reader("root").await, KeyRange::default(), &LIMITS).await;
    let expected = source.rows("SELECT * FROM root ORDER BY id, day").await;
    assert_eq!(read, expected);
    let read = read_all(&mut source.reader("parent").await, KeyRange::default(), &LIMITS).await;
    assert_eq!(read.len(), 20);
    assert!(read.iter().all(|row| row.ends_with("|p")), "{read:?}");
}

#[tokio::test]
async fn ranges_are_the_whole_table_in_parts_of_about_the_same_size() {
    let source = Source::start(
        "CREATE TABLE single (id uuid PRIMARY KEY, v text);
         INSERT INTO single SELECT md5(n::text)::uuid, repeat('x', 100) FROM generate_series(1, 120000) n;
         CREATE TABLE tenants (tenant int, id int, v text, PRIMARY KEY (tenant, id));
         INSERT INTO tenants SELECT CASE WHEN n % 10 < 8 THEN 1 ELSE n % 10 END, n, repeat('x', 100)
             FROM generate_series(1, 120000) n;
         CREATE TABLE small (id int PRIMARY KEY, v text); INSERT INTO small VALUES (1, 'a');
         CREATE TABLE empty (id int PRIMARY KEY, v text);
         CREATE TABLE root (id int, v text, PRIMARY KEY (id)) PARTITION BY HASH (id);
         CREATE TABLE leaf_1 PARTITION OF root FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE leaf_2 PARTITION OF root FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO root SELECT n, repeat('x', 100) FROM generate_series(1, 120000) n",
    )
    .await;
    let limits = ChunkLimits { rows_max: 20_000, ..LIMITS };
    for name in ["single", "tenants", "root"] {
        let table = source.table(name, &[]).await.unwrap();
        let ranges = table.ranges(&source.client, 4).await.unwrap();
        assert_eq!(ranges.len(), 4, "{name}");
        // Read all at once, each over its own connection.
        let mut tasks = Vec::new();
        for range in ranges {
            let mut reader = ChunkReader::new(source.info.clone(), table.clone());
            tasks.push(tokio::spawn(async move { read_all(&mut reader, range, &limits).await }));
        }
        let mut read = Vec::new();
        for task in tasks {
            let part = task.await.unwrap();
            assert!((15_000..55_000).contains(&part.len()), "{name}: {}", part.len());
            read.extend(part);
        }
        let order = table.key_columns().collect::<Vec<_>>().join(", ");
        let expected = source.rows(&format!("SELECT * FROM {name} ORDER BY {order}")).await;
        assert!(read == expected, "{name}");
    }
    for name in ["small", "empty"] {
        let table = source.table(name, &[]).await.unwrap();
        assert_eq!(table.ranges(&source.client, 4).await.unwrap(), [KeyRange::default()]);
    }
    let mut reader = source.reader("empty").await;
    let chunk = reader.read(&Selection::Range(KeyRange::default()), &LIMITS).await.unwrap();
    assert!(chunk.is_last && chunk.rows.is_empty() && chunk.last_key.is_none());
}

#[tokio::test]
async fn wide_rows_make_small_chunks_and_what_is_too_much_is_not_read() {
    let source = Source::start(
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t SELECT n, CASE WHEN n > 200 THEN repeat('x', 100000) ELSE 'narrow' END FROM generate_series(1, 2000) n",
    )
    .await;
    let limits = ChunkLimits { rows_max: 1000, bytes_max: 1 << 20, row_bytes_max: 200_000, time_max: LIMIT };
    let mut reader = source.reader("t").await;
    let first = reader.read(&Selection::Range(KeyRange::default()), &limits).await.unwrap();
    assert!(first.rows.len() > 200 && first.rows.bytes() <= limits.bytes_max && !first.is_last);
    // The rest of the first thousand, 80 MB, is not sent any more.
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walcast backfill' AND state <> 'idle'";
    let deadline = Instant::now() + LIMIT;
    while source.client.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "a COPY goes on that nobody reads");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rest = KeyRange { after: first.last_key.clone(), up_to: None };
    let read = read_all(&mut reader, rest, &limits).await;
    assert_eq!(first.rows.len() + read.len(), 2000);

    // One row alone may be more than a chunk, up to the limit of a row.
    source.exec("UPDATE t SET v = repeat('y', 150000) WHERE id = 1").await;
    let small = ChunkLimits { bytes_max: 1000, ..limits };
    let one = source.reader("t").await.read(&Selection::Range(KeyRange::default()), &small).await.unwrap();
    assert_eq!((one.rows.len(), one.is_last), (1, false));
    source.exec("UPDATE t SET v = repeat('y', 250000) WHERE id = 1").await;
    let error =
        source.reader("t").await.read(&Selection::Range(KeyRange::default()), &limits).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Halt);
    assert!(error.chain().contains("\"public\".\"t\": a row of"), "{error:?}");
}

#[tokio::test]
async fn a_table_without_a_usable_index_is_refused_with_the_statement_that_helps() {
    let source = Source::start(
        "CREATE TABLE t (a int, b int NOT NULL, c text NOT NULL, d int NOT NULL, PRIMARY KEY (a));
         CREATE UNIQUE INDEX partial ON t (b) WHERE b > 0;
         CREATE INDEX not_unique ON t (b);
         CREATE UNIQUE INDEX expression ON t (abs(b));
         CREATE UNIQUE INDEX descending ON t (b DESC);
         CREATE UNIQUE INDEX other_class ON t (c text_pattern_ops);
         CREATE UNIQUE INDEX other_collation ON t (c COLLATE \"C\");
         CREATE UNIQUE INDEX more ON t (b, d);
         ALTER TABLE t ADD nullable int; CREATE UNIQUE INDEX nulls ON t (nullable)",
    )
    .await;
    for key in [vec!["b"], vec!["c"], vec!["nullable"], vec!["d"], vec!["a", "b"]] {
        let error = source.table("t", &key).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{key:?}");
        let hint = error.hint_text().unwrap();
        assert!(hint.starts_with("CREATE UNIQUE INDEX CONCURRENTLY ON \"public\".\"t\" ("), "{hint}");
    }
    assert!(source.table("t", &["d", "b"]).await.is_ok());
    source.exec("CREATE UNIQUE INDEX good ON t (b); CREATE UNIQUE INDEX good_too ON t (c)").await;
    assert!(source.table("t", &["b"]).await.is_ok() && source.table("t", &["c"]).await.is_ok());
}

#[tokio::test]
async fn a_table_that_is_written_anew_or_emptied_meanwhile_is_not_taken_for_empty() {
    let source = Source::start(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n FROM generate_series(1, 5) n",
    )
    .await;
    let writer = session::connect(&source.info, "somebody else").await.unwrap();
    let mut reader = source.reader("t").await;
    let everything = Selection::Range(KeyRange::default());
    reader.read(&everything, &LIMITS).await.unwrap();
    // The rows that the statement writes are new to every snapshot that is older than it.
    writer.batch_execute("BEGIN; ALTER TABLE t ALTER v TYPE text").await.unwrap();
    let reading = tokio::spawn(async move { (reader.read(&everything, &LIMITS).await, reader) });
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    let deadline = Instant::now() + LIMIT;
    while !source.client.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writer.batch_execute("COMMIT").await.unwrap();
    let (chunk, mut reader) = reading.await.unwrap();
    assert_eq!(lines(&chunk.unwrap()), ["1|1", "2|2", "3|3", "4|4", "5|5"]);

    // Under the same name there may be another table.
    writer.batch_execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int)").await.unwrap();
    let error = reader.read(&Selection::Range(KeyRange::default()), &LIMITS).await.unwrap_err();
    assert!(error.kind() == Kind::Halt && error.chain().contains("created anew"), "{error:?}");
    writer.batch_execute("DROP TABLE t").await.unwrap();
    let error = reader.read(&Selection::Range(KeyRange::default()), &LIMITS).await.unwrap_err();
    assert!(error.kind() == Kind::Halt && error.chain().contains("does not exist"), "{error:?}");
}

#[tokio::test]
async fn a_reader_outlives_its_session_and_never_waits_for_ever() {
    let source =
        Source::start("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)").await;
    let mut reader = source.reader("t").await;
    let everything = Selection::Range(KeyRange::default());
    let first = reader.read(&everything, &LIMITS).await.unwrap();
    let ReadPoint::Primary(_) = first.read_point else { panic!("{:?}", first.read_point) };
    assert!(first.wal_lsn.is_some());
    source.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walcast backfill'").await;
    let deadline = Instant::now() + LIMIT;
    let again = loop {
        match reader.read(&everything, &LIMITS).await {
            Ok(chunk) => break chunk,
            Err(error) => assert!(error.kind() == Kind::Transient && Instant::now() < deadline, "{error:?}"),
        }
    };
    assert_eq!(again.rows, first.rows);
    assert!(again.read_point.sees_all_of(&first.read_point));

    let writer = session::connect(&source.info, "somebody else").await.unwrap();
    writer.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let short = ChunkLimits { time_max: Duration::from_millis(200), ..LIMITS };
    let error = reader.read(&everything, &short).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{error:?}");
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(reader.read(&everything, &LIMITS).await.unwrap().rows, first.rows);
}

#[tokio::test]
async fn rows_that_a_role_may_not_see_are_an_error_and_a_filter_leaves_rows_out() {
    let source = Source::start(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n % 2 FROM generate_series(1, 9) n;
         CREATE ROLE reader LOGIN; GRANT SELECT ON t TO reader;
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY visible ON t USING (id > 5)",
    )
    .await;
    let mut info = source.info.clone();
    info.user = "reader".into();
    let table = source.table("t", &[]).await.unwrap();
    let everything = Selection::Range(KeyRange::default());
    let error = ChunkReader::new(info, table).read(&everything, &LIMITS).await.unwrap_err();
    assert!(error.chain().contains("row-level security"), "{error:?}");

    let mut filtered = source.source("t", &[]).await;
    filtered.filter = Some("v = 1 OR id = 2".into());
    let table = ChunkTable::inspect(&source.client, filtered).await.unwrap();
    let mut reader = ChunkReader::new(source.info.clone(), table);
    let range = KeyRange { after: None, up_to: Some(Key(vec!["7".into()])) };
    assert_eq!(read_all(&mut reader, range, &LIMITS).await, ["1|1", "2|0", "3|1", "5|1", "7|1"]);
}
