//! A value that a chunk brings is the cell that the stream brings: the same rows, once through a slot and once through a
//! chunk of the same server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use walcast::Lsn;
use walcast::app::demo::cluster::Cluster;
use walcast::capture::catalog::read_tables;
use walcast::capture::chunk::{ChunkLimits, ChunkReader, ChunkSource, ChunkTable, KeyRange, Selection};
use walcast::capture::frame::Frame;
use walcast::capture::table::TableName;
use walcast::decode::Decoder;
use walcast::encode::chunk;
use walcast::encode::json_rows::JsonRows;
use walcast::encode::mapper::Mapper;
use walcast::encode::plan::Plan;
use walcast::encode::run::{ChangeKind, Run};
use walcast::encode::schema_file::SchemaFile;
use walcast::error::Kind;
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;

const LIMITS: ChunkLimits = ChunkLimits {
    rows_max: 10_000,
    bytes_max: 1 << 24,
    row_bytes_max: 1 << 24,
    time_max: Duration::from_secs(60),
};
/// Rows of random text.
const RANDOM_ROWS: usize = 1500;

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
        client.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.unwrap();
        client.batch_execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await.unwrap();
        Source { _cluster: cluster, info, client }
    }

    async fn plan(&self, schema: &str) -> Arc<Plan> {
        let schema = SchemaFile::parse("schema.json", schema).unwrap();
        let names: Vec<TableName> = schema.tables.keys().cloned().collect();
        Arc::new(Plan::new(&schema, &read_tables(&self.client, &names).await.unwrap()).unwrap())
    }

    /// What the slot brings, by key: the row as JSON, or why it is rejected.
    async fn streamed(&self, plan: &Arc<Plan>) -> BTreeMap<String, String> {
        let sql = "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1',
                   'publication_names', 'p')";
        let (mut decoder, mut mapper) = (Decoder::new(), Mapper::new(plan.clone(), usize::MAX, Lsn::ZERO));
        for row in self.client.query(sql, &[]).await.unwrap() {
            let frame = Frame::XLogData { wal_start: Lsn::ZERO, data: row.get(0) };
            if let Some(event) = decoder.decode(frame).unwrap() {
                mapper.map(event);
            }
        }
        shown(&mapper.take_whole().expect("there are changes"), plan)
    }

    /// What a chunk brings.
    async fn read(&self, plan: &Plan) -> BTreeMap<String, String> {
        let table = &plan.tables[0];
        let source = ChunkSource {
            oid: table.oid,
            name: table.source.clone(),
            is_partitioned: false,
            columns: table.columns.iter().map(|column| column.source.clone()).collect(),
            key: table.key.clone(),
            filter: None,
        };
        let table = ChunkTable::inspect(&self.client, source).await.unwrap();
        let mut reader = ChunkReader::new(self.info.clone(), table);
        let mut all = BTreeMap::new();
        let mut range = KeyRange::default();
        loop {
            let chunk = reader.read(&Selection::Range(range.clone()), &LIMITS).await.unwrap();
            let run = chunk::encode(&chunk.rows, 0, plan).unwrap();
            assert!(run.spans().is_empty());
            all.extend(shown(&run, plan));
            if chunk.is_last {
                return all;
            }
            range.after = chunk.last_key;
        }
    }
}

/// A run's upserts as JSON and its rejections with their reasons, by key.
fn shown(run: &Run, plan: &Plan) -> BTreeMap<String, String> {
    let rows = JsonRows::of(run, plan);
    let mut shown = BTreeMap::new();
    for (index, change) in run.all_changes().iter().enumerate() {
        let (key, text) = match change.kind {
            ChangeKind::Upsert => {
                // The key comes first; infinities are not what this reader takes.
                let text = rows.get(index).replace("9e999", "9e99");
                let row: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
                (serde_json::to_string(&row[..1]).unwrap(), rows.get(index).to_owned())
            }
            ChangeKind::Reject => {
                let rejected = run.rejection(*change);
                (rejected.key.clone(), format!("rejected: {}", rejected.reason))
            }
            kind => panic!("{kind:?}"),
        };
        assert_eq!(shown.insert(key, text), None);
    }
    shown
}

fn assert_same(streamed: &BTreeMap<String, String>, read: &BTreeMap<String, String>) {
    for (key, streamed) in streamed {
        assert_eq!(read.get(key), Some(streamed), "{key}");
    }
    assert_eq!(streamed.len(), read.len());
}

#[tokio::test]
async fn a_value_of_every_type_is_the_same_cell_from_the_stream_and_from_a_chunk() {
    let types = [
        ("int8", "unnest('{0,-9223372036854775808,9223372036854775807,NULL}'::int8[])"),
        ("numeric", "unnest('{NaN,Infinity,1.500,-0.00,1e400,1e-400,NULL,7}'::numeric[])"),
        ("float8", "unnest('{NaN,-Infinity,-0,0.1,5e-324,1.7976931348623157e308}'::float8[])"),
        ("float4", "unnest('{NaN,0.1,3.4028235e38}'::float4[])"),
        ("bool", "unnest('{t,f,NULL}'::bool[])"),
        (
            "text",
            r#"unnest(ARRAY['', E'\\', E'\\N', E'a\\tb', E'\t\n\r\b\f\v\\', E'\x01\x7f', 'ü€😀', NULL, '\.', ' '])"#,
        ),
        ("varchar(9)", "unnest(ARRAY['', 'x', E'x\\\\'])"),
        ("char(4)", "unnest(ARRAY['a', '', E'\\\\'])"),
        ("name", "unnest(ARRAY['n', E'\\t'])"),
        ("\"char\"", "unnest(ARRAY['x', '', E'\\\\']::\"char\"[])"),
        ("bytea", r#"unnest(ARRAY['\x', '\x00', '\x5c4e', '\x0a0d095c', NULL]::bytea[])"#),
        ("json", r#"unnest(ARRAY['{"a" : "\n\\t"}', ' [1 ] ', 'null', '"\u0000"']::json[])"#),
        ("jsonb", r#"unnest(ARRAY['{"a":["\n\\",null,1.10]}', 'null']::jsonb[])"#),
        ("uuid", "unnest(ARRAY['A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', NULL]::uuid[])"),
        ("date", "unnest('{infinity,0044-03-15 BC,2024-02-29,5874897-12-31}'::date[])"),
        ("timestamp", "unnest('{-infinity,4713-01-01 00:00:00 BC,2024-02-29 12:34:56.000001}'::timestamp[])"),
        (
            "timestamptz",
            "unnest('{infinity,2024-02-29 12:34:56.789+02,1969-12-31 23:59:59.5+00}'::timestamptz[])",
        ),
        ("time", "unnest('{24:00:00,00:00:00.1}'::time[])"),
        ("timetz", "unnest('{23:59:59.999999+15:59}'::timetz[])"),
        ("interval", "unnest(ARRAY['1 year -2 mons +3 days 04:05:06.789', '-1 s']::interval[])"),
        ("int4[]", "unnest(ARRAY['{1,NULL}', '{}', '[-1:0]={7,8}'])::int4[]"),
        ("text[]", r#"unnest(ARRAY[ARRAY['a,b', '"', E'\\', 'NULL', NULL, E'\n\t']::text, '{}'])::text[]"#),
        ("mood", "unnest(enum_range(NULL::mood))"),
        ("code", r#"unnest(ARRAY['a', E'\\'])"#),
        ("pair", r#"unnest(ARRAY[ROW(1, E'x,y"\\')::pair])"#),
        ("regclass", "unnest('{values,pg_class,extra.elsewhere}'::regclass[])"),
        ("inet", "unnest('{::ffff:1.2.3.4/96,10.0.0.1}'::inet[])"),
        ("money", "unnest('{-92233720368547758.08}'::money[])"),
        ("point", "unnest(ARRAY['(1.5,-0)']::point[])"),
        ("int4range", "unnest('{\"[1,5)\",empty}'::int4range[])"),
        ("tsvector", r#"unnest(ARRAY[E'''a\\\\b'':1'])::tsvector"#),
        ("xml", "unnest(ARRAY['<a b=\"c\"/>'])::xml"),
    ];
    let columns: Vec<String> =
        types.iter().enumerate().map(|(at, (name, _))| format!("c{at} {name}")).collect();
    let sql = format!(
        "CREATE SCHEMA extra; CREATE TABLE extra.elsewhere (id int);
         CREATE TYPE mood AS ENUM ('sad', E'o\"k\\\\', ''); CREATE DOMAIN code AS text; CREATE TYPE pair AS (a int, b text);
         CREATE TABLE values (id int PRIMARY KEY, {})",
        columns.join(", ")
    )
    .replace("TABLE values", "TABLE \"values\"");
    let source = Source::start(&sql).await;
    let mut id = 0;
    for (at, (_, values)) in types.iter().enumerate() {
        let values = values.replace("{values,", "{\"\\\"values\\\"\",");
        let insert = format!(
            "INSERT INTO \"values\" (id, c{at}) SELECT {id} + row_number() OVER (), v FROM (SELECT {values}) AS t (v)"
        );
        source.client.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{insert}: {error:?}"));
        id += 100;
    }
    for target in ["TEXT", "JSON", "natural"] {
        let natural = |name: &str| match name {
            "int8" | "numeric" | "date" | "timestamp" | "timestamptz" => "INTEGER",
            "float8" | "float4" => "REAL",
            "bool" => "BOOLEAN",
            "bytea" | "uuid" | "json" => "BLOB",
            "jsonb" | "int4[]" | "text[]" => "JSON",
            _ => "TEXT",
        };
        let columns: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(at, (name, _))| {
                format!(r#""c{at}": "{}""#, if target == "natural" { natural(name) } else { target })
            })
            .collect();
        let schema = format!(
            r#"{{"values": {{"primaryKey": "id", "columns": {{"id": "INTEGER", {}}}}}}}"#,
            columns.join(", ")
        );
        let plan = source.plan(&schema).await;
        // The slot is read anew for each plan: whatever it brings is written once more.
        if target != "TEXT" {
            source
                .client
                .batch_execute("CREATE TABLE copy AS TABLE \"values\"; DELETE FROM \"values\"")
                .await
                .unwrap();
            source.client.batch_execute("SELECT count(*) FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')").await.unwrap();
            source.client.batch_execute("INSERT INTO \"values\" TABLE copy; DROP TABLE copy").await.unwrap();
        }
        let (streamed, read) = (source.streamed(&plan).await, source.read(&plan).await);
        assert!(streamed.len() > 80, "{}", streamed.len());
        assert_eq!(streamed.values().any(|row| row.starts_with("rejected")), target == "natural");
        assert_same(&streamed, &read);
    }
}

#[tokio::test]
async fn random_text_bytes_and_arrays_are_the_same_from_the_stream_and_from_a_chunk() {
    let source =
        Source::start("CREATE TABLE random (id text PRIMARY KEY, t text, b bytea, a text[], j jsonb)").await;
    let schema = r#"{"random": {"primaryKey": "id", "columns":
        {"id": "TEXT", "t": "TEXT", "b": "BLOB", "a": "JSON", "j": "JSON"}}}"#;
    let plan = source.plan(schema).await;
    let mut rng = fastrand::Rng::with_seed(7);
    let specials: Vec<char> =
        "\\\t\n\r\u{8}\u{b}\u{c}\u{1}\u{7f}Nbfnrtvx0123.,{}\"' üé€😀\u{feff}".chars().collect();
    let mut word = move || -> String {
        let length = rng.usize(..12);
        let pick = |_| match rng.u32(..3) {
            0 => rng.alphanumeric(),
            1 => specials[rng.usize(..specials.len())],
            _ => Some(rng.char(..)).filter(|&c| c != '\0').unwrap_or('z'),
        };
        (0..length).map(pick).collect()
    };
    let insert = source
        .client
        .prepare("INSERT INTO random VALUES ($1, $2, $3, $4, to_jsonb($2::text))")
        .await
        .unwrap();
    source.client.batch_execute("BEGIN").await.unwrap();
    for number in 0..RANDOM_ROWS {
        let (id, text, bytes) = (format!("{}{number}", word()), word(), word().into_bytes());
        let array = [Some(word()), None, Some(word())];
        let array = &array[..number % 4 % 3 + number % 2];
        source.client.execute(&insert, &[&id, &text, &bytes, &array]).await.unwrap();
    }
    source.client.batch_execute("COMMIT").await.unwrap();
    let (streamed, read) = (source.streamed(&plan).await, source.read(&plan).await);
    assert_eq!(streamed.len(), RANDOM_ROWS);
    assert_same(&streamed, &read);
}

#[tokio::test]
async fn rows_that_do_not_fit_the_plan_are_a_bug_and_not_a_guess() {
    let source = Source::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let plan = source.plan(r#"{"t": {"primaryKey": "id", "columns": {"id": "INTEGER", "v": "TEXT"}}}"#).await;
    for line in ["1", "1\ta\tb", "x", "x\ta\tb", ""] {
        let mut rows = walcast::capture::copy_text::CopyRows::default();
        rows.push(line.as_bytes());
        assert_eq!(chunk::encode(&rows, 0, &plan).unwrap_err().kind(), Kind::Bug, "{line}");
    }
    let mut rows = walcast::capture::copy_text::CopyRows::default();
    rows.push(b"\\N\ta");
    rows.push(b"x\ta");
    let run = chunk::encode(&rows, 0, &plan).unwrap();
    let reasons: Vec<_> = run.all_changes().iter().map(|&change| run.rejection(change)).collect();
    assert_eq!((&*reasons[0].key, &*reasons[0].reason), ("[null]", "id: is NULL in the key"));
    assert_eq!(
        (&*reasons[1].key, &*reasons[1].reason),
        ("[\"x\"]", "id: not an integer in Postgres' text format")
    );
}
