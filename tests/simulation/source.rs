//! A model of Postgres: transactions, the state after each of them, what the slots were confirmed to, and the walsender
//! that spells them.

use std::collections::BTreeMap;
use std::sync::Arc;

use walcast::Lsn;

use super::wire::{self, Value, text};
use super::{ITEMS, PARTS, Rows};

pub struct Source {
    pub rng: fastrand::Rng,
    pub state: Arc<Rows>,
    /// The state before the first transaction.
    pub empty: Arc<Rows>,
    /// Every committed transaction: its end, its bytes, and the state after it.
    pub transactions: Vec<Committed>,
    pub lsn: u64,
    pub confirmed_flush_lsn: Lsn,
    /// What the copy of the slot was confirmed to that each sink has, by the sink's number.
    pub copies: BTreeMap<usize, Lsn>,
}

pub struct Committed {
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub messages: Vec<Vec<u8>>,
    pub after: Arc<Rows>,
}

impl Source {
    pub fn new(rng: fastrand::Rng) -> Self {
        let state = Arc::new(Rows::from([("items", BTreeMap::new()), ("parts", BTreeMap::new())]));
        let empty = state.clone();
        Source {
            rng,
            state,
            empty,
            transactions: Vec::new(),
            lsn: 1000,
            confirmed_flush_lsn: Lsn(1000),
            copies: BTreeMap::new(),
        }
    }

    pub fn commit(&mut self) {
        let changes = if self.rng.u32(..8) == 0 { self.rng.u32(30..90) } else { self.rng.u32(1..6) };
        let bodies: Vec<_> = (0..changes).filter_map(|_| self.change()).collect();
        // A commit record may stand right behind the one before.
        self.lsn += self.rng.u64(..50) * self.rng.u64(..2);
        let (commit_lsn, end_lsn) = (Lsn(self.lsn), Lsn(self.lsn + 8));
        self.lsn += 8;
        let xid = self.transactions.len() as u32 + 1;
        let mut messages = vec![wire::begin(commit_lsn, i64::from(xid) * 1_000_000, xid)];
        messages.extend(bodies);
        messages.push(wire::commit(commit_lsn, end_lsn));
        self.transactions.push(Committed { commit_lsn, end_lsn, messages, after: self.state.clone() });
    }

    /// A random change, applied to the model and spelt as pgoutput spells it.
    fn change(&mut self) -> Option<Vec<u8>> {
        match self.rng.u32(..20) {
            0..8 => Some(self.insert_item()),
            8..12 => self.update_item(),
            12..14 => self.delete_item(),
            14..19 => Some(self.touch_part()),
            _ if self.rng.u32(..6) == 0 => {
                Arc::make_mut(&mut self.state).values_mut().for_each(BTreeMap::clear);
                Some(wire::truncate(&[ITEMS, PARTS]))
            }
            _ => None,
        }
    }

    fn insert_item(&mut self) -> Vec<u8> {
        let id = loop {
            let id = self.rng.i64(1..60);
            if !self.items().contains_key(&vec![id.to_string()]) {
                break id;
            }
            if self.items().len() > 40 {
                self.items().clear();
                return wire::truncate(&[ITEMS]);
            }
        };
        let row = [id.to_string(), self.word(), self.word()];
        self.items().insert(vec![id.to_string()], row.to_vec());
        wire::insert(ITEMS, &row.map(text))
    }

    /// `items` has the default replica identity and a column that updates may leave out.
    fn update_item(&mut self) -> Option<Vec<u8>> {
        let key = self.any_item()?;
        let mut row = self.items().remove(&key)?;
        let old_id = row[0].clone();
        row[1] = self.word();
        let is_partial = self.rng.bool();
        if !is_partial {
            row[2] = self.word();
        }
        let free =
            (60..90).map(|id: i64| id.to_string()).find(|id| !self.items().contains_key(&vec![id.clone()]));
        if let (Some(id), 0) = (free, self.rng.u32(..4)) {
            row[0] = id;
        }
        self.items().insert(vec![row[0].clone()], row.clone());
        let third = if is_partial { Value::Unchanged } else { text(&row[2]) };
        let new = [text(&row[0]), text(&row[1]), third];
        let old = [text(&old_id), Value::Null, Value::Null];
        Some(wire::update(ITEMS, (row[0] != old_id).then_some((b'K', &old[..])), &new))
    }

    fn delete_item(&mut self) -> Option<Vec<u8>> {
        let key = self.any_item()?;
        self.items().remove(&key);
        Some(wire::delete(ITEMS, b'K', &[text(&key[0]), Value::Null, Value::Null]))
    }

    /// `parts` has a composite key and replica identity FULL.
    fn touch_part(&mut self) -> Vec<u8> {
        let key = vec![self.rng.i64(1..6).to_string(), ["a", "b", "c"][self.rng.usize(..3)].to_owned()];
        let row = vec![key[0].clone(), key[1].clone(), self.rng.i64(..).to_string()];
        let values = |row: &[String]| row.iter().map(text).collect::<Vec<_>>();
        let is_delete = self.rng.u32(..3) == 0;
        let parts = Arc::make_mut(&mut self.state).get_mut("parts").unwrap();
        match parts.get(&key).cloned() {
            Some(old) if is_delete => {
                parts.remove(&key);
                wire::delete(PARTS, b'O', &values(&old))
            }
            Some(old) => {
                parts.insert(key, row.clone());
                wire::update(PARTS, Some((b'O', &values(&old))), &values(&row))
            }
            None => {
                parts.insert(key, row.clone());
                wire::insert(PARTS, &values(&row))
            }
        }
    }

    fn items(&mut self) -> &mut BTreeMap<Vec<String>, Vec<String>> {
        Arc::make_mut(&mut self.state).get_mut("items").unwrap()
    }

    fn any_item(&mut self) -> Option<Vec<String>> {
        let index = self.rng.usize(..60);
        let keys: Vec<_> = self.items().keys().cloned().collect();
        (!keys.is_empty()).then(|| keys[index % keys.len()].clone())
    }

    fn word(&mut self) -> String {
        (0..self.rng.usize(..12)).map(|_| self.rng.alphabetic()).collect()
    }

    /// The state at a checkpoint, and how many transactions led to it.
    pub fn at(&self, checkpoint: Lsn) -> (u64, &Arc<Rows>) {
        let applied = self.transactions.partition_point(|one| one.end_lsn <= checkpoint);
        let state = applied.checked_sub(1).map_or(&self.empty, |last| &self.transactions[last].after);
        (applied as u64, state)
    }
}

/// A session's walsender: what it has still to send, message by message.
pub struct Walsender {
    pub rng: fastrand::Rng,
    pub next: usize,
    pub message: usize,
    pub is_described: bool,
}

impl Walsender {
    /// A walsender on a slot that was confirmed to `confirmed`.
    pub fn new(source: &Source, confirmed: Lsn, rng: fastrand::Rng) -> Self {
        let next = source.transactions.iter().take_while(|one| one.commit_lsn < confirmed).count();
        Walsender { rng, next, message: 0, is_described: false }
    }

    /// Up to `messages` more messages; a keepalive when everything was sent, and now and then one before that.
    pub fn send(&mut self, source: &Source, messages: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..messages {
            let Some(transaction) = source.transactions.get(self.next) else {
                wire::keepalive(&mut out, Lsn(source.lsn));
                break;
            };
            wire::xlog(&mut out, transaction.commit_lsn, &transaction.messages[self.message]);
            if self.message == 0 && !self.is_described {
                self.is_described = true;
                let items = [("id", 20, true), ("name", 25, false), ("note", 25, false)];
                let parts = [("item", 20, true), ("code", 25, true), ("amount", 20, true)];
                wire::xlog(&mut out, Lsn::ZERO, &wire::relation(ITEMS, "items", b'd', &items));
                wire::xlog(&mut out, Lsn::ZERO, &wire::relation(PARTS, "parts", b'f', &parts));
            }
            self.message += 1;
            if self.message == transaction.messages.len() {
                (self.next, self.message) = (self.next + 1, 0);
            }
            if self.rng.u32(..20) == 0 {
                // Between transactions it says how far the server has read, which is not yet the next commit record.
                // Inside one it may lie beyond everything that is still to be sent.
                let wal_end = match source.transactions.get(self.next) {
                    Some(next) if self.message == 0 => next.commit_lsn,
                    _ => Lsn(source.lsn),
                };
                wire::keepalive(&mut out, wal_end);
            }
        }
        out
    }
}
