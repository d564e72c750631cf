//! Recorded streams of a real server → transactions → the statements and rows of a SQLite replica.
//!
//! `tests/golden/<inputs>.sql` says what happens at the source, `<inputs>.schema.json` what is mapped. Recorded from a
//! server: `<name>.bin`, the bytes of the replication socket, and `<name>.tables.json`, the catalog. Expected:
//! `<name>.txt`, every message and what it was mapped to, and `<name>.applied.sql`, every statement that SQLite
//! executed, with its values, and the rows that are there in the end; `<name>.d1.sql`, every statement that is sent to
//! D1 for each transaction, but for the checkpoint. The rows in a D1 database are the same, also when everything is
//! folded into one request.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` records everything again and writes what it finds; `UPDATE_GOLDEN=expected`
//! keeps the recordings and writes only what is expected of them. Read the difference before you commit it. LSNs, xids and times are numbered in the rendering, so that it says the same next time.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/local_d1.rs"]
mod local_d1;
#[path = "support/recorder.rs"]
mod recorder;
#[path = "support/rendering.rs"]
mod rendering;
#[path = "support/trace.rs"]
mod trace;

use std::fs;
use std::sync::Arc;

use golden::{Recording, path, text};
use local_d1::LocalD1;
use rendering::{Names, shortened};
use walcast::Lsn;
use walcast::capture::frame::FrameRun;
use walcast::capture::slot::SourceIdentity;
use walcast::decode::{Decoder, Event};
use walcast::encode::mapper::Mapper;
use walcast::encode::run::Run;
use walcast::encode::schema_file::SchemaFile;
use walcast::error::Result;
use walcast::fanout::fill::{Action, FillStep, FillWrite, Fills};
use walcast::fanout::sink::{Batch, Sink};
use walcast::sink::d1::{D1Sink, Options};
use walcast::sink::replica::OnRejected;
use walcast::sink::sqlite::SqliteSink;

macro_rules! scenarios {
    ($($sentence:ident: $name:literal from $inputs:literal with $options:literal;)*) => {
        $(#[test] fn $sentence() { check($name, $inputs, $options); })*
    };
}

scenarios! {
    updates_and_deletes_carry_what_the_replica_identity_says: "identities" from "identities" with "";
    a_changed_key_moves_its_row: "keys" from "keys" with "";
    unchanged_toast_is_never_written: "toast" from "toast" with "";
    one_truncate_empties_many_tables: "truncate" from "truncate" with "";
    an_alteration_that_the_mapping_survives_goes_unnoticed: "altered" from "altered" with "";
    a_dropped_column_stops_its_table: "column_dropped" from "column_dropped" with "";
    a_renamed_table_stops: "table_renamed" from "table_renamed" with "";
    types_of_the_user_are_described_and_mapped: "user_types" from "user_types" with "";
    an_origin_changes_nothing: "origin" from "origin" with "";
    logical_messages_change_nothing: "logical_messages" from "logical_messages" with "messages 'true'";
    partitions_arrive_under_their_root: "partitions" from "partitions" with "";
    values_arrive_as_text: "values_in_text" from "values" with "";
    values_arrive_in_binary: "values_in_binary" from "values" with "binary 'true'";
    transactions_come_in_the_order_of_their_commits: "interleaved" from "interleaved" with "";
    a_soft_deleted_row_keeps_the_time_of_its_deletion: "soft_delete" from "soft_delete" with "";
    a_row_without_a_form_is_set_aside: "rejected" from "rejected" with "";
    what_binary_is_not_read_for_is_set_aside: "rejected_in_binary" from "rejected" with "binary 'true'";
}

#[test]
fn text_and_binary_give_the_same_rows() {
    let rows = |name: &str| {
        let applied = text(&format!("{name}.applied.sql"));
        applied.lines().filter(|line| line.starts_with("-- ")).map(str::to_owned).collect::<Vec<_>>()
    };
    // While they are written anew, the two may not be there or not belong together.
    if !is_update() {
        let expected = rows("values_in_text");
        assert!(expected.len() >= 3);
        assert_eq!(rows("values_in_binary"), expected);
    }
}

fn is_update() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

fn check(name: &str, inputs: &str, options: &str) {
    if std::env::var("UPDATE_GOLDEN").is_ok_and(|what| what != "expected") {
        let schema = SchemaFile::parse("schema.json", &text(&format!("{inputs}.schema.json"))).unwrap();
        let tables: Vec<_> = schema.tables.keys().cloned().collect();
        let (stream, catalog) = recorder::record(&text(&format!("{inputs}.sql")), options, &tables);
        let catalog = serde_json::to_string_pretty(&golden::tables_to_json(&catalog)).unwrap() + "\n";
        fs::write(path(&format!("{name}.bin")), stream).unwrap();
        fs::write(path(&format!("{name}.tables.json")), catalog).unwrap();
    }
    let recording = Recording::read(name, inputs);
    let names = Names::of(&recording.stream);
    compare(&format!("{name}.txt"), &transactions(&recording, &names));
    let applied = applied(&recording, &names);
    compare(&format!("{name}.applied.sql"), &applied);
    let (statements, found) = applied_to_d1(&recording, &names);
    compare(&format!("{name}.d1.sql"), &statements);
    for found in found {
        // A D1 database keeps a dead letter of what it has to read.
        let is_kept = |line: &&str| !line.contains("the row is not in this replica");
        let found: String = found.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect();
        assert!(applied.ends_with(&found), "tests/golden/{name}.applied.sql does not end with\n{found}");
    }
}

fn compare(file: &str, found: &str) {
    if is_update() {
        fs::write(path(file), found).unwrap();
        return;
    }
    let expected = text(file);
    if let Some((line, (expected, found))) =
        expected.lines().zip(found.lines()).enumerate().find(|(_, (expected, found))| expected != found)
    {
        panic!("tests/golden/{file}:{}:\nexpected {expected}\n   found {found}", line + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "tests/golden/{file}: lines");
}

/// Every message, and under each transaction what it was mapped to.
fn transactions(recording: &Recording, names: &Names) -> String {
    let mut text = String::new();
    let outcome = river(recording, |event, run| {
        if let Some(event) = event {
            text.push_str(&names.event(&event));
        }
        if let Some(run) = run {
            text.push_str(&names.run(run, &recording.plan));
        }
        Ok(())
    });
    outcome.unwrap();
    text
}

/// Every statement that the SQLite sink executes, and the rows in the end.
fn applied(recording: &Recording, names: &Names) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("replica.db");
    let tracing = trace::start();
    let mut sink = SqliteSink::new(&file, OnRejected::DeadLetter);
    assert_eq!(sink.open(&recording.plan, &identity()).unwrap(), None);
    sink.start_at(Lsn(1)).unwrap();
    tracing.take();

    let (mut text, mut fills) = (String::new(), Fills::default());
    let outcome = river(recording, |_, run| {
        if let Some(run) = run {
            apply(&mut sink, run, &mut fills)?;
            for statement in tracing.take() {
                text.push_str(&format!("{};\n", names.normalised(&shortened(&statement))));
            }
            text.push('\n');
        }
        Ok(())
    });
    outcome.unwrap();
    drop(sink);
    text + &rows(&file, recording)
}

/// Applies a run; where updates miss their rows, those are kept as owed first, as a worker does.
fn apply(sink: &mut SqliteSink, run: &Arc<Run>, fills: &mut Fills) -> Result<()> {
    let runs = std::slice::from_ref(run);
    let Err(error) = sink.apply(&Batch::new(runs, Lsn(1), None).with_fills(fills)) else { return Ok(()) };
    let missing = sink.take_missing();
    if missing.is_empty() {
        return Err(error);
    }
    sink.checkpoint()?;
    for (table, owed) in missing {
        let step = FillStep { table, action: Action::Miss(vec![owed]), sent_at: Lsn::ZERO, receipt: None };
        let fill = fills.after("golden", Lsn(1), &step).expect("it is new");
        sink.fill(&FillWrite { table, fill: &fill, run: None, clears: false, swaps: false })?;
        fills.set(table, fill);
    }
    sink.apply(&Batch::new(runs, Lsn(1), None).with_fills(fills)).map(drop)
}

/// Every statement that the D1 sink sends, a request for each transaction; and the rows in the end, with such requests
/// and with a single one.
fn applied_to_d1(recording: &Recording, names: &Names) -> (String, [String; 2]) {
    let open = || {
        let database = LocalD1::new(1);
        let mut sink = D1Sink::new("golden", Box::new(database.clone()), Options::default());
        assert_eq!(sink.open(&recording.plan, &identity()).unwrap(), None);
        sink.start_at(Lsn(1)).unwrap();
        database.take_sent();
        (database, sink)
    };
    let ((singly, mut sink), mut runs, mut text) = (open(), Vec::new(), String::new());
    let outcome = river(recording, |_, run| {
        let Some(run) = run else { return Ok(()) };
        runs.push(run.clone());
        sink.apply(&Batch::new(&runs[runs.len() - 1..], Lsn(1), None))?;
        for statement in singly.take_sent().iter().flat_map(|request| &request[1..]) {
            let params: String =
                statement.params.iter().map(|param| format!("\n  -- {}", shortened(param))).collect();
            text.push_str(&format!("{}\n", names.normalised_lines(&format!("{};{params}", statement.sql))));
        }
        text.push('\n');
        Ok(())
    });
    outcome.unwrap();
    let (folded, mut sink) = open();
    sink.apply(&Batch::new(&runs, Lsn(1), None)).unwrap();
    assert!(folded.take_sent().len() <= 1, "everything fits one request");
    (text, [singly, folded].map(|database| database.with(|connection| rows_in(connection, recording))))
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "golden".into(), database: "app".into() }
}

/// Decodes and maps the recording; hands on every event and message, and a run for every transaction that ended.
fn river(
    recording: &Recording,
    mut handle: impl FnMut(Option<rendering::Seen<'_, '_>>, Option<&Arc<Run>>) -> Result<()>,
) -> Result<()> {
    let frames = FrameRun::new(recording.stream.clone().into());
    let (mut decoder, mut mapper) =
        (Decoder::new(), Mapper::new(recording.plan.clone(), usize::MAX, Lsn::ZERO));
    let mut last_end = Lsn::ZERO;
    for frame in frames.iter() {
        let frame = frame?;
        let event = decoder.decode(frame)?;
        match &event {
            Some(Event::Idle { wal_end }) => {
                assert!(*wal_end >= last_end, "a keepalive is never behind a commit");
                continue;
            }
            Some(Event::Commit { end_lsn }) => last_end = *end_lsn,
            _ => {}
        }
        handle(Some(rendering::Seen { frame, event: event.as_ref() }), None)?;
        let Some(event) = event else { continue };
        let has_ended = matches!(event, Event::Commit { .. });
        mapper.map(event);
        if has_ended {
            let run = Arc::new(mapper.take_whole().expect("a transaction has ended"));
            handle(None, Some(&run))?;
        }
    }
    assert!(!decoder.is_in_transaction(), "the recording ends between transactions");
    Ok(())
}

fn rows(file: &std::path::Path, recording: &Recording) -> String {
    rows_in(&rusqlite::Connection::open(file).unwrap(), recording)
}

fn rows_in(connection: &rusqlite::Connection, recording: &Recording) -> String {
    use rusqlite::types::ValueRef;
    let mut text = String::new();
    let select = |table: &str, columns: &str, order: &str| -> String {
        let sql = format!("SELECT {columns} FROM \"{table}\" ORDER BY {order}");
        let mut statement = connection.prepare(&sql).unwrap();
        let width = statement.column_count();
        let lines = statement.query_map([], |row| {
            let values: Vec<String> = (0..width)
                .map(|index| match row.get_ref(index).unwrap() {
                    ValueRef::Null => "NULL".to_owned(),
                    ValueRef::Integer(value) => value.to_string(),
                    ValueRef::Real(value) => format!("{value:?}"),
                    ValueRef::Text(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
                    ValueRef::Blob(bytes) => format!("x'{}'", hex::encode(bytes)),
                })
                .collect();
            Ok(format!("-- {table}: {}\n", shortened(&values.join(", "))))
        });
        lines.unwrap().map(std::result::Result::unwrap).collect()
    };
    for table in &recording.plan.tables {
        let order: Vec<String> = table.key_columns().map(|column| format!("\"{}\"", column.target)).collect();
        let mut columns: Vec<String> =
            table.columns.iter().map(|column| format!("\"{}\"", column.target)).collect();
        // The time itself is this recording's own.
        columns.extend(table.soft_delete.iter().map(|column| format!("\"{column}\" IS NOT NULL")));
        text.push_str(&select(&table.target, &columns.join(", "), &order.join(", ")));
    }
    text + &select("_walcast_dead_letters", "target, operation, key, reason", "id")
}
