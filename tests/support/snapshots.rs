//! A model of Postgres with what makes a backfill hard: what its snapshots see, and what is in its WAL. A commit is
//! there, and may be delivered, before it is visible; xids are given out in another order than commits; updates leave
//! unchanged TOAST out; keys change; rows come back under their key; the table is emptied.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use walcast::Lsn;
use walcast::capture::chunk::InDoubt;
use walcast::capture::copy_text::CopyRows;
use walcast::capture::snapshot::ReadPoint;

use super::wire::{self, Value, text};

/// The table's oid.
pub const ITEMS: u32 = 50_001;
/// Ids go from 1 up to this.
pub const IDS: i64 = 30;
/// Another table, which nobody ever alters, and its ids.
pub const OTHERS: u32 = 40_001;
pub const OTHER_IDS: RangeInclusive<i64> = 101..=106;

/// By id: name, and the note that updates may leave out. Of both tables, which share no id.
pub type Rows = BTreeMap<i64, [String; 2]>;

/// What the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub oid: u32,
    pub name: &'static str,
    /// The note's column, and its type.
    pub note: (&'static str, u32),
    pub is_there: bool,
    pub is_published: bool,
}

/// What the replicas are made for.
pub const FITS: Form =
    Form { oid: ITEMS, name: "items", note: ("note", 25), is_there: true, is_published: true };

/// Postgres: what its snapshots see, and what is in its WAL.
pub struct Source {
    pub rng: fastrand::Rng,
    /// What a new snapshot sees.
    pub visible: Rows,
    /// What is in the WAL, in its order.
    pub wal: Vec<Committed>,
    /// In the WAL and not visible yet, by index. They hold their locks still.
    pub limbo: Vec<usize>,
    /// Xids that were given out and have not ended.
    pub running: BTreeSet<u64>,
    pub next_xid: u64,
    /// All below it and not running have ended, as `pg_snapshot_xmax` says.
    pub xmax: u64,
    pub lsn: u64,
    pub truncates: u32,
    /// Whether there is another table.
    pub has_others: bool,
    /// What the table is behind all that is in the WAL, and as the catalog shows it.
    pub form: Form,
    pub visible_form: Form,
    /// Who wrote to the table before it was published: that is never sent.
    pub early: BTreeSet<u64>,
}

pub struct Committed {
    pub xid: u64,
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub messages: Vec<Vec<u8>>,
    /// By message: what the table is, where the message is about it.
    pub forms: Vec<Option<Form>>,
    /// What the table is behind it.
    pub form: Form,
    /// The relation that it drops, and what was in it then.
    pub dropped: Option<(u32, Rows)>,
    /// Nobody else reads or writes the table until it is visible.
    pub locks: bool,
    /// The rows it leaves, or `None` where it leaves none.
    pub effects: BTreeMap<i64, Option<[String; 2]>>,
    pub empties: bool,
    /// What a standby has that has replayed it.
    pub after: Rows,
}

impl Source {
    pub fn new(mut rng: fastrand::Rng) -> Self {
        // So that xids wrap around on the way in many a seed.
        let next_xid = (1 << 32) - rng.u64(..150);
        let ids: Vec<i64> = (1..=IDS).filter(|_| rng.u32(..3) > 0).collect();
        let visible: Rows = ids.iter().map(|&id| (id, [word(&mut rng), word(&mut rng)])).collect();
        Source {
            rng,
            visible,
            wal: Vec::new(),
            limbo: Vec::new(),
            running: BTreeSet::new(),
            next_xid,
            xmax: next_xid,
            lsn: 1000,
            truncates: 0,
            has_others: false,
            form: FITS,
            visible_form: FITS,
            early: BTreeSet::new(),
        }
    }

    /// Gives out an xid.
    fn assign(&mut self) -> u64 {
        // The reserved ones after a wrap-around are passed over.
        self.next_xid += 1;
        if (self.next_xid as u32) < 3 {
            self.next_xid += 3;
        }
        self.running.insert(self.next_xid);
        self.next_xid
    }

    pub fn end(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.early.remove(&xid);
        self.xmax = self.xmax.max(xid + 1);
    }

    /// One step of the application.
    pub fn step(&mut self) {
        match self.rng.u32(..10) {
            0 if self.running.len() < 6 => {
                self.assign();
            }
            1 => {
                // Rolled back.
                if let Some(xid) = self.any_open() {
                    self.end(xid);
                }
            }
            2..6 => self.commit(None),
            _ => self.show(),
        }
    }

    /// Running and not in the WAL.
    pub fn any_open(&mut self) -> Option<u64> {
        let committed: BTreeSet<u64> = self.limbo.iter().map(|&index| self.wal[index].xid).collect();
        let open: Vec<u64> = self.running.difference(&committed).copied().collect();
        (!open.is_empty()).then(|| open[self.rng.usize(..open.len())])
    }

    /// A transaction that was written becomes visible.
    pub fn show(&mut self) {
        if self.limbo.is_empty() {
            return;
        }
        let index = self.limbo.swap_remove(self.rng.usize(..self.limbo.len()));
        apply(&mut self.visible, &self.wal[index]);
        if self.wal[index].locks {
            self.visible_form = self.wal[index].form;
        }
        self.end(self.wal[index].xid);
    }

    /// Who reads or writes the table waits.
    pub fn is_locked(&self) -> bool {
        self.limbo.iter().any(|&index| self.wal[index].locks)
    }

    /// Writes a transaction to the WAL. It touches no row that one in limbo has locked. In the middle of it the table may
    /// be altered, which nobody else may have touched then.
    pub fn commit(&mut self, altered: Option<Form>) {
        if self.is_locked() {
            return;
        }
        let locked: BTreeSet<i64> =
            self.limbo.iter().flat_map(|&index| self.wal[index].effects.keys().copied()).collect();
        let xid = match self.any_open() {
            Some(xid) if self.rng.bool() => xid,
            _ => self.assign(),
        };
        let mut rows = self.visible.clone();
        let mut effects = BTreeMap::new();
        let mut bodies = Vec::new();
        let mut empties =
            altered.is_none() && self.form.is_there && self.limbo.is_empty() && self.rng.u32(..40) == 0;
        let (mut locks, mut dropped) = (empties, None);
        if empties {
            self.truncates += 1;
            rows.retain(|id, _| OTHER_IDS.contains(id));
            if self.is_sent(xid) {
                bodies.push((wire::truncate(&[self.form.oid]), Some(self.form)));
            }
        }
        for altered in std::iter::once(None).chain(altered.map(Some)) {
            if let Some(form) = altered {
                locks = true;
                if form.oid != self.form.oid || !form.is_there {
                    empties = true;
                    dropped = self.form.is_there.then(|| (self.form.oid, rows.clone()));
                    rows.retain(|id, _| OTHER_IDS.contains(id));
                    effects.retain(|id, _| OTHER_IDS.contains(id));
                }
                self.form = form;
                if self.rng.bool() {
                    break;
                }
            }
            for _ in 0..self.rng.u32(1..6) {
                // Some rows are hot.
                let id = match () {
                    () if self.has_others && self.rng.u32(..4) == 0 => self.rng.i64(OTHER_IDS),
                    () if self.rng.bool() => self.rng.i64(1..5),
                    () => self.rng.i64(1..=IDS),
                };
                let is_other = OTHER_IDS.contains(&id);
                let to = if is_other { id } else { self.rng.i64(1..=IDS) };
                if locked.contains(&id) || !is_other && !self.form.is_there {
                    continue;
                }
                let body = self.change(&mut rows, &mut effects, id, to, locked.contains(&to));
                match is_other {
                    true => bodies.extend(body.map(|body| (body, None))),
                    false if self.is_sent(xid) => bodies.extend(body.map(|body| (body, Some(self.form)))),
                    false => {}
                }
            }
        }
        self.lsn += self.rng.u64(1..50);
        let (commit_lsn, end_lsn) = (Lsn(self.lsn), Lsn(self.lsn + 8));
        self.lsn += 8;
        let begin = (wire::begin(commit_lsn, 1, xid as u32), None);
        let commit = (wire::commit(commit_lsn, end_lsn), None);
        let (messages, forms) = std::iter::once(begin).chain(bodies).chain([commit]).unzip();
        let after = self.wal.last().map_or_else(|| self.visible.clone(), |last| last.after.clone());
        let mut committed = Committed {
            xid,
            commit_lsn,
            end_lsn,
            messages,
            forms,
            form: self.form,
            dropped,
            locks,
            effects,
            empties,
            after,
        };
        let mut after = std::mem::take(&mut committed.after);
        apply(&mut after, &committed);
        committed.after = after;
        self.limbo.push(self.wal.len());
        self.wal.push(committed);
    }

    /// Whether the stream has what the transaction does to the table.
    fn is_sent(&self, xid: u64) -> bool {
        self.form.is_published && !self.early.contains(&xid)
    }

    /// One row's change, as the application makes it and as pgoutput spells it.
    fn change(
        &mut self,
        rows: &mut Rows,
        effects: &mut BTreeMap<i64, Option<[String; 2]>>,
        id: i64,
        to: i64,
        is_to_locked: bool,
    ) -> Option<Vec<u8>> {
        let key = [text(id), Value::Null, Value::Null];
        let oid = if OTHER_IDS.contains(&id) { OTHERS } else { self.form.oid };
        let Some(row) = rows.get(&id).cloned() else {
            let row = [word(&mut self.rng), word(&mut self.rng)];
            rows.insert(id, row.clone());
            effects.insert(id, Some(row.clone()));
            return Some(wire::insert(oid, &[text(id), text(&row[0]), text(&row[1])]));
        };
        let kind = self.rng.u32(..10);
        if kind == 0 {
            rows.remove(&id);
            effects.insert(id, None);
            return Some(wire::delete(oid, b'K', &key));
        }
        let is_move = kind < 3 && !is_to_locked && !rows.contains_key(&to);
        let is_partial = self.rng.u32(..4) > 0;
        let note = if is_partial { row[1].clone() } else { word(&mut self.rng) };
        let row = [word(&mut self.rng), note];
        let note = if is_partial { Value::Unchanged } else { text(&row[1]) };
        let new_id = if is_move { to } else { id };
        rows.remove(&id);
        effects.insert(id, None);
        rows.insert(new_id, row.clone());
        effects.insert(new_id, Some(row.clone()));
        let new = [text(new_id), text(&row[0]), note];
        Some(wire::update(oid, is_move.then_some((b'K', &key[..])), &new))
    }

    pub fn snapshot(&self) -> ReadPoint {
        let open: Vec<u64> = self.running.range(..self.xmax).copied().collect();
        let xmin = open.first().copied().unwrap_or(self.xmax);
        let xip = open.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        ReadPoint::Primary(format!("{xmin}:{}:{xip}", self.xmax).parse().unwrap())
    }

    /// What may be delivered and not visible. Who waits for his client is known not to be among them.
    pub fn in_doubt(&mut self) -> InDoubt {
        let committed: BTreeSet<u64> = self.limbo.iter().map(|&index| self.wal[index].xid).collect();
        let rng = &mut self.rng;
        let xids = self.running.iter().filter(|xid| committed.contains(xid) || rng.bool());
        InDoubt::new(xids.map(|&xid| xid as u32).collect(), Lsn(self.lsn))
    }
}

fn apply(rows: &mut Rows, committed: &Committed) {
    if committed.empties {
        rows.retain(|id, _| OTHER_IDS.contains(id));
    }
    for (&id, row) in &committed.effects {
        match row {
            Some(row) => rows.insert(id, row.clone()),
            None => rows.remove(&id),
        };
    }
}

pub fn word(rng: &mut fastrand::Rng) -> String {
    (0..rng.usize(1..8)).map(|_| rng.alphabetic()).collect()
}

/// Rows as COPY writes them.
pub fn copy<'a>(rows: impl Iterator<Item = (&'a i64, &'a [String; 2])>) -> CopyRows {
    let mut copied = CopyRows::default();
    for (id, [name, note]) in rows {
        copied.push(format!("{id}\t{name}\t{note}\n").as_bytes());
    }
    copied
}
