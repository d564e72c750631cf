//! Random changes to one table with few keys, as a source could make them: the rows after each transaction, and the
//! bytes that it streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use walcast::Lsn;
use walcast::capture::table::ReplicaIdentity;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::encode::schema_file::SchemaFile;

use crate::wire::{self, Value};

const ITEMS: u32 = 50_001;

/// By key: the two other columns; `None` is NULL.
pub type Rows = BTreeMap<i64, [Option<String>; 2]>;

/// What may happen to a row. A `None` of an update or a move is a column that does not change.
#[derive(Debug, Clone)]
pub enum Op {
    Insert(i64, [Option<String>; 2]),
    Update(i64, [Option<Option<String>>; 2]),
    Move(i64, i64, [Option<Option<String>>; 2]),
    Delete(i64),
    Truncate,
}

pub fn transactions() -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(op(), 0..12), 1..8)
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..6i64;
    let value = || prop::option::weighted(0.8, "[a-zä\"\\\\]{0,6}");
    let row = move || [value(), value()];
    let partial = move || [prop::option::of(value()), prop::option::of(value())];
    prop_oneof![
        6 => (key(), row()).prop_map(|(key, row)| Op::Insert(key, row)),
        6 => (key(), partial()).prop_map(|(key, row)| Op::Update(key, row)),
        4 => (key(), key(), partial()).prop_map(|(from, to, row)| Op::Move(from, to, row)),
        3 => key().prop_map(Op::Delete),
        1 => Just(Op::Truncate),
    ]
}

/// One transaction at the source.
pub struct Committed {
    pub end_lsn: Lsn,
    /// The rows after it.
    pub after: Rows,
}

/// A source that made the changes, as far as they made sense.
pub struct Source {
    pub transactions: Vec<Committed>,
    /// Backend messages of one session.
    pub stream: Vec<u8>,
    identity: ReplicaIdentity,
}

impl Source {
    pub fn new(transactions: &[Vec<Op>], is_full: bool) -> Source {
        let identity = if is_full { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
        let mut source = Source { transactions: Vec::new(), stream: Vec::new(), identity };
        let columns = [("id", 20, true), ("name", 25, is_full), ("note", 25, is_full)];
        let letter = if is_full { b'f' } else { b'd' };
        wire::xlog(&mut source.stream, Lsn::ZERO, &wire::relation(ITEMS, "items", letter, &columns));
        let mut rows = Rows::new();
        for (index, ops) in transactions.iter().enumerate() {
            let commit_lsn = Lsn(1000 + 100 * index as u64);
            let end_lsn = Lsn(commit_lsn.0 + 8);
            let begin = wire::begin(commit_lsn, index as i64 * 1_000_000, index as u32 + 1);
            wire::xlog(&mut source.stream, commit_lsn, &begin);
            for op in ops {
                if let Some(message) = source.change(&mut rows, op) {
                    wire::xlog(&mut source.stream, commit_lsn, &message);
                }
            }
            wire::xlog(&mut source.stream, commit_lsn, &wire::commit(commit_lsn, end_lsn));
            source.transactions.push(Committed { end_lsn, after: rows.clone() });
        }
        source
    }

    /// The plan for its table.
    pub fn plan(&self) -> Plan {
        let schema = r#"{ "items": {
            "primaryKey": "id", "columns": { "name": "TEXT", "id": "INTEGER", "note": "TEXT" }
        } }"#;
        let columns = [("id", 20), ("name", 25), ("note", 25)];
        let table = wire::table(ITEMS, "items", &columns, &["id"], self.identity);
        Plan::new(&SchemaFile::parse("schema.json", schema).unwrap(), &[table]).unwrap()
    }

    /// The first of its runs that a stream brings which starts again `back` whole transactions before `checkpoint`.
    pub fn resumed_at(&self, checkpoint: Lsn, back: usize, runs: &[Arc<Run>]) -> usize {
        let applied = self.transactions.iter().take_while(|one| one.end_lsn <= checkpoint).count();
        let confirmed = match applied.saturating_sub(back) {
            0 => Lsn(1),
            count => self.transactions[count - 1].end_lsn,
        };
        let is_first =
            |run: &Arc<Run>| run.spans().iter().any(|span| span.is_start && span.commit_lsn >= confirmed);
        runs.iter().position(is_first).unwrap_or(runs.len())
    }

    /// The rows at a checkpoint.
    pub fn at(&self, checkpoint: Lsn) -> Rows {
        let last = self.transactions.iter().take_while(|one| one.end_lsn <= checkpoint).last();
        last.map(|one| one.after.clone()).unwrap_or_default()
    }

    fn change(&self, rows: &mut Rows, op: &Op) -> Option<Vec<u8>> {
        let null = [None, None];
        match op {
            Op::Insert(key, row) if rows.contains_key(key) => {
                let [name, note] = row.clone();
                self.update(rows, *key, *key, &[Some(name), Some(note)])
            }
            Op::Insert(key, row) => {
                rows.insert(*key, row.clone());
                Some(wire::insert(ITEMS, &tuple(*key, row)))
            }
            Op::Update(key, row) => self.update(rows, *key, *key, row),
            Op::Move(_, to, _) if rows.contains_key(to) => None,
            Op::Move(from, to, row) => self.update(rows, *from, *to, row),
            Op::Delete(key) => {
                let row = rows.remove(key)?;
                Some(match self.identity {
                    ReplicaIdentity::Full => wire::delete(ITEMS, b'O', &tuple(*key, &row)),
                    _ => wire::delete(ITEMS, b'K', &tuple(*key, &null)),
                })
            }
            Op::Truncate => {
                rows.clear();
                Some(wire::truncate(&[ITEMS]))
            }
        }
    }

    fn update(
        &self,
        rows: &mut Rows,
        from: i64,
        to: i64,
        row: &[Option<Option<String>>; 2],
    ) -> Option<Vec<u8>> {
        let before = rows.remove(&from)?;
        // A NULL is always sent.
        let sent = [0, 1].map(|index| row[index].clone().or(before[index].is_none().then_some(None)));
        let after = [0, 1].map(|index| sent[index].clone().unwrap_or_else(|| before[index].clone()));
        rows.insert(to, after);
        let mut new = vec![wire::text(to)];
        new.extend(sent.iter().map(|value| value.as_ref().map_or(Value::Unchanged, self::value)));
        let full = tuple(from, &before);
        let key = tuple(from, &[None, None]);
        let old = match self.identity {
            ReplicaIdentity::Full => Some((b'O', &full[..])),
            _ => (from != to).then_some((b'K', &key[..])),
        };
        Some(wire::update(ITEMS, old, &new))
    }
}

fn tuple(key: i64, row: &[Option<String>; 2]) -> Vec<Value> {
    vec![wire::text(key), value(&row[0]), value(&row[1])]
}

fn value(value: &Option<String>) -> Value {
    value.as_ref().map_or(Value::Null, wire::text)
}
