//! What holds for every input: of the bytes from the socket, of runs cut anywhere, of folding, of rendered rows, and
//! of a SQLite replica that is interrupted and sent everything again.

#[path = "support/changes.rs"]
mod changes;
#[path = "support/golden.rs"]
mod golden;
#[path = "support/interruptions.rs"]
mod interruptions;
#[path = "support/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use changes::{Rows, Source, transactions};
use golden::Recording;
use interruptions::{Event, events};
use proptest::prelude::*;
use rusqlite::Connection;
use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::{Frame, FrameRun, complete_prefix};
use walcast::capture::slot::SourceIdentity;
use walcast::capture::table::ReplicaIdentity;
use walcast::decode::{Decoder, message};
use walcast::encode::cell::Cell;
use walcast::encode::fold::{ChangeRef, Fold, Net, Row};
use walcast::encode::json_rows::JsonRows;
use walcast::encode::mapper::Mapper;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::encode::run::{Change, ChangeKind, Run};
use walcast::encode::schema_file::SchemaFile;
use walcast::error::Result;
use walcast::fanout::chain::chain;
use walcast::fanout::delivery::Delivery;
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::SinkProgress;
use walcast::fanout::queue::Received;
use walcast::fanout::sink::{Batch, Sink};
use walcast::sink::replica::OnRejected;
use walcast::sink::sqlite::SqliteSink;

static RECORDINGS: LazyLock<Vec<Recording>> = LazyLock::new(Recording::all);

/// Every pgoutput message of every recording.
static MESSAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut messages = Vec::new();
    for recording in RECORDINGS.iter() {
        for frame in frames(&recording.stream).iter() {
            if let Frame::XLogData { data, .. } = frame.unwrap() {
                messages.push(data.to_vec());
            }
        }
    }
    messages
});

fn frames(stream: &[u8]) -> FrameRun {
    FrameRun::new(stream[..complete_prefix(stream).complete].to_vec().into())
}

/// So many cases; a failure prints its input, nothing is written beside the test.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

// ---- bytes ------------------------------------------------------------------------------------------------------

/// Damage to a byte sequence; positions count around its length.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<usize>;
    let damage = prop_oneof![
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, 1 << bit)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), 1..9usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        2 => (at(), 1..40usize, at()).prop_map(|(from, length, to)| Damage::Repeat(from, length, to)),
    ];
    prop::collection::vec(damage, 1..5)
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length_now = bytes.len();
        match *damage {
            Damage::Flip(at, mask) => bytes[at % length_now] ^= mask,
            Damage::Cut(at) => bytes.truncate(at % length_now),
            Damage::Remove(at, length) => {
                let at = at % length_now;
                bytes.drain(at..(at + length).min(length_now));
            }
            Damage::Repeat(from, length, to) => {
                let from = from % length_now;
                let copied = bytes[from..(from + length).min(length_now)].to_vec();
                let to = to % length_now;
                bytes.splice(to..to, copied);
            }
        }
    }
    bytes
}

/// Parses, and walks all that was parsed: every value lies in the message, and there are as many as were announced.
fn walk(data: &[u8]) {
    use message::{Message, Old, Tuple, Value};
    let Ok(message) = message::parse(data) else { return };
    let check = |tuple: Tuple<'_>| {
        let values: Vec<Value<'_>> = tuple.values().collect();
        assert_eq!(values.len(), tuple.len());
        for value in values {
            if let Value::Text(bytes) | Value::Binary(bytes) = value {
                assert!(bytes.is_empty() || data.as_ptr_range().contains(&bytes.as_ptr()));
                assert!(bytes.len() < data.len());
            }
        }
    };
    match message {
        Message::Insert { new, .. } => check(new),
        Message::Update { old, new, .. } => {
            old.map(Old::tuple).into_iter().for_each(check);
            check(new);
        }
        Message::Delete { old, .. } => check(old.tuple()),
        _ => {}
    }
}

/// Decodes and maps a whole stream, however it ends.
fn flow(stream: &[u8], plan: &Arc<Plan>) {
    let (mut decoder, mut mapper) = (Decoder::new(), Mapper::new(plan.clone(), 400, Lsn::ZERO));
    let mut read = |frame: Frame<'_>| -> Result<()> {
        if let Some(event) = decoder.decode(frame)? {
            mapper.map(event);
            for run in mapper.take_full().into_iter().chain(mapper.take_whole()) {
                JsonRows::of(&run, plan);
            }
        }
        Ok(())
    };
    for frame in frames(stream).iter() {
        if frame.and_then(&mut read).is_err() {
            return;
        }
    }
}

#[test]
fn every_proper_prefix_of_a_message_is_an_error() {
    for data in MESSAGES.iter() {
        assert!(message::parse(data).is_ok());
        for length in (0..data.len()).filter(|length| *length < 200 || data.len() - length < 200) {
            assert!(message::parse(&data[..length]).is_err(), "{length} of {}", data.escape_ascii());
        }
        let longer = [&data[..], b"\0"].concat();
        assert!(message::parse(&longer).is_err(), "a byte too many: {}", data.escape_ascii());
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn no_bytes_make_the_decoder_panic(
        tag in prop::sample::select(b"BCORYIUDTM?".to_vec()),
        rest in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        walk(&rest);
        walk(&[&[tag], &rest[..]].concat());
    }

    #[test]
    fn no_damage_to_a_message_makes_the_decoder_panic(
        index in any::<prop::sample::Index>(), damages in damage(),
    ) {
        let data = damaged(&MESSAGES[index.index(MESSAGES.len())], &damages);
        walk(&data);
    }

    #[test]
    fn no_bytes_make_the_frames_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let run = frames(&bytes);
        prop_assert!(run.iter().count() <= bytes.len() / 5);
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn no_damage_to_a_stream_makes_decoder_or_mapper_panic(
        index in any::<prop::sample::Index>(), damages in damage(),
    ) {
        let recording = index.get(&RECORDINGS[..]);
        flow(&damaged(&recording.stream, &damages), &recording.plan);
    }

    /// The framing stays whole here, so that the damage reaches the stages behind it.
    #[test]
    fn no_damage_inside_messages_makes_decoder_or_mapper_panic(
        index in any::<prop::sample::Index>(), which in any::<prop::sample::Index>(), damages in damage(),
    ) {
        let recording = index.get(&RECORDINGS[..]);
        let mut stream = Vec::new();
        let run = frames(&recording.stream);
        let victim = which.index(run.iter().count());
        for (position, frame) in run.iter().enumerate() {
            if let Frame::XLogData { wal_start, data } = frame.unwrap() {
                let data = if position == victim { damaged(data, &damages) } else { data.to_vec() };
                wire::xlog(&mut stream, wal_start, &data);
            }
        }
        flow(&stream, &recording.plan);
    }

    #[test]
    fn frames_are_the_same_however_the_reads_cut_them(
        index in any::<prop::sample::Index>(), reads in prop::collection::vec(1..400usize, 1..20),
    ) {
        let recording = index.get(&RECORDINGS[..]);
        let expected: Vec<String> =
            frames(&recording.stream).iter().map(|frame| format!("{:?}", frame.unwrap())).collect();
        let mut found = Vec::new();
        for run in cut(&recording.stream, &reads) {
            found.extend(run.iter().map(|frame| format!("{:?}", frame.unwrap())));
        }
        prop_assert_eq!(found, expected);
    }
}

/// What the capture stage makes of reads of these sizes, over and over.
fn cut(stream: &[u8], reads: &[usize]) -> Vec<FrameRun> {
    let (mut buffer, mut rest, mut runs) = (Vec::new(), stream, Vec::new());
    for &read in reads.iter().cycle() {
        let (now, later) = rest.split_at(read.min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        let prefix = complete_prefix(&buffer);
        if prefix.complete > 0 {
            let behind = buffer.split_off(prefix.complete);
            runs.push(FrameRun::new(std::mem::replace(&mut buffer, behind).into()));
        }
        if rest.is_empty() {
            return runs;
        }
    }
    runs
}

// ---- runs -------------------------------------------------------------------------------------------------------

/// The runs that the river delivers for reads of these sizes, up to where it halts. An idle position must not come in
/// front of a transaction that lies before it, nor inside one: a sink would take it for its checkpoint at once.
fn delivered(stream: &[u8], plan: &Arc<Plan>, reads: &[usize], part_bytes_max: usize) -> Vec<Arc<Run>> {
    delivered_from(Lsn::ZERO, stream, plan, reads, part_bytes_max)
}

fn delivered_from(
    needed_from: Lsn,
    stream: &[u8],
    plan: &Arc<Plan>,
    reads: &[usize],
    part_bytes_max: usize,
) -> Vec<Arc<Run>> {
    let (outlets, _) = Outlets::new(Duration::MAX);
    let (outlet, inlet) = outlets.queue(&SinkProgress::new("eu"), usize::MAX);
    outlets.attach(outlet);
    let (inlets, mut chain) = chain();
    inlets.send(inlet).unwrap();
    let outlets = Arc::new(outlets);
    let options = RiverOptions {
        part_bytes_max,
        idle_interval: Duration::ZERO,
        needed_from,
        older: OlderForms::default(),
    };
    let mut river = River::new(plan.clone(), outlets, options);
    for run in cut(stream, reads) {
        if river.flow(&run).is_err() {
            break;
        }
    }
    let (mut runs, mut idle) = (Vec::new(), Lsn::ZERO);
    while let Received::Item(delivery) = chain.try_receive() {
        match delivery {
            Delivery::Run(run) => {
                assert!(
                    run.spans().iter().all(|span| span.commit_lsn >= idle),
                    "{idle} overtook a transaction"
                );
                runs.push(run);
            }
            Delivery::Idle(lsn) => {
                let last = runs.last().and_then(|run: &Arc<Run>| run.spans().last());
                assert!(last.is_none_or(|span| span.end_lsn.is_some()), "{lsn} came inside a transaction");
                idle = lsn;
            }
            Delivery::Fill(_) | Delivery::Restart => {}
        }
    }
    runs
}

/// The whole transactions in these runs: head, end, and changes. Fails where parts do not belong together.
fn rejoined(runs: &[Arc<Run>], plan: &Plan) -> Vec<(String, Lsn, Vec<String>)> {
    let mut whole = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for run in runs {
        let mut next_change = 0;
        for span in run.spans() {
            assert_eq!(span.changes.start, next_change, "spans follow each other without a gap");
            next_change = span.changes.end;
            let head = format!("{} {} {}", span.commit_lsn, span.xid, span.commit_time_micros);
            assert_eq!(span.is_start, open.is_none(), "the first part, and no other, is a start");
            let (begun, mut changes) = match open.take() {
                None => (head.clone(), Vec::new()),
                Some(open) => open,
            };
            assert_eq!(begun, head, "a part continues the transaction that is open");
            changes.extend(run.changes(span).iter().map(|&change| shown(run, change, plan)));
            match span.end_lsn {
                Some(end_lsn) => whole.push((begun, end_lsn, changes)),
                None => open = Some((begun, changes)),
            }
        }
        assert_eq!(next_change, run.all_changes().len(), "every change is in a span");
    }
    whole
}

fn shown(run: &Run, change: Change, plan: &Plan) -> String {
    let owned = |cells: &[Cell]| -> Vec<Owned> {
        cells.iter().map(|&cell| Owned::from_cell(cell, run.arena())).collect()
    };
    let cells = match change.kind {
        ChangeKind::Upsert | ChangeKind::Update => format!("{:?}", owned(run.row(change, plan))),
        ChangeKind::Delete => format!("{:?}", owned(run.key(change, plan))),
        ChangeKind::Move => format!("{:?}{:?}", owned(run.key(change, plan)), owned(run.row(change, plan))),
        ChangeKind::Truncate => String::new(),
        ChangeKind::Reject => format!("{:?}", run.rejection(change)),
    };
    format!("{:?} {} {cells}", change.kind, change.table)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn parts_rejoin_to_the_same_transactions_however_the_stream_is_cut(
        index in any::<prop::sample::Index>(),
        reads in prop::collection::vec(1..600usize, 1..20),
        part_bytes_max in prop_oneof![1..600usize, Just(usize::MAX / 4)],
    ) {
        let Recording { stream, plan, .. } = index.get(&RECORDINGS[..]);
        let expected = rejoined(&delivered(stream, plan, &[stream.len()], usize::MAX / 4), plan);
        let runs = delivered(stream, plan, &reads, part_bytes_max);
        prop_assert!(!expected.is_empty());
        prop_assert_eq!(rejoined(&runs, plan), expected);
    }

    #[test]
    fn what_every_sink_has_is_left_out_and_nothing_else(
        transactions in transactions(), needed_from in 900..1800u64, part_bytes_max in 1..600usize,
    ) {
        let (source, needed_from) = (Source::new(&transactions, false), Lsn(needed_from));
        let plan = Arc::new(source.plan());
        let mut expected = rejoined(&delivered(&source.stream, &plan, &[usize::MAX], usize::MAX / 4), &plan);
        // The source's commit records are 8 bytes long.
        expected.retain(|(_, end_lsn, _)| Lsn(end_lsn.0 - 8) >= needed_from);
        let runs = delivered_from(needed_from, &source.stream, &plan, &[83], part_bytes_max);
        prop_assert_eq!(rejoined(&runs, &plan), expected);
    }
}

// ---- folding ----------------------------------------------------------------------------------------------------

/// Columns of the plan of [`Source`].
const NAME: usize = 0;
const ID: usize = 1;
const NOTE: usize = 2;

/// A cell with its bytes.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Absent,
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Owned {
    fn from_cell(cell: Cell, arena: &[u8]) -> Owned {
        match cell {
            Cell::Absent => Owned::Absent,
            Cell::Null => Owned::Null,
            Cell::Integer(value) => Owned::Integer(value),
            Cell::Real(value) => Owned::Real(value),
            Cell::Text(slice) => Owned::Text(String::from_utf8(slice.of(arena).to_vec()).unwrap()),
            Cell::Blob(slice) => Owned::Blob(slice.of(arena).to_vec()),
        }
    }
}

fn owned_text(cell: &Owned) -> Option<String> {
    match cell {
        Owned::Null => None,
        Owned::Text(text) => Some(text.to_string()),
        other => panic!("{other:?} is no text"),
    }
}

fn owned_key(cell: &Owned) -> i64 {
    let Owned::Integer(key) = cell else { panic!("{cell:?} is no key") };
    *key
}

/// Applies changes in order, as a sink does that has the rows. A partial row that meets none has no effect.
fn apply_in_order(rows: &mut Rows, runs: &[Arc<Run>], plan: &Plan) {
    for run in runs {
        for &change in run.all_changes() {
            let owned = |cells: &[Cell]| -> Vec<Owned> {
                cells.iter().map(|&cell| Owned::from_cell(cell, run.arena())).collect()
            };
            match change.kind {
                ChangeKind::Upsert | ChangeKind::Update => write(rows, None, &owned(run.row(change, plan))),
                ChangeKind::Move => {
                    let old_key = owned_key(&owned(run.key(change, plan))[0]);
                    write(rows, Some(old_key), &owned(run.row(change, plan)));
                }
                ChangeKind::Delete => {
                    rows.remove(&owned_key(&owned(run.key(change, plan))[0]));
                }
                ChangeKind::Truncate => rows.clear(),
                ChangeKind::Reject => panic!("nothing is rejected here"),
            }
        }
    }
}

fn write(rows: &mut Rows, old_key: Option<i64>, row: &[Owned]) {
    let key = owned_key(&row[ID]);
    let before = rows.remove(&old_key.unwrap_or(key));
    let column = |index: usize, at: usize| match &row[index] {
        Owned::Absent => before.as_ref().map(|values| values[at].clone()),
        present => Some(owned_text(present)),
    };
    if let (Some(name), Some(note)) = (column(NAME, 0), column(NOTE, 1)) {
        rows.insert(key, [name, note]);
    }
}

/// Applies what folding left, stage by stage, each in the documented order.
fn apply_folded(rows: &mut Rows, runs: &[Arc<Run>], plan: &Plan) {
    let mut fold = Fold::new(plan);
    for run in runs {
        for span in run.spans() {
            span.changes.clone().for_each(|index| fold.add(ChangeRef { run, span, index }));
        }
    }
    for (_, table) in fold.tables() {
        if table.is_truncated {
            rows.clear();
        }
        for stage in &table.stages {
            let mut keys: Vec<&str> = stage.entries.iter().map(|entry| fold.key(entry)).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), stage.entries.len(), "one net effect for each key");
            for entry in stage.entries.iter().filter(|entry| matches!(entry.net, Net::Delete)) {
                rows.remove(&key_of(fold.key(entry)));
            }
            for entry in &stage.entries {
                let key = key_of(fold.key(entry));
                match &entry.net {
                    Net::Keep | Net::Delete => {}
                    Net::Upsert(row) => {
                        assert_eq!(row.mask(plan), 0b111, "an upsert is whole");
                        write(rows, None, &present(row, key, plan));
                    }
                    Net::Update(row) => write(rows, None, &present(row, key, plan)),
                }
            }
            for one in &stage.moves {
                let (old, new) = fold.move_keys(one);
                write(rows, Some(key_of(old)), &present(&one.row, key_of(new), plan));
            }
        }
    }
}

fn key_of(text: &str) -> i64 {
    text.trim_matches(['[', ']']).parse().unwrap()
}

/// A folded row's cells, which must have this key.
fn present(row: &Row<'_>, key: i64, plan: &Plan) -> Vec<Owned> {
    let mut text = String::new();
    row.push_text(plan, &mut text);
    let values: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(values[ID].as_i64(), Some(key), "the row has its key");
    let cells = values.into_iter().enumerate().map(|(index, value)| match value {
        _ if row.mask(plan) >> index & 1 == 0 => Owned::Absent,
        serde_json::Value::Null => Owned::Null,
        serde_json::Value::String(text) => Owned::Text(text),
        value => Owned::Integer(value.as_i64().unwrap()),
    });
    cells.collect()
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn folding_has_the_effect_of_all_changes_in_order(
        transactions in transactions(), is_full in any::<bool>(), batch_ends in prop::collection::vec(1..6usize, 1..8),
    ) {
        let source = Source::new(&transactions, is_full);
        let plan = Arc::new(source.plan());
        let runs = delivered(&source.stream, &plan, &[97], 150);
        let (mut folded, mut in_order) = (Rows::new(), Rows::new());
        let mut rest = &runs[..];
        for &length in batch_ends.iter().cycle() {
            let (batch, later) = rest.split_at(length.min(rest.len()));
            rest = later;
            apply_in_order(&mut in_order, batch, &plan);
            apply_folded(&mut folded, batch, &plan);
            prop_assert_eq!(&folded, &in_order);
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(in_order, source.at(Lsn(u64::MAX)));
    }

    /// Rows that the sink lacks, because they were set aside: what comes to be there is right all the same.
    #[test]
    fn folding_never_invents_a_row(
        transactions in transactions(), is_full in any::<bool>(), lost in prop::collection::btree_set(0..6i64, 0..4),
        at in any::<prop::sample::Index>(),
    ) {
        let source = Source::new(&transactions, is_full);
        let plan = Arc::new(source.plan());
        let runs = delivered(&source.stream, &plan, &[usize::MAX], 1);
        let (before, after) = runs.split_at(at.index(runs.len() + 1));
        let mut rows = Rows::new();
        apply_in_order(&mut rows, before, &plan);
        rows.retain(|key, _| !lost.contains(key));
        apply_folded(&mut rows, after, &plan);
        let truth = source.at(Lsn(u64::MAX));
        for (key, row) in rows {
            prop_assert_eq!(Some(&row), truth.get(&key));
        }
    }
}

// ---- rendered rows ----------------------------------------------------------------------------------------------

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

// ---- SQLite -----------------------------------------------------------------------------------------------------

struct Replica<'a> {
    directory: tempfile::TempDir,
    sink: SqliteSink,
    source: &'a Source,
    plan: Arc<Plan>,
    /// Where the stream stands: an index of the runs.
    next: usize,
    last: std::ops::Range<usize>,
    position: Lsn,
}

impl Replica<'_> {
    fn new(source: &Source) -> Replica<'_> {
        let directory = tempfile::tempdir().unwrap();
        let sink = SqliteSink::new(directory.path().join("replica.db"), OnRejected::Halt);
        let plan = Arc::new(source.plan());
        let mut replica = Replica { directory, sink, source, plan, next: 0, last: 0..0, position: Lsn(1) };
        assert_eq!(replica.sink.open(&replica.plan, &identity()).unwrap(), None);
        replica.sink.start_at(Lsn(1)).unwrap();
        replica
    }

    fn happen(&mut self, event: Event, runs: &[Arc<Run>]) {
        match event {
            Event::Batch(length) => {
                let end = (self.next + length).min(runs.len());
                self.last = self.next..end;
                self.next = end;
                let batch = Batch::new(&runs[self.last.clone()], self.position, None);
                if batch.spans().next().is_some() {
                    self.sink.apply(&batch).unwrap();
                    self.position = batch.end_lsn().unwrap_or(self.position);
                }
            }
            Event::Again => {
                // An open transaction would be gone after a lost answer, and then the stream starts again.
                let rows = self.rows();
                let position = self.sink.checkpoint().unwrap().lsn;
                let batch = Batch::new(&runs[self.last.clone()], position, None);
                assert_eq!(position, self.position, "the checkpoint is what the batches led to");
                assert!(batch.spans().all(|(_, span)| span.end_lsn.is_none()), "all of it is there");
                assert_eq!(self.rows(), rows);
                self.restart(0, runs);
            }
            Event::Restart(back) => {
                self.position = self.sink.checkpoint().unwrap().lsn;
                self.restart(back, runs);
            }
            Event::Crash(back) => {
                self.sink = SqliteSink::new(self.file(), OnRejected::Halt);
                let checkpoint = self.sink.open(&self.plan, &identity()).unwrap().unwrap();
                self.position = checkpoint.lsn;
                self.restart(back, runs);
            }
        }
    }

    /// Starts the stream again, `back` whole transactions before the checkpoint.
    fn restart(&mut self, back: usize, runs: &[Arc<Run>]) {
        self.last = 0..0;
        let applied = self.source.transactions.iter().take_while(|one| one.end_lsn <= self.position).count();
        let confirmed = match applied.saturating_sub(back) {
            0 => Lsn(1),
            count => self.source.transactions[count - 1].end_lsn,
        };
        let is_first =
            |run: &Arc<Run>| run.spans().iter().any(|span| span.is_start && span.commit_lsn >= confirmed);
        self.next = runs.iter().position(is_first).unwrap_or(runs.len());
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("replica.db")
    }

    /// What an application reads.
    fn rows(&self) -> Rows {
        let reader = Connection::open(self.file()).unwrap();
        let mut statement = reader.prepare("SELECT id, name, note FROM items").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?])));
        rows.unwrap().map(std::result::Result::unwrap).collect()
    }

    fn transactions(&self) -> i64 {
        let reader = Connection::open(self.file()).unwrap();
        reader.query_row("SELECT transactions FROM _walcast_checkpoint", [], |row| row.get(0)).unwrap()
    }
}

fn identity() -> SourceIdentity {
    SourceIdentity { system_identifier: 7, timeline: 1, slot: "walcast".into(), database: "app".into() }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn a_sqlite_replica_equals_its_source_whatever_comes_again(
        transactions in transactions(),
        is_full in any::<bool>(),
        events in events(),
        part_bytes_max in prop_oneof![1..600usize, Just(4000usize)],
    ) {
        let source = Source::new(&transactions, is_full);
        let mut replica = Replica::new(&source);
        let runs = delivered(&source.stream, &replica.plan, &[61], part_bytes_max);
        for event in events.into_iter().chain([Event::Restart(3), Event::Batch(usize::MAX / 2)]) {
            replica.happen(event, &runs);
            prop_assert_eq!(replica.rows(), source.at(replica.position), "after {:?}", event);
        }
        prop_assert_eq!(replica.rows(), source.at(Lsn(u64::MAX)));
        prop_assert_eq!(replica.transactions() as usize, transactions.len(), "each transaction once");
    }
}
