//! How fast a table is read for a backfill, and mapped, beside a plain `COPY … TO STDOUT` of the same rows that `psql`
//! writes to /dev/null. On a throwaway Postgres, each in turn and in several rounds:
//!
//! ```text
//! cargo bench --bench chunks -- [--rows 1000000] [--rounds 3]
//! ```
//!
//! For each table it prints the best and the median of each way in rows/s, and the process's CPU seconds in the median.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::runtime::Builder;
use walcast::app::demo::Cluster;
use walcast::capture::catalog::read_tables;
use walcast::capture::chunk::{ChunkLimits, ChunkReader, ChunkSource, ChunkTable, KeyRange, Selection};
use walcast::encode::chunk;
use walcast::encode::plan::Plan;
use walcast::encode::schema_file::SchemaFile;
use walcast::postgres::conninfo::ConnectionInfo;
use walcast::postgres::session;

/// Measures reading in chunks beside a plain COPY
#[derive(Parser)]
struct Arguments {
    /// Rows of the narrow tables; the wide one has a fifth
    #[arg(long, default_value_t = 1_000_000)]
    rows: u32,
    /// How often each way is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const LIMITS: ChunkLimits = ChunkLimits {
    rows_max: 50_000,
    bytes_max: 4 << 20,
    row_bytes_max: 64 << 20,
    time_max: Duration::from_secs(60),
};

const SCHEMA: &str = r#"{
    "narrow": {"primaryKey": "id", "columns": {"id": "INTEGER", "a": "INTEGER", "b": "TEXT", "at": "TEXT"}},
    "uuids": {"primaryKey": "id", "columns": {"id": "TEXT", "a": "INTEGER", "b": "TEXT", "at": "TEXT"}},
    "wide": {"primaryKey": ["tenant", "id"], "columns": {"tenant": "INTEGER", "id": "INTEGER", "body": "TEXT"}}
}"#;

/// One way to read a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `psql`, to /dev/null.
    Psql,
    /// The reader, whose rows are thrown away.
    Read,
    /// The reader and the encoder, over so many connections, each with a thread.
    Encode(usize),
}

struct Source {
    cluster: Cluster,
    info: ConnectionInfo,
    plan: Arc<Plan>,
}

fn main() {
    let arguments = Arguments::parse();
    let rows = arguments.rows;
    let cluster = Cluster::builder()
        .setting("shared_buffers", "512MB")
        .setting("max_wal_size", "8GB")
        .setting("autovacuum", "off")
        .start()
        .expect("a server");
    let info = ConnectionInfo::resolve(&cluster.url()).expect("its URL");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let plan = runtime.block_on(async {
        let client = session::connect(&info, "walcast bench").await.expect("a session");
        let others = "a int, b text, at timestamptz";
        let values = "n % 1000, 'name ' || n, '2024-01-01'::timestamptz + n * interval '1 s'";
        let sql = format!(
            "CREATE TABLE narrow (id bigint PRIMARY KEY, {others});
             INSERT INTO narrow SELECT n, {values} FROM generate_series(1, {rows}) n;
             CREATE TABLE uuids (id uuid PRIMARY KEY, {others});
             INSERT INTO uuids SELECT md5(n::text)::uuid, {values} FROM generate_series(1, {rows}) n;
             CREATE TABLE wide (tenant int, id int, body text, PRIMARY KEY (tenant, id));
             INSERT INTO wide SELECT n % 10, n, repeat(md5(n::text), 32) FROM generate_series(1, {rows} / 5) n"
        );
        client.batch_execute(&sql).await.expect("the tables are filled");
        client.batch_execute("VACUUM ANALYZE").await.expect("and analysed");
        let schema = SchemaFile::parse("schema.json", SCHEMA).expect("the schema");
        let names: Vec<_> = schema.tables.keys().cloned().collect();
        Arc::new(Plan::new(&schema, &read_tables(&client, &names).await.expect("the catalog")).expect("a plan"))
    });
    let source = Source { cluster, info, plan };
    println!("| Table | Way | best rows/s | median rows/s | CPU s |\n|---|---|---|---|---|");
    for table in 0..source.plan.tables.len() {
        let ways = [Way::Psql, Way::Read, Way::Encode(1), Way::Encode(2)];
        let mut measured: [Vec<(f64, f64, usize)>; 4] = Default::default();
        for _ in 0..arguments.rounds {
            for (way, measured) in ways.into_iter().zip(&mut measured) {
                let (started, cpu) = (Instant::now(), cpu_seconds());
                let rows = source.run(table, way);
                measured.push((started.elapsed().as_secs_f64(), cpu_seconds() - cpu, rows));
            }
        }
        let name = &source.plan.tables[table].target;
        let expected = measured[1][0].2;
        for (way, mut measured) in ways.into_iter().zip(measured) {
            measured.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (best, median) = (measured[0], measured[measured.len() / 2]);
            assert!(way == Way::Psql || measured.iter().all(|one| one.2 == expected), "every row, each time");
            let rate = |seconds: f64| (expected as f64 / seconds).round();
            println!("| {name} | {way:?} | {} | {} | {:.2} |", rate(best.0), rate(median.0), median.1);
        }
    }
}

impl Source {
    /// Reads the whole table and returns how many rows it had, as far as that is known.
    fn run(&self, table: usize, way: Way) -> usize {
        let connections = match way {
            Way::Psql => {
                let table = &self.plan.tables[table];
                let columns: Vec<&str> = table.columns.iter().map(|column| column.source.as_str()).collect();
                let copy = format!("COPY (SELECT {} FROM {}) TO STDOUT", columns.join(", "), table.source);
                let mut psql = std::process::Command::new(self.cluster.program("psql"));
                let status =
                    psql.args(["-q", "-c", &copy, &self.cluster.url()]).stdout(Stdio::null()).status();
                assert!(status.expect("psql runs").success());
                return 0;
            }
            Way::Read => 1,
            Way::Encode(connections) => connections,
        };
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (chunks, ranges) = runtime.block_on(async {
            let client = session::connect(&self.info, "walcast bench").await.expect("a session");
            let planned = &self.plan.tables[table];
            let source = ChunkSource {
                oid: planned.oid,
                name: planned.source.clone(),
                is_partitioned: false,
                columns: planned.columns.iter().map(|column| column.source.clone()).collect(),
                key: planned.key.clone(),
                filter: None,
            };
            let chunks = ChunkTable::inspect(&client, source).await.expect("an index");
            let ranges = chunks.ranges(&client, connections).await.expect("ranges");
            (chunks, ranges)
        });
        std::thread::scope(|scope| {
            let threads: Vec<_> = ranges
                .into_iter()
                .map(|range| {
                    let reader = ChunkReader::new(self.info.clone(), chunks.clone());
                    scope.spawn(move || self.read(reader, range, table, way))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a reader ends")).sum()
        })
    }

    fn read(&self, mut reader: ChunkReader, mut range: KeyRange, table: usize, way: Way) -> usize {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut rows = 0;
        loop {
            let selection = Selection::Range(range.clone());
            let chunk = runtime.block_on(reader.read(&selection, &LIMITS)).expect("a chunk");
            rows += match way {
                Way::Encode(_) => {
                    chunk::encode(&chunk.rows, table, &self.plan).expect("its rows").all_changes().len()
                }
                _ => chunk.rows.len(),
            };
            if chunk.is_last {
                return rows;
            }
            range.after = chunk.last_key;
        }
    }
}

/// What this process has used until now, without its children.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
