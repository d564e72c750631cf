//! Short hashes of the keys that changes touch: enough to tell later which batches touched a row, and nothing to read a
//! value from. Enters: a run and its plan, or a key as somebody spells it. Leaves: 32 bits for each row touched. No value
//! leaves; whoever knows a key can still test whether it is there.
//!
//! The hashes are kept in files, so what they are made of never changes: SipHash-1-3 over the table's name at the source
//! and the key's cells.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::cell::{Cell, push};
use super::json_rows;
use super::plan::{Plan, PlannedTable};
use super::run::{ChangeKind, Run, Span};

/// A run's hashes: made when the first sink asks, shared by all that follow.
#[derive(Debug, Clone, Copy)]
pub struct KeyHashes<'a>(&'a [(usize, u32)]);

impl<'a> KeyHashes<'a> {
    /// The hashes of a run's changes: one for a row, two for one that moved, one for a whole table that was truncated.
    pub fn of(run: &'a Run, plan: &Plan) -> Self {
        KeyHashes(run.key_hashes.get_or_init(|| hash_all(run, plan)))
    }

    /// Those of one of the run's spans, in order.
    pub fn of_span(self, span: &Span) -> impl Iterator<Item = u32> + 'a {
        let before = |at: usize| self.0.partition_point(|&(change, _)| change < at);
        self.0[before(span.changes.start)..before(span.changes.end)].iter().map(|&(_, hash)| hash)
    }
}

/// The hashes of everything that may happen to the row with this key, given as the source spells it, in key order: of a
/// change to it, of its rejection, and of a truncation of its table.
pub fn of_spelt(table: &PlannedTable, key: &[String]) -> [u32; 3] {
    let (mut arena, mut text) = (Vec::new(), Vec::new());
    let cells = table.key_cells(key, &mut arena);
    let spelt = key.iter().map(|part| Cell::Text(push(&mut arena, part.as_bytes()))).collect::<Vec<_>>();
    json_rows::array(spelt, &arena, &mut text);
    let table = Table::new(&table.source.plain());
    [table.row(&cells, &arena), table.rejected(&text), table.all()]
}

fn hash_all(run: &Run, plan: &Plan) -> Vec<(usize, u32)> {
    let mut tables: Vec<Option<Table>> = vec![None; plan.tables.len()];
    let mut hashes = Vec::with_capacity(run.all_changes().len());
    let mut key = Vec::new();
    for (index, &change) in run.all_changes().iter().enumerate() {
        let planned = &plan.tables[change.table as usize];
        let table = *tables[change.table as usize].get_or_insert_with(|| Table::new(&planned.source.plain()));
        if let ChangeKind::Delete | ChangeKind::Move = change.kind {
            hashes.push((index, table.row(run.key(change, plan), run.arena())));
        }
        match change.kind {
            ChangeKind::Upsert | ChangeKind::Update | ChangeKind::Move => {
                let row = run.row(change, plan);
                key.clear();
                key.extend(planned.key.iter().map(|&column| row[column]));
                hashes.push((index, table.row(&key, run.arena())));
            }
            ChangeKind::Truncate => hashes.push((index, table.all())),
            ChangeKind::Reject => {
                hashes.push((index, table.rejected(run.rejection(change).key.as_bytes())));
            }
            ChangeKind::Delete => {}
        }
    }
    hashes
}

/// A table, whose name is hashed once.
#[derive(Clone, Copy)]
struct Table(SipHasher13);

impl Table {
    fn new(name: &str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(name.as_bytes());
        hasher.write_u8(0);
        Table(hasher)
    }

    fn row(self, key: &[Cell], arena: &[u8]) -> u32 {
        let mut hasher = self.0;
        for &cell in key {
            let mut bytes = |kind: u8, bytes: &[u8]| {
                hasher.write_u8(kind);
                hasher.write(&(bytes.len() as u64).to_le_bytes());
                hasher.write(bytes);
            };
            match cell {
                Cell::Absent | Cell::Null => bytes(b'n', &[]),
                Cell::Integer(integer) => bytes(b'i', &integer.to_le_bytes()),
                Cell::Real(real) => bytes(b'r', &real.to_le_bytes()),
                Cell::Text(slice) => bytes(b't', slice.of(arena)),
                Cell::Blob(slice) => bytes(b'b', slice.of(arena)),
            }
        }
        hasher.finish() as u32
    }

    /// Of a row that never became one: its key is known as the source spells it only.
    fn rejected(self, key: &[u8]) -> u32 {
        let mut hasher = self.0;
        hasher.write_u8(b'!');
        hasher.write(key);
        hasher.finish() as u32
    }

    fn all(self) -> u32 {
        let mut hasher = self.0;
        hasher.write_u8(b'*');
        hasher.finish() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::touched::tests::{Did, plan, run};
    use super::*;
    use crate::encode::run::{Change, RejectedRow};

    fn key(a: &str) -> [u32; 3] {
        of_spelt(&plan().tables[0], &[a.to_owned(), "x".to_owned()])
    }

    #[test]
    fn every_change_leaves_the_hash_of_the_key_that_it_touches_and_no_other() {
        let did = [
            Did::Upsert(1, "one"),
            Did::Update(2, "two"),
            Did::Delete(3),
            Did::Move(4, 5),
            Did::Upsert(6, "one"),
        ];
        let run = run(1, &did);
        let hashes: Vec<u32> = KeyHashes::of(&run, &plan()).of_span(&run.spans()[0]).collect();
        let keys = ["1", "2", "3", "4", "5", "6"].map(|a| key(a)[0]);
        assert_eq!(hashes, keys);
        let part = Span { changes: 2..4, ..run.spans()[0].clone() };
        let hashes: Vec<u32> = KeyHashes::of(&run, &plan()).of_span(&part).collect();
        assert_eq!(hashes, keys[2..5]);
    }

    #[test]
    fn a_truncation_and_a_rejection_are_found_by_the_key_too() {
        let mut run = run(1, &[Did::Truncate]);
        run.rejections.push(RejectedRow {
            operation: "insert",
            key: "[\"7\",\"x\"]".to_owned(),
            reason: String::new(),
        });
        run.changes.push(Change { kind: ChangeKind::Reject, table: 0, first_cell: 0 });
        run.spans[0].changes.end = 2;
        let hashes: Vec<u32> = KeyHashes::of(&run, &plan()).of_span(&run.spans()[0]).collect();
        let [_, rejected, all] = key("7");
        assert_eq!(hashes, [all, rejected]);
        assert_eq!(key("8")[2], all);
        assert_ne!(key("8")[1], rejected);
    }

    #[test]
    fn hashes_are_those_of_files_from_before() {
        assert_eq!(key("1"), [2_617_376_633, 563_433_839, 993_206_238]);
    }
}
