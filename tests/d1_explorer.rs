//! The D1 sink on Cloudflare's own local D1: an opinion on its requests that this project did not write. The bodies are
//! the REST transport's, byte for byte; the local explorer of wrangler checks their form, splits and runs them.
//!
//! It is no double of the API: it has `/raw` and no `/query`, takes parameters that are strings and no others, and gives
//! 500 and the code 10001 to what SQLite refuses. The verdicts on that are the retry table's own.

#[path = "support/changes.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod changes;
#[path = "support/explorer.rs"]
mod explorer;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/seeds.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod seeds;
#[path = "support/statements.rs"]
mod statements;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use changes::{Op, Rows, Source};
use explorer::Explorer;
use runs::runs;
use serde_json::{Map, Value, json};
use statements::statements;
use walcast::Lsn;
use walcast::capture::slot::SourceIdentity;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::encode::schema_file::SchemaFile;
use walcast::error::Kind;
use walcast::fanout::sink::{Applied, Batch, Sink};
use walcast::sink::d1::body::{Body, Bulk};
use walcast::sink::d1::limits::{COLUMNS_MAX, RequestLimits};
use walcast::sink::d1::transport::{Answer, Failure, Statement, Transport};
use walcast::sink::d1::verdict::{ApiError, Response, Verdict, verdict};
use walcast::sink::d1::{D1Sink, Options};

const INT8: u32 = 20;
const TEXT: u32 = 25;
const BYTEA: u32 = 17;
const FLOAT8: u32 = 701;
const JSON: u32 = 114;
const BOOL: u32 = 16;

// ---- the way there ----------------------------------------------------------------------------------------------

/// A database of the explorer. Clones are ways to the same one.
#[derive(Clone)]
struct Database {
    explorer: Arc<Explorer>,
    url: String,
    seen: Arc<Mutex<Seen>>,
}

/// What was sent.
#[derive(Default)]
struct Seen {
    /// Whether requests and answers get lost, or come twice.
    is_unreliable: bool,
    dice: fastrand::Rng,
    /// Every text of a statement that the sink sent and that took effect.
    applied: BTreeSet<Arc<str>>,
    /// Every message of a request that had none.
    refused: BTreeSet<String>,
    /// Requests that came a second time and that the fence kept out.
    fenced: u32,
}

impl Database {
    fn new(binding: &str) -> Self {
        let explorer = Explorer::shared();
        let url = explorer.url(binding);
        Database { explorer, url, seen: Arc::default() }
    }

    fn set_unreliable(&self, seed: Option<u64>) {
        let mut seen = self.seen.lock().unwrap();
        seen.is_unreliable = seed.is_some();
        seen.dice.seed(seed.unwrap_or_default());
    }

    /// One request, as the REST transport would send it.
    fn send(&self, statements: &[Statement]) -> Result<Vec<Answer>, Failure> {
        let body = Body::new(statements, &Bulk::default()).pieces().concat();
        let (status, answer) = self.explorer.post(&self.url, &body);
        if answer["success"] == true {
            let results = answer["result"].as_array().expect("a list");
            assert_eq!((status, results.len()), (200, statements.len()), "{answer}");
            let texts = statements.iter().map(|statement| statement.sql.clone());
            self.seen.lock().unwrap().applied.extend(texts);
            return Ok(results.iter().map(self::answer).collect());
        }
        let message = answer["errors"][0]["message"].as_str();
        let message = message.unwrap_or_else(|| panic!("status {status}: {answer}")).to_owned();
        assert_eq!((status, &answer["errors"][0]["code"]), (500, &json!(10001)), "{answer}");
        self.seen.lock().unwrap().refused.insert(message.clone());
        let error = Some(ApiError { code: 10001, message: message.clone() });
        let response = Response { status: Some(status), error, retry_after: None };
        Err(Failure { verdict: verdict(&response), message })
    }

    /// Sends SQL of somebody else.
    fn exec(&self, sql: &str) {
        let (status, answer) = self.explorer.post(&self.url, json!({ "sql": sql }).to_string().as_bytes());
        assert_eq!((status, &answer["success"]), (200, &Value::Bool(true)), "{sql}: {answer}");
    }

    /// The rows of a query, columns joined by `|`.
    fn rows(&self, sql: &str) -> Vec<String> {
        let (status, answer) = self.explorer.post(&self.url, json!({ "sql": sql }).to_string().as_bytes());
        assert_eq!((status, &answer["success"]), (200, &Value::Bool(true)), "{sql}: {answer}");
        let rows = answer["result"][0]["results"]["rows"].as_array().expect("rows");
        let cell = |value: &Value| match value {
            Value::Null => "NULL".to_owned(),
            Value::String(text) => text.clone(),
            other => format!("{:?}", other.as_f64().expect("no blobs")),
        };
        let row = |row: &Value| row.as_array().unwrap().iter().map(cell).collect::<Vec<_>>().join("|");
        rows.iter().map(row).collect()
    }

    fn sink(&self, options: Options) -> D1Sink {
        D1Sink::new("the explorer", Box::new(self.clone()), options)
    }

    /// A sink that has its first checkpoint.
    fn started(&self, plan: &Arc<Plan>, options: Options) -> D1Sink {
        let mut sink = self.sink(options);
        assert_eq!(sink.open(plan, &identity()).unwrap(), None);
        sink.start_at(Lsn(1)).unwrap();
        sink
    }
}

impl Transport for Database {
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure> {
        let statements = &statements(first, bulk)[..];
        let fate = {
            let mut seen = self.seen.lock().unwrap();
            if seen.is_unreliable { seen.dice.u8(..8) } else { u8::MAX }
        };
        let lost = || Err(Failure { verdict: Verdict::Unknown, message: "as the test asked".to_owned() });
        match fate {
            0 => lost(),
            1 => {
                let _ = self.send(statements);
                lost()
            }
            2 => {
                let (first, second) = (self.send(statements), self.send(statements));
                let is_kept_out = matches!(&second, Err(failure) if failure.verdict == Verdict::Fenced);
                if first.is_ok() && is_kept_out {
                    self.seen.lock().unwrap().fenced += 1;
                }
                second
            }
            _ => self.send(statements),
        }
    }
}

/// What one statement answered: columns and rows apart, as `/raw` gives them.
fn answer(result: &Value) -> Answer {
    let columns = result["results"]["columns"].as_array().expect("columns");
    let names = || columns.iter().map(|name| name.as_str().expect("a name").to_owned());
    let row =
        |row: &Value| names().zip(row.as_array().expect("a row").iter().cloned()).collect::<Map<_, _>>();
    Answer {
        rows: result["results"]["rows"].as_array().expect("rows").iter().map(row).collect(),
        rows_written: result["meta"]["rows_written"].as_u64().expect("a number"),
        size_after: result["meta"]["size_after"].as_u64(),
    }
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

fn apply(sink: &mut D1Sink, runs: &[Arc<Run>]) -> Applied {
    sink.apply(&Batch::new(runs, Lsn(1), None)).unwrap()
}

// ---- whatever changes, and whatever gets lost -------------------------------------------------------------------

const TRANSACTIONS: usize = 120;

fn transactions(rng: &mut fastrand::Rng) -> Vec<Vec<Op>> {
    let mut number = 0;
    let mut op = |rng: &mut fastrand::Rng| {
        number += 1;
        let key = rng.i64(0..30);
        let value = Some(format!("'value' {number} \"ä\\🦀"));
        match rng.u32(..40) {
            0..18 => Op::Insert(key, [value, rng.bool().then(|| "note".to_owned())]),
            18..24 => Op::Update(key, [Some(value), None]),
            24..28 => Op::Update(key, [None, Some(value)]),
            28..34 => Op::Move(key, rng.i64(0..30), [Some(value), None]),
            34..39 => Op::Delete(key),
            _ => Op::Truncate,
        }
    };
    (0..TRANSACTIONS).map(|_| (0..rng.usize(1..12)).map(|_| op(rng)).collect()).collect()
}

#[test]
fn random_changes_arrive_once_although_requests_get_lost_and_come_twice() {
    let mut rng = fastrand::Rng::with_seed(seeds::one());
    let source = Source::new(&transactions(&mut rng), false);
    for (binding, is_soft) in [("DB_EU", false), ("DB_NA", true)] {
        let mut plan = source.plan();
        plan.tables[0].soft_delete = is_soft.then(|| "deleted at".to_owned());
        let plan = Arc::new(plan);
        let runs = runs(&source.stream, &plan, 600);
        // Some transactions are larger than a request.
        let request = RequestLimits { rows_max: 5, ..RequestLimits::default() };
        let database = Database::new(binding);
        let options = Options { skip_unchanged: is_soft, request, ..Options::default() };
        let mut sink = database.started(&plan, options);
        let rows = || -> Rows {
            let living = if is_soft { "WHERE \"deleted at\" IS NULL" } else { "" };
            let rows = database.rows(&format!("SELECT json_array(id, name, note) FROM items {living}"));
            let row = |row: &String| {
                let (id, name, note) = serde_json::from_str(row).unwrap();
                (id, [name, note])
            };
            rows.iter().map(row).collect()
        };
        let mut at = 0;
        while at < runs.len() {
            let end = (at + rng.usize(1..8)).min(runs.len());
            database.set_unreliable(Some(rng.u64(..)));
            while let Err(error) = sink.apply(&Batch::new(&runs[at..end], Lsn(1), None)) {
                assert_eq!(error.kind(), Kind::Transient, "{error:?}");
            }
            database.set_unreliable(None);
            let checkpoint = sink.checkpoint().unwrap();
            if checkpoint.open.is_none() {
                assert_eq!(rows(), source.at(checkpoint.lsn), "{binding} at {}", checkpoint.lsn);
            }
            at = end;
        }
        assert_eq!(rows(), source.at(Lsn(u64::MAX)));
        let transactions = database.rows("SELECT CAST(transactions AS TEXT) FROM _walcast_checkpoint");
        assert_eq!(transactions, [TRANSACTIONS.to_string()], "each transaction once");
        assert!(database.rows("SELECT reason FROM _walcast_dead_letters").is_empty());
        let seen = database.seen.lock().unwrap();
        assert!(seen.fenced > 0, "no request came twice");
        let truncate = if is_soft { "SET \"deleted at\" = ?1" } else { "DROP TABLE \"items\"" };
        let delete =
            if is_soft { "SET \"deleted at\" = _walcast.value ->> 1" } else { "DELETE FROM \"items\"" };
        for form in [
            "INSERT INTO \"items\"",
            "UPDATE \"items\" SET \"name\" = _walcast.value ->> ",
            "UPDATE \"items\" SET \"note\" = _walcast.value ->> ",
            "'$[1][0]'",
            "INSERT INTO _walcast_dead_letters",
            "ON CONFLICT (id) DO UPDATE SET sequence",
            truncate,
            delete,
        ] {
            assert!(seen.applied.iter().any(|sql| sql.contains(form)), "no {form}: {:#?}", seen.applied);
        }
        eprintln!("{binding}: {} requests came twice and were kept out", seen.fenced);
    }
}

// ---- values -----------------------------------------------------------------------------------------------------

/// A stream of transactions, one after the other.
struct Stream {
    bytes: Vec<u8>,
    next: Lsn,
}

impl Stream {
    fn transaction(&mut self, messages: &[Vec<u8>]) {
        let (commit_lsn, end_lsn) = (self.next, Lsn(self.next.0 + 8));
        wire::xlog(&mut self.bytes, commit_lsn, &wire::begin(commit_lsn, 0, 1));
        for message in messages {
            wire::xlog(&mut self.bytes, commit_lsn, message);
        }
        wire::xlog(&mut self.bytes, commit_lsn, &wire::commit(commit_lsn, end_lsn));
        self.next = Lsn(self.next.0 + 100);
    }
}

/// A column's name, its type's OID and its type at the sinks.
type Column = (String, u32, &'static str);

/// Tables of (name, columns, length of the key, which comes first), with OIDs from 1 on.
fn tables(tables: &[(&str, Vec<Column>, usize)]) -> (Arc<Plan>, Stream) {
    let (mut schema, mut catalog) = (Map::new(), Vec::new());
    let mut stream = Stream { bytes: Vec::new(), next: Lsn(1000) };
    for (oid, (name, columns, key_length)) in (1..).zip(tables) {
        let targets: Map<_, _> =
            columns.iter().map(|(name, _, target)| (name.clone(), json!(target))).collect();
        let key: Vec<&str> = columns[..*key_length].iter().map(|(name, ..)| name.as_str()).collect();
        schema.insert((*name).to_owned(), json!({ "primaryKey": key, "columns": targets }));
        let typed: Vec<(&str, u32)> = columns.iter().map(|(name, oid, _)| (name.as_str(), *oid)).collect();
        catalog.push(wire::table(oid, name, &typed, &key, ReplicaIdentity::Default));
        let described: Vec<(&str, u32, bool)> =
            typed.iter().map(|&(name, oid)| (name, oid, key.contains(&name))).collect();
        wire::xlog(&mut stream.bytes, Lsn::ZERO, &wire::relation(oid, name, b'd', &described));
    }
    let schema = SchemaFile::parse("schema.json", &Value::Object(schema).to_string()).unwrap();
    (Arc::new(Plan::new(&schema, &catalog).unwrap()), stream)
}

fn column(name: &str, oid: u32, target: &'static str) -> Column {
    (name.to_owned(), oid, target)
}

fn texts(values: &[&str]) -> Vec<wire::Value> {
    let value = |value: &&str| match *value {
        "NULL" => wire::Value::Null,
        "…" => wire::Value::Unchanged,
        text => wire::text(text),
    };
    values.iter().map(value).collect()
}

#[test]
fn values_at_the_edges_of_their_types_arrive_exactly() {
    let (plan, mut stream) = tables(&[(
        "edges",
        vec![
            column("id", INT8, "INTEGER"),
            column("n", INT8, "INTEGER"),
            column("r", FLOAT8, "REAL"),
            column("t", TEXT, "TEXT"),
            column("b", BYTEA, "BLOB"),
            column("j", JSON, "JSON"),
            column("f", BOOL, "BOOLEAN"),
        ],
        1,
    )]);
    let large = "wal cast".repeat(230_000);
    let document = r#"{"id":9223372036854775807,"list":[1,{"a \"b\"":null}],"🦀":true}"#;
    let rows = [
        ["-9223372036854775808", "9223372036854775807", "5e-324", "", r"\x", "null", "t"],
        [
            "9223372036854775807",
            "-9223372036854775808",
            "1.7976931348623157e308",
            "\u{1}\t\r\n\u{1f}\u{7f}",
            r"\x00",
            "{}",
            "f",
        ],
        [
            "9007199254740993",
            "9007199254740992",
            "0.1",
            "Grüße, 世界, 🦀👩‍👩‍👧 e\u{301}",
            r"\x00ff5c27",
            document,
            "t",
        ],
        ["-9007199254740993", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL"],
        ["0", "-1", "-2.5", r#"'; DROP TABLE edges; -- "\"#, r"\xdeadbeef", "[]", "f"],
        ["1", "0", "9007199254740992.0", &large, r"\x0d0a", r#""?1 :a @b $c""#, "t"],
    ];
    stream.transaction(&rows.map(|row| wire::insert(1, &texts(&row))));
    let database = Database::new("DB_ASIA");
    let mut sink = database.started(&plan, Options::default());
    assert_eq!(apply(&mut sink, &runs(&stream.bytes, &plan, usize::MAX / 4)).changes, rows.len() as u64);
    let mut expected = rows.map(|row| {
        let [.., blob, _, flag] = &row;
        let (blob, flag) = (blob.trim_start_matches(r"\x"), if *flag == "t" { "1" } else { "0" });
        let is_null = row[1] == "NULL";
        let real = row[2].parse::<f64>().map_or("NULL".to_owned(), |real| format!("{real:?}"));
        let flag = if is_null { "NULL" } else { flag };
        [row[0], row[1], &real, row[3], blob, row[5], flag].join("|")
    });
    let mut found = database.rows(
        "SELECT CAST(id AS TEXT), CAST(n AS TEXT), r, t, CASE WHEN typeof(b) = 'blob' THEN lower(hex(b)) END, j, CAST(f AS TEXT)
           FROM edges",
    );
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert!(database.rows("SELECT reason FROM _walcast_dead_letters").is_empty());
    let types = "SELECT DISTINCT typeof(id) || typeof(n) || typeof(r) || typeof(t) || typeof(b) || typeof(j) || typeof(f)
                   FROM edges WHERE n IS NOT NULL";
    assert_eq!(database.rows(types), ["integerintegerrealtextblobtextinteger"]);
}

#[test]
fn composite_keys_wide_tables_and_rows_that_are_refused_end_as_on_every_replica() {
    let pairs = vec![
        column("a", INT8, "INTEGER"),
        column("b", BYTEA, "BLOB"),
        column("v", TEXT, "TEXT"),
        column("w", TEXT, "TEXT"),
    ];
    let name = |index: usize| if index == 0 { "id".to_owned() } else { format!("c {index}") };
    let wide = (0..COLUMNS_MAX).map(|index| (name(index), TEXT, "TEXT")).collect();
    let gone = vec![column("id", INT8, "INTEGER")];
    let (plan, mut stream) = tables(&[("pairs", pairs, 2), ("wide", wide, 1), ("gone", gone, 1)]);
    let (pair, big) = (|row: [&str; 4]| texts(&row), "9223372036854775807");
    let full: Vec<wire::Value> = (0..COLUMNS_MAX).map(|index| wire::text(format!("v{index}"))).collect();
    let mut sparse = vec![wire::Value::Unchanged; COLUMNS_MAX];
    (sparse[0], sparse[COLUMNS_MAX - 1]) = (wire::text("v0"), wire::text("last"));
    stream.transaction(&[
        wire::insert(1, &pair(["1", r"\x00", "one", "1"])),
        wire::insert(1, &pair(["1", r"\x01", "two", "2"])),
        wire::insert(1, &pair([big, r"\x", "three", "3"])),
        wire::insert(1, &pair([big, r"\xff", "four", "4"])),
        wire::insert(2, &full),
        wire::insert(3, &texts(&["1"])),
    ]);
    stream.transaction(&[
        wire::delete(1, b'K', &pair(["1", r"\x00", "NULL", "NULL"])),
        wire::update(1, None, &pair(["1", r"\x01", "…", "new"])),
        wire::update(
            1,
            Some((b'K', &pair([big, r"\x", "NULL", "NULL"]))),
            &pair([big, r"\x02", "…", "moved"]),
        ),
        wire::update(2, None, &sparse),
        wire::truncate(&[3]),
        wire::insert(3, &texts(&["2"])),
        // Its row is not there.
        wire::update(1, None, &pair(["5", r"\x05", "…", "nothing"])),
    ]);
    let refused = (0..40).map(|id| wire::insert(3, &texts(&[&(100 + id).to_string()])));
    stream.transaction(&refused.collect::<Vec<_>>());
    let database = Database::new("DB_SA");
    let mut sink = database.started(&plan, Options::default());
    let runs = runs(&stream.bytes, &plan, 1);
    let ends: Vec<usize> = (1..=runs.len())
        .filter(|&end| runs[end - 1].spans().iter().any(|span| span.end_lsn.is_some()))
        .collect();
    let [first, second, third] = ends[..] else { panic!("{ends:?}") };

    apply(&mut sink, &runs[..first]);
    let applied = apply(&mut sink, &runs[first..second]);
    assert_eq!((applied.transactions, applied.dead_letters), (1, 1));
    assert_eq!(
        database.rows("SELECT CAST(a AS TEXT), hex(b), v, w FROM pairs ORDER BY a, b"),
        ["1|01|two|new", "9223372036854775807|02|three|moved", "9223372036854775807|FF|four|4"]
    );
    let mut expected: Vec<String> = (0..COLUMNS_MAX).map(|index| format!("v{index}")).collect();
    expected[COLUMNS_MAX - 1] = "last".to_owned();
    assert_eq!(database.rows("SELECT * FROM wide"), [expected.join("|")]);
    assert_eq!(database.rows("SELECT CAST(id AS TEXT) FROM gone"), ["2"]);

    // The database says that it refuses something, not what.
    database.exec(
        "CREATE TRIGGER refuse BEFORE INSERT ON gone WHEN NEW.id IN (103, 139)
         BEGIN SELECT raise(ABORT, 'not this one'); END",
    );
    let before = database.rows("SELECT CAST(sequence AS TEXT) FROM _walcast_checkpoint");
    let applied = apply(&mut sink, &runs[second..third]);
    assert_eq!((applied.changes, applied.dead_letters, applied.transactions), (38, 2, 1));
    let after = database.rows("SELECT CAST(sequence AS TEXT) FROM _walcast_checkpoint");
    let number = |rows: &[String]| rows[0].parse::<u64>().unwrap();
    assert_eq!(number(&after), number(&before) + 1, "the probes had no effect");
    assert_eq!(database.rows("SELECT CAST(count(*) AS TEXT) FROM gone"), ["39"]);
    assert_eq!(
        database.rows("SELECT target, operation, key FROM _walcast_dead_letters ORDER BY id"),
        ["pairs|update|[5,\"05\"]", "gone|upsert|[103]", "gone|upsert|[139]"]
    );
    let seen = database.seen.lock().unwrap();
    let said = |part: &str| seen.refused.iter().any(|message| message.contains(part));
    assert!(said("not this one") && said("_walcast_checkpoint.slot"), "{:?}", seen.refused);
    drop(seen);

    // Another engine takes over; this one can no longer write.
    database.sink(Options::default()).open(&plan, &identity()).unwrap().unwrap();
    let error = sink.apply(&Batch::new(&[], Lsn(1), Some(Lsn(1_000_000)))).unwrap_err();
    assert_eq!(error.kind(), Kind::Halt, "{error:?}");
}
