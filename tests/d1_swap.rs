//! The D1 sink's tables taking each other's places on a real workerd, where answers are lost and requests come late.

#[path = "support/d1.rs"]
mod d1;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "every test file uses its own part")]
mod wire;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use walcast::Lsn;
use walcast::app::demo::Workerd;
use walcast::capture::slot::SourceIdentity;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::schema_file::SchemaFile;
use walcast::error::{Kind, Result};
use walcast::fanout::fill::{FillWrite, TableFill};
use walcast::fanout::sink::{Batch, Sink};
use walcast::sink::d1::body::Bulk;
use walcast::sink::d1::rest::RestTransport;
use walcast::sink::d1::transport::{Answer, Failure, Statement, Transport};
use walcast::sink::d1::{D1Sink, Options};

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

/// Plans of tables that all have the columns `id` and `v`.
fn plan(schema: &Value) -> Arc<Plan> {
    let tables: Vec<_> = schema.as_object().unwrap().keys().zip(50_001..).collect();
    let table =
        |(name, oid)| wire::table(oid, name, &[("id", 20), ("v", 23)], &["id"], ReplicaIdentity::Default);
    let tables: Vec<_> = tables.into_iter().map(|(name, oid): (&String, u32)| table((name, oid))).collect();
    Arc::new(Plan::new(&SchemaFile::parse("schema.json", &schema.to_string()).unwrap(), &tables).unwrap())
}

fn items(type_name: &str) -> Arc<Plan> {
    let columns = json!({"id": "INTEGER", "v": type_name});
    plan(&json!({"items": {"primaryKey": "id", "columns": columns, "indexes": ["v"]}}))
}

/// A way to the database that keeps what was sent.
#[derive(Clone)]
struct Kept {
    rest: Arc<Mutex<RestTransport>>,
    sent: Arc<Mutex<Vec<Vec<Statement>>>>,
}

impl Transport for Kept {
    fn call(&mut self, first: &[Statement], bulk: &Bulk) -> Result<Vec<Answer>, Failure> {
        self.sent.lock().unwrap().push(first.to_vec());
        self.rest.lock().unwrap().call(first, bulk)
    }
}

struct Rig {
    workerd: Workerd,
    way: Kept,
}

impl Rig {
    fn start() -> Rig {
        let workerd = Workerd::start().unwrap();
        workerd.create_database("eu").unwrap();
        let way = Kept { rest: Arc::new(Mutex::new(d1::rest(&workerd, "eu"))), sent: Arc::default() };
        Rig { workerd, way }
    }

    fn open(&self, plan: &Arc<Plan>) -> D1Sink {
        let mut sink = D1Sink::new("eu", Box::new(self.way.clone()), Options::default());
        if sink.open(plan, &identity()).unwrap().is_none() {
            sink.start_at(Lsn(1)).unwrap();
        }
        sink
    }

    fn lose_the_answer_of(&self, after: u32) {
        let fault = json!({"db": "eu", "kind": "network-connection-lost", "applied": true, "times": 1, "after": after});
        self.workerd.order(&fault).unwrap();
    }

    fn run(&self, sql: &str) -> Vec<String> {
        let answer = d1::run(&mut d1::rest(&self.workerd, "eu"), sql).unwrap();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        answer.rows.iter().map(|row| row.values().map(text).collect::<Vec<_>>().join("|")).collect()
    }

    fn tables(&self) -> Vec<String> {
        self.run("SELECT name FROM sqlite_schema WHERE type = 'table' AND (name LIKE 'items%' OR name LIKE '\\_walcast\\_new%' ESCAPE '\\') ORDER BY name")
    }

    /// `items` with a row, and another one of another type that is full beside it.
    fn with_a_full_table_beside(&self) -> D1Sink {
        let mut sink = self.open(&items("INTEGER"));
        let live = TableFill::complete();
        sink.fill(&write(&live, false)).unwrap();
        self.run("INSERT INTO items VALUES (1, 7)");
        let mut sink = self.open(&items("TEXT"));
        assert!(sink.fills().unwrap().get(0).unwrap().is_beside);
        self.run("INSERT INTO _walcast_new_items VALUES (1, 'seven')");
        let full = TableFill { is_beside: true, ..TableFill::complete() };
        sink.fill(&write(&full, false)).unwrap();
        sink
    }
}

fn write(fill: &TableFill, swaps: bool) -> FillWrite<'_> {
    FillWrite { table: 0, fill, run: None, clears: false, swaps }
}

const SHAPE: &str =
    "SELECT name FROM sqlite_schema WHERE tbl_name = 'items' AND sql IS NOT NULL ORDER BY name";

#[test]
fn a_table_has_taken_the_place_once_although_the_answer_was_lost_and_the_request_comes_again() {
    let rig = Rig::start();
    let mut sink = rig.with_a_full_table_beside();
    assert_eq!(rig.tables(), ["_walcast_new_items", "items"]);
    let live = TableFill::complete();
    // Behind the looks at what others have made, and at what the table is that goes.
    rig.lose_the_answer_of(2);
    let error = sink.fill(&write(&live, true)).unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{error}");
    let swap = rig.way.sent.lock().unwrap().last().cloned().unwrap();
    sink.checkpoint().unwrap();
    let fills = sink.fills().unwrap();
    assert!(!fills.get(0).unwrap().is_beside, "the database says that it came about");
    assert_eq!(
        (rig.tables(), rig.run("SELECT v FROM items")),
        (vec!["items".to_owned()], vec!["seven".to_owned()])
    );
    assert_eq!(rig.run(SHAPE), ["idx_items_v", "items"]);
    // Rows go to where readers see them.
    rig.run("DELETE FROM items");
    sink.fill(&FillWrite { clears: true, ..write(&live, false) }).unwrap();
    assert_eq!(rig.tables(), ["items"]);
    rig.run("INSERT INTO items VALUES (2, 'later')");
    let late = rig.way.rest.lock().unwrap().execute(&swap).unwrap_err();
    assert!(late.message.contains("_walcast_checkpoint"), "the fence: {}", late.message);
    assert_eq!(rig.run("SELECT v FROM items"), ["later"]);
    sink.apply(&Batch::new(&[], Lsn(1), Some(Lsn(9)))).unwrap();
    assert_eq!(sink.checkpoint().unwrap().lsn, Lsn(9));
    assert_eq!(rig.workerd.violations().unwrap(), 0);
}

#[test]
fn a_swap_that_arrives_while_it_is_tried_again_is_found_out_before_anything_else_is_done() {
    let rig = Rig::start();
    let mut sink = rig.with_a_full_table_beside();
    let live = TableFill::complete();
    let fault =
        json!({"db": "eu", "kind": "network-connection-lost", "applied": false, "times": 1, "after": 2});
    rig.workerd.order(&fault).unwrap();
    sink.fill(&write(&live, true)).unwrap_err();
    let swap = rig.way.sent.lock().unwrap().last().cloned().unwrap();
    sink.checkpoint().unwrap();
    assert!(sink.fills().unwrap().get(0).unwrap().is_beside, "it has not come about");
    // It was still on its way.
    rig.way.rest.lock().unwrap().execute(&swap).unwrap();
    let error = sink.fill(&write(&live, true)).unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{error}");
    sink.checkpoint().unwrap();
    assert!(!sink.fills().unwrap().get(0).unwrap().is_beside);
    assert_eq!(rig.run("SELECT v FROM items"), ["seven"]);
}

#[test]
fn what_others_made_on_a_table_stays_where_it_fits_the_one_that_takes_its_place() {
    let rig = Rig::start();
    let mut sink = rig.with_a_full_table_beside();
    for sql in [
        "CREATE TABLE theirs (id)",
        "CREATE VIEW rows AS SELECT count(*) AS n FROM items",
        "CREATE VIEW twice AS SELECT n * 2 AS n FROM rows",
        "CREATE INDEX theirs_v ON items (v, id)",
        "CREATE TRIGGER noted AFTER UPDATE ON items BEGIN INSERT INTO theirs VALUES (new.id); END",
        "CREATE TRIGGER copied AFTER INSERT ON theirs BEGIN UPDATE items SET v = v; END",
    ] {
        rig.run(sql);
    }
    sink.fill(&write(&TableFill::complete(), true)).unwrap();
    assert_eq!(rig.run("SELECT n FROM twice"), ["2"]);
    let made = "SELECT name FROM sqlite_schema WHERE name IN ('rows', 'twice', 'theirs_v', 'noted', 'copied') ORDER BY name";
    assert_eq!(rig.run(made), ["copied", "noted", "rows", "theirs_v", "twice"]);

    // The next table lacks a column that an index is on.
    let narrow = plan(&json!({"items": {"primaryKey": "id", "columns": {"id": "TEXT"}}}));
    let mut sink = rig.open(&narrow);
    let full = TableFill { is_beside: true, ..TableFill::complete() };
    sink.fill(&write(&full, false)).unwrap();
    sink.fill(&write(&TableFill::complete(), true)).unwrap();
    assert_eq!(rig.run("SELECT n FROM twice"), ["0"], "the new table has no rows here");
    assert_eq!(rig.run(made), ["copied", "noted", "rows", "twice"]);
    assert_eq!(rig.workerd.violations().unwrap(), 0);
}

#[test]
fn a_database_of_many_tables_begins_anew_in_one_request_also_where_its_answer_is_lost() {
    let rig = Rig::start();
    let table = json!({"primaryKey": "id", "columns": {"id": "INTEGER", "v": "INTEGER"}});
    let schema: serde_json::Map<String, Value> =
        (0..80).map(|number| (format!("items_{number:02}"), table.clone())).collect();
    let mut sink = rig.open(&plan(&Value::Object(schema)));
    rig.lose_the_answer_of(0);
    let error = sink.begin_anew(Lsn(500)).unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{error}");
    sink.begin_anew(Lsn(500)).unwrap();
    assert_eq!(sink.checkpoint().unwrap().lsn, Lsn(500));
    let fills = sink.fills().unwrap();
    assert_eq!(fills.0.len(), 80);
    assert!(
        fills.0.iter().all(|fill| fill.as_ref().is_some_and(|fill| fill.clears && fill.ranges.is_empty()))
    );
    assert_eq!(rig.workerd.violations().unwrap(), 0, "{}", rig.workerd.stats().unwrap()["violated"]);
}
