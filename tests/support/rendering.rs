//! Messages, changes and statements as text that reads well and is the same for every recording.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use walcast::Lsn;
use walcast::capture::frame::{Frame, FrameRun};
use walcast::capture::table::Oid;
use walcast::decode::message::{self, Message, Old, Relation, Tuple, Value};
use walcast::decode::{Change, Event};
use walcast::encode::cell::Cell;
use walcast::encode::plan::Plan;
use walcast::encode::run::{ChangeKind, Run};
use walcast::encode::time::push_rfc3339_micros;

/// The first OID that a server gives to objects of its users.
const FIRST_USER_OID: u32 = 16_384;
/// Repetitions of a character that are spelt out.
const REPEATED_MAX: usize = 40;

/// A frame, and what the decoder made of it.
pub struct Seen<'a, 'b> {
    pub frame: Frame<'a>,
    pub event: Option<&'b Event<'a>>,
}

/// Small numbers for what every recording has its own of.
#[derive(Default)]
pub struct Names {
    lsns: Vec<Lsn>,
    xids: Vec<u32>,
    times: Vec<i64>,
    types: Vec<Oid>,
    relations: BTreeMap<Oid, String>,
}

impl Names {
    /// The names for everything in the stream.
    pub fn of(stream: &[u8]) -> Names {
        let mut names = Names::default();
        let mut lsns = BTreeSet::new();
        for frame in FrameRun::new(stream.to_vec().into()).iter() {
            let Ok(Frame::XLogData { data, .. }) = frame else { continue };
            match message::parse(data).unwrap() {
                Message::Begin(begin) => {
                    lsns.insert(begin.commit_lsn);
                    names.xids.push(begin.xid);
                    names.times.push(begin.commit_time_micros);
                }
                Message::Commit { end_lsn, .. } => {
                    lsns.insert(end_lsn);
                }
                Message::Type { oid } => names.types.push(oid),
                Message::Relation(relation) => {
                    names.relations.entry(relation.oid).or_insert_with(|| relation.name.plain());
                }
                _ => {}
            }
        }
        names.lsns = lsns.into_iter().collect();
        names.types.sort();
        names.types.dedup();
        names
    }

    fn lsn(&self, lsn: Lsn) -> String {
        number("lsn", self.lsns.iter().position(|&known| known == lsn))
    }

    fn xid(&self, xid: u32) -> String {
        number("xid", self.xids.iter().position(|&known| known == xid))
    }

    fn time(&self, micros: i64) -> String {
        number("time", self.times.iter().position(|&known| known == micros))
    }

    fn type_oid(&self, oid: Oid) -> String {
        match self.types.iter().position(|&known| known == oid) {
            Some(index) if oid.0 >= FIRST_USER_OID => number("type", Some(index)),
            _ => oid.0.to_string(),
        }
    }

    fn relation(&self, oid: Oid) -> &str {
        self.relations.get(&oid).map_or("?", String::as_str)
    }

    /// A line for each message.
    pub fn event(&self, seen: &Seen<'_, '_>) -> String {
        let line = match seen.event {
            Some(Event::Relation(relation)) => format!("Relation {}", self.description(relation)),
            Some(Event::Begin(begin)) => format!(
                "Begin {} {} {}",
                self.xid(begin.xid),
                self.lsn(begin.commit_lsn),
                self.time(begin.commit_time_micros)
            ),
            Some(Event::Change { relation, change }) => {
                let change = match change {
                    Change::Insert(new) => format!("Insert {} {}", self.relation(*relation), tuple(*new)),
                    Change::Update(old, new) => {
                        let old = old.map(|old| self::old(old) + " -> ").unwrap_or_default();
                        format!("Update {} {old}{}", self.relation(*relation), tuple(*new))
                    }
                    Change::Delete(old) => format!("Delete {} {}", self.relation(*relation), self::old(*old)),
                };
                format!("  {change}")
            }
            Some(Event::Truncate(relations)) => {
                let names: Vec<&str> = relations.iter().map(|&oid| self.relation(oid)).collect();
                format!("  Truncate {}", names.join(", "))
            }
            Some(Event::Commit { end_lsn }) => format!("Commit {}", self.lsn(*end_lsn)),
            Some(Event::Idle { .. }) => "Idle".to_owned(),
            None => self.ignored(seen.frame),
        };
        line + "\n"
    }

    /// What the decoder made nothing of.
    fn ignored(&self, frame: Frame<'_>) -> String {
        let Frame::XLogData { data, .. } = frame else { return format!("({frame:?})") };
        match message::parse(data).unwrap() {
            Message::Origin => "(Origin)".to_owned(),
            Message::Type { oid } => format!("(Type {})", self.type_oid(oid)),
            Message::Logical { is_transactional, prefix, content } => {
                let kind = if is_transactional { "transactional" } else { "not transactional" };
                format!("(Message, {kind}, {prefix:?}: {:?})", content.escape_ascii().to_string())
            }
            other => format!("({other:?})"),
        }
    }

    fn description(&self, relation: &Relation) -> String {
        let columns: Vec<String> = relation
            .columns
            .iter()
            .map(|column| {
                let key = if column.is_key { " key" } else { "" };
                format!("{} {}{key}", column.name, self.type_oid(column.type_oid))
            })
            .collect();
        format!("{} ({:?}): {}", relation.name.plain(), relation.replica_identity, columns.join(", "))
    }

    /// The spans of a run and their changes, as a block under the messages.
    pub fn run(&self, run: &Run, plan: &Plan) -> String {
        let mut text = String::new();
        for span in run.spans() {
            let end = span.end_lsn.map_or("open".to_owned(), |lsn| self.lsn(lsn));
            let (xid, commit_lsn) = (self.xid(span.xid), self.lsn(span.commit_lsn));
            writeln!(text, "=> {xid} {commit_lsn} to {end} {}", self.time(span.commit_time_micros)).unwrap();
            for &change in run.changes(span) {
                let table = &plan.tables[change.table as usize].target;
                let cells = |cells: &[Cell]| {
                    let cells: Vec<String> = cells.iter().map(|&cell| self::cell(cell, run)).collect();
                    shortened(&format!("({})", cells.join(", ")))
                };
                let what = match change.kind {
                    ChangeKind::Upsert | ChangeKind::Update => cells(run.row(change, plan)),
                    ChangeKind::Delete => cells(run.key(change, plan)),
                    ChangeKind::Move => {
                        format!("{} -> {}", cells(run.key(change, plan)), cells(run.row(change, plan)))
                    }
                    ChangeKind::Truncate => String::new(),
                    ChangeKind::Reject => {
                        let row = run.rejection(change);
                        format!("{} {}: {}", row.operation, row.key, row.reason)
                    }
                };
                writeln!(text, "{}", format!("   {:?} {table} {what}", change.kind).trim_end()).unwrap();
            }
        }
        for misfit in run.misfits() {
            let table = &plan.tables[misfit.table].target;
            writeln!(text, "   stops {table} from {}: {}", self.lsn(misfit.commit_lsn), misfit.reason)
                .unwrap();
            writeln!(text, "     hint: {}", misfit.hint).unwrap();
        }
        text + "\n"
    }

    /// A statement with this recording's positions, transaction ids and times replaced.
    pub fn normalised(&self, statement: &str) -> String {
        self.normalised_lines(&statement.lines().map(str::trim_start).collect::<Vec<_>>().join(" "))
    }

    /// The same, its lines kept.
    pub fn normalised_lines(&self, statement: &str) -> String {
        let mut text = statement.to_owned();
        for &lsn in &self.lsns {
            for quote in ["'", "\""] {
                let quoted = |text: &str| format!("{quote}{text}{quote}");
                text = text.replace(&quoted(&lsn.to_string()), &quoted(&self.lsn(lsn)));
            }
        }
        for &micros in &self.times {
            let mut rfc3339 = Vec::new();
            push_rfc3339_micros(&mut rfc3339, micros);
            text = text.replace(std::str::from_utf8(&rfc3339).unwrap(), &self.time(micros));
            text = text.replace(&micros.to_string(), &self.time(micros));
        }
        if text.contains("_walcast_dead_letters") {
            for &xid in &self.xids {
                text = text.replace(&format!(", {xid})"), &format!(", {})", self.xid(xid)));
                text = text.replace(&format!(",{xid}]"), &format!(",{}]", self.xid(xid)));
            }
        }
        text
    }
}

fn number(what: &str, index: Option<usize>) -> String {
    index.map_or_else(|| format!("{what} ?"), |index| format!("{what} {}", index + 1))
}

fn old(old: Old<'_>) -> String {
    match old {
        Old::Key(key) => format!("key {}", tuple(key)),
        Old::Full(row) => format!("full {}", tuple(row)),
    }
}

fn tuple(tuple: Tuple<'_>) -> String {
    let values: Vec<String> = tuple
        .values()
        .map(|value| match value {
            Value::Null => "null".to_owned(),
            Value::Unchanged => "unchanged".to_owned(),
            Value::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
            Value::Binary(bytes) => format!("x'{}'", hex::encode(bytes)),
        })
        .collect();
    shortened(&format!("({})", values.join(", ")))
}

fn cell(cell: Cell, run: &Run) -> String {
    match cell {
        Cell::Absent => "absent".to_owned(),
        Cell::Null => "null".to_owned(),
        Cell::Integer(value) => value.to_string(),
        Cell::Real(value) => format!("{value:?}"),
        Cell::Text(slice) => format!("{:?}", String::from_utf8_lossy(slice.of(run.arena()))),
        Cell::Blob(slice) => format!("x'{}'", hex::encode(slice.of(run.arena()))),
    }
}

/// The text with every long repetition of one character as `x{2100}`.
pub fn shortened(text: &str) -> String {
    let mut short = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let tail = rest.trim_start_matches(first);
        let repeated = &rest[..rest.len() - tail.len()];
        let count = repeated.chars().count();
        if count > REPEATED_MAX {
            write!(short, "{first}{{{count}}}").unwrap();
        } else {
            short.push_str(repeated);
        }
        rest = tail;
    }
    short
}
