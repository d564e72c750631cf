//! Of rows rendered for D1: SQLite reads them back as they were.

use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::Connection;
use walcast::Lsn;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::json_rows::JsonRows;
use walcast::encode::plan::Plan;
use walcast::encode::run::{ChangeKind, Run};
use walcast::encode::schema_file::SchemaFile;

use crate::{cases, delivered, wire};

/// A plan with a column of every kind of cell.
fn plan_of_all_kinds() -> Arc<Plan> {
    let schema = r#"{ "kinds": { "primaryKey": "id", "columns": {
        "id": "INTEGER", "real": "REAL", "text": "TEXT", "json": "JSON", "blob": "BLOB"
    } } }"#;
    let columns = [("id", 20), ("real", 701), ("text", 25), ("json", 1009), ("blob", 17)];
    let mut table = wire::table(1, "kinds", &columns, &["id"], ReplicaIdentity::Default);
    table.columns[3].element_type_oid = Some(walcast::capture::table::Oid(25));
    Arc::new(Plan::new(&SchemaFile::parse("schema.json", schema).unwrap(), &[table]).unwrap())
}

type Kinds = (i64, f64, Option<String>, Option<String>, Option<Vec<u8>>);

fn kinds() -> impl Strategy<Value = Kinds> {
    let integer = prop_oneof![
        any::<i64>(),
        prop::sample::select(vec![i64::MIN, i64::MAX, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, 0]),
    ];
    let real = prop_oneof![
        any::<f64>().prop_filter("SQLite holds no NaN", |real| !real.is_nan()),
        prop::sample::select(vec![0.0, 0.1, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE]),
    ];
    // Postgres' text holds no NUL.
    let text = || prop::option::weighted(0.9, "[^\0]{0,20}");
    let blob = prop::option::weighted(0.9, prop::collection::vec(any::<u8>(), 0..20));
    (integer, real, text(), text(), blob)
}

fn run_of(rows: &[Kinds], plan: &Arc<Plan>) -> Arc<Run> {
    let mut stream = Vec::new();
    let columns = [
        ("id", 20, true),
        ("real", 701, false),
        ("text", 25, false),
        ("json", 1009, false),
        ("blob", 17, false),
    ];
    wire::xlog(&mut stream, Lsn::ZERO, &wire::relation(1, "kinds", b'd', &columns));
    wire::xlog(&mut stream, Lsn(1), &wire::begin(Lsn(1), 0, 1));
    for (id, real, text, json, blob) in rows {
        let real = match *real {
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            real => format!("{real:e}"),
        };
        let optional = |text: Option<String>| text.map_or(wire::Value::Null, wire::text);
        let array = json
            .as_ref()
            .map(|text| format!("{{\"{}\",NULL}}", text.replace('\\', "\\\\").replace('"', "\\\"")));
        let blob = blob.as_ref().map(|bytes| format!("\\x{}", hex::encode(bytes)));
        let values =
            [wire::text(id), wire::text(real), optional(text.clone()), optional(array), optional(blob)];
        wire::xlog(&mut stream, Lsn(1), &wire::insert(1, &values));
    }
    wire::xlog(&mut stream, Lsn(1), &wire::commit(Lsn(1), Lsn(2)));
    delivered(&stream, plan, &[usize::MAX], usize::MAX / 4).remove(0)
}

proptest! {
    #![proptest_config(cases(400))]

    /// SQLite reads them back, as it does at D1: `json_each` of the text, `unhex` of a blob.
    #[test]
    fn sqlite_reads_rendered_rows_back_as_they_were(rows in prop::collection::vec(kinds(), 1..6)) {
        let plan = plan_of_all_kinds();
        let run = run_of(&rows, &plan);
        let sqlite = Connection::open_in_memory().unwrap();
        let mut read = sqlite
            .prepare("SELECT ?1 ->> 0, ?1 ->> 1, ?1 ->> 2, ?1 ->> 3, unhex(?1 ->> 4), json_array_length(?1)")
            .unwrap();
        for (index, (id, real, text, json, blob)) in rows.into_iter().enumerate() {
            prop_assert_eq!(run.all_changes()[index].kind, ChangeKind::Upsert);
            let rendered = JsonRows::of(&run, &plan).get(index);
            let (found, length): (Kinds, i64) = read
                .query_row([rendered], |row| {
                    Ok(((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?), row.get(5)?))
                })
                .unwrap();
            let array = json.map(|text| serde_json::json!([text, null]));
            prop_assert_eq!(found.0, id, "{}", rendered);
            prop_assert!(found.1 == real, "{} is not {}", found.1, real);
            prop_assert_eq!(&found.2, &text);
            prop_assert_eq!(found.3.map(|text| serde_json::from_str(&text).unwrap()), array);
            prop_assert_eq!(found.4, blob);
            prop_assert_eq!(length, 5);
        }
    }
}
